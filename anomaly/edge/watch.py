"""Watch one camera: every frame looked at, decided, and gathered into events.

`score` and `run` both stand on this, so that they decide alike. A live source is another
iterator of frames; nothing here knows files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.decider import Decider
from anomaly.scoring import look_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomaly.decider import Alarm, Decision
    from anomaly.detector import Look
    from anomaly.model import Model
    from anomaly.thresholds import Threshold
    from anomaly.types import Frame


@dataclass(frozen=True, eq=False)
class Event:
    """One incident, over.

    Attributes:
        source, camera: where.
        start_s, peak_s, end_s: seconds of the source's own time.
        score: the highest decision score.
        frame, look: the frame that scored highest, and what was seen in it.
        continued: it is the rest of an event that was cut at the longest duration.
    """

    source: str
    camera: str
    start_s: float
    peak_s: float
    end_s: float
    score: float
    frame: Frame
    look: Look
    continued: bool


@dataclass(frozen=True, eq=False)
class Watched:
    """One frame, what was seen in it, what was decided, and the events that ended with it."""

    frame: Frame
    look: Look
    decision: Decision
    ended: tuple[Event, ...]


def watch(
    model: Model, frames: Iterable[Frame], threshold: Threshold, *, still: bool = False
) -> Iterator[Watched]:
    """Look at and decide the frames of one camera, in order.

    Args:
        model: what looks.
        frames: of one camera, times strictly increasing.
        threshold: as `load_threshold` gives it; without a value nothing alarms.
        still: a single picture, which has no duration.

    Yields:
        Every frame. An event that is still on when the frames end comes with the last one.
    """
    decider = Decider(threshold.decider.for_images() if still else threshold.decider, threshold.value)
    state = decider.start()
    peak: tuple[float, Frame, Look] | None = None
    waiting: Watched | None = None
    for frame, look in look_at(model, frames):
        if waiting is not None:
            yield waiting
        decision, state = decider.step(state, frame.pts_s, float(threshold.scaled(np.array(look.score))))
        ended = tuple(_event(alarm, peak) for alarm in decision.ended if peak is not None)
        if decision.started is not None:
            peak = None
        if decision.alarm and (peak is None or decision.score > peak[0]):
            peak = decision.score, frame, look
        waiting = Watched(frame, look, decision, ended)
    if waiting is not None:
        last = tuple(_event(alarm, peak) for alarm in decider.finish(state) if peak is not None)
        yield Watched(waiting.frame, waiting.look, waiting.decision, waiting.ended + last)


def _event(alarm: Alarm, peak: tuple[float, Frame, Look]) -> Event:
    _, frame, look = peak
    return Event(
        frame.source,
        frame.camera,
        alarm.start_s,
        alarm.peak_s,
        alarm.end_s,
        alarm.peak_score,
        frame,
        look,
        alarm.continued,
    )
