"""Watch one camera: every frame looked at, decided, and gathered into events.

`score` and `run` of files both stand on this; live cameras take the same decisions through `Incidents`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomaly.edge.incidents import Incidents
from anomaly.scoring import look_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomaly.decider import Decision
    from anomaly.detector import Look
    from anomaly.edge.incidents import Event
    from anomaly.model import Model
    from anomaly.thresholds import Threshold
    from anomaly.types import Frame


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
    incidents = Incidents(threshold, still=still)
    waiting: Watched | None = None
    for frame, look in look_at(model, frames):
        if waiting is not None:
            yield waiting
        step = incidents.step(frame, look)
        waiting = Watched(frame, look, step.decision, step.ended)
    if waiting is not None:
        yield Watched(waiting.frame, waiting.look, waiting.decision, waiting.ended + incidents.finish())
