// Elements and words. What comes from the server only ever goes in as text.

const SVG = "http://www.w3.org/2000/svg";

/** An element: properties as given (`on…` are listeners, `class`, `data-…` and `aria-…` attributes), then children. */
export function el(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** The same for a drawing. */
export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children, true);
}

function fill(element, properties, children, drawing = false) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (!drawing && key in element && !["list", "role"].includes(key)) element[key] = value;
    else if (value !== false) element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

/** Puts new children into an element. Who types in it, or stands on a button with a key, stays there. */
export function put(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  element.replaceChildren(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  // What is taken out of the page loses the focus even where it is put back at once: keys would go elsewhere.
  if (focused && focused !== document.activeElement) {
    const { key } = focused.dataset;
    const again = element.contains(focused) ? focused : key && [...element.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
    if (again) again.focus({ preventScroll: true });
  }
  return element;
}

/**
 * Puts rows into an element; those that did not change stay as they are, with whoever stands on them.
 * @param given [key, stamp, make]: another stamp = make it anew
 */
export function rows(element, given) {
  const before = new Map([...element.children].map((one) => [one.dataset.row, one]));
  const after = given.map(([key, stamp, make]) => {
    const old = before.get(key);
    if (old?.dataset.stamp === stamp) return old;
    const fresh = make();
    fresh.dataset.row = key;
    fresh.dataset.stamp = stamp;
    return fresh;
  });
  if (after.length !== element.children.length || after.some((one, i) => one !== element.children[i])) put(element, after);
}

/** A button with its key, if it has one, shown on it. */
export function button(text, act, { key, ...properties } = {}) {
  const inside = key ? [text, " ", el("kbd", {}, key)] : [text];
  return el("button", { type: "button", onclick: act, "data-key": key, ...properties }, ...inside);
}

/** A line for the person at the page; gone after some seconds. */
export function notice(text, kind = "good") {
  const line = el("p", { className: `notice ${kind}` }, (kind === "bad" ? "▲ " : "✓ ") + text);
  const box = document.getElementById("notices");
  box.append(line);
  while (box.children.length > 3) box.firstChild.remove();
  setTimeout(() => line.remove(), kind === "bad" ? 9000 : 4000);
}

/** Asks before something that cannot be undone; resolves to whether to go on. */
export function ask(question, yes) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { onclose: () => { resolve(dialog.returnValue === "yes"); dialog.remove(); } },
      el("form", { method: "dialog" },
        el("p", {}, question),
        el("div", { className: "row" },
          el("button", { value: "yes", className: "danger" }, yes),
          el("button", { value: "no", autofocus: true }, "Cancel"))));
    document.body.append(dialog);
    dialog.showModal();
  });
}
