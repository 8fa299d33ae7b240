"""The page while it is watched: camera to screen, the server's share of the processor, and what scoring pays for it.

A camera of this file's own (Motion JPEG over HTTP, 640x360, each frame with its number in its pixels) notes when a frame
leaves it. `anomaly run --serve` scores it with the CPU profile in OpenVINO and is watched over real sockets:

- "screen": headless Chromium, signed in at the live page. A frame is on the screen when the page has drawn it and the
  browser begins the next picture; its number is read back from the page's canvas.
- "watchers": 1, 4 and 16 programs that take what a browser takes (the live WebSocket), all in one process apart. They
  stand for browsers: 16 Chromiums would fill the two cores with drawing, which in a plant happens on other machines.

Each count is measured beside nobody watching, in turns: at the line's rate (10 frames a second), and with a camera that
sends more than can be scored, where whatever the server takes is missing from the scored frames.

    python benchmarks/serve.py --quick
    python benchmarks/serve.py --json serve.json
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import report
from edge import make_model, of_cameras, scraped

sys.path.insert(1, str(report.ROOT / "tests"))
SIZE, LINE_FPS, TOO_MANY_FPS = (640, 360), 10, 60
COUNTS = (1, 4, 16)
NAME, PASSWORD = "watcher", "only for this benchmark"
_PATIENCE_S = 60.0
_BITS = 16
#: Notes [number, milliseconds since 1970] of each frame that the page has drawn, when the next picture begins.
_NOTE_FRAMES = """() => {
  const canvas = document.querySelector('canvas.picture');
  window.noted = [];
  new MutationObserver(() => requestAnimationFrame(() => {
    const at = performance.timeOrigin + performance.now();
    const block = Math.floor(canvas.width / 16);
    const row = canvas.getContext('2d').getImageData(0, Math.floor(canvas.height / 8), canvas.width, 1).data;
    let number = 0;
    for (let bit = 0; bit < 16; bit += 1) if (row[4 * (bit * block + block / 2)] > 128) number += 2 ** bit;
    window.noted.push([number, at]);
  })).observe(canvas, { attributes: true, attributeFilter: ['data-sequence'] });
}"""


class Camera:
    """A camera that knows when each of its frames left it: Motion JPEG over HTTP, to one client."""

    def __init__(self, fps: float, background: np.ndarray) -> None:
        self.left: dict[int, float] = {}
        self._over = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    camera._send(self.wfile, fps, background)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/live.mjpg"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _send(self, out: Any, fps: float, background: np.ndarray) -> None:
        begin = time.monotonic()
        for number in range(2**_BITS):
            jpeg = cv2.imencode(".jpg", numbered(background, number), [cv2.IMWRITE_JPEG_QUALITY, 85])[
                1
            ].tobytes()
            if self._over.wait(max(0.0, begin + number / fps - time.monotonic())):
                return
            self.left[number] = time.time()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            out.write(head.encode() + jpeg + b"\r\n")
            out.flush()


def numbered(background: np.ndarray, number: int) -> np.ndarray:
    """A frame with its number in its upper quarter, as `rtsp_server.number_in` reads it; the rest moves a little."""
    image = np.roll(background, number % 8, axis=1)
    block = SIZE[0] // _BITS
    for bit in range(_BITS):
        image[: SIZE[1] // 4, bit * block : (bit + 1) * block] = 240 if number >> bit & 1 else 16
    return image


class Line:
    """`anomaly run --serve` as a process of its own.

    Args:
        folder: of the model.
        work: where it writes.
        camera: what it looks at.
        fps: frames a second that are to be scored.
    """

    def __init__(self, folder: Path, work: Path, camera: Camera, fps: int) -> None:
        out = work / f"line_{fps}"
        out.mkdir()
        self.token = watchers_token(out)
        site = work / f"site_{fps}.yaml"
        entry = {"name": "belt", "source": camera.url, "model": str(folder), "fps": fps}
        site.write_text(json.dumps({"site": "bench", "line": "1", "cameras": [entry]}), encoding="utf-8")
        self.child = subprocess.Popen(
            [*report.typed("run", "--site", site, "--out", out, "--serve", "127.0.0.1:0"),
             "runtime=openvino", "run.metrics=127.0.0.1:0"],
            env=report.child_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.probes, self.url = addresses(self.child, lambda: "run it by hand to see why")
        deadline = time.monotonic() + _PATIENCE_S
        while (
            of_cameras(self.probes, 'what="scored"', 1, self.token)[0] < 2 * LINE_FPS
            and time.monotonic() < deadline
        ):
            time.sleep(0.2)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(_PATIENCE_S)

    def measure(self, seconds: float) -> dict[str, float]:
        """Frames scored and dropped, processor seconds of all and of the server, each a second; the latest latencies.

        All means the runner, its server and the camera's process. Latencies are of the last 300 frames.
        """
        before, spent, began = (
            scraped(self.probes, self.token),
            sum(family(self.child.pid).values()),
            time.monotonic(),
        )
        time.sleep(seconds)
        after, done, took = (
            scraped(self.probes, self.token),
            sum(family(self.child.pid).values()),
            time.monotonic() - began,
        )

        def grown(name: str) -> float:
            return sum(after[key] - before.get(key, 0.0) for key in after if name in key)

        return {
            "server": grown("anomaly_server_thread_seconds") / took,
            "scored": grown('what="scored"') / took,
            "dropped": grown('what="dropped"') / took,
            "processors": (done - spent) / took,
            "decided_p50_ms": 1e3 * max(value for key, value in after.items() if "seconds_p50" in key),
            "decided_p99_ms": 1e3 * max(value for key, value in after.items() if "seconds_p99" in key),
        }


def watchers_token(out: Path) -> str:
    """A token that opens the live pictures and the figures of the runner that will write to this folder."""
    from anomaly.edge.server.accounts import Accounts
    from anomaly.edge.server.door import open_vault

    vault = open_vault(out)
    accounts = Accounts(vault)
    accounts.add(NAME, "viewer", PASSWORD)
    token = accounts.add_token(NAME, "benchmark", "viewer", ("live", "metrics"))[1]
    vault.close()
    return token


def addresses(child: subprocess.Popen[str], why: Callable[[], str]) -> tuple[str, str]:
    """Where a runner's probes and its page are, once it has told both.

    Raises:
        SystemExit: it ended before; `why` says what is known of it.
    """
    assert child.stdout is not None
    told: dict[str, str] = {}
    for line in child.stdout:
        for what in ("Probes and metrics: ", "The page: "):
            if what in line:
                told[what] = line.partition(what)[2].split("/healthz")[0].strip()
        if len(told) == 2:
            return told["Probes and metrics: "], told["The page: "]
    raise SystemExit(f"`anomaly run --serve` ended before it served: {why()}")


def family(parent: int) -> dict[int, float]:
    """A process and all that descend from it, with the seconds of processor time that each has had so far."""
    times, children = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in brackets may hold spaces.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                times[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = {}, [parent]
    while todo:
        one = todo.pop()
        found[one] = times.get(one, 0.0)
        todo += children.get(one, [])
    return found


@contextlib.contextmanager
def watched(line: Line, count: int) -> Iterator[Connection | None]:
    """So many programs watch; ask the connection, and it answers with [number, time] of what the first one got."""
    if count == 0:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=watch, args=(line.url, line.token, count, there), daemon=True)
    process.start()
    assert here.poll(_PATIENCE_S), "no watcher got a picture"
    assert here.recv() == "watching"
    try:
        yield here
    finally:
        process.terminate()
        process.join(_PATIENCE_S)


def picture_in(message: bytes) -> bytes:
    """The JPEG of a live message, which stands behind a header and the heatmap's cells."""
    (length,) = struct.unpack_from(">I", message)
    rows, columns = json.loads(message[4 : 4 + length])["grid"]
    return message[4 + length + rows * columns :]


