// The page: who is signed in, which view is shown, and keys that work everywhere.

import { get, onSignedOut, remove, session, signIn, silentSince } from "./api.js";
import { showAccount } from "./account.js";
import { showAdmin } from "./admin.js";
import { ask, button, el, notice, put } from "./dom.js";
import { showEvents } from "./events.js";
import { clock } from "./format.js";
import { openHelp } from "./help.js";
import { showLive } from "./live.js";
import { showRegions } from "./regions.js";
import { showReview } from "./review.js";
import { showTimeline } from "./timeline.js";

const ROLES = ["viewer", "operator", "engineer", "admin"];
const VIEWS = [
  { name: "live", text: "Live", key: "l", show: showLive },
  { name: "review", text: "Review", key: "v", show: showReview },
  { name: "events", text: "Events", key: "e", show: showEvents },
  { name: "timeline", text: "Timeline", key: "t", show: showTimeline },
  { name: "regions", text: "Regions", key: "r", show: showRegions },
  { name: "admin", text: "Accounts", key: "a", show: showAdmin, role: "admin" },
  { name: "account", text: "My account", key: "p", show: showAccount, aside: true },
];

const RETRY_S = 3;
// Keys that do something once, however long they are held down: a held verdict would judge event after event.
const ONCE = /^([^+\-=j]|Enter)$/u;

const view = document.getElementById("view");
const bar = document.getElementById("bar");
const away = document.getElementById("away");
let who = null;
let notStored = "";
let shown = "";
let leave = () => {};
let onKey = () => false;
let unsaved = () => "";
let work = () => null;
// What somebody was at when the session ended under them, and where; only they find it again.
let cutOff = null;

/** What a view is given: who looks, and how to be told of keys and of its end. Once it is left, it gets nothing more. */
function context(rest, title) {
  const ends = [];
  let over = false;
  leave = () => {
    over = true;
    for (const end of ends) end();
    onKey = () => false;
    unsaved = () => "";
    work = () => null;
  };
  const onLeave = (end) => { if (over) end(); else ends.push(end); };
  return {
    rest,
    who,
    may: (role) => ROLES.indexOf(who.role) >= ROLES.indexOf(role),
    over: () => over,
    onLeave,
    onKey: (act) => { if (!over) onKey = act; },
    /** `ask()` tells what would be lost by leaving now, as a question; "" = nothing. */
    onUnsaved: (ask) => { if (!over) unsaved = ask; },
    /** `tell()` gives what somebody is at, for when the session ends under them; null = nothing. */
    onWork: (tell) => { if (!over) work = tell; },
    /** What that was, once they have signed in again; null = nothing. */
    takeUp: () => {
      const found = cutOff?.at === shown ? cutOff.work : null;
      if (found) cutOff = null;
      return found;
    },
    /** Marks the tab, which may be behind others. */
    mark: (sign) => { if (!over) document.title = `${sign}${title} · anomaly`; },
    /**
     * Acts every so many seconds while somebody can see it, and at once when somebody can again; never twice at a time.
     * @returns what ends it; leaving the view does too
     */
    every: (seconds, act) => {
      let busy = false;
      const tick = async () => {
        if (document.hidden || busy || over) return;
        busy = true;
        try { await act(); } finally { busy = false; }
      };
      const timer = setInterval(tick, seconds * 1000);
      document.addEventListener("visibilitychange", tick);
      const end = () => { clearInterval(timer); document.removeEventListener("visibilitychange", tick); };
      onLeave(end);
      return end;
    },
  };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // typed by hand
  }
}

async function route() {
  if (!who) return;
  shown = location.hash;
  const [name, ...rest] = shown.slice(2).split("/");
  const chosen = VIEWS.find((one) => one.name === name && (!one.role || who.role === one.role)) ?? VIEWS[0];
  leave();
  for (const link of bar.querySelectorAll("nav a")) {
    if (link.dataset.view !== chosen.name) { link.removeAttribute("aria-current"); continue; }
    link.setAttribute("aria-current", "page");
    // On a phone not all of them fit.
    link.scrollIntoView({ inline: "center", block: "nearest" });
  }
  document.title = `${chosen.text} · anomaly`;
  // A place of its own: what a slow view paints after it was left is seen by nobody.
  const place = el("div", { className: `view-${chosen.name}` });
  put(view, place);
  window.scrollTo(0, 0);
  const given = context(rest.map(decoded), chosen.text);
  try {
    await chosen.show(place, given);
  } catch (error) {
    if (given.over() || error.status === 401) return;
    // What it painted before would stay as it is.
    leave();
    const again = context([], chosen.text);
    put(place, el("h1", {}, chosen.text), ...failure(error, route, again.onLeave));
  }
}

/** What went wrong, with a way to try again; where no server answered, it is tried again by itself. */
function failure(error, act, onLeave) {
  const alone = !error.status || error.status >= 500;
  const timer = alone ? setTimeout(act, RETRY_S * 1000) : 0;
  onLeave(() => clearTimeout(timer));
  return [
    el("p", { className: "problem", role: "alert" }, `▲ ${error.status === 0 ? "The server does not answer." : error.message}`,
      alone ? " It is tried again every few seconds." : ""),
    button("Try again", () => { clearTimeout(timer); act(); })];
}

