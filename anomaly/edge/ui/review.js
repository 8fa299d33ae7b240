// The queue of events that nobody has judged yet.

import { browse } from "./events.js";

export async function showReview(view, context) {
  await browse(view, context, { title: "Review", unreviewed: true });
}