def watch(url: str, token: str, count: int, told: Connection) -> None:
    """Entry of the watchers' process: take all that comes; of the first one's, note the number and the time."""
    import websockets
    from rtsp_server import number_in

    noted: list[tuple[int, float]] = []
    watching = 0

    async def one(first: bool) -> None:
        nonlocal watching
        async with websockets.connect(
            f"{url.replace('http', 'ws', 1)}/api/cameras/belt/live?paced=true",
            additional_headers={"Authorization": f"Bearer {token}"},
            max_size=2**24,
            compression=None,
        ) as socket:
            watching += 1
            async for message in socket:
                at = time.time()
                await socket.send("")
                if first and isinstance(message, bytes):
                    picture = cv2.imdecode(np.frombuffer(picture_in(message), np.uint8), 1)
                    noted.append((number_in(picture), at))  # type: ignore[arg-type]

    async def answer() -> None:
        while watching < count or not noted:
            await asyncio.sleep(0.02)
        told.send("watching")
        while True:
            if told.poll():
                told.recv()
                told.send(noted)
                noted.clear()
            await asyncio.sleep(0.02)

    async def all_of_them() -> None:
        await asyncio.gather(answer(), *(one(number == 0) for number in range(count)))

    cv2.setNumThreads(1)
    asyncio.run(all_of_them())


