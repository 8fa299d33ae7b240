"""What many decider settings would give, on scores that are computed already.

Looking costs. Whoever takes the best of G settings on the same events must either certify on events that
played no part (`split_events`) or pay for all G (`settings_tried` of `calibrate`). The bands of a study
are wide for the same reason: all of their points hold together, at the study's confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from anomaly.calibration.certificate import recall_bound
from anomaly.calibration.events import Count, Event, unit_keys, unit_name
from anomaly.calibration.series import Series, by_source, ordinary_score
from anomaly.calibration.sweep import Footage, reached_levels, rounded_down, sweep
from anomaly.calibration.windows import as_after_ordinary, event_windows
from anomaly.errors import CalibrationError, LabelsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.decider import DeciderConfig


@dataclass(frozen=True, eq=False)
class Study:
    """Recall and false alarms of (s,) settings at (t,) thresholds; arrays are (s, t).

    Attributes:
        settings: decider settings.
        thresholds: (t,) ascending, the same for all settings.
        confidence: of each band, over all of its points together.
        n_events: events, clips or incidents that counted.
        unit: which of these.
        recall: share of them caught.
        recall_low: simultaneous exact lower band.
        n_alarms: false alarms on the hold-out.
        hours: of the hold-out; 0 where it holds only single pictures.
        alarms_high: simultaneous exact upper band of the expected number of false alarms on the hold-out.
        alarm_time_share: share of the hold-out's time in alarm.
    """

    settings: tuple[DeciderConfig, ...]
    thresholds: NDArray[np.float64]
    confidence: float
    n_events: int
    unit: str
    recall: NDArray[np.float64]
    recall_low: NDArray[np.float64]
    n_alarms: NDArray[np.int64]
    hours: float
    alarms_high: NDArray[np.float64]
    alarm_time_share: NDArray[np.float64]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One flat row for each setting and threshold; rates are None without footage."""
        rate = 1 / self.hours if self.hours else float("nan")
        for s, setting in enumerate(self.settings):
            for t, threshold in enumerate(self.thresholds.tolist()):
                yield {
                    **asdict(setting),
                    "threshold": threshold,
                    "event_recall": float(self.recall[s, t]),
                    "event_recall_low": float(self.recall_low[s, t]),
                    "false_alarms_per_hour": float(self.n_alarms[s, t] * rate) if self.hours else None,
                    "false_alarms_per_hour_high": (
                        float(self.alarms_high[s, t] * rate) if self.hours else None
                    ),
                    "alarm_time_share": float(self.alarm_time_share[s, t]),
                }

    def best(self, target_recall: float) -> int:
        """The setting with the fewest false alarms at its highest threshold that reaches a recall.

        Ties go to the smaller share of time in alarm, then to the first.

        Raises:
            CalibrationError: no setting reaches it at any threshold.
        """
        reaches = self.recall >= target_recall
        if not reaches.any():
            raise CalibrationError(
                f"no setting of the study catches {target_recall:g} of the events (most: "
                f"{self.recall.max():.3g}); add lower thresholds or shorter decider.min_duration_s"
            )
        highest = reaches.shape[1] - 1 - np.argmax(reaches[:, ::-1], axis=1)
        rows = np.flatnonzero(reaches.any(axis=1))
        alarms, time = self.n_alarms[rows, highest[rows]], self.alarm_time_share[rows, highest[rows]]
        return int(rows[np.lexsort((rows, time, alarms))[0]])


def study(
    labeled: Sequence[Series],
    events: Sequence[Event],
    holdout: Sequence[Series],
    settings: Sequence[DeciderConfig],
    thresholds: Sequence[float] | NDArray[np.float64],
    *,
    count: Count = "clip",
    tolerance_s: float = 1.0,
    confidence: float = 0.95,
    ordinary: Mapping[str, float] | None = None,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Study:
    """Event recall and false alarms of every setting at every threshold.

    Only events that certify and that the footage covers count. Scores are compared in float32.

    Args:
        labeled: scored series in which the events lie.
        events: labelled incidents.
        holdout: scored series of normal footage.
        settings: decider settings to try.
        thresholds: (t,) enter thresholds to try with each; chosen without the events (`threshold_grid`).
        count: what is independent (`counting_units`).
        tolerance_s: how far outside its label an event may be noticed.
        confidence: of the bands.
        ordinary: raw score of ordinary footage (`event_scores`) by camera; that of the hold-out for the others.
        workers: threads.
        progress: called with the number of settings done since the last call.

    Raises:
        CalibrationError: no event that counts, no normal footage, no setting or no threshold.
        LabelsError: an event of a video that is not in `labeled`.
    """
    levels = np.unique(np.asarray(thresholds, dtype=np.float64))
    if not (len(settings) and len(levels) and len(holdout)):
        raise CalibrationError(
            f"a study needs settings ({len(settings)}), thresholds ({len(levels)}) and normal series "
            f"({len(holdout)}); give one or more of each"
        )
    usual = ordinary_score(holdout)
    assert usual is not None
    levels_of = {one.source: (ordinary or {}).get(one.camera, usual) for one in labeled}
    windows = _EventWindows(labeled, events, count, tolerance_s, levels_of)
    normal = Footage(holdout)
    n_alarms = np.empty((len(settings), len(levels)), dtype=np.int64)
    alarm_seconds = np.empty(n_alarms.shape)
    missed = np.empty(n_alarms.shape, dtype=np.int64)

    def one(index: int) -> None:
        swept = sweep(normal, settings[index], levels)
        n_alarms[index], alarm_seconds[index] = swept.n_alarms, swept.alarm_seconds
        missed[index] = windows.missed(settings[index], levels)
        if progress is not None:
            progress(1)

    # Settings with the same times follow one another, so that what they share is computed once.
    order = sorted(
        range(len(settings)),
        key=lambda i: (settings[i].smoothing_s, settings[i].leave_ratio, settings[i].min_duration_s),
    )
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, order))
    n = windows.n_units
    # A lower band over all thresholds is one over the n ranks of the scores, or over the thresholds if fewer.
    bounds = np.array(
        [recall_bound(n, m, confidence, len(settings) * min(n, len(levels))) for m in range(n + 1)]
    )
    error = (1 - confidence) / n_alarms.size
    seconds = float(normal.seconds.sum())
    frames_or_seconds = alarm_seconds / seconds if seconds else n_alarms / len(normal.seconds)
    return Study(
        settings=tuple(settings),
        thresholds=levels,
        confidence=confidence,
        n_events=n,
        unit=windows.unit_name,
        recall=1 - missed / n,
        recall_low=bounds[missed],
        n_alarms=n_alarms,
        hours=seconds / 3600,
        alarms_high=stats.chi2.isf(error, 2 * n_alarms + 2) / 2,
        alarm_time_share=frames_or_seconds,
    )


