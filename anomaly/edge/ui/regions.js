// Polygons over a camera's picture: where to look and what to ignore at the next fit.

import { cameraPath, get, putTo } from "./api.js";
import { ask, button, el, notice, put, svg } from "./dom.js";
import { when } from "./format.js";

// Of a corner, in pixels of the screen: a finger needs more than a pointer.
const RADIUS = matchMedia("(pointer: coarse)").matches ? 14 : 7;

export async function showRegions(view, context) {
  const { cameras } = await get("/api/cameras");
  const names = cameras.map((one) => one.name);
  if (!names.length) { put(view, el("h1", {}, "Regions"), el("p", { className: "quiet" }, "No camera yet.")); return; }
  let camera = names.includes(context.rest[0]) ? context.rest[0] : names[0];
  const may = context.may("engineer");
  let regions = [], drawing = null, kind = "look", dragged = null, chosen = null, changed = false, loaded = false, drawn_s = 0, size = [640, 360];

  const chooser = el("select", { "aria-label": "Camera" }, names.map((name) => el("option", { value: name, selected: name === camera }, name)));
  const picture = el("img", { alt: `Picture of the camera`, draggable: false });
  const sheet = svg("svg", { class: "sheet", "aria-label": "Regions" });
  const told = el("p", { className: "quiet", role: "status" });
  const command = el("code", { className: "command" });
  const list = el("ul", { className: "regions" });
  const look = button("● Look here", () => begin("look"), { key: "d" });
  const ignore = button("▨ Ignore", () => begin("ignore"), { key: "i" });
  const rectangle = button("Add a rectangle", () => {
    drawing = null;
    add(kind, [[0.35, 0.35], [0.65, 0.35], [0.65, 0.65], [0.35, 0.65]]);
    sheet.querySelector("g:last-of-type circle")?.focus();
  }, { title: "A rectangle to move with the arrow keys" });
  const save = button("Save", () => store(), { key: "s", disabled: true, className: "primary" });
  put(view,
    el("div", { className: "row between head" }, el("h1", {}, "Regions"), el("div", { className: "row" }, chooser, look, ignore,
      rectangle, save)),
    told,
    el("div", { className: "editor" },
      el("div", { className: "screen sheet-screen" }, picture, sheet),
      el("section", { className: "card" }, el("h2", {}, "Drawn"), list,
        el("p", { className: "quiet small" }, "Regions take effect at the next fit; what runs now stays as it was certified. Settings for it:"), command)));

  const say = () => {
    told.textContent = !loaded ? "" : !may ? "Drawing takes the role engineer." : drawing
      ? "Click for each corner; Enter or a click on the first corner closes the region, Esc drops it."
      : changed ? "Not saved yet." : "Nothing drawn = the whole picture counts. Drag corners to move them; double-click a side to add one.";
    look.setAttribute("aria-pressed", String(Boolean(drawing) && kind === "look"));
    ignore.setAttribute("aria-pressed", String(Boolean(drawing) && kind === "ignore"));
    save.disabled = !may || !changed;
    // What is drawn before the others are there would be lost when they come.
    for (const one of [look, ignore, rectangle]) one.disabled = !may || !loaded;
  };
  const begin = (which) => { if (!may || !loaded) return; kind = which; drawing = []; say(); draw(); };
  const add = (which, corners) => { regions.push({ kind: which, corners }); touch(); };
  const touch = () => { changed = true; say(); draw(); };
  const close = () => {
    if (!drawing) return;
    if (drawing.length >= 3) { const corners = drawing; drawing = null; add(kind, corners); } else notice("A region needs three corners.", "bad");
  };
  const points = (corners) => corners.map(([x, y]) => `${x * size[0]},${y * size[1]}`).join(" ");
  const draw = () => {
    const focused = chosen && sheet.contains(document.activeElement);
    sheet.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    const radius = Math.max(4, (size[0] / (sheet.clientWidth || size[0])) * RADIUS);
    sheet.replaceChildren(
      svg("defs", {}, svg("pattern", { id: "stripes", width: 10, height: 10, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("rect", { width: 4, height: 10, class: "stripe" }))),
      ...regions.map((region, r) => svg("g", { class: region.kind },
        svg("polygon", { points: points(region.corners), ondblclick: (event) => split(region, event) }),
        ...region.corners.map((corner, c) => {
          const handle = svg("circle", { cx: corner[0] * size[0], cy: corner[1] * size[1], r: radius, tabindex: may ? 0 : undefined, role: "button", "aria-label": `${region.kind} region ${r + 1}, corner ${c + 1}` });
          handle.addEventListener("pointerdown", (event) => { if (!may || drawing) return; dragged = { region, c }; sheet.setPointerCapture(event.pointerId); event.preventDefault(); chosen = { region, c }; });
          handle.addEventListener("focus", () => { chosen = { region, c }; });
          return handle;
        }))),
      ...(drawing ? [svg("polyline", { points: points(drawing), class: `drawing ${kind}` }),
        ...drawing.map((corner) => svg("circle", { cx: corner[0] * size[0], cy: corner[1] * size[1], r: radius, class: kind }))] : []));
    if (focused) {
      const group = sheet.querySelectorAll("g")[regions.indexOf(chosen.region)];
      group?.querySelectorAll("circle")[chosen.c]?.focus({ preventScroll: true });
    }
    put(list, regions.length ? regions.map((region, r) => el("li", { className: "row between" },
      el("span", {}, `${region.kind === "look" ? "● look" : "▨ ignore"}, ${region.corners.length} corners`),
      button("Delete", () => { regions.splice(r, 1); chosen = null; touch(); }, { disabled: !may, "aria-label": `Delete region ${r + 1}` }))) : el("li", { className: "quiet" }, loaded ? "Nothing: all of the picture counts." : "Not known yet."));
  };
  const inside = (value) => Math.min(1, Math.max(0, value));
  const place = (event) => {
    const box = sheet.getBoundingClientRect();
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)].map((one) => Math.round(one * 1e4) / 1e4);
  };
  const split = (region, event) => {
    if (!may || drawing) return;
    const [x, y] = place(event);
    const distance = region.corners.map(([ax, ay], i) => {
      const [bx, by] = region.corners[(i + 1) % region.corners.length];
      const along = Math.min(1, Math.max(0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2 || 1)));
      return Math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay));
    });
    region.corners.splice(distance.indexOf(Math.min(...distance)) + 1, 0, [x, y]);
    touch();
  };
  sheet.addEventListener("click", (event) => {
    if (!drawing) return;
    const [x, y] = place(event);
    const box = sheet.getBoundingClientRect();
    const away = drawing.length ? Math.hypot((x - drawing[0][0]) * box.width, (y - drawing[0][1]) * box.height) : Infinity;
    if (drawing.length >= 3 && away < 2 * RADIUS) close();
    else { drawing.push([x, y]); draw(); }
  });
  sheet.addEventListener("pointermove", (event) => { if (dragged) { dragged.region.corners[dragged.c] = place(event); touch(); } });
  for (const over of ["pointerup", "pointercancel"]) sheet.addEventListener(over, () => { dragged = null; });
  let saving = false;
  const store = async (replaces_utc_s = drawn_s) => {
    if (!may || !changed || saving) return;
    const name = camera, of = (which) => regions.filter((one) => one.kind === which).map((one) => one.corners);
    const given = { look: of("look"), ignore: of("ignore") }, sent = JSON.stringify(regions);
    saving = true;
    let answer, failed;
    try {
      answer = await putTo(`/api/regions/${encodeURIComponent(name)}`, { ...given, replaces_utc_s });
      notice("The regions are saved.");
    } catch (error) {
      failed = error;
    }
    saving = false;
    if (failed && failed.status !== 409) notice(failed.message, "bad");
    if (name !== camera) return;
    if (answer) {
      drawn_s = answer.utc_s;
      // Over a slow link one draws on meanwhile.
      changed = JSON.stringify(regions) !== sent;
      command.textContent = answer.overrides || "none";
      say();
    } else if (failed.status === 409 && await ask(`${failed.message}. Save yours in their place?`, "Save")) await store(null);
  };
  const load = async (drawn = null) => {
    const name = camera, kept = await get(`/api/regions/${encodeURIComponent(name)}`);
    if (name !== camera) return;
    regions = drawn?.regions ?? ["look", "ignore"].flatMap((which) => kept[which].map((corners) => ({ kind: which, corners })));
    drawn_s = drawn?.drawn_s ?? kept.utc_s ?? 0;
    command.textContent = kept.overrides || "none";
    command.title = kept.who ? `${kept.who}, ${when(kept.utc_s)}` : "";
    chosen = null;
    drawing = drawn?.drawing ?? null;
    kind = drawn?.kind ?? kind;
    changed = Boolean(drawn?.changed);
    loaded = true;
    picture.src = `${cameraPath(camera)}/live.jpg?view=picture&at=${Date.now()}`;
    say();
    draw();
  };
  picture.addEventListener("load", () => { size = [picture.naturalWidth, picture.naturalHeight]; draw(); });
  picture.addEventListener("error", () => { notice("There is no picture of this camera yet.", "bad"); });
  const unsaved = () => (changed || drawing?.length ? `What you drew for ${camera} is not saved. Leave it?` : "");
  chooser.addEventListener("change", async () => {
    if (unsaved() && !(await ask(unsaved(), "Leave"))) { chooser.value = camera; return; }
    camera = chooser.value;
    // Nothing of one camera may stand under the name of another, however long its own takes.
    regions = [];
    drawing = chosen = null;
    changed = false;
    drawn_s = 0;
    loaded = false;
    say();
    draw();
    load().catch((error) => { if (error.status !== 401) notice(error.message, "bad"); });
  });
  context.onUnsaved(unsaved);
  context.onWork(() => (unsaved() ? { camera, regions, drawing, kind, changed, drawn_s } : null));
  context.onKey((event) => {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const on = chosen && event.target.closest?.("circle");
    if (on && arrows[event.key]) {
      const by = event.shiftKey ? 0.05 : 0.01, [x, y] = chosen.region.corners[chosen.c];
      chosen.region.corners[chosen.c] = [inside(x + arrows[event.key][0] * by), inside(y + arrows[event.key][1] * by)].map((one) => Math.round(one * 1e4) / 1e4);
      touch();
    } else if (on && (event.key === "Delete" || event.key === "Backspace")) {
      if (chosen.region.corners.length > 3) chosen.region.corners.splice(chosen.c, 1); else regions.splice(regions.indexOf(chosen.region), 1);
      chosen = null;
      touch();
    } else if (event.key === "d") begin("look");
    else if (event.key === "i") begin("ignore");
    else if (event.key === "s") store();
    else if (event.key === "Enter" && drawing) close();
    else if (event.key === "Escape" && drawing) { drawing = null; say(); draw(); }
    else return false;
    return true;
  });
  say();
  const drawn = context.takeUp();
  if (drawn && names.includes(drawn.camera)) camera = chooser.value = drawn.camera;
  await load(drawn?.camera === camera ? drawn : null);
}
