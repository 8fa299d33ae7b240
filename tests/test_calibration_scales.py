"""A camera's scale, and false alarms that are not counted on the very footage that measured it."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from anomaly.calibration import Series, calibrate_cameras, decide, false_alarms, join_events
from anomaly.decider import DeciderConfig
from anomaly.types import Interval

PLAIN = DeciderConfig(smoothing_s=0, min_duration_s=0, max_duration_s=1e6, leave_ratio=1, join_gap_s=0)
CAMERAS = ("a", "b", "c")


def slow(chance, seconds, camera, name):
    """Five frames a second of a scene that changes over some twenty seconds, as light does."""
    times = np.arange(int(5 * seconds)) / 5
    drift = lfilter([np.sqrt(1 - 0.99**2)], [1, -0.99], chance.normal(size=len(times) + 500))[500:]
    return Series(name, times, np.exp(0.1 * drift), camera)


def test_false_alarms_of_new_footage_are_no_more_than_told():
    told = met = 0.0
    for seed in range(30):
        chance = np.random.default_rng(seed)
        holdout = [slow(chance, 120, camera, f"{camera}/normal") for camera in CAMERAS]
        labeled, intervals = [], []
        for camera in CAMERAS:
            one = slow(chance, 20, camera, f"{camera}/fault")
            one.scores[40:60] = 1.4
            labeled.append(one)
            intervals.append(Interval(one.source, 8.0, 12.0, "scratch"))
        found = calibrate_cameras(labeled, join_events(intervals), holdout, PLAIN)
        told += found.pooled.false_alarms.per_hour or 0.0
        new = [decide(found.apply(slow(chance, 3600, camera, camera)), PLAIN) for camera in CAMERAS]
        met += false_alarms(new, found.pooled.threshold).per_hour or 0.0
    assert told >= met > 0
