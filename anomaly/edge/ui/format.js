// Numbers and times as people read them. Times come as POSIX seconds.

import { el } from "./dom.js";

const local = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
// By how many seconds the server's clock is ahead of this machine's: a tablet's may be off by hours.
let ahead = 0;

/** Now, by the server's clock: all times that it tells are of that one. */
export const now = () => Date.now() / 1000 + ahead;

/** Takes in the header Date of an answer. It tells whole seconds; a clock that is right to two is not corrected. */
export function heardTime(date) {
  const off = Date.parse(date) / 1000 + 0.5 - Date.now() / 1000;
  if (Math.abs(off - ahead) > 2) ahead = off;
}

const localClock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const localMinute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const when = (utc_s) => (utc_s === null || utc_s === undefined ? "–" : local.format(utc_s * 1000));
export const clock = (utc_s) => localClock.format(utc_s * 1000);
export const minute = (utc_s) => localMinute.format(utc_s * 1000);

/** UTC, to the millisecond, as it is in the records. */
export const utc = (utc_s) => (utc_s === null || utc_s === undefined
  ? "–" : new Date(utc_s * 1000).toISOString().replace("T", " ").replace("Z", " UTC"));

export function ago(utc_s) {
  const seconds = Math.max(0, Math.round(now() - utc_s));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3570) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 84600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}

/** How long ago, as an element that `tickSince` keeps right. */
export const since = (utc_s) => el("span", { "data-since": utc_s }, ago(utc_s));

export function tickSince(element) {
  for (const one of element.querySelectorAll("[data-since]")) {
    const text = ago(Number(one.dataset.since));
    if (one.textContent !== text) one.textContent = text;
  }
}

export function lasting(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const number = (value, digits = 2) => (typeof value === "number" ? value.toFixed(digits) : "–");
export const percent = (share, digits = 1) => (typeof share === "number" ? `${(share * 100).toFixed(digits)} %` : "–");
