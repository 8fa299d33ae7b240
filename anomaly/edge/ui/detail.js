// One event: its clip, where it is, what was normal there, and what people say of it.

import { get, post } from "./api.js";
import { button, el, notice, put } from "./dom.js";
import { lasting, number, utc, when } from "./format.js";

export const VERDICTS = [["real", "Real", "1", "▲"], ["false alarm", "False alarm", "2", "○"], ["unsure", "Unsure", "3", "?"]];

// Notes that were begun, by event: who looks elsewhere before the verdict finds theirs again, and nobody else does.
const notes = { of: "", begun: new Map() };

/**
 * A pane that shows events one after another.
 * @param said called with the event after a verdict
 * @param empty () => what stands there while no event is chosen
 */
export function detailPane(context, said, empty) {
  const root = el("section", { className: "card detail", "aria-label": "Event" });
  let event = null, video = null, serial = 0;

  const note = el("input", { maxLength: 2000, "aria-label": "Note to the verdict", placeholder: "Note (o), then the verdict", className: "note" });
  if (notes.of !== context.who.name) { notes.of = context.who.name; notes.begun.clear(); }
  note.addEventListener("input", () => {
    if (note.value.trim()) notes.begun.set(event.id, note.value); else notes.begun.delete(event.id);
  });
  // From the note, Enter leads back to the keys of the verdicts.
  note.addEventListener("keydown", (pressed) => { if (pressed.key === "Enter" || pressed.key === "Escape") note.blur(); });
  const send = async (on, verdict, text) => {
    try {
      const given = await post(`/api/events/${on.id}/verdict`, { verdict, note: text });
      notes.begun.delete(on.id);
      if (event === on) note.value = "";
      const before = on.verdict?.utc_s ?? 0;
      on.verdict = given;
      on.verdicts = [...(on.verdicts ?? []), given];
      notice(`${on.camera}: ${verdict}`);
      unseen(on, before, given);
      if (event === on) draw();
      said(on);
    } catch (error) {
      notice(error.message, "bad");
      if (error.status === 404) isGone(on);
    }
  };
  /** Says what a colleague has judged since, which the one that was given here stands over. */
  const unseen = async (on, before, given) => {
    const full = await get(`/api/events/${on.id}`).catch(() => null);
    const theirs = full?.verdicts.findLast((one) => one.utc_s > before && one.utc_s < given.utc_s && one.who !== given.who);
    if (!theirs) return;
    on.verdicts = full.verdicts;
    if (event === on) draw();
    notice(`${on.camera}: ${theirs.who} had just said “${theirs.verdict}”; yours, “${given.verdict}”, counts now`, "bad");
  };
  // Over a slow link one presses again: the same is sent once, and another verdict after the one before, as the last one counts.
  let sent = Promise.resolve(), waiting = "";
  const give = (verdict) => {
    if (!event || event.deleted || !context.may("operator") || waiting === `${event.id} ${verdict}`) return;
    const on = event, text = note.value.trim(), mine = waiting = `${on.id} ${verdict}`;
    sent = sent.then(() => send(on, verdict, text)).then(() => { if (waiting === mine) waiting = ""; });
  };
  const keep = async () => {
    if (!event || event.deleted || !context.may("operator")) return;
    try {
      await post(`/api/events/${event.id}/hold`, { held: !event.held });
      event.held = !event.held;
      verdictBar();
    } catch (error) {
      notice(error.message, "bad");
    }
  };
  const bar = el("div", { className: "verdicts", role: "group", "aria-label": "Verdict" });
  const verdictBar = () => {
    const may = context.may("operator");
    put(bar,
      VERDICTS.map(([word, text, key, sign]) => button(`${sign} ${text}`, () => give(word), {
        key, disabled: !may, className: `verdict ${word.replace(" ", "-")}`, "aria-pressed": String(event.verdict?.verdict === word),
        title: may ? "" : "This takes the role operator" })),
      button(event.held ? "■ Kept" : "□ Keep", keep, { key: "k", disabled: !may, "aria-pressed": String(event.held), title: "Kept events are not deleted by age" }), may ? note : null);
  };
  const play = () => { if (video) { if (video.paused) video.play().catch(() => {}); else video.pause(); } };

  let screen = null, shown = "";
  const clip = () => {
    // A clip that plays goes on playing when the rest is drawn anew.
    const now = [event.id, event.clip_state, event.media.preview, event.media.clip, event.media.snapshot].join();
    if (screen && now === shown) return screen;
    shown = now;
    const box = screen = el("div", { className: "screen clip" });
    const source = event.media.preview ?? event.media.clip;
    if (source) {
      video = el("video", { src: source, controls: true, muted: true, playsInline: true, preload: "auto", autoplay: true, "aria-label": "Clip of the event" });
      if (event.media.snapshot) video.poster = event.media.snapshot;
      const failed = el("p", { className: "over", hidden: true }, "This browser cannot play the clip; download it.");
      video.addEventListener("error", () => { failed.hidden = false; });
      box.append(video, failed);
    } else {
      video = null;
      if (event.media.snapshot) box.append(el("img", { src: event.media.snapshot, alt: "Picture of the event" }));
      box.append(el("p", { className: "over" }, {
        pending: "The clip is being made …", failed: "The clip could not be made.", none: "There is no clip: nothing was recorded.",
      }[event.clip_state] ?? "There is no clip."));
    }
    return box;
  };
  const pictures = () => {
    const { snapshot, heatmap, normal } = event.media;
    const told = [];
    if (heatmap || snapshot) {
      const hot = heatmap && snapshot ? el("img", { className: "hot", src: heatmap, alt: "" }) : null;
      const slider = hot ? el("input", { type: "range", min: 0, max: 1, step: 0.05, value: 1, "aria-label": "Strength of the heatmap" }) : null;
      slider?.addEventListener("input", () => { hot.style.opacity = slider.value; });
      told.push(el("figure", {}, el("div", { className: "stack" }, el("img", { src: snapshot ?? heatmap, alt: "Picture at the highest score" }), hot),
        el("figcaption", {}, slider ? el("label", { className: "slider" }, "Where it is", slider) : "Where it is")));
    }
    if (normal) {
      const text = event.explanation.text ?? "the most similar normal moment";
      told.push(el("figure", {},
        el("a", { href: normal, target: "_blank", rel: "noopener", title: "Open it in full size" }, el("img", { src: normal, alt: "Beside it the most similar normal moment" })),
        el("figcaption", {}, `${text[0].toUpperCase()}${text.slice(1)}.`)));
    }
    return el("div", { className: "pictures" }, told);
  };
  const drawGone = () => {
    video = screen = null;
    put(root, el("h2", {}, event.camera), el("p", { role: "status" }, `The event of ${when(event.start_utc_s)} has been deleted. ↓ and ↑ lead to others.`));
  };
  /** Somebody else has deleted it: what stands in its place takes no verdict, until another is chosen. */
  const isGone = (one) => {
    one.deleted = true;
    if (one === event) draw();
  };
  const fact = (term, ...text) => el("div", {}, el("dt", {}, term), el("dd", {}, ...text));
  const draw = () => {
    if (event.deleted) { drawGone(); return; }
    const { start_utc_s: start, end_utc_s: end, peak_utc_s: peak } = event;
    const times = (at) => [when(at), el("span", { className: "quiet small" }, utc(at))];
    verdictBar();
    const playing = video && !video.paused;
    put(root,
      el("div", { className: "row between" },
        el("h2", {}, event.camera),
        el("div", { className: "row" },
          event.status === "open" ? el("span", { className: "lamp alarm" }, "▲ going on") : null,
          event.announced ? null : el("span", { className: "badge" }, `not announced (${event.state})`),
          event.certified ? null : el("span", { className: "badge warn", title: event.doubt }, "UNCERTIFIED"))),
      clip(), bar, pictures(),
      el("dl", { className: "facts" },
        fact("Start", ...times(start)), fact("Peak", ...times(peak)),
        fact("End", ...(end === null ? [event.status === "open" ? "going on" : event.status] : times(end))),
        fact("Lasts", end === null ? "–" : lasting(end - start)),
        fact("Score", `${number(event.score)} (threshold ${number(event.threshold)})`),
        fact("Recipe", event.recipe || "–"),
        fact("Model", el("code", { title: event.model }, event.model.slice(0, 12))),
        event.doubt ? fact("Doubt", event.doubt) : null),
      (event.verdicts ?? []).length ? el("ul", { className: "said small" }, event.verdicts.map((one) =>
        el("li", {}, el("strong", {}, one.verdict), ` ${one.who}, ${when(one.utc_s)}`, one.note ? [" – ", el("bdi", {}, one.note)] : null))) : null,
      el("p", { className: "row small" },
        event.media.clip ? el("a", { href: `${event.media.clip}?download=true` }, "Download the clip") : null,
        el("a", { href: `#/timeline/${encodeURIComponent(event.camera)}/${start}` }, "Show on the timeline")));
    // Taken out of the page and put back, it stands still.
    if (playing && video.isConnected) video.play().catch(() => {});
  };
  /** Shows what is known at once, then all of it; asks again while the event or its clip is unfinished. */
  const show = async (given) => {
    const mine = ++serial;
    if (event?.id !== given?.id) note.value = notes.begun.get(given?.id) ?? "";
    event = given;
    if (!given) { video = null; put(root, el("p", { className: "quiet" }, empty())); return; }
    draw();
    if (given.deleted) return;
    const full = await get(`/api/events/${given.id}`).catch((error) => error);
    if (full.status === 404) isGone(given);
    if (mine !== serial || !full.id) return;
    Object.assign(event, full);
    draw();
  };
  const changed = (one) => [one.status, one.clip_state, one.verdicts?.length, JSON.stringify(one.media)].join();
  context.every(2, async () => {
    if (!event || (event.status !== "open" && event.clip_state !== "pending")) return;
    const mine = serial, before = changed(event);
    const full = await get(`/api/events/${event.id}`).catch(() => null);
    if (mine !== serial || !full) return;
    Object.assign(event, full);
    if (changed(event) !== before) draw();
  });
  // Who has to sign in before the verdict finds the event again whose note was begun.
  const begun = context.takeUp();
  context.onWork(() => (event && note.value.trim() ? { event: event.id } : null));
  return {
    root, show, play,
    /** The event whose note was begun. */
    begun: begun?.event,
    onKey(pressed) {
      const verdict = VERDICTS.find(([, , key]) => key === pressed.key);
      if (verdict) give(verdict[0]);
      else if (pressed.key === "k") keep();
      else if (pressed.key === "o") note.focus();
      else if (pressed.key === " " && !pressed.target.closest("button, video, a")) play();
      else return false;
      return true;
    },
  };
}
