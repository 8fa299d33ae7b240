"""A generated stream through a streaming coreset, in a process of its own; called by memory_bank.py.

Slow drift of light, a new regime each hour, things that move, and noise: never the same frame twice. Prints JSON: for
each hour the seconds spent in the bank, the peak memory so far in GiB, and the distance within which patches are
rejected as covered.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import numpy as np

# The package of that name, not memory_bank.py beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from memory_bank import StreamingCoreset

FPS, SIDE, DIM, SIZE = 10, 20, 100, 10_000
PATCHES = SIDE * SIDE


def peak_gib() -> float:
    """Largest resident memory of this process; getrusage would count the parent before exec."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found
    return int(found[1]) / 2**20


def main() -> None:
    hours = float(sys.argv[1])
    rng = np.random.default_rng(0)
    coreset = StreamingCoreset(dim=DIM, size=SIZE)
    row, column = np.divmod(np.arange(PATCHES), SIDE)
    y, x = (row / SIDE).astype(np.float32), (column / SIDE).astype(np.float32)
    frames = round(hours * 3600 * FPS)
    hour = min(3600 * FPS, max(frames // 4, 1))
    light = rng.standard_normal(DIM).astype(np.float32) / 10
    things = rng.standard_normal((200, DIM)).astype(np.float32)
    report: list[tuple[float, float, float]] = []
    spent = 0.0
    scene = light[None]
    for frame in range(frames):
        if frame % hour == 0:
            scene = rng.standard_normal((PATCHES, DIM)).astype(np.float32)
        drift = np.float32(3 * np.sin(2 * np.pi * frame / (10 * hour) * 3))
        rows = scene + drift * light + 0.25 * rng.standard_normal((PATCHES, DIM), dtype=np.float32)
        moving = rng.integers(PATCHES, size=20)
        rows[moving] += things[rng.integers(200, size=20)]
        rows[moving] += 0.5 * rng.standard_normal((20, DIM), dtype=np.float32)
        start = time.perf_counter()
        coreset.add(rows, f"hour {frame // hour}", frame, frame / FPS, y, x, np.arange(PATCHES))
        spent += time.perf_counter() - start
        if (frame + 1) % hour == 0:
            report.append((spent, peak_gib(), coreset.radius))
            print(f"{frame + 1} of {frames} frames", file=sys.stderr, flush=True)
            spent = 0.0
    bank = coreset.finish()
    found = coreset.coverage
    told = {"hours": report, "rows": len(bank), "peak_gib": peak_gib()}
    print(json.dumps({**told, "bound": found.largest_bound, "largest": found.largest, "mean": found.mean}))


if __name__ == "__main__":
    main()
