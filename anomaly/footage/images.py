"""Image files to RGB frames.

Rules that never look at the rest of the picture, because a rule that did would change what normal looks like:
16-bit samples are divided by 257 (0..65535 to 0..255, no stretch to the picture's own range); grey becomes
three equal channels; transparency is laid over black; EXIF orientation is applied. Of a file with several
pages or an animation the first picture counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.errors import DamagedFootageError
from anomaly.footage.headers import ImageHeader, read_header
from anomaly.footage.orientation import set_upright

if TYPE_CHECKING:
    from anomaly.types import ImageArray

MAX_PIXELS = 100_000_000


def image_header(path: Path, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Header of an image of at most `max_pixels`.

    Raises:
        DamagedFootageError: unreadable, of no known format, or larger than that.
    """
    try:
        header = read_header(path)
    except OSError as error:
        raise DamagedFootageError(
            f"{path} cannot be read ({error.strerror}); check that it exists and may be read"
        ) from None
    if header is None:
        raise DamagedFootageError(
            f"{path} is not a PNG, JPEG, BMP, TIFF, WebP or PNM image, or is cut short; export it again "
            "or remove it"
        )
    if header.width * header.height > max_pixels:
        raise DamagedFootageError(
            f"{path} claims {header.width} x {header.height} pixels, more than the {max_pixels / 1e6:.0f} "
            "million that one image may have; scale it down"
        )
    return header


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Read an image file as (H, W, 3) uint8 RGB, upright.

    Raises:
        DamagedFootageError: unreadable, cut short, of another format, too large, or of float samples.
    """
    header = image_header(path, max_pixels)
    try:
        stored = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        stored = None
    if stored is None:
        raise DamagedFootageError(
            f"{path} cannot be decoded as {header.format}; export it again or remove it"
        )
    # libtiff hands 8-bit TIFFs with transparency over already multiplied by it.
    over_black = header.format == "tiff" and stored.dtype == np.uint8
    if stored.dtype == np.uint16:
        stored = (stored.astype(np.uint32) + 128) // 257
    elif stored.dtype != np.uint8:
        raise DamagedFootageError(
            f"{path} has samples of type {stored.dtype}, whose range is not fixed; save it with 8 or 16 "
            "bits a sample"
        )
    image = _to_rgb(stored.astype(np.uint8), over_black)
    # OpenCV turns TIFFs upright by itself, whatever the flags say, and no other format with these flags.
    return image if header.format == "tiff" else set_upright(image, header.orientation)


def _to_rgb(stored: ImageArray, over_black: bool) -> ImageArray:
    """Grey (H, W), grey with alpha, BGR or BGRA to RGB over black."""
    if stored.ndim == 2:
        stored = stored[..., None]
    if stored.shape[2] in (2, 4):
        alpha = stored[..., -1:].astype(np.uint16)
        stored = (
            stored[..., :-1] if over_black else ((stored[..., :-1] * alpha + 127) // 255).astype(np.uint8)
        )
    if stored.shape[2] == 1:
        return np.repeat(stored, 3, axis=2)
    return np.ascontiguousarray(stored[..., ::-1])
