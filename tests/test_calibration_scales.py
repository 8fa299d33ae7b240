"""A camera's scale, and false alarms that are not counted on the very footage that measured it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter

from anomaly.calibration import Series, calibrate, calibrate_cameras, decide, false_alarms, join_events
from anomaly.decider import DeciderConfig
from anomaly.types import Interval

PLAIN = DeciderConfig(smoothing_s=0, min_duration_s=0, max_duration_s=1e6, leave_ratio=1, join_gap_s=0)
CAMERAS = ("a", "b", "c")


def slow(chance, seconds, camera, name):
    """Five frames a second of a scene that changes over some twenty seconds, as light does."""
    times = np.arange(int(5 * seconds)) / 5
    drift = lfilter([np.sqrt(1 - 0.99**2)], [1, -0.99], chance.normal(size=len(times) + 500))[500:]
    return Series(name, times, np.exp(0.1 * drift), camera)


def fault(chance, camera, name, score):
    """Twenty such seconds, of which four score so high."""
    one = slow(chance, 20, camera, f"{camera}/{name}")
    one.scores[40:60] = score
    return one


def events_of(labeled):
    return join_events([Interval(one.source, 8.0, 12.0, "scratch") for one in labeled])


def test_false_alarms_of_new_footage_are_no_more_than_told():
    told = met = 0.0
    for seed in range(30):
        chance = np.random.default_rng(seed)
        holdout = [slow(chance, 120, camera, f"{camera}/normal") for camera in CAMERAS]
        labeled = [fault(chance, camera, "fault", 1.4) for camera in CAMERAS]
        found = calibrate_cameras(labeled, events_of(labeled), holdout, PLAIN)
        told += found.pooled.false_alarms.per_hour or 0.0
        new = [decide(found.apply(slow(chance, 3600, camera, camera)), PLAIN) for camera in CAMERAS]
        met += false_alarms(new, found.pooled.threshold).per_hour or 0.0
    assert told >= met > 0


@pytest.mark.parametrize("cameras", [("a", "b"), ("a",)])
def test_a_camera_that_is_calibrated_by_itself_is_told_what_alarms_there(cameras: tuple[str, ...]):
    """Its threshold moves with its scale: another scale for its normal footage refused what held."""
    chance = np.random.default_rng(0)
    holdout, labeled = [], []
    for camera in cameras:
        # By day and by night, or one product and the next.
        by_day, by_night = (slow(chance, 900, camera, f"{camera}/{when}") for when in ("day", "night"))
        holdout += [by_day, replace(by_night, scores=1.8 * by_night.scores)]
        labeled += [fault(chance, camera, f"fault_{clip}", 4.5) for clip in range(60)]
    events = events_of(labeled)
    found = calibrate_cameras(labeled, events, holdout, PLAIN)
    for camera in cameras:
        alone = calibrate(
            [one for one in labeled if one.camera == camera],
            [one for one in events if one.video.startswith(camera)],
            [one for one in holdout if one.camera == camera],
            PLAIN,
        )
        own = found.own[camera]
        assert alone.false_alarms.per_hour == 0
        assert alone.certificate is not None
        assert (own.false_alarms.text(), own.certificate) == (alone.false_alarms.text(), alone.certificate)
        counted = [decide(one, PLAIN) for one in found.apply_normal(holdout) if one.camera == camera]
        assert false_alarms(counted, found.pooled.threshold).per_hour == 0


def test_footage_by_day_and_by_night_is_told_what_new_footage_of_both_has():
    """Held out one after the other, as sorted names have them: half by half the night was told on the scale of the day."""
    told = met = withheld = 0.0
    for seed in range(10):
        chance = np.random.default_rng(seed)

        def footage(seconds, camera, name, chance=chance):
            by_day, by_night = (slow(chance, seconds, camera, f"{camera}/{name}_{when}") for when in "dn")
            return [by_day, replace(by_night, scores=1.5 * by_night.scores)]

        holdout = [one for camera in CAMERAS for one in footage(900, camera, "normal")]
        labeled = [fault(chance, camera, "fault", 2.5) for camera in CAMERAS]
        found = calibrate_cameras(labeled, events_of(labeled), holdout, PLAIN)
        told += found.pooled.false_alarms.per_hour or 0.0
        withheld += found.pooled.certificate is None
        new = [decide(found.apply(one), PLAIN) for camera in CAMERAS for one in footage(1800, camera, "new")]
        met += false_alarms(new, found.pooled.threshold).per_hour or 0.0
    assert withheld == 0
    assert met <= told < 10 * 5
