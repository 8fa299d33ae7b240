"""Which part of the picture counts: polygons to look at, polygons to ignore, a mask image.

Coordinates are normalised, (x, y) in 0..1 from the upper left corner, so that one definition fits every size
of the same view. A point counts if it lies in a `look` polygon (or there are none), in no `ignore` polygon,
and where the mask image, if there is one, is white. What lies under a `black` polygon, a privacy mask, is painted
before anything looks: it is in no bank, crop, heatmap or report.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import CorruptModelError, UsageError

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]
BoolArray: TypeAlias = NDArray[np.bool_]

# Samples along each side of a patch when its covered area is measured.
_SAMPLES = 16
# Largest side of a mask image: a digest and a model folder carry every run of it.
_LARGEST_MASK = 16_384


@dataclass(frozen=True, eq=False)
class Regions:
    """What of a picture counts. All of it, if nothing is given.

    Attributes:
        look: polygons of three or more (x, y) in 0..1; self-crossing ones follow the even-odd rule.
        ignore: the same, taken away from what is looked at.
        mask: image file of the same view, white (at least half bright) = counts; read once.
        mask_pixels: (H, W) bool, what was read from `mask`, or came out of a model folder.
        black: polygons of the privacy masks, which cover all that they go around; `Source.black` paints them.

    Raises:
        UsageError: a polygon that is none, coordinates outside 0..1, an unreadable mask, or nothing left.
    """

    look: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()
    mask: Path | None = None
    mask_pixels: BoolArray | None = None
    black: tuple[Polygon, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "look", _polygons(self.look, "look"))
        object.__setattr__(self, "ignore", _polygons(self.ignore, "ignore"))
        object.__setattr__(self, "black", _polygons(self.black, "black"))
        if self.mask is not None and self.mask_pixels is None:
            object.__setattr__(self, "mask_pixels", _read_mask(Path(self.mask)))
        if not self.frame_mask(256, 256).any():
            raise UsageError(
                f"regions leave nothing to look at ({len(self.look)} look, {len(self.ignore)} ignore "
                "polygons, "
                f"mask {self.mask or 'none'}); make the look polygons larger or the ignored parts smaller"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regions) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    @property
    def everything(self) -> bool:
        """Whether the whole picture counts by definition."""
        return not self.look and not self.ignore and self.mask_pixels is None

    def frame_mask(self, height: int, width: int) -> BoolArray:
        """Pixels that count: (height, width) bool, read-only. A pixel counts as its centre does."""
        if self.everything:
            return _frozen(np.ones((height, width), dtype=bool))
        return _rasterised(self, height, width)

    def patch_mask(self, grid_h: int, grid_w: int) -> BoolArray:
        """Patches that count: (grid_h, grid_w) bool, read-only; those whose area does by half or more.

        Raises:
            UsageError: not one patch counts.
        """
        fine = self.frame_mask(grid_h * _SAMPLES, grid_w * _SAMPLES)
        share = fine.reshape(grid_h, _SAMPLES, grid_w, _SAMPLES).mean(axis=(1, 3))
        # Samples that lie on a border count as outside; half a row of them decides no patch.
        counts = share >= 0.5 - 0.5 / _SAMPLES
        if not counts.any():
            raise UsageError(
                f"regions cover half of not one patch of the {grid_h} x {grid_w} grid; make them larger, or "
                "give the backbone a larger input size"
            )
        return _frozen(counts)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able description that needs no other file: the mask image is written out as runs."""
        described: dict[str, Any] = {
            "look": [[list(point) for point in polygon] for polygon in self.look],
            "ignore": [[list(point) for point in polygon] for polygon in self.ignore],
            "mask": None,
        }
        if self.mask_pixels is not None:
            described["mask"] = {"size": list(self.mask_pixels.shape), "runs": _to_runs(self.mask_pixels)}
        if self.black:
            described["black"] = [[list(point) for point in polygon] for polygon in self.black]
        return described

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Regions:
        """Read what `to_json` wrote.

        Raises:
            CorruptModelError: it was not written by `to_json`.
        """
        try:
            mask = described["mask"]
            pixels = None if mask is None else _from_runs(mask["size"], mask["runs"])
            return cls(described["look"], described["ignore"], None, pixels, described.get("black", ()))
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise CorruptModelError(
                f"the model's regions cannot be read ({type(error).__name__}: {error}); fit the model again"
            ) from None

    def digest(self) -> str:
        """SHA-256 in hex over all that decides which pixels count, and which are black."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _polygons(given: Sequence[Any], name: str) -> tuple[Polygon, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise UsageError(
            f"regions.{name} is {given!r}, not a list of polygons; write [[[x, y], [x, y], [x, y]], …]"
        )
    return tuple(_polygon(polygon, f"regions.{name} polygon {i}") for i, polygon in enumerate(given, start=1))


def _polygon(given: Any, name: str) -> Polygon:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise UsageError(f"{name} is {given!r}, not a list of [x, y]; write [[x, y], [x, y], [x, y]]")
    if len(given) < 3:
        raise UsageError(f"{name} has {len(given)} points; a polygon needs at least 3")
    points = []
    for point in given:
        if isinstance(point, (str, bytes)) or not isinstance(point, Sequence) or len(point) != 2:
            raise UsageError(f"{name} has a point {point!r}; a point is [x, y]")
        if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in point):
            raise UsageError(f"{name} has a point {list(point)}; x and y are numbers")
        if not all(math.isfinite(value) and 0 <= value <= 1 for value in point):
            raise UsageError(
                f"{name} has a point {list(point)} outside 0..1; coordinates are shares of the width and the "
                "height, not pixels"
            )
        points.append((float(point[0]), float(point[1])))
    return tuple(points)


def _read_mask(path: Path) -> BoolArray:
    try:
        image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise UsageError(
            f"regions.mask {path} cannot be read as an image; give a PNG that is white where it counts"
        )
    if max(image.shape) > _LARGEST_MASK:
        raise UsageError(
            f"regions.mask {path} has {image.shape[1]} x {image.shape[0]} pixels; scale it to the "
            "video's size"
        )
    return np.asarray(image >= 128)


@lru_cache(maxsize=8)
def _rasterised(regions: Regions, height: int, width: int) -> BoolArray:
    counts = np.ones((height, width), dtype=bool)
    if regions.look:
        counts = np.logical_or.reduce([_inside(polygon, height, width) for polygon in regions.look])
    for polygon in regions.ignore:
        counts &= ~_inside(polygon, height, width)
    if regions.mask_pixels is not None:
        counts &= _scaled(regions.mask_pixels, height, width)
    return _frozen(counts)


def _inside(polygon: Polygon, height: int, width: int) -> BoolArray:
    """(height, width) bool: pixel centres inside a polygon, by the even-odd rule (crossings to the left)."""
    inside = np.zeros((height, width), dtype=bool)
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        rows = np.nonzero((y0 <= y) != (y1 <= y))[0]
        crossing = x0 + (y[rows] - y0) * ((x1 - x0) / (y1 - y0 or 1.0))
        inside[rows] ^= x[None, :] >= crossing[:, None]
    return inside


def _scaled(mask: BoolArray, height: int, width: int) -> BoolArray:
    if mask.shape == (height, width):
        return mask
    shrinks = mask.shape[0] >= height and mask.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST_EXACT
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=how)
    return np.asarray(share >= 0.5 - 1e-6)


def _to_runs(mask: BoolArray) -> list[int]:
    """Lengths of the runs of False and True, by turns, row after row; the first may be 0."""
    flat = mask.ravel()
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs: list[int] = np.diff(np.concatenate([[0], borders, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def _from_runs(size: Sequence[int], runs: Sequence[int]) -> BoolArray:
    height, width = (int(n) for n in size)
    lengths = np.asarray(runs, dtype=np.int64)
    if not (0 < height <= _LARGEST_MASK and 0 < width <= _LARGEST_MASK):
        raise ValueError(f"mask of {height} x {width} pixels")
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError("runs that do not fill the mask")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def _frozen(array: BoolArray) -> BoolArray:
    array.flags.writeable = False
    return array
