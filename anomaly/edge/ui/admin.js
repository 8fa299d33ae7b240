// Accounts, tokens for programs, the audit, and deletion of footage.

import { get, patch, post, remove } from "./api.js";
import { knownCameras, offer } from "./cameras.js";
import { choice } from "./choice.js";
import { ask, button, el, notice, put } from "./dom.js";
import { utc, when } from "./format.js";

const ROLES = ["viewer", "operator", "engineer", "admin"];
const SCOPES = ["live", "events", "review", "control", "metrics", "admin"];
// Deleting weeks of footage takes as long as it takes.
const DELETION_MS = 600_000;
const options = (words, chosen) => words.map((one) => el("option", { value: one, selected: one === chosen }, one));
const table = (heads, body) => el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, heads.map((one) => el("th", { scope: "col" }, one)))), body));

/** Runs a change; says what went wrong, or that it is done. */
async function change(act, done) {
  try {
    const told = await act();
    notice(done);
    return told;
  } catch (error) {
    notice(error.message, "bad");
    return null;
  }
}

/** What a deletion did not reach in a model, and the command that is next. */
const stillHolds = (one) => el("li", {},
  one.problem ? `Model ${one.model} cannot be looked into: ${one.problem}`
    : one.clips ? `Model ${one.model} still holds crops or evidence of ${one.clips} clips of that time. Forget them, then load the models anew:`
      : `Model ${one.model} was made with ${one.undated} clips whose names tell no time. Where one shows it, forget it with “bank forget --clip”; this names them:`,
  one.clips && one.undated ? ` (The names of ${one.undated} more tell no time.)` : null,
  el("code", { className: "command" }, one.command));

