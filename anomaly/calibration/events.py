"""From labels to events, and from events to what counts for a certificate.

The score of an event is the largest decision score inside its window (`windows`): the highest
threshold at which the decider, idle when that window opens, starts an alarm inside it. Taken so,
catching is monotone in the threshold, which "an alarm starts inside" is not: at a low threshold an
alarm may be running already. Those events are caught too, and told apart ("running"); that a detector which
always alarms gains nothing by it is the business of the chance-hit rate (`false_alarms`). What another labelled
event of the clip has left in the smoothed score is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from anomaly.calibration.certificate import CERTIFYING
from anomaly.calibration.windows import as_after_ordinary, event_windows
from anomaly.errors import LabelsError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.series import Decided, Series
    from anomaly.calibration.windows import EventWindow
    from anomaly.types import Interval

#: "clip": a clip counts once, as caught only if all its events are. "event": each event counts.
Count: TypeAlias = Literal["clip", "event"]
#: Labels of stretches in which nothing is wrong; they make no event.
NORMAL_LABELS = ("normal", "good", "ok")


@dataclass(frozen=True, slots=True)
class Event:
    """One incident of one video, start_s <= t < end_s.

    Attributes:
        labels: its kinds, each once, in order of time.
        found: how it was found; "independent" or "audit" wherever one of its labels was.
        group: the incident that its video shows, with other videos of that group; "" = no other does.
    """

    video: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]
    found: str = "independent"
    group: str = ""

    @property
    def certifies(self) -> bool:
        """Whether it was found without the detector's help, and so may prove a recall."""
        return self.found in CERTIFYING

    @property
    def clip(self) -> str:
        """What it is of that no event of another clip, by count, is of: its group, or its video."""
        return f"group {self.group}" if self.group else f"video {self.video}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; an event that lasts to the end of its video has no end_s, one of its own no group."""
        told = asdict(self)
        if not self.group:
            del told["group"]
        return {
            **told,
            "labels": list(self.labels),
            "end_s": self.end_s if math.isfinite(self.end_s) else None,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Event:
        """The event that `to_json` gave."""
        end_s = math.inf if told["end_s"] is None else told["end_s"]
        return cls(
            told["video"], told["start_s"], end_s, tuple(told["labels"]), told["found"], told.get("group", "")
        )

    def __str__(self) -> str:
        return f"{self.video}@{self.start_s:g}-{self.end_s:g}"


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """What the decider makes of one event at a threshold.

    Attributes:
        event: the event.
        score: the highest threshold that catches it; -inf if none does, nan if blind.
        outcome: "caught": an alarm starts inside; "running": an alarm that was on before reaches the
            threshold inside; "missed"; "blind": the footage has nothing of that time: it counts neither way.
        normal_share: share of normal stretches of the same length that score as high or higher: near 0
            for an anomaly the detector sees, near 1 for one it does not. None without normal footage.
    """

    event: Event
    score: float
    outcome: Literal["caught", "running", "missed", "blind"]
    normal_share: float | None = None

    @property
    def caught(self) -> bool:
        """Whether the alarm is on for it, newly or still."""
        return self.outcome in ("caught", "running")


def join_events(intervals: Iterable[Interval], gap_s: float = 0.0) -> list[Event]:
    """Labels to incidents: intervals of one video that overlap, or lie at most `gap_s` apart, are one event.

    Intervals labelled as normal (`NORMAL_LABELS`) are left out. Where labels found independently and
    labels proposed by the detector meet, the event counts as found independently and lasts from
    the first to the last independent one: the detector's own alarm must neither widen its window nor
    make one event of two.

    Raises:
        UsageError: a negative gap.
        LabelsError: an interval whose start is not before its end.
    """
    if not gap_s >= 0:
        raise UsageError(f"labels.gap_s={gap_s} is negative; give seconds, 0 or more")
    anomalies = [one for one in intervals if one.label.strip().casefold() not in NORMAL_LABELS]
    for one in anomalies:
        if not one.start_s < one.end_s:
            raise LabelsError(f"{one.video}: start_s {one.start_s} is not before end_s {one.end_s}")
    groups = _joined((one for one in anomalies if one.found in CERTIFYING), gap_s)
    spans: dict[str, list[tuple[float, float, list[Interval]]]] = {}
    for group in groups:
        end_s = max(one.end_s for one in group)
        spans.setdefault(group[0].video, []).append((group[0].start_s - gap_s, end_s + gap_s, group))
    apart = []
    for one in anomalies:
        if one.found in CERTIFYING:
            continue
        met = [
            g
            for start_s, end_s, g in spans.get(one.video, ())
            if one.start_s <= end_s and start_s <= one.end_s
        ]
        for group in met:
            group.append(one)
        if not met:
            apart.append(one)
    events = [_event(group) for group in (*groups, *_joined(apart, gap_s))]
    return sorted(events, key=lambda event: (event.video, event.start_s, event.end_s))


def event_scores(
    events: Sequence[Event],
    decided: Mapping[str, Decided],
    tolerance_s: float = 0.0,
    ordinary: float | None = None,
) -> NDArray[np.float64]:
    """(n,) the highest threshold that catches each event: -inf if none does, nan if the event is blind.

    Args:
        events: what to score; each event's video must be in `decided`.
        decided: by source.
        tolerance_s: how far outside the label an alarm may start.
        ordinary: raw score of ordinary footage. An event that begins with its clip, or comes after another one of it,
            is scored as if that had gone before (`EventWindow.fresh`). None = as the clip is.

    Raises:
        LabelsError: an event of a video without scores.
    """
    return _scores(events, decided, _windows(events, decided, tolerance_s), tolerance_s, ordinary)


def _scores(
    events: Sequence[Event],
    decided: Mapping[str, Decided],
    windows: Sequence[EventWindow],
    tolerance_s: float,
    ordinary: float | None,
) -> NDArray[np.float64]:
    """As `event_scores`, the windows being known."""
    scores = np.empty(len(events))
    for index, (event, window) in enumerate(zip(events, windows, strict=True)):
        one, frames = decided[event.video], window.frames
        if frames.start < frames.stop:
            if window.fresh and ordinary is not None:
                own = as_after_ordinary(one.series, one.smoothed, frames, one.config, ordinary)
            else:
                own = one.decision[frames]
            scores[index] = own.max()
        else:
            seen = one.series.sees(event.start_s - tolerance_s, event.end_s + tolerance_s)
            scores[index] = -np.inf if seen else np.nan
    return scores


def _windows(
    events: Sequence[Event], decided: Mapping[str, Decided], tolerance_s: float
) -> list[EventWindow]:
    """(n,) where each event may be noticed.

    Raises:
        LabelsError: an event of a video without scores.
    """
    for event in events:
        if event.video not in decided:
            raise LabelsError(f"event {event} is in a video that was not scored; score it, or drop the label")
    return event_windows(events, {event.video: decided[event.video].series for event in events}, tolerance_s)


def searched_s(event: Event, series: Series, tolerance_s: float) -> float:
    """Seconds in which an alarm counts for an event, to the end of its footage at most; 0 for a single picture."""
    if series.is_picture:
        return 0.0
    end_s = event.end_s if math.isfinite(event.end_s) else float(series.times[-1] + series.step_s)
    return max(end_s - event.start_s, 0.0) + 2 * tolerance_s


def event_outcomes(
    events: Sequence[Event],
    decided: Mapping[str, Decided],
    threshold: float,
    tolerance_s: float = 0.0,
    normal_shares: Sequence[float] | None = None,
    ordinary: float | None = None,
) -> tuple[EventOutcome, ...]:
    """What becomes of each event at a threshold; `event_scores` tells of arguments and errors."""
    windows = _windows(events, decided, tolerance_s)
    scores = _scores(events, decided, windows, tolerance_s, ordinary)
    starts: dict[str, NDArray[np.float64]] = {}
    outcomes = []
    for index, (event, score) in enumerate(zip(events, scores.tolist(), strict=True)):
        outcome: Literal["caught", "running", "missed", "blind"] = "missed"
        if np.isnan(score):
            outcome = "blind"
        elif score >= threshold:
            one = decided[event.video]
            if event.video not in starts:
                first = [frames[0] for frames, continued in one.alarm_frames(threshold) if not continued]
                starts[event.video] = one.series.times[first]
            times = one.series.times[windows[index].frames]
            inside = (starts[event.video] >= times[0]) & (starts[event.video] <= times[-1])
            outcome = "caught" if inside.any() else "running"
        share = None if normal_shares is None or np.isnan(score) else float(normal_shares[index])
        outcomes.append(EventOutcome(event, score, outcome, share))
    return tuple(outcomes)


def counting_units(events: Sequence[Event], scores: NDArray[np.float64], count: Count) -> NDArray[np.float64]:
    """Scores of what counts as one independent draw, among events that certify and are not blind.

    Events of one clip share light, product and camera: they are not independent, clips are; clips of one group
    show one incident and are one, however events are counted. A clip
    counts by its hardest event (the smallest score), so that what is certified, "every event of a clip
    is caught", never flatters the share of events caught in a clip, and no choice by chance or by eye enters.

    Returns:
        (m,) one score per clip or per event.
    """
    usable = [i for i, event in enumerate(events) if event.certifies and not np.isnan(scores[i])]
    hardest: dict[str, float] = {}
    for i, key in zip(usable, unit_keys([events[i] for i in usable], count), strict=True):
        hardest[key] = min(float(scores[i]), hardest.get(key, np.inf))
    return np.array(list(hardest.values()))


def unit_keys(events: Sequence[Event], count: Count) -> list[str]:
    """(n,) which events count as one: those with the same key."""
    return [event.clip if count == "clip" or event.group else f"event {i}" for i, event in enumerate(events)]


def shortest_of_units(events: Sequence[Event], lengths_s: Sequence[float], count: Count) -> list[int]:
    """Of the events that count as one, which is the shortest: chance catches them all no more often than that one.

    Args:
        events: that certify.
        lengths_s: (n,) how long an alarm counts for each.
        count: as for `counting_units`.
    """
    shortest: dict[str, int] = {}
    for i, key in enumerate(unit_keys(events, count)):
        if key not in shortest or lengths_s[i] < lengths_s[shortest[key]]:
            shortest[key] = i
    return list(shortest.values())


def unit_name(events: Sequence[Event], count: Count) -> str:
    """What one of those is called that events count as: "event", "clip", or "incident" where a group has several clips."""
    if len({event.clip for event in events}) < len({event.video for event in events}):
        return "incident"
    return "event" if len(set(unit_keys(events, count))) == len(events) else "clip"


def _joined(intervals: Iterable[Interval], gap_s: float) -> list[list[Interval]]:
    """Runs of intervals that overlap, or lie at most `gap_s` apart, in order of video and time."""
    groups: list[list[Interval]] = []
    reach = 0.0
    for one in sorted(intervals, key=_by_time):
        if groups and groups[-1][0].video == one.video and one.start_s <= reach + gap_s:
            groups[-1].append(one)
            reach = max(reach, one.end_s)
        else:
            groups.append([one])
            reach = one.end_s
    return groups


def _by_time(one: Interval) -> tuple[str, float, float]:
    return one.video, one.start_s, one.end_s


def _event(group: Sequence[Interval]) -> Event:
    certifying = [one for one in group if one.found in CERTIFYING]
    members = certifying or group
    order = (*CERTIFYING, "alarm", "proposed")
    found = min((one.found for one in members), key=lambda found: order.index(found) if found in order else 9)
    return Event(
        video=group[0].video,
        start_s=min(one.start_s for one in members),
        end_s=max(one.end_s for one in members),
        labels=tuple(dict.fromkeys(one.label for one in sorted(group, key=_by_time))),
        found=found,
    )


def frame_recall(events: Sequence[Event], decided: Mapping[str, Decided], threshold: float) -> float:
    """Share of the frames inside events that are in alarm; nan where no frame lies in an event."""
    frames = caught = 0
    for event in events:
        one = decided[event.video]
        within = one.in_alarm(threshold)[_labelled(event, one.series)]
        frames += len(within)
        caught += int(within.sum())
    return caught / frames if frames else math.nan


def _labelled(event: Event, series: Series) -> slice:
    """The frames of a label as it stands; a single picture is in every event of its name."""
    if series.is_picture:
        return slice(0, 1)
    return slice(*np.searchsorted(series.times, [event.start_s, event.end_s]).tolist())
