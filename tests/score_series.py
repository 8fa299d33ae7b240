"""Simulated scores for the calibration tests: noisy, autocorrelated, with bumps where events are."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from anomaly.calibration import Series, join_events
from anomaly.types import Interval


def noise(chance, n, level=1.0, spread=0.1):
    """(n,) positive, each score much like the one before."""
    return np.abs(lfilter([1], [1, -0.8], chance.normal(size=n)) * spread + level)


def normal_series(n_series=3, seconds=600.0, fps=10.0, seed=1, **kinds):
    chance = np.random.default_rng(seed)
    n = int(seconds * fps)
    return [Series(f"normal{i}", np.arange(n) / fps, noise(chance, n, **kinds)) for i in range(n_series)]


def labelled_clips(n, seed=0, height=1.0, seconds=10.0, fps=10.0, found="independent"):
    """n clips, each with one event from 4 to 6 s, and the events."""
    chance = np.random.default_rng(seed)
    frames = int(seconds * fps)
    series, intervals = [], []
    for i in range(n):
        scores = noise(chance, frames)
        scores[int(4 * fps) : int(6 * fps)] += height * (0.5 + chance.exponential(1))
        series.append(Series(f"clip{i:03d}", np.arange(frames) / fps, scores))
        intervals.append(Interval(f"clip{i:03d}", 4.0, 6.0, "scratch" if i % 2 else "dent", found))
    return series, join_events(intervals)
