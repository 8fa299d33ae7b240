"""The one resize rule: antialiased bilinear, as two constant matrices.

`A @ x @ B.T` with A (h, H) and B (w, W). Each row of a matrix is a triangle filter whose
support grows with the reduction, so that no pixel of the source is skipped. Written as
matrices it gives the same picture in every runtime, which the runtimes' own resize operators
do not. Coordinates are pixel centres (`align_corners=False`); edges are renormalised.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.types import ImageArray


def same_shape(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two (H, W) are one picture's at two scales: evenly scaled and rounded, the sides fit to a pixel."""
    return abs(size[1] * other[0] - size[0] * other[1]) <= max(*size, *other)


def resize_matrix(size_in: int, size_out: int) -> NDArray[np.float32]:
    """One axis of the resize.

    Args:
        size_in: pixels of the source along the axis, >= 1.
        size_out: pixels of the result along the axis, >= 1.

    Returns:
        (size_out, size_in) float32, non-negative, every row summing to 1.
    """
    if size_in < 1 or size_out < 1:
        raise ValueError(f"resize sizes must be at least 1, got {size_in} -> {size_out}")
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(size_in)[None, :] - centres[:, None]) / support
    weights = np.clip(1.0 - distance, 0.0, None)
    # Upsampling beyond the first or last centre finds less than a whole triangle: renormalise.
    matrix: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


@lru_cache(maxsize=64)
def banded_pair(
    source: tuple[int, int], target: tuple[int, int]
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """`resize_matrix` of the height and of the width, only their non-zero entries: (h, H) and (w, W) float32."""
    rows = sparse.csr_matrix(resize_matrix(source[0], target[0]))
    columns = sparse.csr_matrix(resize_matrix(source[1], target[1]))
    return rows, columns


def resize(image: ImageArray | NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a picture on the host.

    The matrices are banded, so the host multiplies only their non-zero entries.

    Args:
        image: (H, W, C), uint8 or float32, C at most 4.
        size: (h, w) of the result.

    Returns:
        (h, w, C) float32 in the units of `image`.
    """
    height, width, channels = image.shape
    target_h, target_w = size
    rows, columns = banded_pair((height, width), (target_h, target_w))
    tall = rows @ image.reshape(height, width * channels).astype(np.float32)
    result = columns @ _transposed(tall.reshape(target_h, width, channels)).reshape(width, -1)
    return _transposed(result.reshape(target_w, target_h, channels))


def _transposed(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, C) as (W, H, C), contiguous; OpenCV's, which goes by blocks, takes a quarter of numpy's time."""
    import cv2

    turned = np.asarray(cv2.transpose(picture), np.float32)
    return turned.reshape(picture.shape[1], picture.shape[0], -1)
