"""Whether a camera that comes back still looks where it looked: its lasting edges, before and after.

What moves is blurred away by the mean of many frames; what stands (frames, belts, walls) stays. Edges of the mean are
compared with those learned before the pause, by their correlation, which light and exposure do not touch. How alike
a view is to itself while it is watched is learned too: a picture in which nothing stands tells nothing, and is never
called another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.types import ImageArray

#: Frames of which a mean is taken, and how many such means are learned from before anything is called.
_BLOCK, _BLOCKS = 20, 5
#: Weight of the newest mean in the reference: the view ages by some minutes.
_NEW = 0.05
#: An hour in which somebody stood before the camera is forgotten in the next ones, by this part a mean.
_FORGET = 0.001
#: A view must have been so alike to itself; another one is less alike than this part of the least ever seen.
_LEAST, _PART = 0.5, 0.6


class ViewWatch:
    """Learns a view while it is watched, and compares it after each pause."""

    def __init__(self) -> None:
        self._reference: NDArray[np.float32] | None = None
        self._sum: NDArray[np.float32] | None = None
        self._count = self._learned = 0
        # Of upright and of level edges apart: a belt has many of one kind, and they would hide a shift along it.
        self._usual = np.ones(2, np.float32)
        self._returned = False

    def pause(self) -> None:
        """The camera is gone: what is gathered belongs to before, and the next mean is compared."""
        self._sum, self._count = None, 0
        self._returned = True

    def begin_anew(self) -> None:
        """Another size: nothing can be compared."""
        self.__init__()  # type: ignore[misc]

    def look(self, small: ImageArray) -> dict[str, float] | None:
        """Take a frame; once after a pause, what another view was found by.

        Args:
            small: (h, w, 3) uint8, always thinned in the same way.

        Returns:
            likeness (-1..1, of the edges), usual (the least seen before), right and down (parts of the picture by
            which the view moved; only where a shift explains it); None = the view is the same, or cannot be told.
        """
        grey = small.mean(axis=2, dtype=np.float32)
        if self._reference is not None and self._reference.shape != grey.shape:
            self.begin_anew()
        self._sum = grey if self._sum is None else self._sum + grey
        self._count += 1
        if self._count < _BLOCK:
            return None
        mean, self._sum, self._count = self._sum / np.float32(_BLOCK), None, 0
        return self._compare(mean)

    def _compare(self, mean: NDArray[np.float32]) -> dict[str, float] | None:
        if self._reference is None:
            self._reference, self._returned = mean, False
            return None
        known, now = _edges(self._reference), _edges(mean)
        likeness = (known * now).sum(axis=(1, 2))
        if self._returned:
            self._returned = False
            other = (self._usual >= _LEAST) & (likeness < _PART * self._usual)
            if self._learned >= _BLOCKS and other.any():
                kind = int(np.where(other, likeness / self._usual, np.inf).argmin())
                found = {
                    "likeness": round(float(likeness[kind]), 3),
                    "usual": round(float(self._usual[kind]), 3),
                    **_shift(known, now),
                }
                self.begin_anew()
                self._reference = mean
                return found
        self._usual = np.minimum(self._usual + _FORGET * (likeness - self._usual), likeness)
        self._learned += 1
        self._reference = (1 - _NEW) * self._reference + _NEW * mean
        return None


def _edges(mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences to the right and down, each of mean zero and length one: (2, h - 1, w - 1)."""
    both = np.stack([np.diff(mean, axis=1)[:-1], np.diff(mean, axis=0)[:, :-1]])
    both -= both.mean(axis=(1, 2), keepdims=True)
    lengths = np.linalg.norm(both, axis=(1, 2), keepdims=True)
    return np.asarray(both / np.maximum(lengths, 1e-6), np.float32)


def _shift(known: NDArray[np.float32], now: NDArray[np.float32]) -> dict[str, float]:
    """By how much one lies beside the other, where most of it is found again there."""
    product = np.fft.rfft2(now) * np.conj(np.fft.rfft2(known))
    correlation = np.fft.irfft2(product, s=known.shape[1:]).sum(axis=0)
    height, width = correlation.shape
    down, right = np.unravel_index(int(correlation.argmax()), correlation.shape)
    # The sum over two kinds of edges.
    if correlation.max() < 2 * _LEAST:
        return {}
    return {
        "right": round(float((right + width // 2) % width - width // 2) / width, 3),
        "down": round(float((down + height // 2) % height - height // 2) / height, 3),
    }
