"""A model as cameras share it: loaded once, looked through by one thread at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomaly.exemplars import load_exemplars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.detector import Look, Recent
    from anomaly.exemplars import Exemplars
    from anomaly.model import Model
    from anomaly.thresholds import Threshold
    from anomaly.types import ImageArray


@dataclass(frozen=True, eq=False)
class Loaded:
    """A verified model with its threshold.

    Attributes:
        model: loaded.
        threshold: for the sampling rate of the cameras that share it.
        exemplars: crops behind the bank's rows, where the model keeps some.
        lock: held by whoever uses the network; exported runtimes answer one question at a time.
    """

    model: Model
    threshold: Threshold
    exemplars: Exemplars | None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, model: Model, threshold: Threshold) -> Loaded:
        """With the exemplars of its folder."""
        return cls(model, threshold, load_exemplars(model.folder))

    @property
    def digest(self) -> str:
        """Identity of what scores."""
        return self.model.scoring_digest

    @property
    def interval_s(self) -> float | None:
        """Seconds between the frames that the certificate was issued for."""
        fps = self.threshold.fps
        return None if not fps else 1.0 / fps

    @property
    def shortest_s(self) -> float:
        """Length of the shortest event that the certificate rests on; 0 = none is known."""
        lengths = [
            event["event"]["end_s"] - event["event"]["start_s"]
            for event in self.threshold.document.get("events", ())
            if event["event"]["end_s"] is not None
        ]
        return max(0.0, min(lengths, default=0.0))

    def look(self, images: Sequence[ImageArray], recents: Sequence[Recent]) -> list[Look]:
        """Measure one frame each of several cameras; see `Detector.look_each`."""
        with self.lock:
            return self.model.detector.look_each(images, recents)
