"""Rates, jitter and keyframes of a stream: plain functions over times in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
# A step this many times the usual one: a picture is missing in between.
_HOLE = 1.6
# The first second of a connection often comes in a burst from the camera's buffer.
_SETTLES_S = 1.0


@dataclass(frozen=True)
class Pace:
    """How regularly pictures come.

    Attributes:
        rate: pictures a second, from the first to the last.
        step_s: usual distance of two.
        jitter_s: half of the steps' spread between the 5th and the 95th of a hundred.
        holes: steps in which pictures are missing.
        longest_s: the longest step.
    """

    rate: float
    step_s: float
    jitter_s: float
    holes: int
    longest_s: float


def measure_pace(times_s: Times) -> Pace | None:
    """Pace of pictures shown at `times_s` (n,), in any order; None below three."""
    if len(times_s) < 3:
        return None
    times = np.sort(times_s)
    steps = np.diff(times)
    length = float(times[-1] - times[0])
    if length <= 0:
        return None
    usual = float(np.median(steps))
    low, high = np.percentile(steps, [5, 95])
    return Pace(
        len(steps) / length,
        usual,
        float(high - low) / 2,
        int((steps > _HOLE * usual).sum()),
        float(steps.max()),
    )


def arrival_jitter(pts_s: Times, arrival_s: Times) -> float | None:
    """How unevenly pictures arrive against their own times, seconds between the 1st and 99th of a hundred.

    Args:
        pts_s, arrival_s: (n,) in the order of arrival; the first second is passed over.
    """
    settled = arrival_s >= arrival_s[0] + _SETTLES_S if len(arrival_s) else np.zeros(0, bool)
    if settled.sum() < 5:
        return None
    late = (arrival_s - pts_s)[settled]
    low, high = np.percentile(late, [1, 99])
    return float(high - low)


@dataclass(frozen=True)
class Keyframes:
    """Distances of pictures that stand alone.

    Attributes:
        spacing_s: the longest distance seen; None where fewer than two were seen.
        at_least_s: no two were nearer than this that were seen; where fewer than two: the time looked at.
        count: seen.
    """

    spacing_s: float | None
    at_least_s: float
    count: int


def measure_keyframes(pts_s: Times, keyframe: NDArray[np.bool_]) -> Keyframes:
    """Keyframe spacing of packets shown at `pts_s` (n,)."""
    times = np.sort(pts_s[keyframe])
    seen = float(pts_s.max() - pts_s.min()) if len(pts_s) else 0.0
    if len(times) < 2:
        return Keyframes(None, seen, len(times))
    longest = float(np.diff(times).max())
    # A stretch without one at the end may be longer than any distance between two.
    return Keyframes(max(longest, float(pts_s.max() - times[-1])), float(np.diff(times).min()), len(times))


@dataclass(frozen=True)
class Sampling:
    """What the shortest anomaly asks for.

    Attributes:
        rate: frames a second that must be scored; infinite where no rate is enough.
        room_s: what is left of the anomaly after the time that a score must hold.
        reached: share of its score that the smoothing lets through in that time, 0..1.
    """

    rate: float
    room_s: float
    reached: float


def needed_sampling(
    shortest_s: float, smoothing_s: float, min_duration_s: float, samples: int = 3
) -> Sampling:
    """Frames a second so that the shortest anomaly has `samples` scored frames, wherever it starts.

    A score must hold for `min_duration_s` before an alarm starts; what is left of the anomaly after that is the
    room in which the smoothed score must rise. A stretch of L seconds holds floor(L * rate) frames at least.

    Args:
        shortest_s: length of the shortest anomaly.
        smoothing_s, min_duration_s: of the decider.
        samples: frames wanted in the room.
    """
    room = shortest_s - min_duration_s
    if room <= 0:
        return Sampling(math.inf, 0.0, 0.0)
    reached = 1.0 if smoothing_s == 0 else 1.0 - math.exp(-room / smoothing_s)
    return Sampling(samples / room, room, reached)
