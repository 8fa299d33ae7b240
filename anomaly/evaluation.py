"""Figures of a calibrated model on labelled footage."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.calibration import Decided, decide, event_outcomes, false_alarms, normal_windows
from anomaly.calibration.budget import without
from anomaly.calibration.cameras import SMALLEST
from anomaly.calibration.events import searched_s
from anomaly.calibration.series import ordinary_score
from anomaly.errors import AnomalyError
from anomaly.footage.masks import read_mask
from anomaly.footage.source import read_frames
from anomaly.heatmap import anomaly_map
from anomaly.metrics import PixelMetrics, auroc, average_precision
from anomaly.scoring import look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly.calibration import Event, EventOutcome, FalseAlarms, Series
    from anomaly.footage.labels import LabeledFootage
    from anomaly.footage.source import Source
    from anomaly.model import Model
    from anomaly.scoring import Scored
    from anomaly.thresholds import Threshold

#: Frames that the rate is measured on: enough to be past the warm-up, few enough not to wait for.
_RATE_FRAMES = 40


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        figures: one flat table of numbers; None where a figure has no meaning for this footage.
        decided: decided series by source name.
        truth: (n,) bool by source name: frames inside a label.
        outcomes: every event.
        alarms: false alarms on normal footage, None without a threshold.
        notes: what the reader should know.
        slack_s: how far outside its label an event may be noticed.
    """

    figures: dict[str, float | int | None]
    decided: Mapping[str, Decided]
    truth: Mapping[str, NDArray[np.bool_]]
    outcomes: tuple[EventOutcome, ...]
    alarms: FalseAlarms | None
    notes: tuple[str, ...]
    slack_s: float = 0.0


