"""Whether `anomaly run` as a whole loses anything, or grows, as long as is asked for.

A real RTSP server of this machine sends 640x360, ten frames a second, to `anomaly run` with two cameras: pictures, clips,
rolling recording, the page with a program that watches it live, and a real MQTT broker. Again and again an anomaly is
shown for a second, a camera's cable is pulled, the model is loaded again (SIGHUP) and the broker goes away. Recordings
are kept for so short a time that the oldest are deleted all the while.

At the end all that was told is held against the store: each event once, with a clip that plays; captured frames against
scored and dropped ones. Memory (proportional set size), threads and file handles are those of the runner and its
cameras' processes together: after a tenth of the time, half-way, and at the end.

    python benchmarks/endurance.py --quick
    python benchmarks/endurance.py --minutes 60 --json endurance.json

Needs Debian's mosquitto and GStreamer's RTSP server (`tests/debian-packages.txt`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import report
from edge import FPS, SIZE, Cable, scraped
from serve import addresses, family, watched, watchers_token

sys.path.insert(1, str(report.ROOT / "tests"))
CAMERAS = ("belt", "robot")
#: Frames a second that are looked at, and the score from which they alarm: noise scores 1.7, the rest about 1.
LOOKED_AT, THRESHOLD = 5, 1.4
#: One anomaly each, one cable pulled each.
CYCLE_S = 8.0
RELOAD_EVERY = 10
BROKER_AWAY_EVERY = 15
#: Recordings are kept this long: what is to be deleted is deleted within the shortest run.
KEPT_HOURS = 0.02
_PATIENCE_S = 60.0


class Site:
    """`anomaly run` with all that a plant gives it."""

    def __init__(self, folder: Path, work: Path, sources: dict[str, str], broker_port: int) -> None:
        self.out, self.log = work / "line", work / "run.log"
        self.out.mkdir()
        self.token = watchers_token(self.out)
        site = work / "site.yaml"
        cameras = [
            {"name": name, "source": url, "model": str(folder), "fps": LOOKED_AT}
            for name, url in sources.items()
        ]
        sinks = {"mqtt": {"host": "127.0.0.1", "port": broker_port}}
        site.write_text(
            json.dumps({"site": "bench", "line": "1", "cameras": cameras, "sinks": sinks}), encoding="utf-8"
        )
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [*report.typed("run", "--site", site, "--out", self.out, "--serve", "127.0.0.1:0"),
                 "runtime=openvino", "run.metrics=127.0.0.1:0", "keep.before_s=1", "keep.after_s=1",
                 f"keep.hours={KEPT_HOURS}"],
                env=report.child_environment(), stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.probes, self.url = addresses(self.child, self.log.read_text)

    def figures(self) -> dict[str, float]:
        """What /metrics tells now."""
        return scraped(self.probes, self.token)

    def held(self) -> dict[str, float]:
        """What the runner and its cameras' processes hold together, and the store's log and folder, in MiB."""
        memory = threads = handles = 0
        processes = family(self.child.pid)
        for pid in processes:
            with contextlib.suppress(OSError):
                folder = Path("/proc") / str(pid)
                lines = (folder / "smaps_rollup").read_text().splitlines()
                memory += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
                threads += len(os.listdir(folder / "task"))
                handles += len(os.listdir(folder / "fd"))
        wal = self.out / "anomaly.db-wal"
        return {
            "memory_mb": memory / 1024,
            "processes": len(processes),
            "threads": threads,
            "handles": handles,
            "wal_mb": wal.stat().st_size / 2**20 if wal.exists() else 0.0,
            "folder_mb": folder_bytes(self.out) / 2**20,
        }

    def end(self) -> int:
        """Stop it as an operator would; its status."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(_PATIENCE_S)


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder that is written meanwhile."""
    total = 0
    for one, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(one) / name).stat().st_size
    return total


def make_model(work: Path, server: Any) -> Path:
    """A model of what the server shows, as a user makes it: record, fit, calibrate, export."""
    normal, strange, folder = work / "normal", work / "strange", work / "model"
    report.anomaly("record", "--source", server.url, "--out", normal, f"--hours={40 / 3600}")
    server.show_noise()
    report.anomaly("record", "--source", server.url, "--out", strange, f"--hours={6 / 3600}")
    server.show_noise(False)
    report.anomaly(
        "fit", "--normal-videos", normal, "--model", folder, "profile=cpu", "weights.offline=true",
        "bank.size=1000", "fit.fps=2", "projection.sample_frames=20",
    )  # fmt: skip
    (clip,) = strange.rglob("*.mp4")
    rows = f"video,start_s,end_s,label\n{clip.relative_to(strange)},1,3,noise\n"
    (strange / "labels.csv").write_text(rows, encoding="utf-8")
    report.anomaly("export", "--model", folder, "--runtime", "openvino")
    report.anomaly(
        "calibrate", "--model", folder, "--labeled", strange / "labels.csv", "runtime=openvino",
        f"footage.fps={LOOKED_AT}", f"calibration.threshold={THRESHOLD}",
    )  # fmt: skip
    return folder


def endure(folder: Path, work: Path, server: Any, minutes: float, keep: Path | None) -> report.Figures:
    """Run for so long, with all that goes wrong in a plant, and hold what was told against what is stored."""
    from broker import Broker, Listener, until

    cables = {name: Cable(server.port) for name in CAMERAS}
    sources = {name: server.url.replace(str(server.port), str(cable.port)) for name, cable in cables.items()}
    found: report.Figures = {}
    broker = Broker(work / "broker")
    with broker, Listener(broker.port) as listener:
        site = Site(folder, work, sources, broker.port)
        try:
            until(lambda: sum('what="scored"' in key for key in site.figures()) == len(CAMERAS), _PATIENCE_S)
            with watched(site, 1):
                cycles, done, points = 0, Counter[str](), {"tenth": 0.1, "half": 0.5}
                begin = time.monotonic()
                while (passed := time.monotonic() - begin) < 60 * minutes:
                    cycle(server, cables[CAMERAS[cycles % len(CAMERAS)]])
                    done["cables_pulled"] += 1
                    cycles += 1
                    if cycles % RELOAD_EVERY == 0:
                        site.child.send_signal(signal.SIGHUP)
                        done["reloads"] += 1
                    if cycles % BROKER_AWAY_EVERY == 0:
                        broker.stop()
                        cycle(server, None)
                        broker.start()
                        done["broker_outages"] += 1
                    if site.child.poll() is not None:
                        raise SystemExit(
                            f"the runner ended with {site.child.returncode}:\n{site.log.read_text()[-4000:]}"
                        )
                    for name in [one for one, share in points.items() if passed >= share * 60 * minutes]:
                        del points[name]
                        found |= {f"{key}_{name}": value for key, value in site.held().items()}
                time.sleep(CYCLE_S)
                found |= {f"{key}_end": value for key, value in site.held().items()}
            figures = site.figures()
        finally:
            status = site.end()
            if keep is not None:
                shutil.copytree(site.out, keep / "line", dirs_exist_ok=True)
                shutil.copy(site.log, keep)
        # What was sent last is on its way.
        time.sleep(2.0)
        told = listener.once("start"), listener.once("end")
        repeated = len(listener.told("start", "end")) - sum(map(len, told))
    for cable in cables.values():
        cable.pull()
    return found | {
        "minutes": minutes,
        **done,
        "status": status,
        "anomalies_shown_to_cameras": len(CAMERAS) * (done["cables_pulled"] + done["broker_outages"]),
        **held_against(site, figures, told, repeated),
    }


def cycle(server: Any, cable: Cable | None) -> None:
    """An anomaly of a second, and a cable that is pulled for another."""
    begin = time.monotonic()
    server.show_noise()
    time.sleep(1.0)
    server.show_noise(False)
    time.sleep(2.0)
    if cable is not None:
        cable.pull()
        time.sleep(1.0)
        cable.put_back()
    time.sleep(max(0.0, begin + CYCLE_S - time.monotonic()))


def held_against(
    site: Site, figures: dict[str, float], told: tuple[list[Any], list[Any]], repeated: int
) -> report.Figures:
    """What was told, beside what the store has."""
    import av
    from broker import until

    from anomaly.edge.clips import ClipMaker
    from anomaly.edge.store import Store

    def of(name: str) -> int:
        return int(sum(value for key, value in figures.items() if name in key))

    with Store(site.out) as store, ClipMaker(store, 1.0, 1.0, wait_s=0.5):
        # As after any stop: what was not ready is made by the next start.
        until(lambda: not store.events(clip_state="pending"), _PATIENCE_S)
        events = {one.id: one for one in store.events(limit=100_000)}
        plays = Counter[str]()
        for one in events.values():
            plays[one.clip_state] += 1
            if one.clip_state == "ready":
                with av.open(str(store.path(one.clip))) as clip:
                    plays["plays"] += next(clip.decode(video=0), None) is not None
    started, ended = ({one["event_id"] for one in kind} for kind in told)
    return {
        "events": len(events),
        **{f"events_of_{name}": sum(one.camera == name for one in events.values()) for name in CAMERAS},
        "events_told": len(started & events.keys()),
        "events_told_that_are_not_stored": len(started - events.keys()),
        "ends_told": len(ended & events.keys()),
        "messages_repeated_with_the_same_id": repeated,
        "clips_ready": plays["ready"],
        "clips_that_play": plays["plays"],
        **{f"clips_{name}": count for name, count in sorted(plays.items()) if name not in ("ready", "plays")},
        "captured": of('what="captured"'),
        "scored": of('what="scored"'),
        "dropped": of('what="dropped"'),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = report.options_parser(__doc__)
    parser.add_argument("--minutes", type=float, help="how long (quick: 1, else 60)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="copy the store and the log there at the end"
    )
    options = parser.parse_args(arguments)
    minutes = options.minutes or (1.0 if options.quick else 60.0)
    from rtsp_server import RtspServer

    figures: report.Figures = {**report.machine()}
    with report.workplace() as work, RtspServer(size=SIZE, fps=FPS, keyframe_every=FPS) as server:
        found = endure(make_model(work, server), work, server, minutes, options.keep)
        report.show("endurance", found)
        figures |= found
    report.write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
