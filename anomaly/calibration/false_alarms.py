"""What a threshold costs: false alarms an hour, time in alarm, and hits by chance, on normal footage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from anomaly.calibration.certificate import at_most, percent
from anomaly.decider.series import Ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.series import Decided

#: Under this much normal footage no rate is told at all; under `SHORT_S` only with a warning.
MINIMUM_S = 60.0
SHORT_S = 1800.0
#: Of fewer clips the bounds are told with what they take for granted: where clips scatter as their frames do, those of three lay under
#: the truth in 9 of 30 simulated cases, those of eight in 3 (decision 22).
_FEW_CLIPS = 8
BY_HAND = (
    "The threshold was set by hand: if that was after a look at this footage, the truth may lie above that bound more often than "
    "it says."
)
_BUNCHED = (
    "The alarms come in bunches, or more in some clips than in others, and the bound takes them to come evenly and one by one: the truth may "
    "lie above it more often than it says."
)
#: Alarms that come one by one are so much closer than usual as rarely as this, and all of them together as rarely as that.
_CLOSE, _BY_CHANCE = 0.1, 0.01
#: Alarms expected of what is held against other footage, at least.
_EXPECTED = 2.0
#: Normal windows sampled for each length of event.
_WINDOWS = 2000


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """False alarms on normal footage that nothing was learned or chosen from.

    Attributes:
        n_alarms: alarms started, those that continue a split one included.
        hours: footage behind it, holes left out; single pictures have none.
        per_hour: n_alarms / hours; None under a minute of footage.
        per_hour_at_least, per_hour_at_most: exact Poisson bounds (Garwood 1936), each at `confidence`.
        confidence: of each bound, over all settings tried together.
        alarm_time_share: share of the time in alarm; of the frames, where all are single pictures.
        n_frames, n_frames_in_alarm: the same in frames.
        chance_hit_rate: how often a normal stretch as long as an event reaches the threshold; None
            where there are no events or no normal footage.
        settings_tried: settings that this one was chosen among; the bounds are widened for them (Bonferroni).
        n_cameras: cameras whose footage is added up: an hour is then one of one camera.
        by_hand: whether the threshold was set by hand, maybe after a look at this footage, which the bounds do not pay for.
        n_clips: clips that the footage is of, single pictures not among them. The bounds take alarms to come independently, in these as in all others.
        bunched: whether the alarms follow each other closer, or differ more from clip to clip, than alarms would that come independently
            (`_bunched`).
    """

    n_alarms: int
    hours: float
    per_hour: float | None
    per_hour_at_least: float | None
    per_hour_at_most: float | None
    confidence: float
    alarm_time_share: float
    n_frames: int
    n_frames_in_alarm: int
    chance_hit_rate: float | None
    settings_tried: int = 1
    n_cameras: int = 1
    by_hand: bool = False
    n_clips: int = 0
    bunched: bool = False

    def text(self) -> str:
        """A few plain sentences."""
        bounded = self.n_frames > 0 and (self.per_hour is not None or self.hours == 0)
        if self.by_hand and bounded:
            return f"{self._counted()} {BY_HAND}"
        return self._counted()

    def _counted(self) -> str:
        if self.n_frames == 0:
            return "No normal footage was held out: nothing can be said of false alarms."
        level = percent(self.confidence)
        if self.settings_tried > 1:
            level += f" for all {self.settings_tried} settings compared"
        if self.per_hour is not None:
            alarms = f"{self.n_alarms} false alarm{'s' * (self.n_alarms != 1)}"
            of, each = (f" of {self.n_cameras} cameras", " of one camera") if self.n_cameras > 1 else ("", "")
            told = (
                f"{alarms} in {_hours(self.hours)} of normal footage{of}: {figure(self.per_hour)} an hour{each}, at most "
                f"{figure(self.per_hour_at_most or 0.0, math.ceil)} at {level}; "
                f"in alarm {percent(self.alarm_time_share)} of the time."
            )
            if 3600 * self.hours < SHORT_S:
                told += " This is less than half an hour of footage: hold out more to know it better."
            if self.bunched:
                told += f" {_BUNCHED}"
            if 0 < self.n_clips < _FEW_CLIPS:
                clips = "one clip" if self.n_clips == 1 else f"{self.n_clips} clips"
                told += f" The bound is of {clips} alone: normal footage unlike that may alarm more often."
            return told
        if self.hours == 0:
            bad, n = self.n_frames_in_alarm, self.n_frames
            most = 1.0 if bad == n else float(stats.beta.isf(self._error, bad + 1, n - bad))
            return (
                f"{bad} of {n} normal pictures alarm: {percent(bad / n)}, at most {at_most(most)} at {level}."
            )
        return (
            f"Only {3600 * self.hours:.0f} s of normal footage were held out: too little for a rate of "
            f"false alarms; {self.n_alarms} seen. Hold out a minute or more, half an hour to know it well."
        )

    @property
    def _error(self) -> float:
        return (1 - self.confidence) / self.settings_tried

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def poisson_bounds(count: int, hours: float, confidence: float) -> tuple[float, float]:
    """Exact lower and upper bound of a rate, each at `confidence`; 0 in two hours: at most 1.5."""
    error = 1 - confidence
    low = 0.0 if count == 0 else float(stats.chi2.ppf(error, 2 * count)) / 2
    return low / hours, float(stats.chi2.ppf(confidence, 2 * count + 2)) / 2 / hours


def false_alarms(
    holdout: Sequence[Decided],
    threshold: float,
    *,
    confidence: float = 0.95,
    settings_tried: int = 1,
    windows: NormalWindows | None = None,
) -> FalseAlarms:
    """Count the alarms of a threshold on normal footage.

    Args:
        holdout: normal series, decided; nothing in them may be anomalous.
        threshold: enter threshold.
        confidence: of the Poisson bounds.
        settings_tried: settings compared, on this footage too, before this one was chosen.
        windows: normal stretches as long as the events, for the chance-hit rate.
    """
    n_frames = n_on = 0
    seconds = on_seconds = 0.0
    begins: list[list[float]] = []
    for one in holdout:
        weights, on = one.series.seconds, one.in_alarm(threshold)
        passed = seconds + np.cumsum(weights) - weights
        begins.append([float(passed[frames[0]]) for frames, _ in one.alarm_frames(threshold)])
        seconds += float(weights.sum())
        on_seconds += float(weights[on].sum())
        n_frames += len(on)
        n_on += int(on.sum())
    n_alarms, hours = sum(map(len, begins)), seconds / 3600
    filmed = [i for i, one in enumerate(holdout) if not one.series.is_picture]
    rated = seconds >= MINIMUM_S
    each = 1 - (1 - confidence) / settings_tried
    low, high = poisson_bounds(n_alarms, hours, each) if rated else (None, None)
    share = on_seconds / seconds if seconds else n_on / max(n_frames, 1)
    chance = None if windows is None else windows.hit_rate(threshold)
    return FalseAlarms(
        n_alarms,
        hours,
        n_alarms / hours if rated else None,
        low,
        high,
        confidence,
        share,
        n_frames,
        n_on,
        chance,
        settings_tried,
        n_clips=len({holdout[i].series.source for i in filmed}),
        bunched=_bunched(
            [begins[i] for i in filmed], [float(holdout[i].series.seconds.sum()) for i in filmed]
        ),
    )


def _bunched(begins_s: Sequence[Sequence[float]], seconds: Sequence[float]) -> bool:
    """Whether alarms follow each other closer, or differ more from clip to clip, than alarms would that come independently.

    Of n that do a gap is under a tenth of seconds / n in one of ten cases, and their numbers scatter as those of Poisson do (index of
    dispersion), of clips long enough for two, or as many neighbours as make that. Simulated, 2 to 1000 of them were called bunched in 2 of 100.

    Args:
        begins_s: (m clips) where each begins, those that continue a split one included, in footage laid end to end, ascending.
        seconds: (m,) of each clip.
    """
    counts, lengths = np.array([len(some) for some in begins_s]), np.array(seconds)
    n, whole = int(counts.sum()), float(lengths.sum())
    if n < 2 or not whole:
        return False
    gaps = np.diff(np.concatenate([np.array(some) for some in begins_s]))
    close = int((gaps < _CLOSE * whole / n).sum())
    if stats.binom.sf(close - 1, len(gaps), _CLOSE) < _BY_CHANCE:
        return True
    some = _together(n * lengths / whole)
    if some[-1] == 0:
        return False
    counted, expected = np.bincount(some, counts), np.bincount(some, n * lengths / whole)
    scatter = float(((counted - expected) ** 2 / expected).sum())
    return bool(stats.chi2.sf(scatter, some[-1]) < _BY_CHANCE)


def _together(expected: NDArray[np.float64]) -> NDArray[np.intp]:
    """(m clips,) which are counted as one, ascending from 0: neighbours, until two alarms are expected of each.

    Of fewer the index does not follow its distribution: one long clip beside many brief ones was called bunched in 10 of 100.
    """
    numbers, reached, number = np.zeros(len(expected), dtype=np.intp), 0.0, 0
    for i, more in enumerate(expected.tolist()):
        numbers[i], reached = number, reached + more
        if reached >= _EXPECTED:
            number, reached = number + 1, 0.0
    return np.minimum(numbers, max(number - 1, 0))


@dataclass(frozen=True, eq=False)
class NormalWindows:
    """Largest decision scores of normal stretches as long as each event.

    A stretch longer than every normal one without a hole is taken in equal parts: it is hit at most as often
    as its parts are hit together (union bound).

    Attributes:
        scores: one sorted (m,) array for each event; m = 0 without normal footage.
        lengths_s: how long each event's stretch is.
        parts: in how many parts it was measured.
        rooms: how many such stretches the normal footage holds side by side.
    """

    scores: tuple[NDArray[np.float64], ...]
    lengths_s: tuple[float, ...]
    parts: tuple[int, ...]
    rooms: tuple[float, ...]

    @property
    def truncated(self) -> int:
        """Events longer than every normal stretch without a hole."""
        return sum(n > 1 for n in self.parts)

    def of(self, events: Sequence[int]) -> NormalWindows:
        """The windows of some of the events."""
        parts = (self.scores, self.lengths_s, self.parts, self.rooms)
        return NormalWindows(*(tuple(part[i] for i in events) for part in parts))  # type: ignore[arg-type]

    def crowded(self, least: float) -> NDArray[np.bool_]:
        """(n events,) whether fewer than so many stretches as long as the event fit side by side."""
        return np.array(self.rooms, dtype=np.float64) < least

    def hit_rate(self, threshold: float) -> float | None:
        """Share of the stretches that reach the threshold, averaged over the events."""
        rate = float(self.hit_rates(np.array([threshold]))[0])
        return None if np.isnan(rate) else rate

    def hit_rates(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """(t,) the hit rate at each threshold; nan without events or normal footage."""
        if not self.scores or not all(len(scores) for scores in self.scores):
            return np.full(len(thresholds), np.nan)
        hit = [
            np.minimum(1.0, n * (1 - np.searchsorted(scores, thresholds) / len(scores)))
            for scores, n in zip(self.scores, self.parts, strict=True)
        ]
        return np.asarray(np.mean(hit, axis=0))

    def shares(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n events,) share of each event's stretches that reach its level; nan without normal footage."""
        return np.array(
            [
                min(1.0, n * (1 - np.searchsorted(scores, level) / len(scores))) if len(scores) else np.nan
                for scores, n, level in zip(self.scores, self.parts, levels, strict=True)
            ]
        )