def evaluate(
    footage: LabeledFootage,
    events: Sequence[Event],
    scored: Sequence[Scored],
    holdout: Sequence[Series],
    threshold: Threshold,
    *,
    slack_s: float,
    familiar: Collection[str] = (),
    seldom: Callable[[Series], Series] = lambda one: one,
    grid: tuple[int, int],
) -> Evaluation:
    """Measure scores against labels.

    False alarms are counted on the footage that `fit` held out and on labelled sources without an
    event; the time around the events of other sources is left out, since labels rarely end
    where an anomaly's traces do.

    Args:
        footage: sources, intervals, masks.
        events: joined events.
        scored: raw scores; with grids where masks are to be measured.
        holdout: hold-out series of the model.
        threshold: of the model; its value may be None. Where each camera has its own, scores are given
            in units of it, and the figure `threshold` is 1.
        slack_s: how far outside its label an event may be noticed.
        familiar: names of sources whose normal time is not new to the model: no false alarms are counted on them.
        seldom: normal labelled footage with as many frames as are looked at, as `holdout` has.
        grid: the patch grid.
    """
    certified = _certified_recall(threshold, scored)
    if threshold.document.get("cameras"):
        cameras = threshold.document["cameras"]
        scored = [replace(one, scores=_in_thresholds(one.series, threshold)) for one in scored]
        holdout = [
            replace(one, scores=_in_thresholds(one, threshold)) for one in holdout if one.camera in cameras
        ]
    with_events = {event.video for event in events}
    clean = [
        one
        for one in scored
        if one.source.name not in with_events | set(familiar) and not inside(footage, one).any()
    ]
    ordinary = _ordinary(
        threshold, [*holdout, *(one.series for one in clean)], [one.series for one in scored]
    )
    # The threshold, or its decider, was chosen on these stretches of the hold-out.
    holdout = [left for one in holdout for left in _unspent(one, threshold)]
    decided = {one.source.name: decide(one.series, threshold.decider) for one in scored}
    truth = {one.source.name: inside(footage, one) for one in scored}
    labels = np.concatenate([truth[name] for name in decided])
    smoothed = np.concatenate([decided[name].decision for name in decided])
    raw = np.concatenate([decided[name].series.scores for name in decided])
    still = all(one.source.kind == "image" for one in scored)
    figures: dict[str, float | int | None] = {
        "n_sources": len(scored),
        "n_frames": len(labels),
        "n_anomalous_frames": int(labels.sum()),
        "n_events": len(events),
    }
    notes: list[str] = []
    calibrated_on = threshold.document.get("clips", {})
    known = {one.source.name for one in scored if one.digest in calibrated_on.values()}
    if known:
        notes.append(
            f"{len(known)} of these {len(scored)} sources {_were(len(known))} calibrated on: what is measured there is no independent test."
        )
    own = sum(not event.certifies for event in events)
    if own:
        notes.append(
            f"{own} of {len(events)} events {_were(own)} found with the detector's help: of what it misses they say nothing."
        )
    both = bool(labels.any()) and not bool(labels.all())
    if not both:
        notes.append("All frames are of one class: no AUROC can be given.")
    figures["frame_auroc"] = auroc(labels, smoothed) if both else None
    figures["frame_ap"] = average_precision(labels, smoothed) if both else None
    figures["frame_auroc_raw"] = auroc(labels, raw) if both else None
    if still:
        figures["image_auroc"] = figures["frame_auroc"]
        figures["image_ap"] = figures["frame_ap"]
    outcomes: tuple[EventOutcome, ...] = ()
    alarms: FalseAlarms | None = None
    if threshold.value is not None:
        value = 1.0 if threshold.document.get("cameras") else threshold.value
        outcomes = _outcomes(events, decided, value, slack_s, ordinary)
        seen = [one for one in outcomes if one.outcome != "blind"]
        in_alarm = np.concatenate([one.in_alarm(value) for one in decided.values()])
        normal = [decide(one, threshold.decider) for one in holdout]
        normal += [
            decide(seldom(left), threshold.decider)
            for one in clean
            for left in (_unspent(one.series, threshold) if one.source.name in known else [one.series])
        ]
        lengths = [searched_s(event, decided[event.video].series, slack_s) for event in events]
        confidence = threshold.document.get("settings", {}).get("confidence", 0.95)
        windows = normal_windows(normal, lengths)
        # What was looked at when the setting was chosen is among it.
        tried = threshold.document.get("settings_tried", 1)
        alarms = false_alarms(normal, value, windows=windows, confidence=confidence, settings_tried=tried)
        if threshold.document.get("cameras"):
            alarms = replace(alarms, n_cameras=max(len({one.series.camera for one in normal}), 1))
            if not all(own.get("by_itself") for own in threshold.document["cameras"].values()):
                notes.append(
                    "Each camera's scale was measured on the footage that was held out: on it there may be fewer false alarms than on new "
                    "footage; `calibrate` tells an upper end."
                )
        alarms = replace(alarms, by_hand=threshold.document.get("by_hand", False))
        figures |= {
            "event_recall": sum(one.caught for one in seen) / len(seen) if seen else None,
            "events_caught_by_running_alarm": sum(one.outcome == "running" for one in outcomes),
            "frame_recall": float(in_alarm[labels].mean()) if labels.any() else None,
            "certified_recall": certified,
            # None of nothing is not known, even where it would alarm always.
            "false_alarms": alarms.n_alarms if alarms.n_frames else None,
            "false_alarms_per_hour": alarms.per_hour,
            "false_alarms_per_hour_at_least": alarms.per_hour_at_least,
            "false_alarms_per_hour_at_most": alarms.per_hour_at_most,
            "normal_hours": alarms.hours,
            "alarm_time_share": alarms.alarm_time_share if alarms.n_frames else None,
            "chance_hit_rate": alarms.chance_hit_rate,
            "threshold": value,
        }
    else:
        notes.append(threshold.headline())
        names = ("event_recall", "frame_recall", "certified_recall", "false_alarms_per_hour")
        figures |= dict.fromkeys((*names, "alarm_time_share", "chance_hit_rate", "threshold"), None)
    figures |= _pixel_figures(footage.masks, scored, grid)
    return Evaluation(figures, decided, truth, outcomes, alarms, tuple(notes), slack_s)


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _unspent(series: Series, threshold: Threshold) -> list[Series]:
    """What of a normal series the threshold of its camera was not chosen on."""
    return without([series], threshold.of(series.source, series.camera).document.get("spent", ()))


