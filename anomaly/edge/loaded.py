"""A model as cameras share it: loaded once, looked through by one thread at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from anomaly.exemplars import load_exemplars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.detector import Detector, Look, Recent
    from anomaly.exemplars import Exemplars
    from anomaly.model import Model
    from anomaly.privacy import Polygon
    from anomaly.regions import Regions
    from anomaly.thresholds import Threshold
    from anomaly.types import ImageArray


@dataclass(frozen=True, eq=False)
class Loaded:
    """A verified model with its threshold.

    Attributes:
        model: loaded.
        threshold: for the sampling rate of the cameras that share it.
        exemplars: crops behind the bank's rows, where the model keeps some.
        lock: held by whoever uses the network; exported runtimes answer one question at a time. Cameras that
            share it share the network.
    """

    model: Model
    threshold: Threshold
    exemplars: Exemplars | None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, model: Model, threshold: Threshold) -> Loaded:
        """With the exemplars of its folder."""
        return cls(model, threshold, load_exemplars(model.folder))

    def within(self, regions: Regions) -> Loaded:
        """The same, looking only where `regions` of a camera count too; the network stays shared.

        Scores over fewer patches are others than those that were calibrated: they are decided on uncertified. Regions
        that leave out nothing change nothing.

        Raises:
            UsageError: nothing is left to look at.
        """
        detector = self.model.detector.within(regions)
        whole = self.model.detector.places
        if detector.places == whole:
            return self
        doubt = (
            f"the site file's regions leave out {whole - detector.places} of the {whole} patches that it was "
            "calibrated with; fit and calibrate with the same regions"
        )
        return replace(self._doubted(doubt), model=replace(self.model, detector=detector))

    def under(self, black: Sequence[Polygon]) -> Loaded:
        """The same for a camera with these privacy masks.

        A model that was fitted under masks has never seen what is there: where they are not the camera's, it is
        decided on uncertified. Footage that was recorded under masks tells nothing of them.
        """
        own = self.model.detector.regions.black
        if not own or {_corners(one) for one in own} == {_corners(one) for one in black}:
            return self
        return self._doubted(
            "it was fitted and calibrated under other privacy masks (regions.black) than the camera has; give the site "
            "file's `black` the same polygons"
        )

    def _doubted(self, doubt: str) -> Loaded:
        return replace(self, threshold=replace(self.threshold, doubt=self.threshold.doubt or doubt))

    def threshold_of(self, camera: str) -> Threshold:
        """What decides for a camera of that name."""
        # A calibration by folder knows a camera by its folder's name.
        return self.threshold.of(f"{camera}/live")

    @property
    def digest(self) -> str:
        """Identity of what scores."""
        return self.model.scoring_digest

    def interval_of(self, camera: str) -> float | None:
        """Seconds between the frames that what decides for a camera was calibrated on."""
        return self.threshold_of(camera).step_s

    @property
    def shortest_s(self) -> float:
        """Length of the shortest event that the certificate rests on; 0 = none is known."""
        lengths = [
            event["event"]["end_s"] - event["event"]["start_s"]
            for event in self.threshold.document.get("events", ())
            if event["event"]["end_s"] is not None
        ]
        return max(0.0, min(lengths, default=0.0))

    def look(
        self, images: Sequence[ImageArray], recents: Sequence[Recent], detectors: Sequence[Detector]
    ) -> list[Look]:
        """Measure one frame each of several cameras that share the network; see `Detector.look_each`."""
        with self.lock:
            return self.model.detector.look_each(images, recents, detectors)


def _corners(polygon: Polygon) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in corner) for corner in polygon)