def normal_windows(holdout: Sequence[Decided], lengths_s: Sequence[float]) -> NormalWindows:
    """The score that chance gives an event: the same window laid over normal footage, all over it.

    Args:
        holdout: normal series, decided.
        lengths_s: (n events,) length of each event's window, tolerance on both sides included; 0 for
            events on single pictures. Rounded up to steps of 10 %: chance hits get likelier, never rarer.
    """
    rounded = [0.0 if length <= 0 else 1.1 ** math.ceil(math.log(length, 1.1) - 1e-9) for length in lengths_s]
    pieces = [piece for one in holdout for piece in _pieces(one)]
    stills = [(one.series.times, one.series.scores) for one in holdout]
    longest = max((float(times[-1] - times[0]) for times, _ in pieces), default=0.0)
    sampled: dict[float, tuple[NDArray[np.float64], int, float]] = {}
    for length in set(rounded):
        parts = math.ceil(length / longest - 1e-9) if length > longest > 0 else 1
        part_s = min(length / parts, longest)
        room = sum(_room(times, part_s) for times, _ in pieces) / parts
        # Pictures say nothing of how often a stretch of video is hit.
        # A picture is not smoothed, so neither is what it is compared with.
        maxima = _window_maxima(stills if length == 0 else pieces, part_s)
        sampled[length] = maxima, parts, room if length == 0 or longest > 0 else 0.0
    scores, parts_of, rooms = (
        zip(*(sampled[length] for length in rounded), strict=True) if rounded else ((),) * 3
    )
    return NormalWindows(tuple(scores), tuple(rounded), tuple(parts_of), tuple(rooms))


