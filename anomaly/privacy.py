"""Privacy masks: what lies in them is black before anyone else sees the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anomaly.types import ImageArray

Polygon: TypeAlias = Sequence[Sequence[float]]


class PrivacyMask:
    """Paints polygons black.

    Args:
        polygons: corners (x, y) in 0..1 of the upright frame; all that one goes around is covered, also where its sides
            cross each other, and every pixel that it touches.
    """

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        self._polygons = polygons
        self._covered: NDArray[np.bool_] | None = None

    def paint(self, image: ImageArray) -> None:
        """Paint (H, W, 3) uint8 in place."""
        if not self._polygons:
            return
        height, width = image.shape[:2]
        if self._covered is None or self._covered.shape != (height, width):
            # One more each way: without a side along the right or lower border what it closes would be open.
            mask = np.zeros((height + 1, width + 1), dtype=np.uint8)
            for polygon in self._polygons:
                corners = np.asarray(polygon, dtype=np.float64) * (width, height)
                touched = np.zeros_like(mask)
                # fillPoly draws the outline too, so a pixel that is only touched is covered.
                cv2.fillPoly(touched, [np.floor(corners).astype(np.int32)], 1)
                cv2.fillPoly(touched, [np.ceil(corners).astype(np.int32)], 1)
                # It follows the even-odd rule, which leaves open what sides that cross each other go around.
                outer, _ = cv2.findContours(touched, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(mask, outer, -1, 1, cv2.FILLED)
            self._covered = mask[:height, :width].astype(bool)
        image[self._covered] = 0
