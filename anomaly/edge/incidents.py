"""One camera's scores to incidents, frame by frame: the same decisions in `score`, in `run` and beside the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.decider import Decider

if TYPE_CHECKING:
    from anomaly.decider import Alarm, Decision
    from anomaly.detector import Look
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
class Step:
    """What one frame changed.

    Attributes:
        decision: on it.
        ended: the incidents that it ended, before a new one started.
        started: the alarm that started with it.
        peaked: it is the highest so far of the incident that is on.
    """

    decision: Decision
    ended: tuple[Event, ...]
    started: Alarm | None
    peaked: bool


class Incidents:
    """Decides the frames of one camera, in order, and gathers alarms into incidents.

    Args:
        threshold: of the camera; without a value nothing alarms.
        still: a single picture, which has no duration.

    Attributes:
        threshold: as given, or as `change` set it.
        peak: of the incident that is on, its highest decision score, and the frame with what was seen in it.
    """

    def __init__(self, threshold: Threshold, *, still: bool = False) -> None:
        self.threshold = threshold
        self._decider = Decider(
            threshold.decider.for_images() if still else threshold.decider, threshold.value
        )
        self._state = self._decider.start()
        self.peak: tuple[float, Frame, Look] | None = None

    def step(self, frame: Frame, look: Look) -> Step:
        """Decide one frame; its time is later than that of the frame before."""
        score = float(self.threshold.scaled(np.array(look.score)))
        decision, self._state = self._decider.step(self._state, frame.pts_s, score)
        ended = self._events(decision.ended)
        if decision.started is not None:
            self.peak = None
        peaked = decision.alarm and (self.peak is None or decision.score > self.peak[0])
        if peaked:
            self.peak = decision.score, frame, look
        return Step(decision, ended, decision.started, peaked)

    def split(self, frame: Frame, look: Look) -> tuple[Event, Alarm] | None:
        """End the incident that is on with the frame that was stepped last; its rest starts there.

        Returns:
            What ended and what started; None where that frame is not above the threshold at which an alarm ends.
        """
        ended, self._state = self._decider.split(self._state)
        rest = self._state.alarm
        if ended is None or rest is None:
            return None
        (event,) = self._events((ended,))
        self.peak = rest.peak_score, frame, look
        return event, rest

    def finish(self) -> tuple[Event, ...]:
        """The incidents that are over because no frame follows; what comes later starts anew."""
        ended = self._events(self._decider.finish(self._state))
        self._state, self.peak = self._decider.start(), None
        return ended

    def change(self, threshold: Threshold) -> tuple[Event, ...]:
        """Go on under another threshold; returns the incidents that this ends.

        Under the same decider the smoothed score, and an alarm that is on, go on as they are; without a value nothing alarms,
        and nothing would end what is on.
        """
        goes_on = threshold.decider == self.threshold.decider and threshold.value is not None
        ended = () if goes_on else self.finish()
        self.threshold = threshold
        self._decider = Decider(threshold.decider, threshold.value)
        return ended

    def _events(self, alarms: tuple[Alarm, ...]) -> tuple[Event, ...]:
        if self.peak is None:
            return ()
        _, frame, look = self.peak
        return tuple(
            Event(
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
            for alarm in alarms
        )
