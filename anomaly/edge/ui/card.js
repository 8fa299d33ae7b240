// One camera: its live picture with the heatmap over it, how it is, its scores and its controls.

import { cameraPath, get, post, silentSince, watch } from "./api.js";
import { drawScores } from "./chart.js";
import { choice } from "./choice.js";
import { el, notice, put } from "./dom.js";
import { clock, now, number, percent, when } from "./format.js";
import { trouble } from "./health.js";
import { drawHeat } from "./heat.js";

const SPAN_S = 300;
const STATES = ["running", "stopped", "changeover", "maintenance"];
// A picture is old after so long, or after so many of the camera's own intervals.
const OLD_S = 5;
const OLD_FRAMES = 3;
const DEAF_FRAMES = 5;

/** "12 s", then "3 min". */
const seconds = (value) => (value < 60 ? `${Math.floor(value)} s` : value < 3600 ? `${Math.floor(value / 60)} min` : `${(value / 3600).toFixed(1)} h`);

/** @param onalarm called when its alarm begins or is over */
export function cameraCard(name, context, onalarm) {
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
  const control = (what, path) => choice({
    label: `${what} of ${name}`, of: name, disabled: !context.may("operator"),
    set: async (value) => {
      await post(`${cameraPath(name)}/${path}`, { [path]: value });
      notice(`${name}: ${path === "recipe" ? "recipe " : ""}${value}`);
    },
  });
  const state = control("State", "state"), recipe = control("Recipe", "recipe");
  const recipes = el("label", { className: "row quiet", hidden: true }, "Recipe", recipe.root);
  const root = el("article", { className: "card camera", "aria-label": name },
    el("div", { className: "row between" }, el("h2", {}, name), el("div", { className: "row" }, badge, lamp)),
    el("div", { className: "screen" }, picture, heat, message),
    el("div", { className: "row between" }, el("span", {}, el("span", { className: "quiet" }, "Score "), score), el("div", { className: "row wrap" }, recipes, el("label", { className: "row quiet" }, "State", state.root))),
    chart, certificate, facts,
    el("p", { className: "row small" },
      el("a", { href: `#/timeline/${encodeURIComponent(name)}` }, "Timeline"), el("a", { href: `#/regions/${encodeURIComponent(name)}` }, "Regions")));

  let points = [], gaps = [], status = {}, alarm = false, linked = false, drawing = false, newest = null;
  // When the last new frame came; the same one comes again over a new link.
  let frame_s = null, told_s = null, ringing = false;
  const before = (at_most) => get(`${cameraPath(name)}/scores`, { since: now() - SPAN_S, until: now() + 1, at_most });
  before(600).then((told) => {
    const first = points.length ? points[0][0] : Infinity;
    points = told.utc_s.map((at, i) => [at, told.decision_score[i] ?? told.score[i]]).filter(([at]) => at < first).concat(points);
    gaps = told.gaps;
  }, () => {});
  // Scores come with the pictures; time that is blind meanwhile has to be asked for.
  const askNoMore = context.every(10, () => before(1).then((told) => { gaps = told.gaps; }, () => {}));

  const interval_s = () => (status.fps > 0 ? 1 / status.fps : status.fps_asked > 0 ? 1 / status.fps_asked : 0);
  /** For how many seconds no new picture came, where that is too long; else 0. */
  const old_s = () => {
    const silent_s = frame_s === null ? 0 : now() - frame_s;
    return silent_s > Math.max(OLD_S, OLD_FRAMES * interval_s()) ? silent_s : 0;
  };
  const lampNow = () => {
    const ill = status.health ?? [], old = old_s(), unknown = silentSince() !== null;
    const none = old ? `○ no new picture for ${seconds(old)}` : "○ no picture";
    const [kind, text] = unknown && (old || !linked) ? ["idle", none]
      : status.alarm || (alarm && linked && !old) ? ["alarm", "▲ alarm"]
      : ill.length ? ["ill", `◆ ${trouble({ kind: ill[0] })}`] : old || !linked ? ["idle", none]
      : unknown ? ["idle", "○ no answer"] : status.state && status.state !== "running" ? ["idle", `❙❙ ${status.state}`] : ["well", "● looking"];
    lamp.className = `lamp ${kind}`;
    if (lamp.textContent !== text) lamp.textContent = text;
    root.classList.toggle("in-alarm", kind === "alarm");
    root.classList.toggle("old", Boolean(old) || (!linked && frame_s !== null));
    facts.classList.toggle("old", unknown);
    if (ringing !== (kind === "alarm")) { ringing = kind === "alarm"; onalarm(); }
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
      drawHeat(heat, small, grid, header);
      picture.dataset.sequence = header.sequence;
      message.hidden = true;
    }
    drawing = false;
  };
  const unwatch = watch(name, (header, grid, blob) => {
    newest = [header, grid, blob];
    // A frame that was old when it came says so itself; clocks that differ by less than that do not count.
    if (header.utc_s !== told_s) frame_s = now() - header.utc_s > OLD_S ? header.utc_s : now();
    told_s = header.utc_s;
    alarm = header.alarm;
    status.threshold = header.threshold ?? status.threshold;
    // The machine's clock was set back: what was drawn ahead of it has no place any more.
    while (points.length && points.at(-1)[0] > header.utc_s) points.pop();
    points.push([header.utc_s, header.decision_score ?? header.score]);
    while (points.length && points[0][0] < header.utc_s - SPAN_S - 5) points.shift();
    score.textContent = `${number(header.decision_score ?? header.score)} ${header.alarm ? "▲" : ""}`;
    show();
  }, (on, why = "") => {
    linked = on;
    if (!on) { message.hidden = false; message.textContent = why || "no live picture; trying again"; }
    lampNow();
  }, () => DEAF_FRAMES * interval_s() * 1000);
  const card = {
    root, heat,
    stop: () => { unwatch(); askNoMore(); },
    ringing: () => ringing,
    tell(told) {
      status = told;
      state.tell(STATES, told.state);
      const codes = told.recipes ?? [];
      recipes.hidden = codes.length === 0;
      // Without a recipe the camera's own model looks; it is not one that can be chosen.
      recipe.tell(codes.includes(told.recipe) ? codes : ["", ...codes], told.recipe ?? "");
      badge.hidden = told.certified === true;
      badge.title = told.doubt || told.certificate || "no certificate";
      certificate.textContent = told.certificate || "No certificate: not calibrated.";
      const ill = (told.health ?? []).map((kind) => trouble({ kind })).join(", ");
      const counts = told.counts ?? {};
      put(facts, [
        ["Health", ill ? `◆ ${ill}` : old_s() ? "○ no new picture" : "● nothing wrong"],
        ["Blind time", typeof told.blind_share === "number" ? `at most ${percent(told.blind_share, 2)} since ${when(told.blind_since_utc_s)}` : "–"],
        ["Recall here", typeof told.operational_recall === "number" ? `at least ${percent(told.operational_recall)}` : "not certified"],
        ["Frames a second", `${number(told.fps, 1)}${told.fps_asked ? ` of ${told.fps_asked}` : ""}`],
        ["Dropped", counts.captured ? `${counts.dropped} of ${counts.captured}` : "–"],
        ["Recipe", told.recipe || "–"],
      ].map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text))));
      card.draw();
    },
    draw() {
      if (!root.isConnected) return;
      lampNow();
      const until = now(), away = silentSince();
      if (away !== null) put(facts, el("div", {}, el("dt", {}, "Health"), el("dd", {}, `? not known since ${clock(away)}`)));
      drawScores(chart, points, { since: until - SPAN_S, until, threshold: status.threshold, gaps });
    },
  };
  return card;
}
