// A list of any length that only holds the rows on the screen.

import { el } from "./dom.js";

/**
 * @param make () => {root, tell(item, index, chosen)}: a row that can be given another item
 * @param height of a row in pixels, always the same
 * @param near called when the end of what is loaded comes near
 */
export function virtualList({ make, height, near, label }) {
  const inner = el("div", { className: "rows", role: "presentation" });
  const root = el("div", { className: "list", tabIndex: 0, role: "listbox", "aria-label": label }, inner);
  let items = [], chosen = -1, asked = false;
  const rows = [];
  const draw = () => {
    asked = false;
    const first = Math.max(0, Math.floor(root.scrollTop / height) - 4);
    const last = Math.min(items.length, Math.ceil((root.scrollTop + root.clientHeight) / height) + 4);
    while (rows.length < last - first) {
      const row = make();
      row.root.classList.add("line");
      inner.append(row.root);
      rows.push(row);
    }
    // Row i always shows items of the same remainder, so that a scroll changes few of them.
    const used = new Set();
    for (let i = first; i < last; i++) {
      const row = rows[i % rows.length];
      used.add(row);
      const mark = i === chosen;
      if (row.item !== items[i] || row.mark !== mark || row.at !== i) {
        row.item = items[i];
        row.mark = mark;
        row.at = i;
        row.root.style.transform = `translateY(${i * height}px)`;
        row.root.setAttribute("aria-selected", String(mark));
        row.root.setAttribute("aria-posinset", String(i + 1));
        row.root.setAttribute("aria-setsize", String(items.length));
        row.root.id = `row-${i}`;
        row.tell(items[i], i);
      }
      row.root.hidden = false;
    }
    for (const row of rows) if (!used.has(row)) { row.root.hidden = true; row.item = undefined; }
    if (chosen >= 0) root.setAttribute("aria-activedescendant", `row-${chosen}`);
    if (items.length && last > items.length - 60) near();
  };
  const later = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  root.addEventListener("scroll", later, { passive: true });
  const watcher = new ResizeObserver(later);
  watcher.observe(root);
  return {
    root,
    /** Shows other items; `ahead` = how many more there are now before those on the screen. */
    set(next, ahead = 0) {
      items = next;
      for (const row of rows) row.item = undefined; // an item may have changed in itself
      inner.style.height = `${items.length * height}px`;
      // What came in above must not push away what is being read.
      if (ahead && root.scrollTop > 0) root.scrollTop += ahead * height;
      later();
    },
    choose(index, scroll = true) {
      chosen = index;
      if (scroll && index >= 0) {
        const top = index * height;
        if (top < root.scrollTop) root.scrollTop = top;
        else if (top + height > root.scrollTop + root.clientHeight) root.scrollTop = top + height - root.clientHeight;
      }
      later();
    },
    /** The first item on the screen, and the one after the last. */
    range: () => [Math.floor(root.scrollTop / height), Math.min(items.length, Math.ceil((root.scrollTop + root.clientHeight) / height))],
    stop: () => watcher.disconnect(),
  };
}
