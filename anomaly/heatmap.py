"""From patch distances to what a person sees and what a threshold compares.

The score comes from the patch distances themselves, never from the picture of them, so that
neither the display's size nor its smoothness touches the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.resize import banded_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.types import ImageArray

# Inferno's colours up to its orange: its pale yellow cannot be seen on a bright picture. The page draws with the same
# (edge/ui/heat.js).
_STOPS = ((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84), (222, 73, 40), (235, 90, 16))
_LEVELS = np.linspace(0, len(_STOPS) - 1, 256)
_CHANNELS = [np.interp(_LEVELS, range(len(_STOPS)), one) for one in zip(*_STOPS, strict=True)]
_RAMP = np.stack(_CHANNELS, axis=-1).round().astype(np.uint8)[:, None]  # (256, 1, 3), RGB


@dataclass(frozen=True)
class Box:
    """A region of a frame, in pixels, half-open: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int


def frame_score(
    distances: NDArray[np.float32], top_share: float = 0.01, counts: NDArray[np.bool_] | None = None
) -> float:
    """Score of a frame: the mean of its largest patch distances.

    Args:
        distances: (P,) float32, the distance of every patch to the bank.
        top_share: share of the patches that enter the mean, in (0, 1]; at least one does.
        counts: (P,) bool, patches that count (regions); None = all.

    Returns:
        The score; higher = more anomalous. 0 where no patch counts.
    """
    kept = distances if counts is None else distances[counts]
    if kept.size == 0:
        return 0.0
    top = top_count(kept.size, top_share)
    largest = np.partition(kept, kept.size - top)[kept.size - top :]
    # Summed in order, so that the result does not depend on how the partition left them.
    return float(np.sort(largest).mean(dtype=np.float64))


def top_count(patches: int, top_share: float) -> int:
    """How many of a frame's patches, of those that count, the score is the mean of; at least one."""
    return max(1, round(top_share * patches))


def anomaly_map(
    distances: NDArray[np.float32],
    grid: tuple[int, int],
    size: tuple[int, int],
    counts: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The heatmap: patch distances, interpolated to the frame's size.

    Args:
        distances: (gh * gw,) float32.
        grid: (gh, gw).
        size: (H, W) of the result.
        counts: (gh * gw,) bool; patches that do not count are shown as 0.

    Returns:
        (H, W) float32, in units of `distances`.
    """
    shown = distances if counts is None else np.where(counts, distances, np.float32(0))
    # Banded, not by BLAS: its threads keep spinning after so small a product and take a core from the network's
    # runtime. Columns first, so that the one large array is written once, as it is returned.
    rows, columns = banded_pair(grid, size)
    heatmap: NDArray[np.float32] = rows @ (columns @ shown.reshape(grid).astype(np.float32).T).T
    return heatmap


def anomaly_box(
    distances: NDArray[np.float32],
    grid: tuple[int, int],
    size: tuple[int, int],
    counts: NDArray[np.bool_] | None = None,
) -> Box:
    """The box around the worst region: patches connected to the worst one.

    A patch belongs to it while its distance is nearer to the worst patch's than to the
    median's.

    Args:
        distances: (gh * gw,) float32.
        grid: (gh, gw).
        size: (H, W) of the frame the box is for.
        counts: (gh * gw,) bool; patches that do not count are left out.

    Returns:
        The box in pixels of the frame.
    """
    from scipy import ndimage

    kept = np.ones(distances.shape, bool) if counts is None else counts
    if not kept.any():
        return Box(0, 0, size[1], size[0])
    shown = np.where(kept, distances, -np.inf)
    worst = int(shown.argmax())
    level = (float(shown[worst]) + float(np.median(distances[kept]))) / 2
    regions, _ = ndimage.label((shown >= level).reshape(grid), structure=np.ones((3, 3)))
    ys, xs = np.nonzero(regions == regions.flat[worst])
    height, width = size
    return Box(
        x0=int(xs.min() * width / grid[1]),
        y0=int(ys.min() * height / grid[0]),
        x1=int(np.ceil((xs.max() + 1) * width / grid[1])),
        y1=int(np.ceil((ys.max() + 1) * height / grid[0])),
    )


def heat_range(threshold: float | None) -> tuple[float, float]:
    """Patch distances shown as nothing and as full colour.

    Below the score of an ordinary frame (1) nothing is shown; full colour lies as far above the
    threshold as makes a patch that alone could raise an alarm stand out.
    """
    return 1.0, max(1.4, 1.0 + 2.0 * ((threshold or 1.2) - 1.0))


def overlay(
    image: ImageArray, heatmap: NDArray[np.float32], low: float, high: float, opacity: float = 0.55
) -> ImageArray:
    """Lay a heatmap over a picture.

    Cold regions stay as they are; the hotter, the more the colour covers. The colours
    (inferno, up to its orange) rise in lightness too, so that they read without colour vision
    and in print, and the hottest stands out from bright and from dark pictures.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (H, W) float32.
        low: the value shown as nothing.
        high: the value shown at full colour, > low.
        opacity: of the hottest region, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    import cv2

    share = np.clip((heatmap - low) / max(high - low, 1e-9), 0.0, 1.0)
    levels = np.round(share * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, _RAMP)
    alpha = (share * opacity)[..., None].astype(np.float32)
    mixed: ImageArray = np.round(image * (1 - alpha) + colours * alpha).astype(np.uint8)
    return mixed


def outline(image: ImageArray, heatmap: NDArray[np.float32], level: float | None) -> ImageArray:
    """A copy of the picture with a line around what reaches a level; none where `level` is none or 0.

    Dark and light, as the live page draws it (edge/ui/heat.js): it shows on any picture, and takes no sight of colours.
    """
    import cv2

    drawn = image.copy()
    if not level:
        return drawn
    reached = (heatmap >= level).astype(np.uint8)
    lines, _ = cv2.findContours(reached, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    unit = image.shape[1] / 640
    for colour, width in (((16, 22, 29), 6.0), ((255, 255, 255), 2.0)):
        cv2.drawContours(drawn, lines, -1, colour, max(1, round(width * unit)), cv2.LINE_AA)
    return drawn


def laid_over(
    image: ImageArray, heatmap: NDArray[np.float32], threshold: float | None, opacity: float = 0.55
) -> ImageArray:
    """The heatmap over a picture, in its usual range, with the line around what reaches the threshold: as people are shown it."""
    return outline(overlay(image, heatmap, *heat_range(threshold), opacity), heatmap, threshold)


def draw_box(image: ImageArray, box: Box, colour: tuple[int, int, int] = (255, 64, 64)) -> ImageArray:
    """A copy of the picture with the box drawn in, 2 pixels wide."""
    import cv2

    drawn = image.copy()
    cv2.rectangle(drawn, (box.x0, box.y0), (box.x1 - 1, box.y1 - 1), colour, 2)
    return drawn