def delays(camera: Camera, noted: list[tuple[int, float]]) -> list[float]:
    """Milliseconds from a frame's leaving the camera to where it was seen."""
    return [1e3 * (at - camera.left[number]) for number, at in noted if number in camera.left]


def watchers(line: Line, camera: Camera, seconds: float, rounds: int, name: str) -> report.Figures:
    """What 1, 4 and 16 watching programs cost, each beside nobody watching, in turns."""
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in (0, *COUNTS)}
    late: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(rounds):
        for count in runs:
            with watched(line, count) as told:
                time.sleep(0.5)
                runs[count].append(line.measure(seconds))
                if told is not None:
                    told.send("?")
                    assert told.poll(_PATIENCE_S), "the watchers do not answer"
                    late[count] += delays(camera, told.recv())
    found: report.Figures = {}
    alone = runs[0]
    for count, measured in runs.items():
        prefix = f"{name}_{count}_watching"
        for key in ("scored", "dropped", "processors", "server", "decided_p50_ms", "decided_p99_ms"):
            found[f"{prefix}_{key}"] = statistics.median(one[key] for one in measured)
        if count == 0:
            continue
        # Round by round, so that what else the machine does falls out.
        ratio = [one["scored"] / other["scored"] for one, other in zip(measured, alone, strict=True)]
        share = [one["server"] / one["processors"] for one in measured]
        p50, p99 = np.percentile(late[count], [50, 99])
        found |= {
            f"{prefix}_server_share": statistics.median(share),
            f"{prefix}_scored_to_nobody_watching": statistics.median(ratio),
            f"{prefix}_camera_to_client_p50_ms": float(p50),
            f"{prefix}_camera_to_client_p99_ms": float(p99),
        }
    return found


def screen(line: Line, camera: Camera, seconds: float) -> report.Figures:
    """Camera to screen in a real browser at the live page, and what the line does meanwhile."""
    from page_case import browser

    alone = line.measure(seconds)
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1366, "height": 850})
        page.goto(line.url)
        page.get_by_label("Name").fill(NAME)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.locator("canvas.picture[data-sequence]").wait_for(timeout=_PATIENCE_S * 1e3)
        # Signing in takes a core for a while: what follows is the page as it stands open.
        time.sleep(2.0)
        page.evaluate(_NOTE_FRAMES)
        meanwhile = line.measure(seconds)
        noted = [(int(number), at / 1e3) for number, at in page.evaluate("window.noted")]
    late = delays(camera, noted)
    if not late:
        raise SystemExit("the page drew no frame")
    p50, p99 = np.percentile(late, [50, 99])
    numbers = sorted({number for number, _ in noted})
    return {
        "screen_frames": len(late),
        "screen_frames_a_second": len(late) / seconds,
        "screen_camera_to_screen_p50_ms": float(p50),
        "screen_camera_to_screen_p99_ms": float(p99),
        "screen_frames_not_shown": int(np.clip(np.diff(numbers) - 1, 0, None).sum()) if numbers else 0,
        "screen_scored_nobody_watching": alone["scored"],
        "screen_scored": meanwhile["scored"],
        "screen_decided_p50_ms_nobody_watching": alone["decided_p50_ms"],
        "screen_decided_p50_ms": meanwhile["decided_p50_ms"],
        "screen_server": meanwhile["server"],
        "screen_server_share": meanwhile["server"] / meanwhile["processors"],
    }


def main(arguments: list[str] | None = None) -> int:
    options = report.options_parser(__doc__).parse_args(arguments)
    quick = bool(options.quick)
    seconds, rounds = (4.0, 1) if quick else (15.0, 3)
    figures: report.Figures = {**report.machine()}
    with report.workplace() as work:
        folder = make_model(work, quick=quick)
        background = np.full((SIZE[1], SIZE[0], 3), 96, np.uint8)
        background[SIZE[1] // 4 :] += np.random.default_rng(0).integers(
            0, 40, (SIZE[1] - SIZE[1] // 4, SIZE[0], 1), np.uint8
        )
        for name, fps in (("line", LINE_FPS), ("full", TOO_MANY_FPS)):
            with Camera(fps, background) as camera, Line(folder, work, camera, fps) as line:
                if name == "line":
                    found = screen(line, camera, seconds if quick else 60.0)
                    report.show("screen", found)
                    figures |= found
                found = watchers(line, camera, seconds, rounds, name)
                report.show(name, found)
                figures |= found
    report.write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