def _ordinary(
    threshold: Threshold, normal: Sequence[Series], scored: Sequence[Series]
) -> dict[str, float | None]:
    """What ordinary footage scores beside each of the scored, by source; None = not known.

    What calibration scored events beside, where it is told: beside anything else one that lies on the threshold would be missed.
    Where cameras have scales of their own it is about 1 on each of them, and another share of each one's threshold.
    """
    if threshold.document.get("cameras"):
        own = {one.source: threshold.of(one.source, one.camera) for one in scored}
        return {name: _in_own_thresholds(one) for name, one in own.items()}
    all_alike = threshold.document.get("ordinary")
    if all_alike is None:
        all_alike = ordinary_score(normal)
    return {one.source: all_alike for one in scored}


def _in_own_thresholds(own: Threshold) -> float:
    """What ordinary footage of a camera scores in units of its threshold."""
    ordinary = own.document.get("ordinary")
    return (1.0 if ordinary is None else float(ordinary)) / _unit(own)


def _outcomes(
    events: Sequence[Event],
    decided: Mapping[str, Decided],
    value: float,
    slack_s: float,
    ordinary: Mapping[str, float | None],
) -> tuple[EventOutcome, ...]:
    """What becomes of each event, each scored beside what is ordinary where it was seen."""
    found: dict[Event, EventOutcome] = {}
    for level in dict.fromkeys(ordinary[event.video] for event in events):
        some = [event for event in events if ordinary[event.video] == level]
        found |= {one.event: one for one in event_outcomes(some, decided, value, slack_s, ordinary=level)}
    return tuple(found[event] for event in events)


def _in_thresholds(series: Series, threshold: Threshold) -> NDArray[np.float64]:
    """Scores in units of their camera's threshold: 1 alarms, and cameras can be compared."""
    own = threshold.of(series.source, series.camera)
    return own.scaled(series.scores) / _unit(own)


def _unit(own: Threshold) -> float:
    """What scores of a camera are told in: its threshold, where there is one."""
    return 1.0 if own.value is None else max(own.value, SMALLEST)


def _certified_recall(threshold: Threshold, scored: Sequence[Scored]) -> float | None:
    """What is certified for all of some footage: the least of its cameras; None where one has no certificate."""
    recalls = []
    for one in scored:
        own = threshold.of(one.source.name, one.series.camera)
        own = own.on({one.source.kind}).sampled(one.series.interval_s, one.source.name, one.series.camera)
        if not own.certified or own.certificate is None:
            return None
        recalls.append(own.certificate.recall)
    return min(recalls, default=None)


def inside(footage: LabeledFootage, one: Scored) -> NDArray[np.bool_]:
    """(n,) bool: which frames of a source lie inside one of its labels."""
    marked = np.zeros(len(one.times), bool)
    for interval in footage.of(one.source.name):
        marked |= (one.times >= interval.start_s) & (one.times < interval.end_s)
    return marked


def _pixel_figures(
    masks: Mapping[str, Path], scored: Sequence[Scored], grid: tuple[int, int]
) -> dict[str, float | int | None]:
    """Pixel AUROC and AUPRO over the sources that have masks, and their normal neighbours among images."""
    measured = [one for one in scored if one.grids is not None]
    if not measured:
        return {}
    metrics = PixelMetrics()
    for one in measured:
        assert one.grids is not None
        path = masks.get(one.source.name)
        for index, distances in zip(one.frames.tolist(), one.grids, strict=True):
            mask = np.zeros(one.size, bool) if path is None else read_mask(path, index, one.size)
            metrics.update(anomaly_map(distances, grid, one.size), mask)
    try:
        return {"pixel_auroc": metrics.auroc(), "aupro": metrics.aupro()}
    except AnomalyError:
        return {}  # not one marked pixel, or nothing but marked ones


def measure_rate(model: Model, source: Source, fps: float | None) -> float:
    """Frames a second from decoding to score, on the first frames of a source, nothing from a cache."""
    frames = look_at(model, islice(read_frames(source, fps=fps, on_damage=lambda _: None), _RATE_FRAMES))
    count, started = 0, time.perf_counter()
    for _ in frames:
        count += 1
    return count / (time.perf_counter() - started)


def flat(figures: Mapping[str, float | int | None]) -> dict[str, Any]:
    """The figures as JSON takes them."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in figures.items()
    }
