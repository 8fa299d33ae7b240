"""Alarms at many thresholds in one pass over the footage.

At threshold number i (ascending) an alarm starts where the decision score reaches it and ends where the
largest smoothed score of the last `join_gap_s` falls below its leave threshold. Write D for the number
of thresholds that the decision score of a frame reaches, and K for the number of leave thresholds that the
gap's largest score reaches: D <= K, alarms 0 ... D-1 are on after the frame, those from K on are off,
those between stay as they were. So the alarms that are on are always the first p, with

    p = max(D, min(p of the frame before, K)),

one integer instead of one state machine a threshold. Such clamps compose to clamps, so blocks of footage are
worked off side by side and joined afterwards. Scores enter as float32, thresholds are rounded down to it.
Splitting at `max_duration_s` is counted by time, never fewer splits than the decider makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.decider.machine import TIME_RESOLUTION_S
from anomaly.decider.series import Ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.series import Series
    from anomaly.decider import DeciderConfig

#: Frames of one block of the side-by-side scans.
_BLOCK = 256


class Footage:
    """Series laid end to end, with what repeated sweeps share.

    Single pictures among them are decided without smoothing and minimum length, as everywhere.

    Attributes:
        scores: (n,) raw scores.
        begins: (m,) first frame of each series.
        clock: (n,) one increasing time axis; only differences within a series mean anything.
        seconds: (n,) footage each frame stands for.
    """

    def __init__(self, series: Sequence[Series]) -> None:
        lengths = [len(one.times) for one in series]
        self.begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp)
        self.single = np.repeat(np.array(lengths) == 1, lengths)
        self.scores = np.concatenate([one.scores for one in series])
        self.seconds = np.concatenate([one.seconds for one in series])
        clock, end = [], 0.0
        for one in series:
            clock.append(one.times - one.times[0] + end)
            end = float(clock[-1][-1]) + 1.0
        self.clock = np.concatenate(clock)
        self.first_frame = np.repeat(self.begins, lengths)
        # Sweeps over a grid of settings meet the same durations again and again.
        self.since = lru_cache(maxsize=6)(self._since)
        self.within = lru_cache(maxsize=4)(self._within)
        self.smoothed = lru_cache(maxsize=2)(self._smoothed)
        self.reached = lru_cache(maxsize=6)(self._reached)

    @cached_property
    def steps(self) -> NDArray[np.float64]:
        """(n,) seconds since the frame before; infinite at the begin of a series."""
        steps = np.diff(self.clock, prepend=-np.inf)
        steps[self.begins] = np.inf
        return steps

    def _since(self, duration_s: float) -> tuple[Ranges, NDArray[np.bool_]]:
        """For each frame those since `duration_s` ago, and whether the series goes back that far."""
        first = np.searchsorted(self.clock, self.clock - duration_s + TIME_RESOLUTION_S, side="right") - 1
        seen = first >= self.first_frame
        return Ranges(np.maximum(first, self.first_frame), np.arange(len(first))), seen

    def _within(self, duration_s: float) -> Ranges:
        """For each frame those less than `duration_s` ago."""
        first = np.searchsorted(self.clock, self.clock - duration_s + TIME_RESOLUTION_S, side="right")
        frames = np.arange(len(first))
        return Ranges(np.clip(first, self.first_frame, frames), frames)

    def _reached(self, smoothing_s: float, levels: tuple[float, ...]) -> NDArray[np.unsignedinteger[Any]]:
        """How many of the ascending levels each smoothed score reaches, in the smallest integers."""
        dtype = np.uint8 if len(levels) < 256 else np.uint16 if len(levels) < 65536 else np.uint32
        down = rounded_down(np.array(levels))
        smoothed = self.smoothed(smoothing_s).astype(np.float32)
        if self.single.any():
            smoothed = np.where(self.single, self.scores.astype(np.float32), smoothed)
        return np.searchsorted(down, smoothed, side="right").astype(dtype)

    def _smoothed(self, smoothing_s: float) -> NDArray[np.float64]:
        """Exponential moving average; a first-order recurrence, all blocks at once, then joined.

        Not rounded: of what a high score has left little may be an event's own (`as_after_ordinary`).
        """
        if smoothing_s == 0:
            return self.scores
        keep = _blocks(np.exp(-self.steps / smoothing_s), 1.0)
        value = _blocks(self.scores, 0.0) * (1 - keep)
        for row in range(1, len(value)):
            value[row] += keep[row] * value[row - 1]
            keep[row] *= keep[row - 1]
        carry = np.zeros(value.shape[1])
        last_keep, last_value = keep[-1].tolist(), value[-1].tolist()
        for block in range(1, value.shape[1]):
            carry[block] = last_keep[block - 1] * carry[block - 1] + last_value[block - 1]
        value += keep * carry
        return _unblocked(value, len(self.scores))


@dataclass(frozen=True, eq=False)
class Sweep:
    """What each threshold does on some footage; all arrays run along the thresholds.

    Attributes:
        n_alarms: (t,) int64, alarms started, continued ones included.
        alarm_seconds: (t,) footage in alarm.
        reached: (n,) how many of the thresholds each frame's decision score reaches.
    """

    n_alarms: NDArray[np.int64]
    alarm_seconds: NDArray[np.float64]
    reached: NDArray[np.unsignedinteger[Any]]


def sweep(footage: Footage, config: DeciderConfig, thresholds: NDArray[np.float64]) -> Sweep:
    """Count alarms on `footage` at each of (t,) ascending thresholds."""
    reached, held = _levels(footage, config, thresholds)
    on = _clamp_scan(reached, held, len(thresholds))
    before = np.concatenate([on[:1] * 0, on[:-1]])
    before[footage.begins] = 0
    rises = np.flatnonzero(on > before)
    size = len(thresholds) + 1
    started = np.bincount(before[rises], minlength=size) - np.bincount(on[rises], minlength=size)
    n_alarms = np.cumsum(started)[:-1] + _splits(footage, config, on, rises, before[rises], len(thresholds))
    seconds = np.bincount(on, weights=footage.seconds, minlength=size)
    # A sum in another order may end a hair under none.
    return Sweep(n_alarms, np.maximum(seconds.sum() - np.cumsum(seconds)[:-1], 0.0), reached)


def rounded_down(levels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Thresholds as float32, none above what it was."""
    rounded = levels.astype(np.float32)
    return np.where(rounded > levels, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def reached_levels(
    footage: Footage, config: DeciderConfig, thresholds: NDArray[np.float64]
) -> NDArray[np.unsignedinteger[Any]]:
    """(n,) how many of the ascending thresholds each frame's decision score reaches."""
    return _levels(footage, config, thresholds, with_leave=False)[0]


def _levels(
    footage: Footage, config: DeciderConfig, thresholds: NDArray[np.float64], with_leave: bool = True
) -> tuple[NDArray[Any], NDArray[Any]]:
    """D and K of the module's description, in the smallest integers that hold them."""
    reached = footage.reached(config.smoothing_s, tuple(thresholds.tolist()))
    if config.min_duration_s > 0:
        ranges, seen = footage.since(config.min_duration_s)
        reached = np.where(footage.single, reached, ranges.minimum(reached) * seen)
    if not with_leave:
        return reached, reached
    held = footage.reached(config.smoothing_s, tuple((config.leave_ratio * thresholds).tolist()))
    top = np.iinfo(held.dtype).max
    held = top - footage.within(config.join_gap_s).minimum(top - held)
    held[footage.begins] = reached[footage.begins]  # nothing is on before a series begins
    return reached, held


def _clamp_scan(low: NDArray[Any], high: NDArray[Any], top: int) -> NDArray[Any]:
    """p[j] = max(low[j], min(p[j-1], high[j])), p[-1] = 0."""
    n = len(low)
    lows, highs = _blocks(low, 0), _blocks(high, top)
    from_none, from_all = np.empty_like(lows), np.empty_like(lows)
    none = np.zeros(lows.shape[1], dtype=lows.dtype)
    every = np.full(lows.shape[1], top, dtype=lows.dtype)
    for row in range(len(lows)):
        none = np.maximum(lows[row], np.minimum(none, highs[row]), out=from_none[row])
        every = np.maximum(lows[row], np.minimum(every, highs[row]), out=from_all[row])
    carry, carries = 0, []
    for least, most in zip(none.tolist(), every.tolist(), strict=True):
        carries.append(carry)
        carry = min(max(carry, least), most)
    return _unblocked(np.clip(np.array(carries, dtype=lows.dtype), from_none, from_all), n)


def _splits(
    footage: Footage,
    config: DeciderConfig,
    on: NDArray[Any],
    rises: NDArray[np.intp],
    rises_from: NDArray[Any],
    n_thresholds: int,
) -> NDArray[np.int64]:
    """(t,) how often alarms of each threshold outlast `max_duration_s`.

    Threshold i has an alarm from each rise across i to the next fall across it; series end in a fall to 0.
    """
    splits = np.zeros(n_thresholds, dtype=np.int64)
    ranges, seen = footage.since(config.max_duration_s)
    longest = int((ranges.minimum(on) * seen).max(initial=0))
    if longest == 0:
        return splits
    after = np.append(on[1:], on[:1] * 0)
    after[footage.begins[1:] - 1] = 0
    lasts = np.flatnonzero(after < on)  # last frames before a fall
    falls_from, falls_to, rises_to = on[lasts], after[lasts], on[rises]
    for index in range(longest):
        begins = rises[(rises_from <= index) & (rises_to > index)]
        ends = lasts[(falls_from > index) & (falls_to <= index)]
        lasted = footage.clock[ends] - footage.clock[begins] + TIME_RESOLUTION_S
        splits[index] = np.floor(lasted / config.max_duration_s).sum()
    return splits


def _blocks(values: NDArray[Any], filler: float) -> NDArray[Any]:
    """(n,) to (_BLOCK, blocks): each block a column, so that a step works on one row for all of them."""
    n_blocks = -(-len(values) // _BLOCK)
    padded = np.full(n_blocks * _BLOCK, filler, dtype=values.dtype)
    padded[: len(values)] = values
    return np.ascontiguousarray(padded.reshape(n_blocks, _BLOCK).T)


def _unblocked(blocks: NDArray[Any], n: int) -> NDArray[Any]:
    return np.ascontiguousarray(blocks.T).reshape(-1)[:n]