def threshold_grid(series: Sequence[Series], n: int = 100) -> NDArray[np.float64]:
    """(<= n,) thresholds from the median of raw scores to their maximum, denser in the tail.

    Give it hold-out and labelled series together: the top of the grid should be above all normal scores.
    """
    scores = np.concatenate([one.scores for one in series])
    return np.unique(np.quantile(scores, 1 - np.geomspace(0.5, 0.5 / len(scores), n)))


def split_events(
    events: Sequence[Event], *, share: float = 0.5, seed: int = 0
) -> tuple[list[Event], list[Event]]:
    """Events in two parts that share no clip, nor a group of clips: those to choose settings with, and those to certify with.

    Clips are dealt by chance from `seed`, without a look at scores: about `share` of them choose.
    """
    clips = sorted({event.clip for event in events})
    order = np.random.default_rng(seed).permutation(len(clips))
    choosing = {clips[i] for i in order[: round(share * len(clips))]}
    return (
        [event for event in events if event.clip in choosing],
        [event for event in events if event.clip not in choosing],
    )


class _EventWindows:
    """The frames of each event that counts, in one array of footage."""

    def __init__(
        self,
        labeled: Sequence[Series],
        events: Sequence[Event],
        count: Count,
        tolerance_s: float,
        ordinary: Mapping[str, float],
    ) -> None:
        named = by_source(labeled)
        unknown = [str(event) for event in events if event.video not in named]
        if unknown:
            raise LabelsError(
                f"event {unknown[0]} is in a video that was not scored; score it, or drop the label"
            )
        counted = [
            event
            for event in events
            if event.certifies
            and named[event.video].sees(event.start_s - tolerance_s, event.end_s + tolerance_s)
        ]
        if not counted:
            raise CalibrationError(
                "a study needs an event that was found independently and lies in the footage"
            )
        used = [named[video] for video in dict.fromkeys(event.video for event in counted)]
        self.footage = Footage(used)
        begin = dict(zip((one.source for one in used), self.footage.begins.tolist(), strict=True))
        # A neighbour that does not count narrows a window, and leaves its trace, all the same.
        windows = dict(zip(events, event_windows(events, named, tolerance_s), strict=True))
        self.windows = [
            slice(
                begin[event.video] + windows[event].frames.start,
                begin[event.video] + windows[event].frames.stop,
            )
            for event in counted
        ]
        # Scored as calibration scores them: as if ordinary footage had gone before (`event_scores`).
        self.ordinary = ordinary
        self.fresh = [
            (i, named[event.video], begin[event.video], windows[event].frames)
            for i, event in enumerate(counted)
            if windows[event].fresh and windows[event].frames.start < windows[event].frames.stop
        ]
        keys = unit_keys(counted, count)
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self.unit = np.array([numbers[key] for key in keys])
        self.n_units, self.unit_name = len(numbers), unit_name(counted, count)

    def missed(self, config: DeciderConfig, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        """(t,) units missed at each threshold."""
        reached = reached_levels(self.footage, config, thresholds)
        scores = np.array([int(reached[one].max(initial=0)) for one in self.windows])
        levels, smoothed = rounded_down(thresholds), self.footage.smoothed(config.smoothing_s)
        for i, series, begin, frames in self.fresh:
            whole = smoothed[begin : begin + len(series.times)]
            own = as_after_ordinary(series, whole, frames, config, self.ordinary[series.source]).max()
            scores[i] = np.searchsorted(levels, np.float32(own), side="right")
        hardest = np.full(self.n_units, len(thresholds))
        np.minimum.at(hardest, self.unit, scores)
        return np.cumsum(np.bincount(hardest, minlength=len(thresholds) + 1))[:-1]
