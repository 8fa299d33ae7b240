"""What the edge installs without torch: size of the environment, and seconds to the first score in it.

A fresh environment gets `.[edge]` at the versions of `constraints.txt`; a model that was fitted and exported here scores one
picture in it, a process each time, in turns with the environment that this script runs in (torch). Needs an index of packages.

    python benchmarks/edge_install.py --quick
    python benchmarks/edge_install.py --json edge_install.json
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

from report import ROOT, Figures, anomaly, machine, options_parser, show, workplace, write_json


def main() -> int:
    options = options_parser(__doc__).parse_args()
    figures: Figures = machine()
    with workplace() as work:
        place = work / "edge"
        venv.create(place, with_pip=True)
        python = str(place / "bin" / "python")
        bare = size_mb(place)
        begin = time.perf_counter()
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), f"{ROOT}[edge]"],
            check=True,
        )  # fmt: skip
        figures["install_s"] = time.perf_counter() - begin
        figures["edge_mb"] = size_mb(place) - bare
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
        ).stdout
        if any(line.startswith("torch==") for line in listed.splitlines()):
            raise SystemExit("the edge environment has torch, which it is to do without")
        full = Path(sys.prefix)
        figures["this_environment_mb"] = size_mb(full) if full != Path(sys.base_prefix) else None
        model, picture = exported(work)
        runs: dict[str, list[float]] = {"onnxruntime": [], "openvino": [], "torch": []}
        for _ in range(2 if options.quick else 7):
            for runtime, seconds in runs.items():
                own = python if runtime != "torch" else sys.executable
                seconds.append(first_score(own, model, picture, runtime, work))
        for runtime, seconds in runs.items():
            figures[f"{runtime}_first_ever_s"] = seconds[0]
            figures[f"{runtime}_first_score_s"] = statistics.median(seconds[1:])
    show("edge without torch: install, size, seconds from the command to a scored picture", figures)
    write_json(options.json, figures)
    return 0


def exported(work: Path) -> tuple[Path, Path]:
    """A default model of the built-in footage with two exports, and a picture to score."""
    import cv2

    from anomaly.conveyor import write_footage
    from anomaly.footage.source import find_sources, read_frames

    write_footage(
        work / "footage", normal_clips=3, normal_s=20.0, labeled_clips=0, test_clips=0, clean_clips=0
    )
    anomaly("fit", "--normal-videos", work / "footage" / "normal", "--model", work / "model")
    for runtime in ("onnxruntime", "openvino"):
        anomaly("export", "--model", work / "model", "--runtime", runtime)
    frame = next(iter(read_frames(find_sources([str(work / "footage" / "normal")])[0])))
    picture = work / "frame.png"
    cv2.imwrite(str(picture), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    return work / "model", picture


def first_score(python: str, model: Path, picture: Path, runtime: str, work: Path) -> float:
    """Seconds of a process that scores one picture that it has never seen."""
    cache = work / "cold"
    shutil.rmtree(cache, ignore_errors=True)
    command = [python, "-m", "anomaly", "score", "--model", str(model), "--source", str(picture), "--out", str(work / "s.csv")]  # fmt: skip
    begin = time.perf_counter()
    # From elsewhere: this checkout is not to be what is imported.
    subprocess.run(
        [*command, f"runtime={runtime}"],
        check=True, capture_output=True, cwd=work, env={**os.environ, "ANOMALY_CACHE": str(cache)},
    )  # fmt: skip
    return time.perf_counter() - begin


def size_mb(folder: Path) -> float:
    """What a folder takes on the disk, in millions of bytes; links not followed."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


if __name__ == "__main__":
    sys.exit(main())
