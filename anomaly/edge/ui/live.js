// What the cameras see now, how they are, and the newest events beside them.

import { cameraPath, get, post, watch } from "./api.js";
import { drawScores } from "./chart.js";
import { el, notice, put } from "./dom.js";
import { ago, clock, lasting, now, number, percent, when } from "./format.js";
import { drawHeat } from "./heat.js";

const SPAN_S = 300;
const STATES = ["running", "stopped", "changeover", "maintenance"];
const WORDS = {
  disconnected: "disconnected", stalled: "no new frames", frozen: "picture frozen", black: "picture black",
  changed: "stream changed", overloaded: "overloaded: frames too far apart", held: "log-in at the camera refused",
  clock: "the clock was set", disk: "the disk is full", device: "the device that scores failed", store: "the store was repaired",
};
/** What was wrong, in words. */
const trouble = ({ kind, detail }) => (kind === "model" ? (detail.kept ? "new models refused, the old ones stay" : "models loaded anew") : WORDS[kind] ?? kind);
let opacity = 0.8;

export async function showLive(view, context) {
  const cards = new Map();
  const grid = el("div", { className: "cameras" });
  const newest = el("ol", { className: "newest" });
  const troubles = el("ol", { className: "newest troubles" });
  const slider = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: opacity, id: "opacity", "aria-label": "Strength of the heatmap" });
  const setOpacity = (value) => {
    opacity = Math.min(1, Math.max(0, value));
    slider.value = opacity;
    for (const card of cards.values()) card.heat.style.opacity = opacity;
  };
  slider.addEventListener("input", () => setOpacity(Number(slider.value)));
  const empty = el("p", { className: "quiet", hidden: true }, "No camera yet. Name one with --source, or in the site file.");
  put(view,
    el("div", { className: "live-head" },
      el("h1", {}, "Live"),
      el("label", { className: "slider" }, "Heatmap", slider, el("span", { className: "heat-scale", "aria-hidden": "true" }), el("span", { className: "quiet small" }, "usual → unusual"))),
    el("div", { className: "live" },
      el("div", {}, empty, grid),
      el("aside", { className: "card side", "aria-label": "Newest events" },
        el("div", { className: "row between" }, el("h2", {}, "Newest events"), el("a", { href: "#/review" }, "Review all")), newest,
        el("h2", {}, "Health"), troubles)));

  const refresh = async () => {
    const told = await get("/api/cameras");
    const names = new Set(told.cameras.map((camera) => camera.name));
    empty.hidden = names.size > 0;
    for (const [name, card] of cards) if (!names.has(name)) { card.stop(); card.root.remove(); cards.delete(name); }
    for (const camera of told.cameras) {
      if (!cards.has(camera.name)) {
        const card = cameraCard(camera.name, context);
        card.heat.style.opacity = opacity;
        cards.set(camera.name, card);
        grid.append(card.root);
      }
      cards.get(camera.name).tell(camera);
    }
    grid.classList.toggle("single", names.size === 1);
  };
  const list = async () => {
    const [{ events }, { health }] = await Promise.all([get("/api/events", { limit: 6 }), get("/api/health", { limit: 8 })]);
    put(troubles, health.length === 0 ? el("li", { className: "quiet" }, "Nothing was wrong so far.") : health.map((one) =>
      el("li", { className: "trouble" }, el("strong", {}, one.camera || "this machine"), el("span", {}, trouble(one)),
        el("span", { className: "quiet" }, `${clock(one.utc_s)} · ${ago(one.utc_s)}`,
          one.end_utc_s === null || one.end_utc_s - one.utc_s < 0.1 ? "" : `, for ${lasting(one.end_utc_s - one.utc_s)}`),
        one.detail.reason || one.detail.notice ? el("span", { className: "quiet" }, String(one.detail.reason ?? one.detail.notice)) : null,
        one.end_utc_s === null ? el("span", { className: "tag open" }, "◆ still so") : null)));
    put(newest, events.length === 0 ? el("li", { className: "quiet" }, "None so far.") : events.map((event) =>
      el("li", {}, el("a", { href: `#/events/${event.id}`, className: "brief" },
        event.media.heatmap ? el("img", { src: event.media.heatmap, alt: "", loading: "lazy" }) : el("span", { className: "noimg" }, "▲"),
        el("span", {}, el("strong", {}, event.camera),
          el("span", { className: "quiet" }, `${clock(event.start_utc_s)} · ${ago(event.start_utc_s)}`),
          event.verdict ? el("span", { className: "tag" }, event.verdict.verdict) : el("span", { className: "tag open" }, event.status === "open" ? "▲ going on" : "? no verdict yet"))))));
  };
  const tolerant = (act) => () => act().catch((error) => { if (error.status && error.status !== 401) notice(error.message, "bad"); });
  context.every(2, tolerant(refresh));
  context.every(4, tolerant(list));
  context.every(1, () => { for (const card of cards.values()) card.draw(); });
  context.onLeave(() => { for (const card of cards.values()) card.stop(); });
  context.onKey((event) => {
    if (event.key === "n") newest.querySelector("a")?.click();
    else if (event.key === "h") setOpacity(opacity > 0 ? 0 : 0.8);
    else if (event.key === "+" || event.key === "=") setOpacity(opacity + 0.1);
    else if (event.key === "-") setOpacity(opacity - 0.1);
    else return false;
    return true;
  });
  await Promise.all([refresh(), list()]);
}

