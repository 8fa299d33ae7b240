"""A thousand short labelled videos: calibration cut off half-way by SIGKILL, and taken up again.

Every clip holds one fault, labelled by a moment; one file is damaged. `calibrate` runs to its end once; then,
with an empty cache, it is killed when half of the scores are there, and started again. Both must come to the
same threshold, and what was scored before the kill must not be scored again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from report import (
    Figures,
    anomaly,
    child_environment,
    machine,
    options_parser,
    show,
    typed,
    workplace,
    write_json,
)

from anomaly.conveyor import KINDS, MOTION_KINDS, SceneConfig, write_footage, write_short_clips
from anomaly.exported import TORCH

CAMERA = SceneConfig(160, 96, 5.0)


def damage(clip: Path) -> None:
    """Leave the first half of a file's bytes."""
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])


def cached(cache: Path) -> dict[str, int]:
    """The scores that are there, and when each was written (ns)."""
    return {
        path.name: path.stat().st_mtime_ns for path in cache.rglob("*.npz") if not path.name.startswith(".")
    }


def start(command: list[str], cache: Path) -> subprocess.Popen[bytes]:
    """Start a command with a cache of its own."""
    environment = {**child_environment(), "ANOMALY_CACHE": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for its end; returns what it wrote to standard error."""
    said = process.communicate()[1].decode()
    if process.returncode:
        raise SystemExit(f"calibrate ended with status {process.returncode}: {said.strip()}")
    return said


def kill_at(process: subprocess.Popen[bytes], cache: Path, count: int) -> None:
    """SIGKILL as soon as that many scores are cached."""
    while len(cached(cache)) < count:
        if process.poll() is not None:
            said = process.communicate()[1].decode().strip()
            raise SystemExit(f"calibrate ended before {count} videos were scored: {said}")
        time.sleep(0.02)
    process.kill()
    process.communicate()


def measure(work: Path, count: int, quick: bool) -> Figures:
    begin = time.perf_counter()
    # Faults that single pictures show; those of motion would pull the threshold down to what is normal.
    kinds = [kind for kind in KINDS if kind not in MOTION_KINDS]
    labels = write_short_clips(work / "labeled", count, seed=3, kinds=kinds, config=CAMERA)
    clips = labels.parent / "clips"
    figures: Figures = {"videos": count, "generate_seconds": time.perf_counter() - begin}
    damage(sorted(clips.iterdir())[count // 4])
    normal = write_footage(
        work / "normal",
        seed=4,
        normal_clips=5,
        normal_s=5.0 if quick else 60.0,
        labeled_clips=0,
        test_clips=0,
        clean_clips=0,
        config=CAMERA,
    ).normal
    whole, killed = work / "whole", work / "killed"
    anomaly("fit", "--normal-videos", normal, "--model", whole, "profile=cpu")
    shutil.copytree(whole, killed)

    def calibrate(model: Path) -> list[str]:
        return typed("calibrate", "--model", model, "--labeled", labels, "--videos", clips)

    begin = time.perf_counter()
    said = finish(start(calibrate(whole), work / "cache_whole"))
    figures["uninterrupted_seconds"] = time.perf_counter() - begin

    cache = work / "cache_killed"
    begin = time.perf_counter()
    kill_at(start(calibrate(killed), cache), cache, count // 2)
    figures["seconds_until_killed"] = time.perf_counter() - begin
    before = cached(cache)
    half_model = (killed / "thresholds").exists()
    begin = time.perf_counter()
    finish(start(calibrate(killed), cache))
    figures["resumed_seconds"] = time.perf_counter() - begin
    after = cached(cache)
    first, second = threshold(whole), threshold(killed)
    rescored = sum(after[name] != written for name, written in before.items())
    return figures | {
        "killed_and_resumed_seconds": _sum(figures, "seconds_until_killed", "resumed_seconds"),
        "scored_before_kill": len(before),
        "scored_after_kill": len(after) - len(before),
        "rescored": rescored,
        "damaged": 1,
        "damaged_named": int(sorted(clips.iterdir())[count // 4].name in said),
        "scored_in_all": len(after),
        "threshold_before_resume": int(half_model),
        "events": len(first["events"]),
        "threshold": first["threshold"],
        "threshold_resumed": second["threshold"],
        "same_threshold": int(first["threshold"] == second["threshold"]),
        "same_event_scores": int(first["events"] == second["events"]),
        "certified_recall": first["certificate"]["recall"] if first["certificate"] else None,
        "certificate_withheld": first["withheld"],
    }


def threshold(model: Path) -> dict[str, Any]:
    """What calibration wrote."""
    return dict(json.loads((model / "thresholds" / f"{TORCH}.json").read_text(encoding="utf-8")))


def _sum(figures: Figures, *names: str) -> float:
    return sum(float(figures[name] or 0.0) for name in names)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--videos", type=int, metavar="N", help="how many (default: 1000, quick: 60)")
    options = parser.parse_args()
    if os.name != "posix":
        raise SystemExit("this benchmark kills a process with SIGKILL; run it on Linux or macOS")
    count = options.videos or (60 if options.quick else 1000)
    begin = time.perf_counter()
    with workplace() as work:
        figures: Figures = {"quick": int(options.quick), **machine(), **measure(work, count, options.quick)}
    figures["seconds"] = time.perf_counter() - begin
    show(f"{count} videos, killed half-way and resumed", figures)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
