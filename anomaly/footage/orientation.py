"""The eight ways a picture can lie, in EXIF's numbers, and how to set it upright."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

UPRIGHT = 1
_SET_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image.swapaxes(0, 1), 2),
    8: lambda image: np.rot90(image, 1),
}
# Clockwise part of each orientation, in degrees (the mirrored ones count their rotation only).
ROTATION = {1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
# Where a display matrix sends the x axis and the y axis: (a, b, c, d) with x' = ax + cy, y' = bx + dy.
_FROM_MATRIX = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
_FROM_DEGREES = {0: 1, 90: 6, 180: 3, 270: 8}


def set_upright(image: Pixels, orientation: int) -> Pixels:
    """Turn and mirror a (H, W, ...) picture as its EXIF orientation (1 to 8) asks; a contiguous array."""
    turn = _SET_UPRIGHT.get(orientation)
    return image if turn is None else np.ascontiguousarray(turn(image))


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places."""
    return orientation in (5, 6, 7, 8)


def from_display_matrix(matrix: bytes) -> int:
    """Orientation of a video's display matrix: nine int32, the first two of each row in 16.16 fixed point.

    A camera turned by something other than a multiple of 90 degrees is shown as it was recorded.
    """
    values = np.frombuffer(matrix, dtype=np.int32, count=9).reshape(3, 3)[:2, :2].astype(np.float64)
    scale = np.abs(values).max()
    if scale == 0:
        return UPRIGHT
    (a, b), (c, d) = np.round(values / scale, 2)
    return _FROM_MATRIX.get((a, b, c, d), UPRIGHT)


def from_degrees(clockwise: str) -> int:
    """Orientation of a `rotate` tag, the older way to say it: degrees clockwise as text."""
    try:
        return _FROM_DEGREES.get(round(float(clockwise)) % 360, UPRIGHT)
    except (ValueError, OverflowError):
        return UPRIGHT
