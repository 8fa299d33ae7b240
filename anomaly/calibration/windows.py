"""In which frames an alarm counts for an event, and what the decision score is there by that event's own doing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.decider.machine import TIME_RESOLUTION_S, ema_weight
from anomaly.decider.series import held_minimum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.events import Event
    from anomaly.calibration.series import Series
    from anomaly.decider import DeciderConfig


@dataclass(frozen=True, slots=True)
class EventWindow:
    """Where an event may be noticed.

    Attributes:
        frames: of its series; empty where no frame lies in it.
        fresh: whether it is scored as if ordinary footage had gone before: it begins with its series or after a hole of
            it, or comes after another labelled event of it, whose trace in the smoothed score, and whose alarm, are not its
            own doing.
    """

    frames: slice
    fresh: bool


def event_windows(
    events: Sequence[Event], series: Mapping[str, Series], tolerance_s: float
) -> list[EventWindow]:
    """(n,) the frames of [start - tolerance, end + tolerance) of each event.

    Where the windows of two events that lie apart would overlap they meet half-way: an alarm in between must not
    count for both. A single picture is in every event of its name.

    Args:
        events: all that are labelled, those that prove nothing among them; each one's video must be in `series`.
        series: by source.
        tolerance_s: how far outside its label an event may be noticed.
    """
    by_video: dict[str, list[Event]] = {}
    for event in events:
        by_video.setdefault(event.video, []).append(event)
    return [_window(event, by_video[event.video], series[event.video], tolerance_s) for event in events]


def _window(event: Event, of_video: Sequence[Event], series: Series, tolerance_s: float) -> EventWindow:
    if series.is_picture:
        return EventWindow(slice(0, 1), fresh=False)
    ended_s = max((one.end_s for one in of_video if one.end_s <= event.start_s), default=-math.inf)
    begins_s = min((one.start_s for one in of_video if one.start_s >= event.end_s), default=math.inf)
    start_s = max(event.start_s - tolerance_s, (ended_s + event.start_s) / 2)
    end_s = event.end_s + tolerance_s
    if math.isfinite(begins_s):
        end_s = min(end_s, (event.end_s + begins_s) / 2)
    start, stop = np.searchsorted(series.times, [start_s, end_s]).tolist()
    return EventWindow(slice(start, stop), fresh=_is_cut(series, start) or ended_s > -math.inf)


def _is_cut(series: Series, first: int) -> bool:
    """Whether no footage leads up to a frame: it is the first, or the first after a hole."""
    times = series.times
    return first == 0 or bool(first < len(times) and times[first] - times[first - 1] > series.hole_s)


def as_after_ordinary(
    series: Series,
    smoothed: NDArray[np.float64],
    frames: slice,
    config: DeciderConfig,
    ordinary: float,
) -> NDArray[np.float64]:
    """Decision scores in a window had the smoothed score stood at `ordinary` until it opened; never higher ones.

    Smoothing starts at the first frame of a clip, and anew after a hole; a stream is not cut where an anomaly begins.

    Args:
        series: (n,) frames.
        smoothed: (n,) its smoothed scores.
        frames: the window; not empty.
        config: the decider.
        ordinary: raw score of ordinary footage.

    Returns:
        (m,) for the frames of the window.
    """
    times, first = series.times, frames.start
    held_from = times[first] - config.min_duration_s + TIME_RESOLUTION_S
    lead = max(int(np.searchsorted(times, held_from, side="right")) - 1, 0)
    own = smoothed[lead : frames.stop].copy()
    n_before = first - lead
    own[:n_before] = np.minimum(own[:n_before], ordinary)
    if config.smoothing_s > 0:
        step_s = series.step_s if _is_cut(series, first) else float(times[first] - times[first - 1])
        weight = ema_weight(step_s, config.smoothing_s)
        begin = ordinary + (float(series.scores[first]) - ordinary) * weight
        ahead = max(float(smoothed[first]) - begin, 0.0)
        own[n_before:] -= ahead * np.exp(-(times[first : frames.stop] - times[first]) / config.smoothing_s)
    return held_minimum(times[lead : frames.stop], own, config.min_duration_s)[n_before:]
