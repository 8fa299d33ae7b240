"""One scored frame as browsers and programs take it: JPEG, with its heatmap beside it or over it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from anomaly.artifact import finite
from anomaly.heatmap import heat_range, laid_over, overlay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.types import ImageArray

_QUALITY = 80
_LARGEST_GRID = 96


class LiveView(Protocol):
    """The last frame that the runner scored."""

    @property
    def image(self) -> ImageArray: ...  # noqa: D102  (H, W, 3) uint8 RGB
    @property
    def heatmap(self) -> NDArray[np.float32]: ...  # noqa: D102  (h, w), any size, in units of the score
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def decision_score(self) -> float: ...  # noqa: D102
    @property
    def threshold(self) -> float | None: ...  # noqa: D102
    @property
    def alarm(self) -> bool: ...  # noqa: D102  whether an event is on
    @property
    def utc_s(self) -> float: ...  # noqa: D102
    @property
    def sequence(self) -> int: ...  # noqa: D102


class Picture:
    """One scored frame, ready to send; what is not asked for is not made.

    Args:
        camera: its name.
        view: the frame.
        width: pixels; a wider frame is made smaller.
    """

    def __init__(self, camera: str, view: LiveView, width: int) -> None:
        self.sequence = view.sequence
        self._camera = camera
        self._view = view
        self._width = width
        self._lock = threading.Lock()
        self._made: dict[str, bytes] = {}

    def jpeg(self, view: str) -> bytes:
        """The frame as JPEG: "picture", "overlay" (heatmap and line of the threshold over it), or "heatmap" alone."""
        with self._lock:
            if view not in self._made:
                self._made[view] = self._encode(view)
            return self._made[view]

    def made(self, what: str) -> bytes | None:
        """What was made before: a view, or "message"; None where it still is to be made."""
        return self._made.get(what)

    def message(self) -> bytes:
        """The frame as one binary WebSocket message.

        4 bytes: length of the header, unsigned, big-endian; the header, JSON in UTF-8; the heatmap's grid, one byte
        a cell, row by row; the picture, JPEG. See `header` for the header.
        """
        picture = self.jpeg("picture")
        with self._lock:
            if "message" not in self._made:
                grid, low, high = self._grid()
                header = json.dumps(self._header(grid.shape, low, high, len(picture))).encode()
                self._made["message"] = len(header).to_bytes(4, "big") + header + grid.tobytes() + picture
            return self._made["message"]

    def _header(self, grid: tuple[int, ...], low: float, high: float, jpeg_bytes: int) -> dict[str, Any]:
        view = self._view
        return {
            "camera": self._camera,
            "sequence": view.sequence,
            "utc_s": view.utc_s,
            "utc": datetime.fromtimestamp(view.utc_s, UTC).isoformat(timespec="milliseconds"),
            "score": finite(view.score),
            "decision_score": finite(view.decision_score),
            "threshold": finite(view.threshold),
            "alarm": view.alarm,
            "size": list(view.image.shape[:2]),
            "grid": list(grid),
            "grid_range": [low, high],
            "jpeg_bytes": jpeg_bytes,
        }

    def _grid(self) -> tuple[NDArray[np.uint8], float, float]:
        """The heatmap as (h, w) uint8: 0 is nothing (`low`), 255 full colour (`high`), as in every picture."""
        heatmap = np.asarray(self._view.heatmap, np.float32)
        low, high = heat_range(self._view.threshold)
        scale = _LARGEST_GRID / max(heatmap.shape)
        if scale < 1:
            size = (max(1, round(heatmap.shape[1] * scale)), max(1, round(heatmap.shape[0] * scale)))
            heatmap = _resized(heatmap, size, cv2.INTER_AREA)
        share = np.clip((heatmap - low) / (high - low), 0.0, 1.0)
        return np.round(np.nan_to_num(share) * 255).astype(np.uint8), low, high

    def _encode(self, view: str) -> bytes:
        image = _narrowed(self._view.image, self._width)
        if view != "picture":
            height, width = image.shape[:2]
            heatmap = _resized(self._view.heatmap, (width, height), cv2.INTER_LINEAR)
            if view == "heatmap":
                image = overlay(np.zeros_like(image), heatmap, *heat_range(self._view.threshold), 1.0)
            else:
                image = laid_over(image, heatmap, self._view.threshold)
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        assert done
        return bytes(data)


def _narrowed(image: ImageArray, width: int) -> ImageArray:
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _resized(heatmap: NDArray[np.float32], size: tuple[int, int], how: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(np.asarray(heatmap, np.float32), size, interpolation=how), np.float32)
