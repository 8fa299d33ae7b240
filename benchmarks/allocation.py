"""What keeping freed memory is worth: one frame through the default network, with and without `anomaly.startup`.

Processes take turns, so that the load of the machine falls on both alike. Prints milliseconds and page faults a frame.

    python benchmarks/allocation.py --quick
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
from report import ROOT, Figures, machine, options_parser, show, write_json

ONE = """
import json, resource, sys, time
import anomaly.startup
if sys.argv[1] != "kept":
    anomaly.startup.settle = lambda: None  # what the benchmarks share would settle this process
sys.path.insert(0, "benchmarks")
import numpy as np
from real_features import lite0
backbone = lite0((480, 720))
image = np.random.default_rng(0).integers(0, 256, (480, 720, 3), dtype=np.uint8)
backbone.extract([image])
before, times = resource.getrusage(resource.RUSAGE_SELF), []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    backbone.extract([image])
    times.append(time.perf_counter() - began)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([np.median(times) * 1e3, (after.ru_minflt - before.ru_minflt) / len(times), after.ru_maxrss / 1024]))
"""


def once(how: str, frames: int) -> list[float]:
    """Median milliseconds a frame, page faults a frame, and peak MB of a process of its own."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", ONE, how, str(frames)],
        cwd=ROOT, env={**plain, "OMP_WAIT_POLICY": "PASSIVE"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    options = options_parser(__doc__).parse_args()
    turns, frames = (2, 20) if options.quick else (7, 100)
    runs: dict[str, list[list[float]]] = {"given back": [], "kept": []}
    for _ in range(turns):
        for how in runs:
            runs[how].append(once(how, frames))
    figures: Figures = {"quick": int(options.quick), **machine()}
    for how, several in runs.items():
        name = how.replace(" ", "_")
        for figure, values in zip(("ms", "page_faults", "peak_mb"), np.array(several).T, strict=True):
            figures[f"{name}_{figure}"] = float(np.median(values))
            figures[f"{name}_{figure}_most"] = float(values.max())
    show("One frame, 480x720", figures)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
