// The way to the server: same origin, the session's cookie, and its CSRF token with every change.

import { heardTime } from "./format.js";

// Whether somebody has touched the page since it last asked for something: what it asks by itself keeps no session alive.
let touched = true;
for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
  // What moves under a pointer that rests is told as a move too, by nothing.
  document.addEventListener(kind, (event) => {
    touched ||= event.isTrusted && (kind !== "pointermove" || event.movementX !== 0 || event.movementY !== 0);
  }, { capture: true, passive: true });
}

let csrf = "";
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

async function send(method, path, body) {
  const headers = {};
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (touched) headers["X-By-Hand"] = "1";
  touched = false;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, "the server does not answer; it may be restarting");
  }
  heardTime(answer.headers.get("Date"));
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  if (answer.status === 401 && path !== "/api/session") signedOut();
  throw new ApiError(answer.status, told.detail ?? `the server answered ${answer.status}`);
}

export const get = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return send("GET", given.length ? `${path}?${new URLSearchParams(given)}` : path);
};
export const post = (path, body = {}) => send("POST", path, body);
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
  return remember(await send("PUT", "/api/session/password", { old, new: fresh }));
}

function remember(who) {
  csrf = who.csrf ?? "";
  return who;
}

export const cameraPath = (camera) => `/api/cameras/${encodeURIComponent(camera)}`;

/** Live frames of a camera over a WebSocket, reconnecting until `stop()`; see the API's description for the message. */
export function watch(camera, onframe, onlink) {
  let socket, timer, stopped = false, wait = 500;
  const decode = new TextDecoder();
  const open = () => {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}${cameraPath(camera)}/live`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { wait = 500; };
    socket.onmessage = ({ data }) => {
      const length = new DataView(data).getUint32(0);
      const header = JSON.parse(decode.decode(new Uint8Array(data, 4, length)));
      const cells = header.grid[0] * header.grid[1];
      onlink(true);
      onframe(header, new Uint8Array(data, 4 + length, cells), new Blob([new Uint8Array(data, 4 + length + cells)], { type: "image/jpeg" }));
    };
    socket.onclose = ({ code }) => {
      if (stopped) return;
      onlink(false, code === 4429 ? "too many live streams are open" : "");
      if (code === 4401) { signedOut(); return; }
      timer = setTimeout(open, wait + Math.random() * 300);
      wait = Math.min(wait * 2, 5000);
    };
  };
  open();
  return () => { stopped = true; clearTimeout(timer); socket.close(); };
}
