"""The scale of each camera, on which scores of several cameras can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration.series import Series
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Share of a camera's normal footage that is left out on either side of the middle where its halves measure each other.
_GUARD = 0.05


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Puts raw scores of one camera on a scale that cameras share.

    1 is the camera's ordinary (median) normal frame, 2 its 1-in-100 normal frame, both on its own
    hold-out. Straight in between and beyond, 0 at the lowest.

    Attributes:
        ordinary, rare: the two raw scores.
    """

    ordinary: float
    rare: float

    def apply(self, series: Series) -> Series:
        """The series with its scores on the shared scale."""
        return replace(series, scores=self.of(series.scores))

    def of(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores on the shared scale; the same to the last bit for one as for many."""
        return np.maximum(1 + (scores - self.ordinary) / (self.rare - self.ordinary), 0.0)

    def raw(self, score: float) -> float:
        """The raw score that lies at a score of the shared scale, 0 or more; rounded, for comparing cameras."""
        return max(0.0, self.ordinary + (score - 1) * (self.rare - self.ordinary))


def camera_of(source: str) -> str:
    """The camera that a source's name tells: its first folder, or "default" without one."""
    folder, slash, _ = source.partition("/")
    return folder if slash else "default"


def fit_scale(holdout: Sequence[Series]) -> ScoreScale:
    """The scale of one camera, from its own normal footage.

    Raises:
        CalibrationError: no footage, or scores without any spread.
    """
    if not holdout:
        raise CalibrationError("there is no normal footage of a camera to put its scores on a scale")
    return _scale_of(np.concatenate([one.scores for one in holdout]), holdout[0].camera)


def _scale_of(scores: NDArray[np.float64], camera: str) -> ScoreScale:
    ordinary, rare = np.quantile(scores, [0.5, 0.99]).tolist() if len(scores) else (0.0, 0.0)
    if not rare > ordinary:
        raise CalibrationError(
            f"camera {camera!r}: half of its normal scores are {ordinary:g} and hardly any is "
            "higher; hold out more of its normal footage"
        )
    return ScoreScale(ordinary, rare)


def fit_scales(labeled: Sequence[Series], holdout: Sequence[Series]) -> dict[str, ScoreScale]:
    """The scale of each camera that there is footage of, by name.

    Raises:
        CalibrationError: a camera without normal footage, or without any spread in its scores.
    """
    normal: dict[str, list[Series]] = {one.camera: [] for one in [*labeled, *holdout]}
    for one in holdout:
        normal[one.camera].append(one)
    without = [camera for camera in sorted(normal) if not normal[camera]]
    if without:
        raise CalibrationError(
            f"no normal footage of camera {without[0]} was held out to put its scores on a scale; fit on a folder that "
            f"holds a folder {without[0]}/, or label videos of it as normal"
        )
    return {camera: fit_scale(normal[camera]) for camera in sorted(normal)}


def scaled_apart(holdout: Sequence[Series]) -> list[Series]:
    """Normal footage on the shared scale, each half of a camera's on the scale of its other half.

    False alarms and chance hits are counted on it. On the scale that was measured on the same frames too few are seen: a
    stretch that scores high lifts the scale that it is held against, and one that comes later does not. The scale of a half is less exact
    than that of all, so what is counted is an upper end. A camera that is alone shares no threshold, which moves alike with its
    scale: its footage is on that of all.

    Args:
        holdout: raw scores; halves are halves of all frames of a camera, in this order.
    """
    scaled: dict[int, Series] = {}
    cameras = {one.camera for one in holdout}
    if len(cameras) == 1:
        return [fit_scale(holdout).apply(one) for one in holdout]
    for camera in cameras:
        places = [i for i, one in enumerate(holdout) if one.camera == camera]
        scores = np.concatenate([holdout[i].scores for i in places])
        middle, guard = len(scores) // 2, int(_GUARD * len(scores))
        halves = scores[: middle - guard], scores[middle + guard :]
        try:
            first, second = (_scale_of(half, camera) for half in reversed(halves))
        except CalibrationError:  # too little, or half of it without any spread
            first = second = _scale_of(scores, camera)
        told = np.concatenate([first.of(scores[:middle]), second.of(scores[middle:])])
        cuts = np.cumsum([len(holdout[i].scores) for i in places])[:-1]
        for i, part in zip(places, np.split(told, cuts), strict=True):
            scaled[i] = replace(holdout[i], scores=part)
    return [scaled[i] for i in range(len(holdout))]