function cameraCard(name, context) {
  const picture = el("canvas", { className: "picture", width: 640, height: 360, role: "img", "aria-label": `Live picture of ${name}` });
  const heat = el("canvas", { className: "heat", width: 640, height: 360, "aria-hidden": "true" });
  const small = document.createElement("canvas");
  const chart = el("canvas", { className: "chart", role: "img", "aria-label": `Scores of ${name}, last five minutes` });
  const message = el("p", { className: "over" }, "waiting for the first frame");
  const lamp = el("span", { className: "lamp" });
  const badge = el("span", { className: "badge warn", hidden: true }, "UNCERTIFIED");
  const score = el("strong", { className: "score" }, "–");
  const facts = el("dl", { className: "facts" });
  const certificate = el("p", { className: "certificate" });
  const state = el("select", { "aria-label": `State of ${name}`, disabled: !context.may("operator") },
    STATES.map((one) => el("option", { value: one }, one)));
  state.addEventListener("change", async () => {
    try {
      await post(`${cameraPath(name)}/state`, { state: state.value });
      notice(`${name}: ${state.value}`);
    } catch (error) {
      notice(error.message, "bad");
    }
  });
  const recipe = el("select", { "aria-label": `Recipe of ${name}`, disabled: !context.may("operator") });
  const recipes = el("label", { className: "row quiet", hidden: true }, "Recipe", recipe);
  recipe.addEventListener("change", async () => {
    try {
      await post(`${cameraPath(name)}/recipe`, { recipe: recipe.value });
      notice(`${name}: recipe ${recipe.value}`);
    } catch (error) {
      notice(error.message, "bad");
    }
  });
  const root = el("article", { className: "card camera", "aria-label": name },
    el("div", { className: "row between" }, el("h2", {}, name), el("div", { className: "row" }, badge, lamp)),
    el("div", { className: "screen" }, picture, heat, message),
    el("div", { className: "row between" }, el("span", {}, el("span", { className: "quiet" }, "Score "), score), el("div", { className: "row wrap" }, recipes, el("label", { className: "row quiet" }, "State", state))),
    chart, certificate, facts,
    el("p", { className: "row small" },
      el("a", { href: `#/timeline/${encodeURIComponent(name)}` }, "Timeline"), el("a", { href: `#/regions/${encodeURIComponent(name)}` }, "Regions")));

  let points = [], gaps = [], status = {}, alarm = false, linked = false, drawing = false, newest = null;
  const before = (at_most) => get(`${cameraPath(name)}/scores`, { since: now() - SPAN_S, until: now() + 1, at_most });
  before(600).then((told) => {
    const first = points.length ? points[0][0] : Infinity;
    points = told.utc_s.map((at, i) => [at, told.decision_score[i] ?? told.score[i]]).filter(([at]) => at < first).concat(points);
    gaps = told.gaps;
  }, () => {});
  // Scores come with the pictures; time that is blind meanwhile has to be asked for.
  context.every(10, () => before(1).then((told) => { gaps = told.gaps; }, () => {}));

  const lampNow = () => {
    const ill = status.health ?? [];
    const [kind, text] = !linked ? ["idle", "○ no picture"] : alarm || status.alarm ? ["alarm", "▲ alarm"]
      : ill.length ? ["ill", `◆ ${WORDS[ill[0]] ?? ill[0]}`] : status.state && status.state !== "running" ? ["idle", `❙❙ ${status.state}`] : ["well", "● looking"];
    lamp.className = `lamp ${kind}`;
    lamp.textContent = text;
    root.classList.toggle("in-alarm", kind === "alarm");
  };
  const show = async () => {
    if (drawing) return;
    drawing = true;
    while (newest) {
      const [header, grid, blob] = newest;
      newest = null;
      const bitmap = await createImageBitmap(blob).catch(() => null);
      if (!bitmap) continue;
      for (const canvas of [picture, heat]) {
        if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) { canvas.width = bitmap.width; canvas.height = bitmap.height; }
      }
      picture.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      drawHeat(heat, small, grid, header.grid);
      picture.dataset.sequence = header.sequence;
      message.hidden = true;
    }
    drawing = false;
  };
  const stop = watch(name, (header, grid, blob) => {
    newest = [header, grid, blob];
    alarm = header.alarm;
    status.threshold = header.threshold ?? status.threshold;
    points.push([header.utc_s, header.decision_score ?? header.score]);
    while (points.length && points[0][0] < header.utc_s - SPAN_S - 5) points.shift();
    score.textContent = `${number(header.decision_score ?? header.score)} ${header.alarm ? "▲" : ""}`;
    show();
  }, (on, why = "") => {
    linked = on;
    if (!on) { message.hidden = false; message.textContent = why || "no live picture; trying again"; }
    lampNow();
  });
  const card = {
    root, heat, stop,
    tell(told) {
      status = told;
      if (document.activeElement !== state) state.value = told.state;
      const codes = told.recipes ?? [];
      recipes.hidden = codes.length === 0;
      if (document.activeElement !== recipe) {
        // Without a recipe the camera's own model looks; it is not one that can be chosen.
        const known = codes.includes(told.recipe) ? codes : ["", ...codes];
        if ([...recipe.options].map((one) => one.value).join("\n") !== known.join("\n")) recipe.replaceChildren(...known.map((one) => el("option", { value: one, disabled: !one }, one || "–")));
        recipe.value = told.recipe ?? "";
      }
      badge.hidden = told.certified === true;
      badge.title = told.doubt || told.certificate || "no certificate";
      certificate.textContent = told.certificate || "No certificate: not calibrated.";
      const ill = (told.health ?? []).map((one) => WORDS[one] ?? one).join(", ");
      const counts = told.counts ?? {};
      put(facts, [
        ["Health", ill ? `◆ ${ill}` : "● nothing wrong"],
        ["Blind time", typeof told.blind_share === "number" ? `at most ${percent(told.blind_share, 2)} since ${when(told.blind_since_utc_s)}` : "–"],
        ["Recall here", typeof told.operational_recall === "number" ? `at least ${percent(told.operational_recall)}` : "not certified"],
        ["Frames a second", `${number(told.fps, 1)}${told.fps_asked ? ` of ${told.fps_asked}` : ""}`],
        ["Dropped", counts.captured ? `${counts.dropped} of ${counts.captured}` : "–"],
        ["Recipe", told.recipe || "–"],
      ].map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text))));
      lampNow();
      card.draw();
    },
    draw() {
      if (!root.isConnected) return;
      const until = now();
      drawScores(chart, points, { since: until - SPAN_S, until, threshold: status.threshold, gaps });
    },
  };
  return card;
}
