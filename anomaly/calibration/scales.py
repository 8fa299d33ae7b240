"""The scale of each camera, on which scores of several cameras can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration.series import Series
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Parts of a camera's normal footage, each counted on the scale of the others, and the share of it left out on either side.
_PARTS, _GUARD = 5, 0.1


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
    """Normal footage on the shared scale, each fifth of a camera's on the scale of the rest.

    False alarms and chance hits are counted on it. On the scale that was measured on the same frames too few are seen: a
    stretch that scores high lifts the scale that it is held against, and one that comes later does not. The scale of a part is less exact
    than that of all, so what is counted is an upper end. Of two halves each may be another time of day: one by night would be told on the
    scale of the day. A camera that is alone shares no threshold, which moves alike with its scale: its footage is on that of all.

    Args:
        holdout: raw scores; fifths are those of all frames of a camera, in this order. A tenth on either side measures nothing.
    """
    scaled: dict[int, Series] = {}
    cameras = {one.camera for one in holdout}
    if len(cameras) == 1:
        return [fit_scale(holdout).apply(one) for one in holdout]
    for camera in cameras:
        places = [i for i, one in enumerate(holdout) if one.camera == camera]
        scores = np.concatenate([holdout[i].scores for i in places])
        guard, whole = int(_GUARD * len(scores)), _scale_of(scores, camera)
        ends = [len(scores) * i // _PARTS for i in range(_PARTS + 1)]
        parts = []
        for first, stop in pairwise(ends):
            rest = np.concatenate([scores[: max(first - guard, 0)], scores[stop + guard :]])
            try:
                scale = _scale_of(rest, camera)
            except CalibrationError:  # too little, or half of it without any spread
                scale = whole
            parts.append(scale.of(scores[first:stop]))
        told = np.concatenate(parts)
        cuts = np.cumsum([len(holdout[i].scores) for i in places])[:-1]
        for i, part in zip(places, np.split(told, cuts), strict=True):
            scaled[i] = replace(holdout[i], scores=part)
    return [scaled[i] for i in range(len(holdout))]