export async function showAdmin(view) {
  const sinks = el("tbody"), models = el("tbody"), users = el("tbody"), tokens = el("tbody"), lines = el("tbody");
  const made = el("p", { hidden: true, className: "made" }), kept = el("ul");
  const older = button("Older", () => audit(true));
  let before = null;

  const listUsers = async () => {
    const told = await get("/api/users");
    owner.replaceChildren(...options(told.users.map((one) => one.name), owner.value));
    put(users, told.users.map((one) => {
      const role = choice({
        label: `Role of ${one.name}`, of: one.name,
        set: async (wanted) => {
          await patch(`/api/users/${encodeURIComponent(one.name)}`, { role: wanted });
          notice(`${one.name} is ${wanted}`);
        },
      });
      role.tell(ROLES, one.role);
      return el("tr", {}, el("td", {}, one.name), el("td", {}, role.root), el("td", {}, when(one.created_utc_s)),
        el("td", {}, button("Remove", async () => {
          if (await ask(`Remove the account ${one.name}, with its tokens and sessions?`, "Remove")) {
            await change(() => remove(`/api/users/${encodeURIComponent(one.name)}`), `${one.name} is removed`);
            listUsers();
          }
        }, { "aria-label": `Remove ${one.name}` })));
    }));
  };
  const listTokens = async () => {
    const told = await get("/api/tokens");
    put(tokens, told.tokens.length ? told.tokens.map((one) => el("tr", {}, el("td", {}, one.label), el("td", {}, one.owner), el("td", {}, one.role),
      el("td", {}, one.scopes.join(", ")), el("td", {}, one.expires_utc_s ? when(one.expires_utc_s) : "never"),
      el("td", {}, button("Remove", async () => {
        if (await ask(`Remove the token ${one.label}? The program that holds it gets in no more.`, "Remove")) {
          await change(() => remove(`/api/tokens/${encodeURIComponent(one.id)}`), "The token is removed");
          listTokens();
        }
      }, { "aria-label": `Remove token ${one.label}` })))) : el("tr", {}, el("td", { colSpan: 6, className: "quiet" }, "None.")));
  };
  const audit = async (more = false) => {
    const told = await get("/api/audit", { limit: 100, before_id: more ? before : undefined });
    before = told.next_before_id;
    older.hidden = before === null;
    const rows = told.lines.map((one) => el("tr", {}, el("td", { title: utc(one.utc_s) }, when(one.utc_s)), el("td", {}, one.who || "–"), el("td", {}, one.action),
      el("td", {}, one.subject), el("td", {}, Object.entries(one.detail).filter(([, value]) => value !== "").map(([key, value]) => `${key} ${Array.isArray(value) ? value.join(" ") : value}`).join(", ")), el("td", {}, one.address)));
    if (more) lines.append(...rows); else put(lines, rows);
  };
  const listSinks = async () => {
    const told = await get("/api/sinks");
    put(sinks, told.sinks.length ? told.sinks.map((one) => el("tr", {}, el("td", {}, one.name),
      el("td", {}, one.connected === false || !one.draining ? "▲ down" : one.connected === null ? "○ not tried yet" : "● up"), el("td", {}, one.pending), el("td", {}, one.sent),
      el("td", {}, one.set_aside), el("td", {}, one.expired), el("td", {}, one.last_error || "–"),
      el("td", {}, one.set_aside ? button("Send again", async () => {
        const again = await change(() => post(`/api/sinks/${encodeURIComponent(one.name)}/again`), "They are sent again");
        if (again) notice(`${again.count} messages are sent again`);
        listSinks();
      }, { "aria-label": `Send again what ${one.name} refused` }) : null))) : el("tr", {}, el("td", { colSpan: 8, className: "quiet" }, "None: nobody is told of events. Name sinks in the site file.")));
  };
  const listModels = async () => {
    const told = await get("/api/cameras");
    put(models, told.cameras.map((one) => el("tr", {}, el("td", {}, one.name), el("td", {}, one.model), el("td", {}, one.recipe || "–"),
      el("td", {}, el("code", {}, (one.model_digest ?? "").slice(0, 12))), el("td", {}, one.certificate))));
  };
  const listCameras = async () => offer(camera, await knownCameras());
  const field = (name, properties = {}) => el("input", { name, required: true, "aria-label": name, placeholder: name, ...properties });
  const name = field("name", { autocomplete: "off", maxLength: 64 });
  const password = field("password", { type: "password", autocomplete: "new-password" });
  const role = el("select", { "aria-label": "role" }, options(ROLES, "operator"));
  const label = field("label", { maxLength: 100 });
  const owner = el("select", { "aria-label": "owner" });
  const days = field("days", { type: "number", min: 1, max: 3660, required: false, placeholder: "never" });
  const tokenRole = el("select", { "aria-label": "role of the token" }, options(ROLES, "viewer"));
  const boxes = SCOPES.map((one) => el("label", { className: "row" }, el("input", { type: "checkbox", value: one, checked: one === "events" }), one));
  const form = (act, ...parts) => el("form", { className: "row wrap", onsubmit: (event) => { event.preventDefault(); act(event.target); } }, ...parts);
  const camera = el("select", { "aria-label": "camera", required: true });
  const start = field("from", { type: "datetime-local", step: 1 }), end = field("to", { type: "datetime-local", step: 1 });

  put(view,
    el("h1", {}, "Accounts"),
    el("section", { className: "card" }, el("h2", {}, "People"), table(["Name", "Role", "Since", ""], users),
      form(async (given) => {
        if (await change(() => post("/api/users", { name: name.value.trim(), role: role.value, password: password.value }), "The account is made")) given.reset();
        listUsers();
      }, name, password, role, el("button", {}, "Add"))),
    el("section", { className: "card" }, el("h2", {}, "Tokens for programs"), table(["Label", "Owner", "Role", "Scopes", "Ends", ""], tokens),
      form(async () => {
        const scopes = boxes.map((one) => one.querySelector("input")).filter((one) => one.checked).map((one) => one.value);
        const told = await change(() => post("/api/tokens", { owner: owner.value, label: label.value.trim(), role: tokenRole.value, scopes, days: days.value ? Number(days.value) : null }), "The token is made");
        if (told) { made.hidden = false; put(made, "Copy it now, it is shown only once: ", el("code", { className: "command" }, told.token)); }
        listTokens();
      }, label, owner, tokenRole, ...boxes, el("label", { className: "row quiet" }, "ends in days", days), el("button", {}, "Make")), made),
    el("section", { className: "card" }, el("div", { className: "row between" }, el("h2", {}, "Models"),
      button("Load models anew", async () => {
        if (!(await ask("Read the site file and all models anew? Where one fails its verification, all stay as they are.", "Load"))) return;
        await change(() => post("/api/models/reload"), "The models are being loaded; Health on the live page says how it ended");
        setTimeout(() => Promise.all([listModels(), listCameras()]).catch(() => {}), 3000);
      })), table(["Camera", "Model", "Recipe", "Digest", "Certificate"], models)),
    el("section", { className: "card" }, el("h2", {}, "Sinks"), table(["Name", "Now", "Waiting", "Sent", "Refused", "Given up on", "Last trouble", ""], sinks)),
    el("section", { className: "card" }, el("h2", {}, "Delete footage"),
      el("p", { className: "quiet" }, "Deletes all that shows a camera in a time (local): events, clips, pictures, misses, recording and scores; kept ones too. A model keeps small crops of what it was fitted on; those that hold some of the time are named then."),
      form(async () => {
        const body = { camera: camera.value, start_utc_s: new Date(start.value) / 1000, end_utc_s: new Date(end.value) / 1000 };
        // In another zone than the line's, and in the hour that a clock goes through twice, only UTC says what is meant.
        const span = `${when(body.start_utc_s)} to ${when(body.end_utc_s)} by this machine's zone, ${utc(body.start_utc_s)} to ${utc(body.end_utc_s)}`;
        if (!(await ask(`Delete all footage of ${camera.value} from ${span}? It cannot be brought back.`, "Delete"))) return;
        const told = await change(() => post("/api/retention/delete", body, DELETION_MS), "It is deleted");
        if (told) notice(`${told.events} events and ${told.misses} misses with all of theirs, ${told.clips} clips of others, ${told.segments} pieces of recording`);
        if (told) put(kept, ...told.models.map(stillHolds));
        audit();
        listCameras().catch(() => {});
      }, camera, el("label", { className: "row quiet" }, "from", start), el("label", { className: "row quiet" }, "to", end), el("button", { className: "danger" }, "Delete")), kept),
    el("section", { className: "card" }, el("h2", {}, "Audit"), table(["Time", "Who", "What", "Of", "Detail", "From"], lines), older));
  await Promise.all([listUsers(), listTokens(), listSinks(), listModels(), listCameras(), audit()]);
}
