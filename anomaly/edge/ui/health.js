// What was wrong with cameras, the machine and who is told, in words; what still is comes first.

import { el, rows } from "./dom.js";
import { clock, lasting, since } from "./format.js";

const MOST = 8;
const WORDS = {
  disconnected: "disconnected", stalled: "no new frames", frozen: "picture frozen", black: "picture black",
  changed: "stream changed", overloaded: "overloaded: frames too far apart", held: "log-in at the camera refused",
  timing: "the stream's clock jumped", recording: "recording has stopped", clock: "the clock was set", standstill: "the program was held up: no camera was looked at", disk: "the disk is full",
  device: "the device that scores failed", store: "nothing can be stored", page: "there was no page", metrics: "the port for figures was taken", retention: "old footage could not be tidied up",
  reload: "could not be changed over to the new site file", clips: "a clip could not be made", pictures: "a picture could not be made",
};
const OF_SINKS = {
  "": (sink) => `${sink} is not reached: messages wait`,
  " set aside": (sink) => `${sink} refused messages: they are set aside`,
  " expired": (sink) => `${sink} was not reached for too long: messages were given up on`,
};

/** What was wrong, in words. */
export function trouble({ kind, detail = {} }) {
  const sink = /^sink (.+?)( set aside| expired)?$/.exec(kind);
  if (sink && detail.breaks) return `${sink[1]} keeps losing its connection`;
  if (sink) return OF_SINKS[sink[2] ?? ""](sink[1]);
  if (kind === "store" && detail.notice) return "the store was repaired";
  if (kind === "model" && detail.loading) return "new models take long to load, the old ones stay";
  if (kind === "model") return detail.kept ? "new models refused, the old ones stay" : "models loaded anew";
  if (kind === "disk" && detail.stopped) return detail.stopped === "clips" ? "the disk is full: no clips are made" : "the disk is full: recording has stopped";
  if (kind === "changed" && detail.view) return "the picture shows something else: was the camera moved?";
  return WORDS[kind] ?? kind;
}

/** Shows in a list what is on (all of it), then what was: what came again and again is one line. */
export function showTroubles(list, on, was) {
  const over = new Map();
  for (const one of was) {
    const key = `${one.camera}\n${one.kind}\n${trouble(one)}`;
    over.set(key, [...(over.get(key) ?? []), one]);
  }
  const lines = [
    ...on.map((one) => [`on ${one.id}`, "", () => line(one, el("span", { className: "tag open" }, "◆ still so"), when(one))]),
    ...[...over].slice(0, MOST).map(([key, all]) => [`was ${key}`, `${all[0].id} ${all.length}`, () => line(all[0], null, when(all[0]), repeats(all))]),
  ];
  rows(list, lines.length ? lines : [["none", "", () => el("li", { className: "quiet" }, "Nothing was wrong so far.")]]);
}

const line = (one, ...told) => el("li", { className: "trouble" }, el("strong", {}, one.camera || "this machine"), el("span", {}, trouble(one)), told,
  one.detail.reason || one.detail.notice ? el("span", { className: "quiet" }, String(one.detail.reason ?? one.detail.notice)) : null);

const when = (one) => el("span", { className: "quiet" }, `${clock(one.utc_s)} · `, since(one.utc_s),
  one.end_utc_s === null || one.end_utc_s - one.utc_s < 0.1 ? "" : `, for ${lasting(one.end_utc_s - one.utc_s)}`);

/** "8 × in 5 min", the last of them first. */
function repeats(all) {
  const span = (all[0].end_utc_s ?? all[0].utc_s) - all.at(-1).utc_s;
  return all.length > 1 ? el("span", { className: "tag" }, `${all.length} × in ${lasting(span)}`) : null;
}
