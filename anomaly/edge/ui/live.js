// What the cameras see now, how they are, and the newest events beside them.

import { get } from "./api.js";
import { cameraCard } from "./card.js";
import { el, notice, put, rows } from "./dom.js";
import { clock, now, since, tickSince } from "./format.js";
import { showTroubles } from "./health.js";

// An alarm of a camera whose last one was on so shortly before is not told aloud again.
const AGAIN_S = 30;

let opacity = 0.8;

export async function showLive(view, context) {
  const cards = new Map();
  const grid = el("div", { className: "cameras" });
  const newest = el("ol", { className: "newest" });
  const troubles = el("ol", { className: "newest troubles" });
  const health = el("section", { className: "card", "aria-label": "Health" }, el("h2", {}, "Health"), troubles);
  const slider = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: opacity, id: "opacity", "aria-label": "Strength of the heatmap" });
  const setOpacity = (value) => {
    opacity = Math.min(1, Math.max(0, value));
    slider.value = opacity;
    for (const card of cards.values()) card.heat.style.opacity = opacity;
  };
  slider.addEventListener("input", () => setOpacity(Number(slider.value)));
  const empty = el("p", { className: "quiet", hidden: true }, "No camera yet. Name one with --source, or in the site file.");
  const aloud = el("p", { className: "aloud", role: "alert" });
  put(view, aloud,
    el("div", { className: "live-head" },
      el("h1", {}, "Live"),
      el("label", { className: "slider" }, "Heatmap", slider, el("span", { className: "heat-scale", "aria-hidden": "true" }), el("span", { className: "quiet small" }, "usual → unusual"),
        el("span", { className: "heat-scale outline", "aria-hidden": "true" }), el("span", { className: "quiet small" }, "above the threshold"))),
    el("div", { className: "live" },
      el("div", { className: "seen" }, empty, grid),
      el("section", { className: "card", "aria-label": "Newest events" },
        el("div", { className: "row between" }, el("h2", {}, "Newest events"), el("a", { href: "#/review" }, "Review all")), newest),
      health));

  // The tab may be behind others.
  const mark = () => {
    const ringing = [...cards].filter(([, card]) => card.ringing()).map(([name]) => name);
    context.mark(ringing.length ? "▲ " : "");
    tellAloud(ringing);
  };
  // For who does not see the lamp: once for an alarm, however often its link comes and goes.
  const rang = new Map();
  const tellAloud = (ringing) => {
    // By a clock that nobody sets.
    const told_s = performance.now() / 1000;
    const fresh = ringing.filter((name) => !(told_s - rang.get(name) < AGAIN_S));
    for (const name of ringing) rang.set(name, told_s);
    if (fresh.length) put(aloud, el("span", {}, `Alarm: ${fresh.join(", ")}, ${clock(now())}`));
  };
  const refresh = async () => {
    const told = await get("/api/cameras");
    if (context.over()) return;
    const names = new Set(told.cameras.map((camera) => camera.name));
    empty.hidden = names.size > 0;
    for (const [name, card] of cards) if (!names.has(name)) { card.stop(); card.root.remove(); cards.delete(name); }
    for (const camera of told.cameras) {
      if (!cards.has(camera.name)) {
        const card = cameraCard(camera.name, context, mark);
        card.heat.style.opacity = opacity;
        cards.set(camera.name, card);
        grid.append(card.root);
      }
      cards.get(camera.name).tell(camera);
    }
    grid.classList.toggle("single", names.size === 1);
    grid.parentElement.parentElement.classList.toggle("several", names.size > 1);
    mark();
  };
  const listNewest = async () => {
    const { events } = await get("/api/events", { limit: 6 });
    rows(newest, events.length === 0 ? [["none", "", () => el("li", { className: "quiet" }, "None so far.")]] : events.map((event) =>
      [event.id, [event.media.heatmap, event.verdict?.verdict, event.status].join(), () => brief(event)]));
  };
  const listTroubles = async () => {
    const [{ health: now }, { health: before }] = await Promise.all([get("/api/health", { open: true, limit: 500 }), get("/api/health", { limit: 100 })]);
    const on = now.filter((one) => one.end_utc_s === null);
    showTroubles(troubles, on, before.filter((one) => one.end_utc_s !== null));
    health.classList.toggle("ill", on.length > 0);
  };
  const tolerant = (act) => () => act().catch((error) => { if (error.status && error.status !== 401) notice(error.message, "bad"); });
  context.every(2, tolerant(refresh));
  context.every(4, tolerant(listNewest));
  context.every(4, tolerant(listTroubles));
  context.every(1, () => { tickSince(view); for (const card of cards.values()) card.draw(); });
  context.onLeave(() => { for (const card of cards.values()) card.stop(); });
  context.onKey((event) => {
    if (event.key === "n") newest.querySelector("a")?.click();
    else if (event.key === "h") setOpacity(opacity > 0 ? 0 : 0.8);
    else if (event.key === "+" || event.key === "=") setOpacity(opacity + 0.1);
    else if (event.key === "-") setOpacity(opacity - 0.1);
    else return false;
    return true;
  });
  listTroubles().catch(() => {});
  await Promise.all([refresh(), listNewest()]);
}

const brief = (event) => el("li", {}, el("a", { href: `#/events/${event.id}`, className: "brief", "data-key": event.id },
  event.media.heatmap ? el("img", { src: event.media.heatmap, alt: "", loading: "lazy" }) : el("span", { className: "noimg" }, "▲"),
  el("span", {}, el("strong", {}, event.camera),
    el("span", { className: "quiet" }, `${clock(event.start_utc_s)} · `, since(event.start_utc_s)),
    event.verdict ? el("span", { className: "tag" }, event.verdict.verdict) : el("span", { className: "tag open" }, event.status === "open" ? "▲ going on" : "? no verdict yet"))));
