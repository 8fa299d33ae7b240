// A select whose choice only counts when it is set, beside what is so: arrow keys and a slip of the finger change nothing.

import { silentSince } from "./api.js";
import { button, el, notice } from "./dom.js";

// A choice that nobody sets is forgotten after so long.
const FORGET_MS = 20_000;

/**
 * @param label of the select
 * @param of whom it is about, for the button
 * @param set (value) => a promise; what it rejects with is told, and what was so before is shown again
 */
export function choice({ label, of, disabled, set }) {
  let real = "", wish = null, busy = false, timer;
  const select = el("select", { "aria-label": label, disabled });
  const now = el("span", { className: "quiet small", hidden: true });
  const apply = button("Set", () => send(), { className: "primary", hidden: true, "aria-label": `Set for ${of}` });
  const draw = () => {
    if (select.value !== (wish ?? real)) select.value = wish ?? real;
    apply.hidden = now.hidden = wish === null;
    apply.disabled = busy || silentSince() !== null;
    apply.title = silentSince() === null ? "" : "The server does not answer";
    now.textContent = busy ? "being set …" : `now ${real || "–"}`;
  };
  const forget = () => {
    clearTimeout(timer);
    // The button goes away under who pressed it by keyboard.
    if (document.activeElement === apply) select.focus();
    wish = null;
    draw();
  };
  const send = async () => {
    if (wish === null || busy) return;
    const wanted = wish;
    clearTimeout(timer);
    busy = true;
    draw();
    try {
      await set(wanted);
      real = wanted;
    } catch (error) {
      notice(error.message, "bad");
    }
    busy = false;
    forget();
  };
  select.addEventListener("change", () => {
    clearTimeout(timer);
    wish = select.value === real ? null : select.value;
    if (wish !== null) timer = setTimeout(forget, FORGET_MS);
    draw();
  });
  select.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && wish !== null) { event.preventDefault(); send(); }
    if (event.key === "Escape") forget();
  });
  return {
    root: el("span", { className: "row choice" }, select, now, apply),
    /** What is so, of which values; `words` may hold "" for none, which cannot be chosen. */
    tell(words, value) {
      if ([...select.options].map((one) => one.value).join("\n") !== words.join("\n")) {
        select.replaceChildren(...words.map((one) => el("option", { value: one, disabled: !one }, one || "–")));
        if (!words.includes(wish)) wish = null;
      }
      real = value;
      if (wish === real && !busy) wish = null;
      draw();
    },
  };
}
