// All events, newest first, and the chosen one beside them.

import { get } from "./api.js";
import { knownCameras, offer } from "./cameras.js";
import { detailPane } from "./detail.js";
import { el, notice, put } from "./dom.js";
import { ago, number, when } from "./format.js";
import { virtualList } from "./list.js";

const PAGE = 500;
const POLL = 50;
const ROW = 62;
const SIGNS = { real: "▲", "false alarm": "○", unsure: "?" };

export async function showEvents(view, context) {
  await browse(view, context, { title: "Events", unreviewed: false });
}

/** A list and a pane; `unreviewed` = the queue: a verdict leads to the next event. */
export async function browse(view, context, { title, unreviewed }) {
  // The number of the list: answers to what was asked for another camera are late.
  let items = [], chosen = -1, next = null, loading = false, camera = "", serial = 0, loaded = false, failed = "";
  const known = new Map();
  const count = el("span", { className: "quiet" });
  const all = el("option", { value: "" }, "all cameras");
  const filter = el("select", { "aria-label": "Camera" }, all);
  const complain = (error) => { if (error.status && error.status !== 401) notice(error.message, "bad"); };
  const query = () => ({ camera: camera || undefined, unreviewed: unreviewed || undefined });

  const detail = detailPane(context, (event) => {
    list.set([...items]);
    if (unreviewed) setTimeout(() => { if (items[chosen] === event) move(1); tell(); }, 350);
  }, () => (failed ? `▲ ${failed}. It is tried again every few seconds.` : !loaded ? "" : items.length ? "No event is chosen." : unreviewed ? "Nothing to review: every event has a verdict." : "No event yet."));
  const list = virtualList({ make: () => eventRow((index) => choose(index, true)), height: ROW, near: () => more().catch(complain), label: title });
  const back = el("a", { href: `#/${unreviewed ? "review" : "events"}`, className: "back", onclick: (event) => { event.preventDefault(); panes.classList.remove("chosen"); list.root.focus(); } }, unreviewed ? "← All to review" : "← All events");
  const panes = el("div", { className: "panes" }, list.root, el("div", { className: "pane" }, back, detail.root));
  put(view, el("div", { className: "row between head" }, el("h1", {}, title), el("div", { className: "row" }, count, filter)), panes);

  const tell = () => {
    const left = items.filter((one) => !one.deleted && !(unreviewed && one.verdict)).length;
    count.textContent = loaded ? `${left}${next ? "+" : ""} ${unreviewed ? "to review" : left === 1 && !next ? "event" : "events"}` : "";
    panes.classList.toggle("none", !items.length);
    if (!items.length) detail.show(null);
  };
  const choose = (index, open = false) => {
    if (index < 0 || index >= items.length) return;
    const before = items[chosen];
    chosen = index;
    if (before?.deleted && before !== items[index]) { drop(new Set([before])); tell(); }
    list.choose(chosen);
    if (open) panes.classList.add("chosen");
    detail.show(items[chosen]);
  };
  const move = (by) => choose(Math.min(items.length - 1, Math.max(0, chosen + by)));
  const add = (events, ahead) => {
    const fresh = events.filter((one) => !known.has(one.id));
    for (const one of fresh) known.set(one.id, one);
    items = ahead ? [...fresh, ...items] : [...items, ...fresh];
    if (ahead && chosen >= 0) chosen += fresh.length;
    list.set(items, ahead ? fresh.length : 0);
    list.choose(chosen, false);
    tell();
  };
  const more = async () => {
    if (loading || !next) return;
    loading = true;
    const mine = serial;
    try {
      const told = await get("/api/events", { ...query(), limit: PAGE, before_id: next });
      if (mine !== serial) return;
      next = told.next_before_id;
      add(told.events, false);
    } finally {
      loading = false;
    }
  };
  const load = async () => {
    const mine = ++serial;
    known.clear();
    chosen = -1;
    next = null;
    loaded = false;
    // Under the name of this camera nothing of another may stand, however long the answer takes.
    items = [];
    add([], false);
    try {
      const told = await get("/api/events", { ...query(), limit: PAGE });
      if (mine !== serial) return;
      loaded = true;
      failed = "";
      next = told.next_before_id;
      add(told.events, false);
    } catch (error) {
      if (mine !== serial) return;
      failed = error.message;
      tell();
      throw error;
    }
  };
  /** Takes out what is not there any more. The chosen one stays: a key pressed at that moment would judge the next. */
  const drop = (gone) => {
    const picked = items[chosen];
    gone.delete(picked);
    const [first] = list.range(), above = items.slice(0, first).filter((one) => gone.has(one)).length;
    for (const one of gone) known.delete(one.id);
    items = items.filter((one) => !gone.has(one));
    list.set(items, -above);
    chosen = items.indexOf(picked);
    list.choose(chosen, false);
  };
  /** Takes in a page of what is there now, from before `from` (null = the newest) on: what changed, and what went. */
  const compare = async (told, from) => {
    const mine = serial, there = new Set(told.events.map((one) => one.id)), last = told.next_before_id;
    const picked = items[chosen];
    for (const one of told.events) {
      const old = known.get(one.id);
      if (!old || (old.status === one.status && old.score === one.score && old.verdict?.utc_s === one.verdict?.utc_s)) continue;
      const judged = old.verdict?.utc_s !== one.verdict?.utc_s;
      Object.assign(old, one, { verdicts: old.verdicts });
      if (judged && old === picked) detail.show(old);
    }
    // What was judged here stays in the queue until it is opened anew: one may think again.
    const gone = new Set(items.filter((one) => (!from || one.id < from) && (!last || one.id >= last) && !there.has(one.id) && !one.deleted && !(unreviewed && one.verdict)));
    if (picked && gone.has(picked)) {
      // Somebody else judged, or deleted, what is looked at here: it is not taken from under their eyes.
      const full = await get(`/api/events/${picked.id}`).catch((error) => error);
      if (mine !== serial) return;
      if (full.id) Object.assign(picked, full);
      if (full.status === 404) picked.deleted = true; else gone.delete(picked);
      if ((full.id || picked.deleted) && picked === items[chosen]) detail.show(picked);
    }
    if (gone.size) drop(gone);
  };
  const begin = async () => {
    await load();
    choose(0);
  };
  const poll = async () => {
    if (failed) await begin();
    if (!loaded) return;
    const mine = serial, newest = items[0]?.id;
    let told = await get("/api/events", { ...query(), limit: POLL });
    if (mine !== serial) return;
    await compare(told, null);
    const fresh = [...told.events];
    // More came than one answer holds: on until what is known; with nothing known, the rest comes as the list is scrolled.
    while (newest && told.next_before_id && told.next_before_id > newest) {
      told = await get("/api/events", { ...query(), limit: PAGE, before_id: told.next_before_id });
      if (mine !== serial) return;
      fresh.push(...told.events);
    }
    if (!newest) next = told.next_before_id;
    add(fresh.filter((one) => !newest || one.id > newest), true);
    // What is on the screen may be older than that.
    const [first, last] = list.range();
    if (last > first && items[first].id < (fresh.at(-1)?.id ?? "")) {
      const from = items[first - 1]?.id;
      const seen = await get("/api/events", { ...query(), limit: last - first, before_id: from });
      if (mine !== serial) return;
      await compare(seen, from ?? null);
    }
    list.set([...items]);
    tell();
  };
  filter.addEventListener("change", () => {
    camera = filter.value;
    begin().catch(complain);
  });
  list.root.addEventListener("keydown", (event) => { if (event.key === "Enter") { panes.classList.add("chosen"); event.preventDefault(); } });
  context.onLeave(() => list.stop());
  context.onKey((event) => {
    if (event.target.closest("video, input") && event.key.startsWith("Arrow")) return false;
    if (event.key === "ArrowDown" || event.key === "j") move(1);
    else if (event.key === "ArrowUp") move(-1);
    else if (event.key === "Home") choose(0);
    else if (event.key === "Escape") panes.classList.remove("chosen");
    else return detail.onKey(event);
    return true;
  });
  context.every(4, () => poll().catch(complain));
  knownCameras().then((told) => offer(filter, told, [all]), () => {});
  await load();
  // Who has chosen another camera meanwhile has an event of that before them.
  if (context.over() || serial > 1) return;
  const wanted = context.rest[0] ?? detail.begun;
  let at = wanted ? items.findIndex((one) => one.id === wanted) : 0;
  if (wanted && at < 0) {
    const one = await get(`/api/events/${wanted}`).catch((error) => { notice(error.message, "bad"); return null; });
    if (context.over()) return;
    if (one) { panes.classList.add("chosen"); detail.show(one); return; }
    at = 0;
  }
  // On a phone the queue opens with its first event; the list of all events with the list.
  choose(at, Boolean(wanted) || unreviewed);
  list.root.focus({ preventScroll: true });
}

function eventRow(open) {
  const sign = el("span", { className: "sign" });
  const camera = el("strong");
  const time = el("span", { className: "quiet" });
  const score = el("span", { className: "points" });
  const verdict = el("span", { className: "tag" });
  const root = el("div", { role: "option" }, sign, el("span", { className: "text" }, camera, time), el("span", { className: "end" }, score, verdict));
  let index = 0;
  root.addEventListener("click", () => open(index));
  return {
    root,
    tell(event, at) {
      index = at;
      sign.textContent = event.verdict ? SIGNS[event.verdict.verdict] : event.status === "open" ? "▲" : "•";
      sign.className = `sign ${event.verdict ? event.verdict.verdict.replace(" ", "-") : "open"}`;
      camera.textContent = event.camera;
      time.textContent = `${when(event.start_utc_s)} · ${ago(event.start_utc_s)}`;
      score.textContent = `${number(event.score)}${event.certified ? "" : " · uncertified"}`;
      verdict.textContent = event.deleted ? "deleted" : event.verdict ? event.verdict.verdict : event.status === "open" ? "going on" : "no verdict";
      verdict.className = event.verdict ? "tag" : "tag open";
    },
  };
}
