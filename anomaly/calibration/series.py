"""Scores of one source over time, and how much footage they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from anomaly.decider import DeciderConfig
from anomaly.decider.series import alarm_frames, alarm_segments, held_minimum, smooth
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A step between frames is a hole (blind time) if it is longer than this many usual steps ...
HOLE_STEPS = 5.0
#: ... and longer than this, in seconds: a stutter of a live stream is no hole.
HOLE_S = 2.0


@dataclass(frozen=True, eq=False)
class Series:
    """Raw scores of one source.

    Attributes:
        source: name of the video or image.
        times: (n,) float64 seconds, strictly increasing; n >= 1. One frame = a single picture.
        scores: (n,) float64 raw scores, finite, 0 or more, higher = more anomalous.
        camera: the camera it belongs to.

    Raises:
        CalibrationError: anything else in the arrays, by source and time.
    """

    source: str
    times: NDArray[np.float64]
    scores: NDArray[np.float64]
    camera: str = "default"

    def __post_init__(self) -> None:
        times, scores = np.asarray(self.times, dtype=np.float64), np.asarray(self.scores, dtype=np.float64)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "scores", scores)
        if times.ndim != 1 or times.shape != scores.shape or len(times) == 0:
            raise CalibrationError(
                f"{self.source}: times {times.shape} and scores {scores.shape} are not two equal rows of "
                "one frame or more; leave out sources without frames"
            )
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise CalibrationError(f"{self.source}: frame times do not strictly increase; score it again")
        bad = np.flatnonzero(~(np.isfinite(scores) & (scores >= 0)))
        if len(bad):
            raise CalibrationError(
                f"{self.source}: {len(bad)} of {len(scores)} scores are not finite or negative, the first "
                f"{scores[bad[0]]} at {times[bad[0]]:.3f} s; score it again, or leave it out"
            )

    @property
    def is_picture(self) -> bool:
        """Whether it is a single picture, which is decided without smoothing and stands for no time."""
        return len(self.times) == 1

    @cached_property
    def step_s(self) -> float:
        """The usual time between frames: the median; 0 for a single picture."""
        return 0.0 if self.is_picture else float(np.median(np.diff(self.times)))

    @property
    def interval_s(self) -> float:
        """The mean time between frames, holes left out; 0 for a single picture.

        Where every third of four frames is taken steps are uneven, and their median is far from it.
        """
        steps = np.diff(self.times)
        return float(steps[steps <= self.hole_s].mean()) if len(steps) else 0.0

    @property
    def hole_s(self) -> float:
        """Steps between frames above this are holes."""
        return max(HOLE_S, HOLE_STEPS * self.step_s)

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """(n,) seconds of footage each frame stands for; holes are not counted. 0 for a single picture."""
        steps = np.append(np.diff(self.times), self.step_s)
        return np.where(steps > self.hole_s, self.step_s, steps)

    def sees(self, start_s: float, end_s: float) -> bool:
        """Whether start_s <= t < end_s is not wholly blind: outside the footage, or inside one hole of it."""
        if self.is_picture:
            return True
        reach = self.times + np.minimum(self.seconds, self.hole_s)
        return bool(((self.times < end_s) & (reach > start_s)).any())

    def part(self, frames: slice) -> Series:
        """Some consecutive frames as a series of their own."""
        return replace(self, times=self.times[frames], scores=self.scores[frames])


@dataclass(frozen=True, eq=False)
class Decided:
    """A series with what a decider makes of it.

    Attributes:
        series: the raw scores.
        config: the decider used: a single picture gets `DeciderConfig.for_images()`.
        smoothed, decision: (n,) as `anomaly.decider.smooth` and `decision_scores` give them.
    """

    series: Series
    config: DeciderConfig
    smoothed: NDArray[np.float64]
    decision: NDArray[np.float64]

    def alarm_frames(self, threshold: float) -> Iterator[tuple[NDArray[np.intp], bool]]:
        """Each alarm's frames at or above the leave threshold, and whether it continues a split one."""
        return alarm_frames(self.series.times, self.smoothed, self.decision, self.config, threshold)

    def in_alarm(self, threshold: float) -> NDArray[np.bool_]:
        """(n,) whether an alarm is on after each frame."""
        on = np.zeros(len(self.smoothed), dtype=bool)
        for first, stop in alarm_segments(
            self.series.times, self.smoothed, self.decision, self.config, threshold
        ):
            on[first:stop] = True
        return on


def decide(series: Series, config: DeciderConfig) -> Decided:
    """Smoothed and decision scores of a series."""
    if series.is_picture:
        return Decided(series, config.for_images(), series.scores, series.scores)
    smoothed = smooth(series.times, series.scores, config)
    return Decided(series, config, smoothed, held_minimum(series.times, smoothed, config.min_duration_s))


def ordinary_score(normal: Sequence[Series]) -> float | None:
    """The raw score of ordinary footage: the median of all frames; None without any."""
    return float(np.median(np.concatenate([one.scores for one in normal]))) if normal else None


def by_source(series: Sequence[Series]) -> dict[str, Series]:
    """Series by the name of their source.

    Raises:
        CalibrationError: two series of one source.
    """
    named: dict[str, Series] = {}
    for one in series:
        if one.source in named:
            raise CalibrationError(f"two series are called {one.source!r}; give each source once")
        named[one.source] = one
    return named
