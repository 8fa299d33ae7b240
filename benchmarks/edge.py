"""From a packet to a committed event: latency, cameras without a drop, reconnects, start, endurance.

A real RTSP server of this machine sends 640x360, ten frames a second, each with its number in its pixels. What is
measured is the way of a frame: capture process, model in OpenVINO (CPU profile), decider, store. Each camera's every
tenth frame is stored as an event, in a loop of this file's own, without pages, sinks and clips. "runner" is `anomaly run`
itself, with its recording, as its own metrics tell it.

    python benchmarks/edge.py --quick
    python benchmarks/edge.py --json edge.json
    python benchmarks/edge.py --only runner latency --seconds 30 --cuts 200
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import report

Figures: TypeAlias = dict[str, float]
sys.path.insert(1, str(report.ROOT / "tests"))
SIZE, FPS = (640, 360), 10
#: More than two cores score.
ENDURANCE_FPS = 40
EVENT_EVERY = 10
PARTS = ("start", "runner", "latency", "reconnect", "masked", "endurance")
_PATIENCE_S = 30.0
_TOKEN = "the figures of this benchmark"
# Started to its first score: what a process does that is given a model and a camera.
_FIRST_SCORE = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from multiprocessing.connection import wait\n"
    "from anomaly.edge.address import parse_address\n"
    "from anomaly.edge.capture import Capture, CaptureSettings\n"
    "capture = Capture(CaptureSettings('camera', parse_address(sys.argv[2])))\n"
    "capture.start()\n"
    "from anomaly.model import load_model\n"
    "model = load_model(Path(sys.argv[1]), runtime='openvino', offline=True)\n"
    "frame = None\n"
    "while frame is None:\n"
    "    wait([capture.wait_handle], 1.0)\n"
    "    frame = capture.newest()\n"
    "    capture.reports()\n"
    "model.detector.look([frame.image])\n"
    "print('scored', flush=True)\n"
    "capture.stop()\n"
)


@dataclass
class Watch:
    """Cameras, one model, one store, in one loop; frames are scored in the order in which cameras woke it."""

    model: Any
    store: Any
    captures: list[Any]
    latencies_s: list[float] = field(default_factory=list)
    scored: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    look_s: float = 0.0
    busy_s: float = 0.0
    events: int = 0

    def __post_init__(self) -> None:
        from anomaly.decider import Decider
        from anomaly.detector import Recent

        self._decider = Decider(self.model.detector.decider.config, 1.5)
        self._recent = {one.settings.camera: Recent() for one in self.captures}
        self._states = {one.settings.camera: self._decider.start() for one in self.captures}

    def run(self, seconds: float, *, event_every: int = EVENT_EVERY, until: int | None = None) -> bool:
        """Score what comes for some seconds, or until so many frames were scored; whether they were."""
        deadline = time.monotonic() + seconds
        done = 0
        while (left := deadline - time.monotonic()) > 0:
            wait([one.wait_handle for one in self.captures], timeout=min(left, 0.5))
            for capture in self.captures:
                capture.reports()
                begin = time.perf_counter()
                frame = capture.newest()
                if frame is None:
                    continue
                self._one(frame, begin, event_every)
                done += 1
                if until is not None and done >= until:
                    return True
        return False

    def _one(self, frame: Any, begin: float, event_every: int) -> None:
        from rtsp_server import number_in

        camera = frame.camera
        before = time.perf_counter()
        look = self.model.detector.look([frame.image], self._recent[camera])[0]
        self.look_s += time.perf_counter() - before
        decision, self._states[camera] = self._decider.step(self._states[camera], frame.pts_s, look.score)
        self.scored[camera] = self.scored.get(camera, 0) + 1
        if self.scored[camera] % event_every == 0:
            stored = self.store.start_event(
                camera=camera, model="benchmark", start_utc_s=frame.utc_s, start_pts_s=frame.pts_s,
                score=max(decision.score, 0.0), threshold=1.5, clip_state="none",
            )  # fmt: skip
            self.latencies_s.append((time.monotonic_ns() - frame.received_ns) / 1e9)
            self.store.end_event(stored.id, end_utc_s=frame.utc_s, end_pts_s=frame.pts_s)
            self.events += 1
        self.busy_s += time.perf_counter() - begin
        self.numbers.setdefault(camera, []).append(number_in(frame.image))


class Cable:
    """A TCP cable to the server that can be pulled and put back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.put_back()

    def put_back(self) -> None:
        """Accept connections again, at the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def pull(self) -> None:
        """End every connection, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._pairs += [near, far]
                threading.Thread(target=_forward, args=(near, far), daemon=True).start()


def _forward(near: socket.socket, far: socket.socket) -> None:
    other = {near: far, far: near}
    with near, far, contextlib.suppress(OSError):
        while True:
            for one in select.select([near, far], [], [])[0]:
                data = one.recv(65536)
                if not data:
                    return
                other[one].sendall(data)


