// The page: who is signed in, which view is shown, and keys that work everywhere.

import { onSignedOut, remove, session, signIn } from "./api.js";
import { showAccount } from "./account.js";
import { showAdmin } from "./admin.js";
import { button, el, notice, put } from "./dom.js";
import { showEvents } from "./events.js";
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

const view = document.getElementById("view");
const bar = document.getElementById("bar");
let who = null;
let leave = () => {};
let onKey = () => false;

/** What a view is given: who looks, and how to be told of keys and of its end. */
function context(rest) {
  const ends = [];
  leave = () => { for (const end of ends) end(); onKey = () => false; };
  return {
    rest,
    who,
    may: (role) => ROLES.indexOf(who.role) >= ROLES.indexOf(role),
    onLeave: (end) => ends.push(end),
    onKey: (act) => { onKey = act; },
    every: (seconds, act) => {
      const timer = setInterval(() => { if (!document.hidden) act(); }, seconds * 1000);
      ends.push(() => clearInterval(timer));
    },
  };
}

function route() {
  if (!who) return;
  const [name, ...rest] = location.hash.slice(2).split("/");
  const chosen = VIEWS.find((one) => one.name === name && (!one.role || who.role === one.role)) ?? VIEWS[0];
  leave();
  for (const link of bar.querySelectorAll("nav a")) {
    if (link.dataset.view === chosen.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${chosen.text} · anomaly`;
  put(view);
  view.className = `view-${chosen.name}`;
  window.scrollTo(0, 0);
  Promise.resolve(chosen.show(view, context(rest.map(decodeURIComponent)))).catch((error) => {
    if (error.status !== 401) notice(error.message, "bad");
  });
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
      button("Sign out", async () => { await remove("/api/session"); signedOut(); })));
  bar.hidden = false;
}

function signedOut() {
  if (who) notice("You are signed out.", "good");
  who = null;
  leave();
  leave = () => {};
  showLogIn(null);
}

function showLogIn(setup) {
  bar.hidden = true;
  document.title = "Sign in · anomaly";
  const problem = el("p", { className: "problem", role: "alert" });
  const name = el("input", { name: "name", autocomplete: "username", required: true, maxLength: 64, autofocus: true, autocapitalize: "none" });
  const password = el("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const enter = el("button", { className: "primary" }, "Sign in");
  const form = el("form", { className: "card login" },
    el("h1", {}, el("img", { src: "/static/icon.svg", alt: "", width: 32, height: 32 }), "anomaly"),
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
  view.className = "view-login";
  put(view, form);
  name.focus();
}

function start() {
  showBar();
  route();
  view.focus();
}

document.addEventListener("keydown", (event) => {
  if (!who || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = event.target;
  if (target.closest("input:not([type=range]), textarea, select")) return;
  if (onKey(event)) { event.preventDefault(); return; }
  const chosen = VIEWS.find((one) => one.key === event.key && (!one.role || who.role === one.role));
  if (event.key === "?") openHelp();
  else if (chosen) location.hash = `#/${chosen.name}`;
  else return;
  event.preventDefault();
});
window.addEventListener("hashchange", route);
onSignedOut(signedOut);

session().then((found) => {
  if (found.signed_in) { who = found; start(); } else showLogIn(found.setup);
}, (error) => { showLogIn(null); notice(error.message, "bad"); });
