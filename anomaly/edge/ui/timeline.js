// Recorded footage with its scores, to find what raised no event and mark it.

import { cameraPath, get, post, remove } from "./api.js";
import { knownCameras, offer } from "./cameras.js";
import { colour, drawScores } from "./chart.js";
import { ask, button, el, notice, put, rows } from "./dom.js";
import { lasting, now, utc, when } from "./format.js";

const SPANS = [[60, "1 minute"], [600, "10 minutes"], [3600, "1 hour"], [21600, "6 hours"], [86400, "1 day"]];
const LONGEST_S = 600;

export async function showTimeline(view, context) {
  const known = await knownCameras();
  const names = [...known.cameras, ...known.former];
  if (!names.length) { put(view, el("h1", {}, "Timeline"), el("p", { className: "quiet" }, "No camera yet.")); return; }
  let camera = names.includes(context.rest[0]) ? context.rest[0] : names[0];
  let span = 600;
  let until = context.rest[1] ? Number(context.rest[1]) + span / 2 : now();
  // Where the end was put at the newest there is; while it is there still, it goes on with time.
  let edge = context.rest[1] ? null : until;
  let head = context.rest[1] ? Number(context.rest[1]) : null;
  let from = null, to = null, playing = null, scale = null, failed = false;
  let points = [], gaps = [], segments = [], events = [], misses = [], threshold = null;

  const chooser = el("select", { "aria-label": "Camera" });
  offer(chooser, known);
  chooser.value = camera;
  const spans = el("select", { "aria-label": "Length" }, SPANS.map(([s, text]) => el("option", { value: s, selected: s === span }, text)));
  const chart = el("canvas", { className: "timeline", tabIndex: 0, role: "application", "aria-label": "Timeline: arrows move, [ and ] set a miss, m marks it" });
  const video = el("video", { muted: true, playsInline: true, preload: "auto", controls: true, "aria-label": "Recorded footage" });
  const nothing = el("p", { className: "over" });
  const here = el("p", { className: "quiet" });
  const label = el("input", { maxLength: 200, placeholder: "what was missed (optional)", "aria-label": "What was missed" });
  const range = el("strong", {});
  const mark = el("form", { className: "card mark", hidden: true },
    range, label, el("div", { className: "row" }, el("button", { className: "primary" }, "Mark a miss"), button("Cancel", () => cancel())));
  const list = el("ul", { className: "misses" });
  put(view,
    el("div", { className: "row between head" }, el("h1", {}, "Timeline"),
      el("div", { className: "row" }, chooser, spans, button("←", () => turn(-0.5), { title: "Earlier", "aria-label": "Earlier" }),
        button("→", () => turn(0.5), { title: "Later", "aria-label": "Later" }), button("Now", () => { until = edge = now(); load(); }))),
    el("div", { className: "card" }, chart,
      el("p", { className: "legend quiet small" }, "▬ recorded   ▼ event   ▨ blind   ▩ marked miss. Drag over what was missed; click to play from there."), here),
    mark,
    el("div", { className: "footage" }, el("div", { className: "screen" }, video, nothing),
      el("section", { className: "card" }, el("h2", {}, "Marked misses"), list)));

  const draw = () => {
    mark.hidden = from === null || to === null || !context.may("operator");
    if (!mark.hidden) range.textContent = `${when(from)} – ${when(to)}, ${lasting(to - from)}${to - from > LONGEST_S ? " (ten minutes at most)" : ""}`;
    here.textContent = head === null ? `${when(until - span)} – ${when(until)}` : `${when(head)} · ${utc(head)}`;
    if (!chart.clientWidth) return;
    const since = until - span;
    scale = drawScores(chart, points, { since, until, threshold, gaps, bottom: 40 });
    const { context: ink, x, floor } = scale;
    ink.fillStyle = colour("accent");
    for (const one of segments) ink.fillRect(x(one.start_utc_s), floor + 4, Math.max(1, x(one.end_utc_s) - x(one.start_utc_s) - 0.5), 5);
    for (const one of misses) {
      ink.fillStyle = colour("miss");
      ink.globalAlpha = 0.35;
      ink.fillRect(x(one.start_utc_s), 0, Math.max(3, x(one.end_utc_s) - x(one.start_utc_s)), floor);
      ink.globalAlpha = 1;
      ink.fillRect(x(one.start_utc_s), floor + 11, Math.max(3, x(one.end_utc_s) - x(one.start_utc_s)), 5);
    }
    ink.fillStyle = colour("alarm-ink");
    for (const one of events) {
      const left = x(one.start_utc_s);
      ink.beginPath();
      ink.moveTo(left - 5, 1);
      ink.lineTo(left + 5, 1);
      ink.lineTo(left, 9);
      ink.fill();
    }
    if (from !== null) {
      const end = to ?? head ?? from;
      ink.fillStyle = colour("miss");
      ink.globalAlpha = 0.3;
      ink.fillRect(x(Math.min(from, end)), 0, Math.max(2, Math.abs(x(end) - x(from))), floor);
      ink.globalAlpha = 1;
    }
    if (head !== null) {
      ink.fillStyle = colour("ink");
      ink.fillRect(x(head) - 1, 0, 2, floor + 10);
    }
  };
  const load = async () => {
    const since = until - span, name = camera;
    failed = false;
    const [told, footage, found, marked, all] = await Promise.all([
      get(`${cameraPath(name)}/scores`, { since, until, at_most: 1500 }),
      get(`${cameraPath(name)}/recording`, { since: since + 0.01, until }),
      get("/api/events", { camera: name, since, until, limit: 500 }),
      get("/api/misses", { camera: name }), get("/api/cameras")]).catch((error) => {
      if (name === camera && until - span === since) failed = true;
      if (error.status !== 401) notice(error.message, "bad");
      return [];
    });
    if (!told || name !== camera || until - span !== since) return;
    // What is compared with the threshold, as on the live page: else what raised no event would lie above it.
    points = told.utc_s.map((at, i) => [at, told.decision_score[i] ?? told.score[i]]);
    gaps = told.gaps;
    segments = footage.segments;
    events = found.events;
    misses = marked.misses;
    threshold = all.cameras.find((one) => one.name === name)?.threshold ?? null;
    rows(list, misses.length ? misses.slice(0, 50).map((one) => [one.id, [one.label, one.media.clip].join(), () => el("li", {},
      button(when(one.start_utc_s), () => { until = one.start_utc_s + span / 2; load().then(() => seek(one.start_utc_s)); }, { className: "link" }),
      el("span", {}, ` ${lasting(one.end_utc_s - one.start_utc_s)} `, el("bdi", {}, one.label)), el("span", { className: "quiet small" }, ` ${one.who}`),
      one.media.clip ? el("a", { href: one.media.clip, target: "_blank", rel: "noopener" }, " clip") : null,
      context.may("operator") ? [" ", button("Take back", () => takeBack(one), { className: "link", "aria-label": `Take back the miss of ${when(one.start_utc_s)}` })] : null)]) : [["none", "", () => el("li", { className: "quiet" }, "None.")]]);
    draw();
    chart.dataset.span = span;
  };
  const takeBack = async (miss) => {
    if (!(await ask(`Take back the miss of ${when(miss.start_utc_s)}${miss.label && `, “${miss.label}”`}? Its clip is deleted.`, "Take back"))) return;
    try {
      await remove(`/api/misses/${miss.id}`);
      notice("The miss is taken back.");
    } catch (error) {
      notice(error.message, "bad");
    }
    // Where it failed a colleague may have been first.
    await load();
    chart.focus();
  };
  const cancel = () => {
    from = to = null;
    label.value = "";
    draw();
  };
  const unsaved = () => (!mark.hidden && label.value.trim() ? "The miss that you describe is not marked yet. Leave it?" : "");
  const turn = (share) => { until += span * share; load(); };
  /** Takes everything of a camera from the page: nothing of it may stand under the name of another. */
  const empty = () => {
    from = to = head = playing = threshold = null;
    points = gaps = segments = events = misses = [];
    video.removeAttribute("src");
    video.load();
    video.hidden = true;
    nothing.hidden = false;
    nothing.textContent = "Choose a time on the timeline to see what was recorded.";
    put(list);
    draw();
  };
  const begin = (piece, to_s, play) => {
    nothing.hidden = true;
    video.hidden = false;
    if (playing?.id !== piece.id) {
      playing = piece;
      video.src = piece.url;
      video.addEventListener("loadedmetadata", () => { video.currentTime = to_s; if (play) video.play().catch(() => {}); }, { once: true });
    } else {
      video.currentTime = to_s;
      if (play) video.play().catch(() => {});
    }
  };
  const seek = async (at, play = false) => {
    head = at;
    draw();
    if (head < until - span || head > until) {
      until = head + span / 2;
      await load();
      if (head !== at) return;
    }
    const found = segments.find((one) => one.start_utc_s <= at && at < one.end_utc_s);
    if (found) begin(found, at - found.start_utc_s, play);
    else { nothing.hidden = false; nothing.textContent = "Nothing was recorded here."; video.pause(); }
  };
  // The next piece follows, however long nothing was recorded in between.
  const follow = async () => {
    const last = playing, next = () => segments.find((one) => one.start_utc_s > last.start_utc_s);
    if (!last) return;
    if (!next()) { until = last.end_utc_s + span / 2; await load(); }
    const piece = next();
    if (piece && playing === last) { head = piece.start_utc_s; begin(piece, 0, true); draw(); }
  };
  video.addEventListener("timeupdate", () => { if (playing && !video.paused) { head = playing.start_utc_s + video.currentTime; draw(); } });
  video.addEventListener("ended", follow);
  video.addEventListener("error", () => { if (!video.hasAttribute("src")) return; nothing.hidden = false; nothing.textContent = "This browser cannot play this footage."; });

  let down = null;
  const at = (event) => scale.time(event.clientX - chart.getBoundingClientRect().left);
  chart.addEventListener("pointerdown", (event) => { if (!scale) return; chart.setPointerCapture(event.pointerId); down = { x: event.clientX, time: at(event), moved: false }; });
  chart.addEventListener("pointermove", (event) => {
    if (!down) return;
    if (Math.abs(event.clientX - down.x) > 4) down.moved = true;
    if (down.moved) { from = Math.min(down.time, at(event)); to = Math.max(down.time, at(event)); draw(); }
  });
  const up = (event) => {
    if (!down) return;
    if (!down.moved) seek(down.time, true); else seek(from);
    down = null;
    if (event.type === "pointercancel") { from = to = null; draw(); }
  };
  chart.addEventListener("pointerup", up);
  chart.addEventListener("pointercancel", up);
  mark.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await post("/api/misses", { camera, start_utc_s: from, end_utc_s: to, label: label.value.trim() });
      notice("The miss is marked; its footage is kept as a clip.");
      from = to = null;
      label.value = "";
      await load();
      chart.focus();
    } catch (error) {
      notice(error.message, "bad");
    }
  });
  chooser.addEventListener("change", async () => {
    if (unsaved() && !(await ask(unsaved(), "Leave"))) { chooser.value = camera; return; }
    camera = chooser.value;
    // What is told of one camera is not to be marked for another.
    label.value = "";
    empty();
    load();
  });
  spans.addEventListener("change", () => { const middle = head ?? until - span / 2; const last = until; span = Number(spans.value); until = head === null ? last : middle + span / 2; load(); });
  const watcher = new ResizeObserver(draw);
  watcher.observe(chart);
  context.onLeave(() => { watcher.disconnect(); video.removeAttribute("src"); });
  context.onKey((event) => {
    const here_s = head ?? until - span / 2;
    if (event.target.closest("video") && event.key.startsWith("Arrow")) return false;
    if (event.key === "ArrowLeft") seek(here_s - (event.shiftKey ? 10 : 1));
    else if (event.key === "ArrowRight") seek(here_s + (event.shiftKey ? 10 : 1));
    else if (event.key === "[") { from = here_s; to = to !== null && to > from ? to : null; draw(); }
    else if (event.key === "]" && from !== null && here_s > from) { to = here_s; draw(); }
    else if (event.key === "m" && !mark.hidden) label.focus();
    else if (event.key === "Escape") cancel();
    else if (event.key === " " && !event.target.closest("button, a, video")) { if (!playing) seek(here_s, true); else if (video.paused) video.play().catch(() => {}); else video.pause(); }
    else return false;
    return true;
  });
  /** The end goes on with time, by a pixel or more; not under who marks a miss, nor away from what is looked at. */
  const goOn = () => {
    const later = now();
    if (until !== edge || later - until < span / 300 || down || from !== null || (head !== null && head < later - span)) return failed && load();
    until = edge = later;
    return load();
  };
  context.every(4, goOn);
  const wanted = head, begun = context.takeUp();
  if (begun && names.includes(begun.camera)) camera = chooser.value = begun.camera;
  empty();
  head = wanted;
  if (begun?.camera === camera) {
    ({ from, to, span, until } = begun);
    spans.value = span;
    label.value = begun.label;
  }
  context.onUnsaved(unsaved);
  context.onWork(() => (mark.hidden ? null : { camera, from, to, span, until, label: label.value }));
  await load();
  if (head !== null) seek(head);
  chart.focus({ preventScroll: true });
}