def main(arguments: list[str] | None = None) -> int:
    parser = report.options_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--seconds", type=float, help="length of each measurement (quick: 4, else 120)")
    parser.add_argument("--cuts", type=int, help="reconnects of the endurance part (quick: 4, else 1000)")
    parser.add_argument(
        "--full-rate", type=float, help="its seconds at the highest rate (quick: 5, else 3600)"
    )
    options = parser.parse_args(arguments)
    quick = bool(options.quick)
    seconds = options.seconds or (4.0 if quick else 120.0)
    cuts = options.cuts or (4 if quick else 1_000)
    full_rate_s = options.full_rate or (5.0 if quick else 3600.0)
    figures: report.Figures = {**report.machine()}
    with report.workplace() as work:
        folder = make_model(work, quick=quick)
        from anomaly.model import load_model

        model = load_model(folder, runtime="openvino", offline=True)
        parts = {
            "start": lambda: starting(folder),
            "runner": lambda: runner(folder, work, seconds, quick=quick),
            "latency": lambda: latency(model, work, seconds, quick=quick),
            "reconnect": lambda: reconnects(model, work, quick=quick),
            "masked": lambda: masked(quick=quick),
            "endurance": lambda: endurance(model, folder, work, cuts, full_rate_s),
        }
        for name in (one for one in PARTS if one in options.only):
            found = parts[name]()
            report.show(name, found)
            figures |= found
    report.write_json(options.json, figures)
    return 0


def make_model(work: Path, *, quick: bool) -> Path:
    """A model of the CPU profile for 640x360, exported to OpenVINO."""
    from anomaly.conveyor import write_footage

    made = write_footage(
        work / "conveyor",
        normal_clips=2,
        normal_s=10.0 if quick else 20.0,
        labeled_clips=0,
        test_clips=0,
        clean_clips=0,
    )
    folder = work / "model"
    fewer = ("bank.size=1000", "fit.fps=1", "projection.sample_frames=20") if quick else ()
    report.anomaly(
        "fit",
        "--normal-videos",
        made.normal,
        "--model",
        folder,
        "profile=cpu",
        "weights.offline=true",
        *fewer,
    )
    report.anomaly("export", "--model", folder, "--runtime", "openvino")
    return folder


def cameras(url: str, count: int) -> list[Any]:
    from anomaly.edge.address import parse_address
    from anomaly.edge.capture import Capture, CaptureSettings

    return [Capture(CaptureSettings(f"camera_{i}", parse_address(url), fps=None)) for i in range(count)]


@contextlib.contextmanager
def watching(model: Any, work: Path, url: str, count: int) -> Any:
    """So many started cameras of one address, and a store of their own; yields when all have been scored once."""
    from anomaly.edge.store import Store

    captures = cameras(url, count)
    with Store(work / f"store_{time.monotonic_ns()}") as store:
        watch = Watch(model, store, captures)
        for one in captures:
            one.start()
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while len(watch.scored) < count and time.monotonic() < deadline:
                watch.run(0.5)
            if len(watch.scored) < count:
                raise SystemExit(f"{count - len(watch.scored)} of {count} cameras sent nothing")
            watch.run(1.0)
            yield watch
        finally:
            for one in captures:
                one.stop()


def latency(model: Any, work: Path, seconds: float, *, quick: bool) -> report.Figures:
    """Last packet of a frame received to its event committed; drops; what is not the model."""
    from rtsp_server import RtspServer

    found: report.Figures = {}
    most = 0
    with RtspServer(size=SIZE, fps=FPS, keyframe_every=FPS) as server:
        for count in (1, 2, 4, 8):
            with watching(model, work, server.url, count) as watch:
                watch.latencies_s, watch.look_s, watch.busy_s, watch.numbers = [], 0.0, 0.0, {}
                before = [one.counts() for one in watch.captures]
                watch.run(seconds, event_every=2 if quick else EVENT_EVERY)
                after = [one.counts() for one in watch.captures]
                dropped = sum(b.dropped - a.dropped for a, b in zip(before, after, strict=True))
                captured = sum(b.captured - a.captured for a, b in zip(before, after, strict=True))
            missing = sum(int(np.clip(np.diff(one) - 1, 0, None).sum()) for one in watch.numbers.values())
            if dropped == 0:
                most = count
            p50, p99 = np.percentile(watch.latencies_s, [50, 99]) * 1e3
            found |= {
                f"cameras_{count}_p50_ms": float(p50),
                f"cameras_{count}_p99_ms": float(p99),
                f"cameras_{count}_events": len(watch.latencies_s),
                f"cameras_{count}_captured": captured,
                f"cameras_{count}_dropped": dropped,
                f"cameras_{count}_missing_by_number": missing,
                f"cameras_{count}_model_ms": 1e3
                * watch.look_s
                / max(sum(map(len, watch.numbers.values())), 1),
                f"cameras_{count}_not_model_share": 1 - watch.look_s / watch.busy_s,
                f"cameras_{count}_loop_busy_share": watch.busy_s / seconds,
            }
    return {**found, "most_cameras_without_a_drop": most}


