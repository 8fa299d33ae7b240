// The way to the server: same origin, the session's cookie, and its CSRF token with every change.

import { heardTime, now } from "./format.js";

// A server that takes longer does not answer; what takes long by itself names a longer time.
const PATIENCE_MS = 10_000;
// Without an answer for so long, the page says so.
const LATE_MS = 5_000;
// A socket that was not let through so often in a row never is.
const REFUSALS = 3;
// A socket without a frame for so long is opened anew: a link that is gone is not always told to either end.
const DEAF_MS = 15_000;

// Whether somebody has touched the page since it last asked for something: what it asks by itself keeps no session alive.
let touched = true;
for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
  // What moves under a pointer that rests is told as a move too, by nothing.
  document.addEventListener(kind, (event) => {
    touched ||= event.isTrusted && (kind !== "pointermove" || event.movementX !== 0 || event.movementY !== 0);
  }, { capture: true, passive: true });
}

let csrf = "";
// While a new password is on its way: what is asked with the session from before would be turned away.
let renewing = Promise.resolve();
let signedOut = () => {};

/** What to do when the session has ended. */
export function onSignedOut(act) {
  signedOut = act;
}

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// When the first request was sent that nothing has answered since: by a clock that nobody sets, and in POSIX seconds.
let unanswered = null;
const heard = () => { unanswered = null; };

/** Since when (POSIX seconds) the server has not answered; null while it does. */
export const silentSince = () => (unanswered && performance.now() - unanswered.at_ms > LATE_MS ? unanswered.utc_s : null);

const PASSWORD = "/api/session/password";

async function send(method, path, body, patience_ms = PATIENCE_MS) {
  if (path !== PASSWORD) await renewing;
  const headers = {}, asked = csrf;
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (touched) headers["X-By-Hand"] = "1";
  touched = false;
  if (patience_ms === PATIENCE_MS) unanswered ??= { at_ms: performance.now(), utc_s: now() };
  let answer, told;
  try {
    const signal = AbortSignal.timeout(patience_ms);
    answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    heard();
    heardTime(answer.headers.get("Date"));
    told = await answer.json().catch((error) => { if (answer.ok) throw error; return {}; });
  } catch (error) {
    const slow = error.name === "TimeoutError";
    throw new ApiError(0, slow && method !== "GET" ? "the server did not answer in time; look whether it was done before you try again"
      : "the server does not answer; it may be restarting");
  }
  if (answer.ok) return told;
  // The answer to what was asked before somebody signed in anew, or took a new password, says nothing of this session.
  if (answer.status === 401 && path !== "/api/session" && asked === csrf) signedOut();
  throw new ApiError(answer.status, told.detail ?? `the server answered ${answer.status}`);
}

export const get = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return send("GET", given.length ? `${path}?${new URLSearchParams(given)}` : path);
};
export const post = (path, body = {}, patience_ms = undefined) => send("POST", path, body, patience_ms);
export const putTo = (path, body) => send("PUT", path, body);
export const patch = (path, body) => send("PATCH", path, body);
export const remove = (path) => send("DELETE", path);

/** Who is signed in; remembers the CSRF token. */
export async function session() {
  return remember(await get("/api/session"));
}

export async function signIn(name, password) {
  return remember(await post("/api/session", { name, password }));
}

export async function changePassword(old, fresh) {
  const told = send("PUT", PASSWORD, { old, new: fresh });
  renewing = told.then(remember).catch(() => {});
  return told;
}

function remember(who) {
  csrf = who.csrf ?? "";
  return who;
}

export const cameraPath = (camera) => `/api/cameras/${encodeURIComponent(camera)}`;

/**
 * Live frames of a camera over a WebSocket, reconnecting until `stop()`; see the API's description for the message.
 * @param deaf_ms () => after how many milliseconds without a frame it is opened anew, at least
 */
export function watch(camera, onframe, onlink, deaf_ms = () => 0) {
  let socket, timer, heard_ms, stopped = false, wait = 500, refusals = 0;
  const decode = new TextDecoder();
  const open = () => {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const mine = socket = new WebSocket(`${scheme}://${location.host}${cameraPath(camera)}/live?paced=true`);
    heard_ms = performance.now();
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { wait = 500; refusals = -1; };
    socket.onmessage = ({ data }) => {
      if (mine !== socket) return;
      heard_ms = performance.now();
      // The next one is sent now, the newest there is then; what queued up on a slow link would be old.
      mine.send("");
      const length = new DataView(data).getUint32(0);
      const header = JSON.parse(decode.decode(new Uint8Array(data, 4, length)));
      const cells = header.grid[0] * header.grid[1];
      onframe(header, new Uint8Array(data, 4 + length, cells), new Blob([new Uint8Array(data, 4 + length + cells)], { type: "image/jpeg" }));
      onlink(true);
    };
    socket.onclose = ({ code }) => {
      // One that was given up is closed long after.
      if (stopped || mine !== socket) return;
      refusals += 1;
      onlink(false, code === 4429 ? "too many live streams are open"
        : refusals >= REFUSALS && silentSince() === null ? "no live picture, though the server answers; a proxy in between must let WebSockets through" : "");
      if (code === 4401) { signedOut(); return; }
      timer = setTimeout(open, wait + Math.random() * 300);
      wait = Math.min(wait * 2, 5000);
    };
  };
  open();
  const guard = setInterval(() => {
    if (socket.readyState > WebSocket.OPEN || performance.now() - heard_ms < Math.max(DEAF_MS, deaf_ms())) return;
    const deaf = socket;
    open();
    deaf.close();
  }, 1000);
  return () => { stopped = true; clearTimeout(timer); clearInterval(guard); socket.close(); };
}
