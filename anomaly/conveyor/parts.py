"""The parts that the line makes, the wrong ones, and what does not belong on a belt, as solids."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.conveyor.chance import hashed, uniform
from anomaly.conveyor.clips import VARIANTS
from anomaly.conveyor.faults import Fault, scratch_line
from anomaly.conveyor.scene import PRODUCTS
from anomaly.conveyor.solids import MAP_UNIT, Solid, grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.conveyor.scene import Colour
    from anomaly.conveyor.solids import Map

_CHAMFER = 1.7
_BRASS = (206.0, 160.0, 84.0)
_PLASTIC = (118.0, 90.0, 60.0)


def _box(x: Map, y: Map, half_x: float, half_y: float, radius: float) -> Map:
    """Signed distance to a rounded rectangle, negative inside."""
    dx, dy = np.abs(x) - (half_x - radius), np.abs(y) - (half_y - radius)
    outside = np.hypot(np.maximum(dx, 0.0), np.maximum(dy, 0.0))
    return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0.0) - radius, dtype=np.float32)


def _disc(x: Map, y: Map, at: tuple[float, float], radius: float) -> Map:
    return np.asarray(np.hypot(x - at[0], y - at[1]) - radius, dtype=np.float32)


def _raised(distance: Map, height: float, chamfer: float = _CHAMFER) -> Map:
    """A block of this height over the inside of an outline, its upper edge chamfered."""
    return np.asarray(
        np.where(distance < 0.0, height - np.clip(chamfer + distance, 0.0, chamfer), 0.0), dtype=np.float32
    )


def _drilled(height: Map, distance: Map, floor: float = 0.0) -> Map:
    """A hole down to `floor`, its edge broken."""
    edge = height - 0.9 * np.clip(1.0 - distance / 0.9, 0.0, 1.0)
    return np.asarray(
        np.where(distance < 0.0, np.minimum(height, floor), np.minimum(height, edge)), dtype=np.float32
    )


def _grain(shape: tuple[int, int], stretch: tuple[float, float], seed: int) -> Map:
    """Smooth noise of standard deviation 1, stretched along x and y; samples of the height map."""
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=max(stretch[0], 0.3), sigmaY=max(stretch[1], 0.3))
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), dtype=np.float32)


def _plate(x: Map, y: Map, holes: bool) -> tuple[Map, Map]:
    height = _raised(_box(x, y, 28.0, 21.5, 5.0), 8.0)
    if holes:
        for at in ((-21.0, -14.5), (21.0, -14.5), (-21.0, 14.5), (21.0, 14.5)):
            height = _drilled(height, _disc(x, y, at, 3.1))
    else:  # an earlier type of the same outline: two slots in place of four holes
        for side in (-19.5, 19.5):
            height = _drilled(height, _box(x - np.float32(side), y, 2.6, 9.0, 2.6))
    height = _drilled(height, _disc(x, y, (0.0, 0.0), 11.0), 6.2)
    return height, _disc(x, y, (0.0, 0.0), 7.0)


def _cap(x: Map, y: Map, holes: bool) -> tuple[Map, Map]:
    height = _raised(_disc(x, y, (0.0, 0.0), 24.5), 6.0)
    height = np.maximum(height, _raised(_disc(x, y, (0.0, 0.0), 12.5), 11.0, 2.2))
    count = 6 if holes else 3
    for angle in np.arange(count) * (2.0 * np.pi / count) + 0.3:
        height = _drilled(
            height, _disc(x, y, (18.4 * float(np.cos(angle)), 18.4 * float(np.sin(angle))), 2.5)
        )
    return height, _disc(x, y, (0.0, 0.0), 6.6)


def _bracket(x: Map, y: Map, holes: bool) -> tuple[Map, Map]:
    body = np.maximum(_box(x, y, 27.0, 20.5, 3.5), -_box(x, y - np.float32(20.0), 9.5, 9.0, 2.5))
    height = _raised(np.asarray(body, dtype=np.float32), 6.5)
    if holes:
        height = np.maximum(height, _raised(_box(x, y + np.float32(14.5), 25.0, 3.4, 1.5), 10.5, 1.2))
    for side in (-18.5, 18.5):
        height = _drilled(height, _box(x - np.float32(side), y - np.float32(6.0), 3.0, 5.4, 3.0))
    return height, _disc(x, y, (0.0, -1.5), 6.4)


_SHAPES = {"plate": _plate, "cap": _cap, "bracket": _bracket}


@lru_cache(maxsize=64)
def part_solid(product: str, metal: Colour, variant: int, fitted: bool, usual: bool = True) -> Solid:
    """A part as it comes off the machine.

    Args:
        product: one of `PRODUCTS`.
        metal: its colour.
        variant: which machined surface, 0 to `VARIANTS` - 1.
        fitted: whether the arm has pressed the brass bush into it.
        usual: False gives the type with another pattern of holes.
    """
    x, y = grid(31.0, 26.0)
    height, bore = _SHAPES[product](x, y, usual)
    seed = hashed(PRODUCTS.index(product), 51, variant)
    height = _drilled(height, bore)
    colour = np.broadcast_to(np.asarray(metal, dtype=np.float32), (*x.shape, 3)).copy()
    # Marks of the milling cutter: arcs around a place beside the part, and the finer grain of the metal.
    away = np.hypot(
        x - np.float32(uniform(50.0, 70.0, seed, 1)), y - np.float32(uniform(-30.0, 30.0, seed, 2))
    )
    arcs = np.sin(away * np.float32(2.9)) + 0.6 * np.sin(
        away * np.float32(1.37) + np.float32(uniform(0, 6, seed, 3))
    )
    tone = (
        1.0
        + 0.030 * arcs
        + 0.022 * _grain(x.shape, (9.0, 1.0), seed)
        + 0.03 * _grain(x.shape, (40, 30), seed + 1)
    )
    colour *= tone.astype(np.float32)[..., None]
    if fitted:
        ring = np.maximum(bore - np.float32(0.3), -(bore + np.float32(3.4)))
        bush = _raised(np.asarray(ring, dtype=np.float32), float(height.max()) + 1.6, 0.9)
        colour[bush > 0] = np.asarray(_BRASS, dtype=np.float32) * tone[bush > 0][:, None]
        height = np.maximum(height, bush)
    return Solid(np.asarray(height, dtype=np.float32), np.asarray(colour, dtype=np.float32), 1.0)


def nest_solid(product: str) -> Solid:
    """The moulded nest on the belt in which a part lies, with a steel pin in its middle; seen when it is empty."""
    x, y = grid(30.0, 25.0)
    outline = _disc(x, y, (0.0, 0.0), 22.0) if product == "cap" else _box(x, y, 25.5, 19.0, 6.0)
    height = _raised(outline, 1.8, 0.6)
    channels = np.minimum(np.abs(x), np.abs(y)) - np.float32(1.3)
    height = _drilled(height, np.maximum(channels, outline + np.float32(3.0)), 0.9)
    pin = _disc(x, y, (0.0, 0.0), 2.8)
    height = np.maximum(height, _raised(pin, 4.6, 1.0))
    colour = np.broadcast_to(np.asarray(_PLASTIC, dtype=np.float32), (*x.shape, 3)).copy()
    colour *= (1.0 + 0.04 * _grain(x.shape, (3.0, 3.0), 7))[..., None]
    colour[pin < 0.0] = (170.0, 174.0, 180.0)
    return Solid(np.asarray(height, dtype=np.float32), np.asarray(colour, dtype=np.float32), 0.25)


def wrong_solid(product: str, metal: Colour, fault: Fault, fitted: bool) -> Solid:
    """A part of another kind; where the fault is hard to see, the same outline with other holes."""
    variant = hashed(fault.seed, 41) % VARIANTS
    if fault.severity < 0.3:
        return part_solid(product, metal, variant, fitted, usual=False)
    other = (PRODUCTS.index(product) + 1 + hashed(fault.seed, 42) % (len(PRODUCTS) - 1)) % len(PRODUCTS)
    return part_solid(PRODUCTS[other], metal, variant, fitted)


def scratched(solid: Solid, product: str, fault: Fault, scale: float) -> Solid:
    """The same part with a scratch: a dark groove with a bright flank, from a hairline to a gouge.

    Its marks are somewhat wider than the groove, at least 2.6 pixels at `scale` pixels to a canvas unit, as a
    person would paint them: a mask of single pixels would come and go with every shift of the picture.
    """
    line = scratch_line(fault, product)
    rows, columns = solid.height.shape
    centre = np.array([columns, rows]) / 2.0
    points = np.round((line * MAP_UNIT + centre) * 16).astype(np.int32)
    width = (0.8 + 1.4 * fault.severity) * MAP_UNIT
    beside = round(0.75 * width)
    groove, flank, marks = (np.zeros((rows, columns), dtype=np.float32) for _ in range(3))
    _stroke(groove, points, width)
    _stroke(flank, points + np.array([0, 16 * beside]), 0.8 * width)
    broad = max(2.4 * width, 3.0 * MAP_UNIT, 2.6 * MAP_UNIT / scale)
    _stroke(marks, points + np.array([0, 6 * beside]), broad)
    on_metal = (solid.height > 1.0).astype(np.float32)
    strength = np.float32(0.48 + 0.40 * fault.severity)
    dark = strength * groove * on_metal
    bright = np.float32(0.7) * strength * flank * (1.0 - groove) * on_metal
    colour = solid.colour * (1.0 - dark[..., None]) * (1.0 - bright[..., None]) + 255.0 * bright[..., None]
    return Solid(solid.height, np.asarray(colour, dtype=np.float32), solid.gloss, marks * on_metal)


def _stroke(image: Map, points: NDArray[np.int64] | NDArray[np.int32], width: float) -> None:
    """Draw a line of width `width` samples that thins out toward both ends, points in 1/16 samples."""
    last = len(points) - 2
    for i in range(last + 1):
        middle = 1.0 - abs(2.0 * i / max(last, 1) - 1.0)
        thickness = max(1, round(width * (0.45 + 0.55 * middle)))
        cv2.line(
            image,
            tuple(map(int, points[i])),
            tuple(map(int, points[i + 1])),
            1.0,
            thickness,
            cv2.LINE_AA,
            shift=4,
        )


def _nut(seed: int) -> Solid:
    x, y = grid(10.0, 10.0)
    start = uniform(0.0, 1.0, seed, 61)
    distance = np.full_like(x, -100.0)
    for side in range(6):
        angle = start + side * np.pi / 3.0
        distance = np.maximum(distance, x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) - 6.6)
    height = _drilled(_raised(distance, 5.0, 1.0), _disc(x, y, (0.0, 0.0), 3.4))
    steel = np.array([128.0, 124.0, 116.0], dtype=np.float32)
    return Solid(height, np.broadcast_to(steel, (*x.shape, 3)).copy(), 0.8)


def _inflated(outline: Map, thickness: float) -> Map:
    """A soft thing: as thick as it is deep inside its outline, up to `thickness`."""
    inside = (outline < 0.0).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5).astype(np.float32) / MAP_UNIT
    return np.asarray(thickness * (1.0 - np.exp(-depth / (0.45 * thickness))), dtype=np.float32)


def _cloth(height: Map, base: Colour, seed: int, fold: float) -> Solid:
    inside = height > 0.05
    folds = _grain(height.shape, (16.0, 11.0), seed) + 0.6 * _grain(height.shape, (6.0, 8.0), seed + 1)
    lumpy = np.where(inside, np.maximum(height + fold * folds * np.minimum(height / 2.0, 1.0), 0.4), 0.0)
    weave = (
        1.0
        + 0.05 * _grain(height.shape, (1.2, 1.2), seed + 2)
        + 0.06 * _grain(height.shape, (14.0, 9.0), seed + 3)
    )
    colour = np.asarray(base, dtype=np.float32) * weave[..., None]
    return Solid(lumpy.astype(np.float32), colour.astype(np.float32), 0.05)


def _glove(seed: int) -> Solid:
    x, y = grid(26.0, 26.0)
    angle = uniform(-0.5, 0.5, seed, 62) + (np.pi if hashed(seed, 63) & 1 else 0.0)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    outline = _box(along + np.float32(4.0), across, 10.5, 8.6, 4.0)
    cuff = _box(along + np.float32(16.0), across, 4.5, 7.4, 1.5)
    outline = np.minimum(outline, cuff)
    # Four fingers and a thumb, each a capsule from the palm outward.
    for place, length, spread in (
        (-6.6, 10.0, -0.22),
        (-2.3, 13.0, -0.06),
        (2.2, 12.5, 0.08),
        (6.5, 9.0, 0.25),
    ):
        outline = np.minimum(outline, _capsule(along, across, (5.0, place), spread, length, 2.2))
    outline = np.minimum(outline, _capsule(along, across, (-4.0, 8.0), 1.0, 9.0, 2.5))
    glove = _cloth(_inflated(outline, 4.2), (176.0, 150.0, 96.0), seed, 0.35)
    blue = np.asarray((52.0, 74.0, 116.0), dtype=np.float32)
    colour = np.where((cuff < 0.0)[..., None], blue, glove.colour)
    return Solid(glove.height, np.asarray(colour, dtype=np.float32), glove.gloss)


def _capsule(x: Map, y: Map, start: tuple[float, float], angle: float, length: float, radius: float) -> Map:
    dx, dy = x - np.float32(start[0]), y - np.float32(start[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    t = np.clip(dx * cos + dy * sin, 0.0, length)
    return np.asarray(np.hypot(dx - t * cos, dy - t * sin) - radius, dtype=np.float32)


def _rag(seed: int) -> Solid:
    x, y = grid(26.0, 24.0)
    wobble = 3.0 * _grain(x.shape, (26.0, 26.0), seed + 5) + 1.0 * _grain(x.shape, (8.0, 8.0), seed + 6)
    outline = np.asarray(_box(x, y, 16.5, 13.5, 6.0) + wobble, dtype=np.float32)
    outline = np.maximum(outline, _box(x, y, 24.5, 22.5, 2.0))
    tones = ((150.0, 62.0, 54.0), (96.0, 112.0, 140.0), (168.0, 164.0, 150.0))
    return _cloth(_inflated(outline, 5.0), tones[hashed(seed, 64) % len(tones)], seed, 1.1)


def foreign_solid(fault: Fault) -> Solid:
    """What lies on the belt and should not: a nut, a glove or a rag."""
    return {"nut": _nut, "glove": _glove, "rag": _rag}[fault.thing](fault.seed)
