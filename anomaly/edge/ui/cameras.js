// The cameras to choose from: those of the site, and those that left it and that something is still kept of.

import { get } from "./api.js";
import { el } from "./dom.js";

/** Their names: `cameras` of the site, `former` ones. */
export const knownCameras = () => get("/api/cameras/known");

/** Fills a select with them, behind the options `ahead`. What is chosen stays chosen, even when nothing is kept of it any more. */
export function offer(select, { cameras, former }, ahead = []) {
  const chosen = select.value, option = (name) => el("option", { value: name }, name);
  const gone = chosen && ![...cameras, ...former].includes(chosen) ? [...former, chosen] : former;
  select.replaceChildren(...ahead, ...cameras.map(option), ...(gone.length ? [el("optgroup", { label: "no longer in the site" }, gone.map(option))] : []));
  if (chosen) select.value = chosen;
}
