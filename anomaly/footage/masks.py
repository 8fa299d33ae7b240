"""Pixel masks of labelled anomalies: PNG images, or one `.npz` a video.

An `.npz` holds `mask`, the bits of a (frames, H, W) bool array packed by `numpy.packbits`, and `shape`, three
integers.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import DamagedFootageError, LabelsError
from anomaly.footage.images import read_image
from anomaly.resize import same_shape


def read_mask(path: Path, frame_index: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask of one frame, True where the anomaly is.

    Args:
        path: `.npz` of a video, or an image (non-zero = anomaly) for an image source.
        frame_index: `Frame.index`; an image has one mask whatever the index.
        size: (H, W) wanted; a mask of another size is scaled by nearest neighbour, one of another shape refused.

    Returns:
        (H, W) bool.

    Raises:
        LabelsError: unreadable, of another layout or shape, or without that frame.
    """
    if path.suffix.lower() != ".npz":
        try:
            mask = np.asarray(read_image(path).any(axis=2))
        except DamagedFootageError as error:
            raise LabelsError(f"mask {error}") from None
    else:
        state = path.stat()
        bits, (frames, height, width) = _packed(path, state.st_size, state.st_mtime_ns)
        if not 0 <= frame_index < frames:
            raise LabelsError(
                f"{path} has masks of frames 0 to {frames - 1}, none of frame {frame_index}; "
                "make the masks from the same video file"
            )
        first, count = frame_index * height * width, height * width
        part = np.unpackbits(bits[first // 8 : -(-(first + count) // 8)])
        mask = part[first % 8 : first % 8 + count].reshape(height, width).astype(bool)
    if mask.shape == size:
        return mask
    if not same_shape(mask.shape, size):
        raise LabelsError(
            f"{path} is {mask.shape[1]}x{mask.shape[0]} and what it marks is {size[1]}x{size[0]}, of another shape: turned or cropped, it would "
            "mark the wrong place; make the mask from the same footage"
        )
    scaled = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(scaled, dtype=bool)


@lru_cache(maxsize=4)
def _packed(path: Path, _size: int, _mtime_ns: int) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Packed bits and shape; kept for the files read last, since masks are asked for frame by frame."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            bits, shape = archive["mask"], archive["shape"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # Of what is no archive NumPy says that it may be a pickle, and how to load that.
        why = "no archive of plain numbers" if isinstance(error, ValueError) else error
        raise LabelsError(
            f"{path} is no mask file ({why}); it needs `mask` (packed bits) and `shape` (frames, H, W)"
        ) from None
    if (
        bits.dtype != np.uint8
        or bits.ndim != 1
        or shape.shape != (3,)
        or not np.issubdtype(shape.dtype, np.integer)
        or (shape < 1).any()
        or len(bits) != -(-int(np.prod(shape, dtype=object)) // 8)
    ):
        raise LabelsError(
            f"{path} does not fit together: {bits.shape} {bits.dtype} packed for shape {shape.tolist()}; "
            "pack a (frames, H, W) bool array with numpy.packbits and store its shape"
        )
    frames, height, width = (int(n) for n in shape)
    return bits, (frames, height, width)