def runner(folder: Path, work: Path, length_s: float, *, quick: bool) -> report.Figures:
    """`anomaly run` itself, recording on: received to decided, drops, and what of its thread is not the model."""
    from rtsp_server import RtspServer

    found: report.Figures = {}
    with RtspServer(size=SIZE, fps=FPS, keyframe_every=FPS) as server:
        for count in (1, 2) if quick else (1, 2, 4, 8):
            site = work / f"site_{count}.yaml"
            entries = [
                {"name": f"camera_{i}", "source": server.url, "model": str(folder)} for i in range(count)
            ]
            site.write_text(json.dumps({"site": "bench", "line": "1", "cameras": entries}), encoding="utf-8")
            child = subprocess.Popen(
                [sys.executable, "-m", "anomaly", "run", "--site", str(site), "--out", str(work / f"run_{count}"),
                 "--scrape-token", "${env:SCRAPE_TOKEN}", "runtime=openvino", "run.metrics=127.0.0.1:0"],
                env=report.child_environment() | {"SCRAPE_TOKEN": _TOKEN}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert child.stdout is not None
            try:
                told = next(line for line in child.stdout if "Probes and metrics: " in line)
                probes = told.partition("Probes and metrics: ")[2].partition("/healthz")[0]
                deadline = time.monotonic() + _PATIENCE_S
                while min(of_cameras(probes, 'what="scored"', count)) < FPS and time.monotonic() < deadline:
                    time.sleep(0.2)
                before, began = scraped(probes), time.monotonic()
                time.sleep(length_s)
                after, seconds = scraped(probes), time.monotonic() - began
            finally:
                child.send_signal(signal.SIGTERM)
                child.wait(_PATIENCE_S)

            def grown(name: str, before: Figures = before, after: Figures = after) -> float:
                return sum(after[key] - before.get(key, 0.0) for key in after if name in key)

            busy, model_s = grown("anomaly_busy_seconds_total"), grown("anomaly_model_seconds_total")
            found |= {
                f"runner_{count}_p50_ms": 1e3
                * max(value for key, value in after.items() if "seconds_p50" in key),
                f"runner_{count}_p99_ms": 1e3
                * max(value for key, value in after.items() if "seconds_p99" in key),
                f"runner_{count}_scored_a_second": grown('what="scored"') / seconds,
                f"runner_{count}_dropped": grown('what="dropped"'),
                f"runner_{count}_not_model_share": 1 - model_s / busy if busy else None,
            }
    return found


def scraped(probes: str, token: str = _TOKEN) -> Figures:
    """The runner's figures, by name and labels."""
    asked = urllib.request.Request(f"{probes}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=_PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}


def of_cameras(probes: str, name: str, count: int, token: str = _TOKEN) -> list[float]:
    """A figure of each camera; 0 where it is not told yet."""
    found = [
        value for key, value in scraped(probes, token).items() if name in key and key.startswith("anomaly_")
    ]
    return found + [0.0] * (count - len(found))


def reconnects(model: Any, work: Path, *, quick: bool) -> report.Figures:
    """Seconds from the cable's return to the first scored frame, of a camera that others watch meanwhile."""
    from rtsp_server import RtspServer

    found: report.Figures = {}
    chance = random.Random(0)
    for every_s in (1, 4, 10):
        with RtspServer(size=SIZE, fps=FPS, keyframe_every=FPS * every_s) as server:
            cable = Cable(server.port)
            # Somebody else keeps the stream going: nobody gets a keyframe of his own.
            (holder,) = cameras(server.url, 1)
            with (
                holder,
                watching(model, work, server.url.replace(str(server.port), str(cable.port)), 1) as watch,
            ):
                taken = []
                for _ in range(1 if quick else 20):
                    cable.pull()
                    watch.run(chance.uniform(0.5, 1.5))
                    holder.newest()
                    begin = time.monotonic()
                    cable.put_back()
                    if not watch.run(_PATIENCE_S, until=1):
                        raise SystemExit(f"no frame in {_PATIENCE_S:g} s after the cable was put back")
                    taken.append(time.monotonic() - begin)
            cable.pull()
        found |= {
            f"reconnect_keyframe_{every_s}s_median_s": float(np.median(taken)),
            f"reconnect_keyframe_{every_s}s_worst_s": max(taken),
        }
    return found


def masked(*, quick: bool) -> report.Figures:
    """Processor time to paint and encode a frame of a camera with privacy masks, for its recording."""
    from anomaly.edge.capture.masking import PrivacyMask

    from anomaly.edge.capture.encoding import FrameEncoder
    from anomaly.edge.capture.timing import RATE

    found: report.Figures = {}
    corner = ((0.0, 0.0), (0.25, 0.0), (0.25, 0.4), (0.0, 0.4))
    for width, height in (SIZE, (1920, 1080)):
        coarse = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        scene = coarse.repeat(8, axis=0).repeat(8, axis=1)
        mask, encoder = PrivacyMask((corner,)), FrameEncoder(RATE // FPS)
        count, taken = 30 if quick else 300, 0.0
        for i in range(count):
            image = np.roll(scene, 3 * i, axis=1)
            began = time.process_time()
            mask.paint(image)
            for _ in encoder.encode(image, i * RATE // FPS):
                pass
            taken += time.process_time() - began
        found[f"masked_{width}x{height}_ms_a_frame"] = 1e3 * taken / count
    return found


def starting(folder: Path) -> report.Figures:
    """Seconds from starting a process to its first scored frame, model and camera given."""
    from rtsp_server import RtspServer

    with RtspServer(size=SIZE, fps=FPS, keyframe_every=FPS) as server:
        (holder,) = cameras(server.url, 1)
        with holder:
            wait([holder.wait_handle], timeout=_PATIENCE_S)
            begin = time.monotonic()
            child = subprocess.Popen(
                [sys.executable, "-c", _FIRST_SCORE, str(folder), server.url],
                env=report.child_environment(), stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert child.stdout is not None
            line = child.stdout.readline()
            seconds = time.monotonic() - begin
            child.stdout.close()
            child.wait(_PATIENCE_S)
    if line.strip() != "scored":
        raise SystemExit("the process that was to score a frame ended without; see its message above")
    return {"start_to_first_score_s": seconds}


def endurance(model: Any, folder: Path, work: Path, cuts: int, full_rate_s: float) -> report.Figures:
    """Pulled cables, ten times as many events, a reload every ten cuts, then all frames that the machine can score."""
    from rtsp_server import RtspServer

    from anomaly.model import load_model

    reloads, events = max(cuts // 10, 2), 10 * cuts
    # More frames than can be scored: the loop never rests.
    with RtspServer(size=SIZE, fps=ENDURANCE_FPS, keyframe_every=2) as server:
        cable = Cable(server.port)
        (holder,) = cameras(server.url, 1)
        with holder, watching(model, work, server.url.replace(str(server.port), str(cable.port)), 1) as watch:
            warm, done = held(watch.store), 0
            for i in range(cuts):
                cable.pull()
                watch.run(0.2, event_every=1)
                cable.put_back()
                if not watch.run(_PATIENCE_S, event_every=1, until=3):
                    raise SystemExit(f"no frame in {_PATIENCE_S:g} s after cut {i + 1}")
                if i == cuts // 4:
                    warm = held(watch.store)
                if i * reloads // cuts >= done:
                    watch.model = load_model(folder, runtime="openvino", offline=True)
                    done += 1
            while watch.events < events and watch.run(_PATIENCE_S, event_every=1, until=1):
                pass
            steady, scored_before = held(watch.store), watch.scored[watch.captures[0].settings.camera]
            watch.run(full_rate_s, event_every=EVENT_EVERY)
            now = held(watch.store)
            (capture,) = watch.captures
            capture.stop()
            waiting = capture.newest() is not None
            counts = capture.counts()
            scored = watch.scored[capture.settings.camera]
        cable.pull()
    exact = counts.captured == scored + counts.dropped + waiting
    return {
        "endurance_reconnects": cuts,
        "endurance_events": watch.events,
        "endurance_reloads": done,
        "endurance_captured": counts.captured,
        "endurance_scored": scored,
        "endurance_dropped": counts.dropped,
        "endurance_waiting": int(waiting),
        "endurance_full_rate_s": full_rate_s,
        "endurance_full_rate_scored_a_second": (scored - scored_before) / full_rate_s,
        "endurance_exact": int(exact),
        **{f"endurance_{name}_before": value for name, value in warm.items()},
        **{f"endurance_{name}_after_cuts": value for name, value in steady.items()},
        **{f"endurance_{name}_after": value for name, value in now.items()},
    }


def held(store: Any) -> dict[str, float]:
    """What this process holds: memory in MiB, threads, file handles, and the store's WAL in MiB."""
    store.checkpoint()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    wal = store.folder / "anomaly.db-wal"
    return {
        "memory_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": len(os.listdir("/proc/self/task")),
        "handles": len(os.listdir("/proc/self/fd")),
        "wal_mb": wal.stat().st_size / 2**20 if wal.exists() else 0.0,
    }


if __name__ == "__main__":
    sys.exit(main())
