// The list of keys.

import { button, el } from "./dom.js";

const KEYS = [
  ["Everywhere", [["l v e t r", "live, review, events, timeline, regions"], ["a", "accounts and audit (admin)"], ["p", "my account: change the password"], ["?", "this list"], ["Tab", "next control"]]],
  ["Live", [["n", "newest event"], ["h", "heatmap on or off"], ["+ −", "heatmap stronger, weaker"], ["Enter", "set the chosen state or recipe"]]],
  ["Events and review", [["↑ ↓", "event before, event after"], ["1", "real"], ["2", "false alarm"], ["3", "unsure"], ["o", "write a note; Enter, then the verdict"], ["Space", "play or pause the clip"], ["k", "keep (held events are not deleted by age)"]]],
  ["Timeline", [["← →", "a second back, on (with Shift: ten)"], ["[ ]", "start, end of a miss, here"], ["m", "mark it"], ["Space", "play or pause"]]],
  ["Regions", [["d i", "draw a region to look at, to ignore"], ["Enter", "close the region"], ["Tab ← →", "choose and move a corner"], ["Delete", "remove the corner"], ["s", "save"]]],
];

export function openHelp() {
  const dialog = el("dialog", { className: "help", "aria-labelledby": "help-title", onclose: () => dialog.remove() },
    el("h2", { id: "help-title" }, "Keys"),
    el("div", { className: "columns" }, KEYS.map(([title, keys]) => el("section", {},
      el("h3", {}, title),
      el("dl", {}, keys.map(([key, text]) => [
        el("dt", {}, ...key.split(" ").flatMap((one) => [el("kbd", {}, one), " "])), el("dd", {}, text)]))))),
    el("p", { className: "quiet" }, "Colours are never the only sign: an alarm is also ▲, all well ●, a gap is hatched."),
    button("Close", () => dialog.close(), { autofocus: true, key: "Esc" }));
  document.body.append(dialog);
  dialog.showModal();
  // The button, which has the focus, is below the fold on a phone.
  dialog.scrollTop = 0;
}