/** Says on every view, and for as long as it lasts, that no answer comes, or that what is listed is not all; asks until one does. */
async function lookWhetherItAnswers() {
  const since = who && silentSince();
  const text = since ? `▲ The server has not answered since ${clock(since)}. What you see may be out of date.` : who ? notStored : "";
  away.hidden = !text;
  document.body.classList.toggle("unanswered", Boolean(since));
  if (away.textContent !== text) away.textContent = text;
  if (since) await get("/api/session").catch(() => {});
  setTimeout(lookWhetherItAnswers, 1000);
}

/** Where nothing can be stored, that this is so cannot be either: it stands in no list. */
async function lookWhetherItIsStored() {
  if (who && !document.hidden) {
    const told = await get("/api/cameras").catch(() => null);
    if (told) {
      const { not_stored: reason, events_in_memory: waiting } = told.site;
      notStored = reason ? `▲ Nothing can be stored: ${reason}. Alarms go on, but events${waiting ? ` (${waiting} so far)` : ""} are missing in all lists.` : "";
    }
  }
  setTimeout(lookWhetherItIsStored, 4000);
}

function showBar() {
  const links = VIEWS.filter((one) => !one.aside && (!one.role || who.role === one.role)).map((one) =>
    el("a", { href: `#/${one.name}`, "data-view": one.name, title: `key ${one.key}` }, one.text));
  put(bar,
    el("span", { className: "brand" }, el("img", { src: "/static/icon.svg", alt: "", width: 22, height: 22 }), "anomaly"),
    el("nav", { "aria-label": "Views" }, links),
    el("div", { className: "person" },
      el("a", { href: "#/account", className: "quiet name", title: "My account: change the password (p)" }, `${who.name} · ${who.role}`),
      button("?", openHelp, { className: "round", title: "Keys (?)", "aria-label": "Help" }),
      button("Sign out", signOut)));
  bar.hidden = false;
}

async function signOut() {
  const question = unsaved();
  if (question && !(await ask(question, "Sign out"))) return;
  try {
    await remove("/api/session");
  } catch (error) {
    if (error.status !== 401) notice(`You are still signed in: ${error.message}`, "bad");
    return;
  }
  signedOut("You are signed out.");
}

/** @param cut whether it ended by itself, under somebody who was at work */
function signedOut(why = "", cut = false) {
  if (!who) return; // what is typed into the form stays
  cutOff = cut ? { name: who.name, at: shown, work: work() } : null;
  who = null;
  // One that is left open keeps everybody from the form.
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  leave();
  leave = () => {};
  showLogIn(null, why);
}

function showLogIn(setup, why = "") {
  bar.hidden = true;
  document.title = "Sign in · anomaly";
  const problem = el("p", { className: "problem", role: "alert" });
  const name = el("input", { name: "name", autocomplete: "username", required: true, maxLength: 64, autofocus: true, autocapitalize: "none" });
  const password = el("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const enter = el("button", { className: "primary" }, "Sign in");
  const form = el("form", { className: "card login" },
    el("h1", {}, el("img", { src: "/static/icon.svg", alt: "", width: 32, height: 32 }), "anomaly"),
    why ? el("p", { role: "status" }, why) : null,
    setup ? el("p", {}, "There is no account yet. Make the first one on this machine:", el("code", { className: "command" }, setup)) : null,
    el("label", {}, "Name", name),
    el("label", {}, "Password", password),
    problem,
    enter,
    el("p", { className: "quiet small" }, "Not a safety component. Not for watching people."));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    enter.disabled = true;
    problem.textContent = "";
    try {
      who = await signIn(name.value.trim(), password.value);
      start();
    } catch (error) {
      problem.textContent = `▲ ${error.message}`;
      password.select();
    }
    enter.disabled = false;
  });
  put(view, el("div", { className: "view-login" }, form));
  name.focus();
}

function start() {
  if (cutOff?.name !== who.name) cutOff = null;
  showBar();
  route();
  view.focus();
}

document.addEventListener("keydown", (event) => {
  if (!who || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = event.target;
  if (target.closest("input:not([type=range]), textarea, select")) return;
  if (event.repeat && ONCE.test(event.key)) { event.preventDefault(); return; }
  if (onKey(event)) { event.preventDefault(); return; }
  const chosen = VIEWS.find((one) => one.key === event.key && (!one.role || who.role === one.role));
  if (event.key === "?") openHelp();
  else if (chosen) location.hash = `#/${chosen.name}`;
  else return;
  event.preventDefault();
});
window.addEventListener("hashchange", async () => {
  const question = unsaved(), wanted = location.hash;
  if (question) {
    history.replaceState(null, "", shown || location.pathname);
    if (!(await ask(question, "Leave"))) return;
    history.replaceState(null, "", wanted);
  }
  route();
});
window.addEventListener("beforeunload", (event) => { if (unsaved()) event.preventDefault(); });
onSignedOut(() => signedOut("Your session has ended: nobody used this page for a time, or your account was changed. Sign in to go on where you were.", true));

async function begin() {
  try {
    const found = await session();
    if (found.signed_in) { who = found; start(); } else showLogIn(found.setup);
  } catch (error) {
    put(view, ...failure(error, begin, () => {}));
  }
}
// Scripts have come.
put(view);
lookWhetherItAnswers();
lookWhetherItIsStored();
begin();
