// One's own account: a new password.

import { changePassword } from "./api.js";
import { el, notice, put } from "./dom.js";

export function showAccount(view, context) {
  const field = (label, name, autocomplete) => {
    const input = el("input", { name, type: "password", autocomplete, required: true, maxLength: 1000 });
    return [input, el("label", {}, label, input)];
  };
  const [old, oldLabel] = field("Password now", "old", "current-password");
  const [fresh, freshLabel] = field("New password", "new", "new-password");
  const [again, againLabel] = field("New password again", "again", "new-password");
  const problem = el("p", { className: "problem", role: "alert" });
  const form = el("form", { className: "card login" },
    el("h1", {}, "My account"),
    el("p", { className: "quiet" }, `${context.who.name}, ${context.who.role}. A new password signs you out everywhere else; tokens for programs go on.`),
    oldLabel, freshLabel, againLabel, problem, el("button", { className: "primary" }, "Change the password"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = fresh.value === again.value ? "" : "▲ the two new passwords differ";
    if (problem.textContent) { again.select(); return; }
    try {
      await changePassword(old.value, fresh.value);
      form.reset();
      notice("The password is changed");
    } catch (error) {
      problem.textContent = `▲ ${error.message}`;
      old.select();
    }
  });
  put(view, form);
  old.focus();
}