def _pieces(one: Decided) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Times and decision scores of a series between its holes: no stretch reaches over a hole."""
    times = one.series.times
    cuts = np.flatnonzero(np.diff(times) > one.series.hole_s) + 1
    return list(zip(np.split(times, cuts), np.split(one.decision, cuts), strict=True))


def _room(times: NDArray[np.float64], length_s: float) -> int:
    """How many stretches of a length fit side by side."""
    if length_s == 0:
        return len(times)
    step_s = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return int((times[-1] - times[0] + step_s) / length_s + 1e-9)


def _window_maxima(
    pieces: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], length_s: float
) -> NDArray[np.float64]:
    """Sorted largest decision scores in stretches of `length_s`, of which every piece can offer many."""
    total = sum(len(times) for times, _ in pieces)
    stride = max(1, total // _WINDOWS)
    maxima = []
    for times, decision in pieces:
        starts = np.flatnonzero(times <= times[-1] - length_s + 1e-9)[::stride]
        lasts = np.searchsorted(times, times[starts] + length_s + 1e-9, side="right") - 1
        maxima.append(-Ranges(starts, lasts).minimum(-decision))
    return np.sort(np.concatenate(maxima)) if maxima else np.empty(0)


def figure(value: float, rounded: Callable[[float], float] = round) -> str:
    """Two digits, or whole numbers above ten; an upper bound with `math.ceil`."""
    digits = 0 if value >= 10 or value <= 0 else 1 - math.floor(math.log10(value))
    told = f"{rounded(value * 10**digits) / 10**digits:,.{digits}f}"
    return told.rstrip("0").removesuffix(".") if digits else told


def _hours(hours: float) -> str:
    minutes = round(60 * hours)
    return f"{figure(hours)} hours" if hours >= 2 else f"{minutes} minute{'s' * (minutes != 1)}"
