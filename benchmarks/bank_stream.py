"""A generated stream through a streaming coreset, in a process of its own; called by memory_bank.py.

Ten frames a second that never repeat: each hour is a new scene (a smooth surface over the picture, as features of one
place and its neighbours are alike), light drifts slowly through all of it, things with looks of their own cross the
picture, and every patch has noise of the camera. Every ten seconds are a source of their own, as `record` cuts them. Prints JSON: for each hour the seconds and the processor seconds spent
in the bank, the peak memory so far in GiB, and the distance within which patches are rejected as covered.
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

from anomaly.config import BankConfig
from memory_bank import StreamingCoreset

FPS, SIDE, DIM = 10, 20, 100
PATCHES = SIDE * SIDE
WAVES = 128
CROSSING = 50  # frames until a thing has crossed the picture and the next one comes
PIECE = 10 * FPS  # frames to a recorded piece
NOISE = np.float32(0.1)  # of each dimension; the features themselves have variance 1


def peak_gib() -> float:
    """Largest resident memory of this process; getrusage would count the parent before exec."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found
    return int(found[1]) / 2**20


class Scene:
    """One hour's layout: features vary smoothly over the picture, and with the light.

    Random Fourier features (Rahimi and Recht, "Random features for large-scale kernel machines", NIPS 2007) of place and
    light, mapped to `DIM` dimensions of variance 1.
    """

    def __init__(self, rng: np.random.Generator, place: np.ndarray) -> None:
        waves = rng.standard_normal((2, WAVES), dtype=np.float32) * 4
        self._phase = place @ waves + rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32)
        self._light = rng.standard_normal(WAVES, dtype=np.float32)
        self._mix = rng.standard_normal((WAVES, DIM), dtype=np.float32) * np.float32(np.sqrt(2 / WAVES))

    def patches(self, light: float) -> np.ndarray:
        """(PATCHES, DIM) features under this light."""
        return np.cos(self._phase + np.float32(light) * self._light) @ self._mix


def crossing(frame: int, look: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which patches a thing of 3 x 3 patches covers now, and how they look: each thing turns as it goes."""
    step = frame % CROSSING
    row, column = SIDE // 3 + (frame // CROSSING) % (SIDE // 3), round(step / CROSSING * (SIDE - 3))
    covered = (row + np.arange(3)[:, None]) * SIDE + column + np.arange(3)
    return covered.ravel(), look + np.float32(np.sin(2 * np.pi * step / CROSSING)) * turn


def main() -> None:
    hours = float(sys.argv[1])
    rng = np.random.default_rng(0)
    coreset = StreamingCoreset(dim=DIM, size=BankConfig().size)
    row, column = np.divmod(np.arange(PATCHES), SIDE)
    y, x = (row / SIDE).astype(np.float32), (column / SIDE).astype(np.float32)
    place = np.stack([y, x], axis=1)
    frames = round(hours * 3600 * FPS)
    hour = min(3600 * FPS, max(frames // 4, 1))
    report: list[tuple[float, float, float, float]] = []
    spent = processor = 0.0
    scene = Scene(rng, place)
    look = turn = np.zeros((9, DIM), np.float32)
    for frame in range(frames):
        if frame and frame % hour == 0:
            scene = Scene(rng, place)
        if frame % CROSSING == 0:
            look = rng.standard_normal((9, DIM), dtype=np.float32)
            turn = rng.standard_normal((9, DIM), dtype=np.float32) / 2
        rows = scene.patches(np.sin(2 * np.pi * frame / (0.7 * hour)))
        covered, seen = crossing(frame, look, turn)
        rows[covered] = seen
        rows += NOISE * rng.standard_normal((PATCHES, DIM), dtype=np.float32)
        start, used = time.perf_counter(), time.process_time()
        coreset.add(rows, f"{frame // PIECE}.mp4", frame, frame / FPS, y, x, np.arange(PATCHES))
        spent += time.perf_counter() - start
        processor += time.process_time() - used
        if (frame + 1) % hour == 0:
            report.append((spent, processor, peak_gib(), coreset.radius))
            print(f"{frame + 1} of {frames} frames, {spent:.0f} s in the bank", file=sys.stderr, flush=True)
            spent = processor = 0.0
    bank = coreset.finish()
    found = coreset.coverage
    told = {"hours": report, "rows": len(bank), "sources": len(bank.sources), "peak_gib": peak_gib()}
    told["bank_mb"] = sum(array.nbytes for array in bank.to_tensors().values()) / 1e6
    print(json.dumps({**told, "bound": found.largest_bound, "largest": found.largest, "mean": found.mean}))


if __name__ == "__main__":
    main()
