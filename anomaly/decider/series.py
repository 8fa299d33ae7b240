"""The decider over whole series: the same decisions as frame by frame, for calibration and studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from anomaly.decider.machine import (
    TIME_RESOLUTION_S,
    Alarm,
    DeciderConfig,
    bad_score,
    check_threshold,
    ema_weight,
)
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def smooth(times: ArrayLike, scores: ArrayLike, config: DeciderConfig) -> NDArray[np.float64]:
    """Smoothed scores of a whole series.

    Args:
        times: (n,) seconds, strictly increasing.
        scores: (n,) raw scores.

    Returns:
        (n,) float64, bit for bit what `Decider.step` gives as `Decision.score`.
    """
    times, scores = _series(times, scores)
    if config.smoothing_s == 0 or len(scores) < 2:
        return scores.copy()
    # A recurrence has no exact vectorised form, and exact it must be; a million frames take 0.2 s.
    value = float(scores[0])
    smoothed = [value]
    for step_s, score in zip(np.diff(times).tolist(), scores[1:].tolist(), strict=True):
        value = value + (score - value) * ema_weight(step_s, config.smoothing_s)
        smoothed.append(value)
    return np.array(smoothed)


def decision_scores(times: ArrayLike, scores: ArrayLike, config: DeciderConfig) -> NDArray[np.float64]:
    """What is compared with the threshold, for a whole series.

    Args:
        times: (n,) seconds, strictly increasing.
        scores: (n,) raw scores.

    Returns:
        (n,) float64; -inf for frames before `min_duration_s` of footage.
    """
    times, scores = _series(times, scores)
    return held_minimum(times, smooth(times, scores, config), config.min_duration_s)


def alarms(
    times: ArrayLike, scores: ArrayLike, config: DeciderConfig, threshold: float | None
) -> list[Alarm]:
    """All alarms of a whole series, in order; the last one may still have been on at its end.

    Args:
        times: (n,) seconds, strictly increasing.
        scores: (n,) raw scores.
        threshold: enter threshold; None = not calibrated, no alarm.
    """
    times, scores = _series(times, scores)
    smoothed = smooth(times, scores, config)
    decision = held_minimum(times, smoothed, config.min_duration_s)
    found: list[Alarm] = []
    for frames, continued in alarm_frames(times, smoothed, decision, config, threshold):
        peak = frames[np.argmax(smoothed[frames])]
        found.append(
            Alarm(
                start_s=float(times[frames[0]]),
                end_s=float(times[frames[-1]]),
                peak_s=float(times[peak]),
                peak_score=float(smoothed[peak]),
                continued=continued,
            )
        )
    return found


def in_alarm(
    times: ArrayLike, scores: ArrayLike, config: DeciderConfig, threshold: float | None
) -> NDArray[np.bool_]:
    """(n,) whether an alarm is on after each frame, as `Decision.alarm` tells it."""
    times, scores = _series(times, scores)
    smoothed = smooth(times, scores, config)
    decision = held_minimum(times, smoothed, config.min_duration_s)
    on = np.zeros(len(times), dtype=bool)
    for first, stop in alarm_segments(times, smoothed, decision, config, threshold):
        on[first:stop] = True
    return on


def alarm_frames(
    times: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    decision: NDArray[np.float64],
    config: DeciderConfig,
    threshold: float | None,
) -> Iterator[tuple[NDArray[np.intp], bool]]:
    """Each alarm's frames at or above the leave threshold, and whether it continues a split one."""
    for first, stop in alarm_segments(times, smoothed, decision, config, threshold):
        above = first + np.flatnonzero(smoothed[first:stop] >= config.leave_ratio * (threshold or 0.0))
        begin = 0
        while begin < len(above):
            limit = times[above[begin]] + config.max_duration_s - TIME_RESOLUTION_S
            end = max(begin + 1, int(np.searchsorted(times[above], limit)))
            yield above[begin:end], begin > 0
            begin = end


def alarm_segments(
    times: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    decision: NDArray[np.float64],
    config: DeciderConfig,
    threshold: float | None,
) -> NDArray[np.intp]:
    """Stretches of frames with an alarm on, long ones not split: (m, 2) first frame, one past the last."""
    check_threshold(threshold)
    if threshold is None or len(times) == 0:
        return np.empty((0, 2), dtype=np.intp)
    frames = np.arange(len(times))
    above = smoothed >= config.leave_ratio * threshold
    last_above = np.maximum.accumulate(np.where(above, frames, -1))
    ends = ~above & (times >= times[last_above] + config.join_gap_s - TIME_RESOLUTION_S)
    ends |= last_above < 0
    hits = np.flatnonzero(decision >= threshold)
    _, first_of_stretch = np.unique(np.cumsum(ends)[hits], return_index=True)
    starts = hits[first_of_stretch]
    end_frames = np.append(np.flatnonzero(ends), len(times))
    return np.stack([starts, end_frames[np.searchsorted(end_frames, starts)]], axis=1)


def held_minimum(
    times: NDArray[np.float64], values: NDArray[np.float64], duration_s: float
) -> NDArray[np.float64]:
    """(n,) largest level that `values` has held for `duration_s`; -inf where too little was seen."""
    if duration_s == 0 or len(times) == 0:
        return values.copy()
    first = np.searchsorted(times, times - duration_s + TIME_RESOLUTION_S, side="right") - 1
    seen = first >= 0
    lowest = np.full(len(times), -np.inf)
    lowest[seen] = Ranges(first[seen], np.flatnonzero(seen)).minimum(values)
    return lowest


class Ranges:
    """Ranges first[i]..last[i] of frames, both included, for minima over many of them at once.

    A sparse table: the minimum of a range is that of two overlapping ranges as long as a power of two.
    Which ranges need which length is worked out once and used for any values.
    """

    def __init__(self, first: NDArray[np.intp], last: NDArray[np.intp]) -> None:
        self.n = len(first)
        level_of = np.frexp(last - first + 1)[1] - 1
        self.levels = []
        for level in range(int(level_of.max(initial=0)) + 1):
            at = np.flatnonzero(level_of == level)
            self.levels.append((at, first[at], last[at] - (1 << level) + 1))

    def minimum(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """(n ranges,) smallest of the values in each range."""
        result = np.empty(self.n, dtype=values.dtype)
        table = values
        for level, (at, first, second) in enumerate(self.levels):
            if len(at):
                result[at] = np.minimum(table[first], table[second])
            width = 1 << level
            if len(table) > width:
                table = np.minimum(table[:-width], table[width:])
        return result


def _series(times: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    times, scores = np.asarray(times, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if times.ndim != 1 or times.shape != scores.shape:
        raise AnomalyError(f"times {times.shape} and scores {scores.shape} must be two rows of equal length")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise AnomalyError("times of a series do not strictly increase; give each source its own, in order")
    bad = np.flatnonzero(~(np.isfinite(scores) & (scores >= 0)))
    if len(bad):
        raise AnomalyError(bad_score(scores[bad[0]], times[bad[0]]))
    return times, scores
