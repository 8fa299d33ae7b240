"""A small renderer for solid things: height maps seen obliquely, with chamfers, highlights and shadows.

Used once for each sprite, never for a frame. Rays run in parallel (a long lens), and are followed downward in
small steps until they enter the solid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from anomaly.conveyor.scene import ELEVATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map: TypeAlias = NDArray[np.float32]

MAP_UNIT = 5  # samples of a height map to a canvas unit
_SUPER = 3  # samples to a pixel, each way, while a sprite is rendered
_SIN, _COS = math.sin(ELEVATION), math.cos(ELEVATION)
_VIEW = np.array([0.0, _COS, _SIN], dtype=np.float32)
_LIGHT = np.array([-0.50, -0.30, 0.81], dtype=np.float32) / np.float32(np.linalg.norm([-0.50, -0.30, 0.81]))
_SHADOW_DARK = 0.62


@dataclass(frozen=True, eq=False)
class Solid:
    """A thing that stands on the belt, as maps around its centre, `MAP_UNIT` samples to a canvas unit.

    Attributes:
        height: (h, w) float32, canvas units; 0 where there is nothing.
        colour: (h, w, 3) float32, 0..255.
        gloss: strength of its highlights: 0 cloth, 1 machined metal.
        marks: (h, w) float32 0..1, what on its surface is a fault, or None.
    """

    height: Map
    colour: Map
    gloss: float
    marks: Map | None = None


@dataclass(frozen=True, eq=False)
class Sprite:
    """A drawn thing, ready to be laid on the canvas.

    Attributes:
        layer: (h, w, 4) float32, RGB premultiplied by alpha; alpha 0..1 contains the shadow.
        body: (h, w) float32 0..1, the thing itself without its shadow.
        marks: (h, w) float32 0..1, the part of the body that is a fault; the body where all of it may be.
        anchor: (x, y) pixel of the sprite that lies on the thing's place.
    """

    layer: Map
    body: Map
    marks: Map = field(repr=False)
    anchor: tuple[float, float] = (0.0, 0.0)


def grid(half_width: float, half_height: float) -> tuple[Map, Map]:
    """Places (x, y) on a height map of this extent, each (h, w) float32 in canvas units from its centre."""
    columns = np.arange(round(2 * half_width * MAP_UNIT), dtype=np.float32)
    rows = np.arange(round(2 * half_height * MAP_UNIT), dtype=np.float32)
    x, y = np.meshgrid((columns + 0.5) / MAP_UNIT - half_width, (rows + 0.5) / MAP_UNIT - half_height)
    return x.astype(np.float32), y.astype(np.float32)


def turned(tilt: float, towards: float) -> NDArray[np.float64]:
    """(3, 3) rotation that lifts the side of a solid that points away from `towards`; both in radians."""
    axis = np.array([-math.sin(towards), math.cos(towards), 0.0]) * tilt
    return np.asarray(cv2.Rodrigues(axis)[0], dtype=np.float64)


def _look_up(image: Map, x: Map, y: Map) -> Map:
    rows, columns = image.shape[:2]
    return np.asarray(
        cv2.remap(
            image,
            x * MAP_UNIT + np.float32(columns / 2 - 0.5),
            y * MAP_UNIT + np.float32(rows / 2 - 0.5),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
        ),
        dtype=np.float32,
    )


@dataclass(frozen=True, eq=False)
class _Hits:
    found: NDArray[np.bool_]
    x: Map
    y: Map
    z: Map


def _march(
    height: Map,
    x: Map,
    y: Map,
    lean: tuple[float, float],
    top: float,
    rotation: NDArray[np.float64],
    lift: float,
) -> _Hits:
    """Follow rays down to the ground points (x, y); at height z they are at (x + lean_x z, y + lean_y z)."""
    inverse = rotation.T.astype(np.float32)
    found = np.zeros(x.shape, dtype=bool)
    hit_x, hit_y, hit_z = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for z in np.arange(top, 0.0, -0.3, dtype=np.float32):
        px, py, pz = x + np.float32(lean[0]) * z, y + np.float32(lean[1]) * z, z - np.float32(lift)
        local_x = inverse[0, 0] * px + inverse[0, 1] * py + inverse[0, 2] * pz
        local_y = inverse[1, 0] * px + inverse[1, 1] * py + inverse[1, 2] * pz
        local_z = inverse[2, 0] * px + inverse[2, 1] * py + inverse[2, 2] * pz
        tall = _look_up(height, local_x, local_y)
        new = (tall > 0.05) & (local_z <= tall) & (local_z >= -0.15) & ~found
        hit_x[new], hit_y[new], hit_z[new] = local_x[new], local_y[new], local_z[new]
        found |= new
    return _Hits(found, hit_x, hit_y, hit_z)


def _surface_normals(height: Map) -> tuple[Map, Map]:
    smooth = cv2.GaussianBlur(height, (0, 0), 0.45 * MAP_UNIT)
    along_x = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=MAP_UNIT / 8.0)
    along_y = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=MAP_UNIT / 8.0)
    return np.asarray(along_x, dtype=np.float32), np.asarray(along_y, dtype=np.float32)


def _shaded(solid: Solid, hits: _Hits, rotation: NDArray[np.float64]) -> Map:
    slope_x, slope_y = _surface_normals(solid.height)
    local = np.stack(
        [-_look_up(slope_x, hits.x, hits.y), -_look_up(slope_y, hits.x, hits.y), np.ones_like(hits.x)],
        axis=-1,
    )
    normal = local / np.linalg.norm(local, axis=-1, keepdims=True) @ rotation.T.astype(np.float32)
    toward_light = np.clip(normal @ _LIGHT, 0.0, 1.0)
    half = (_LIGHT + _VIEW) / np.linalg.norm(_LIGHT + _VIEW)
    highlight = np.clip(normal @ half, 0.0, 1.0) ** 42
    mirrored = 2.0 * (normal @ _VIEW)[..., None] * normal - _VIEW
    # What metal mirrors: a bright ceiling, a dark floor, and a strip light overhead toward the back.
    room = 0.55 + 0.35 * np.clip(mirrored[..., 2], -1.0, 1.0)
    room += 0.45 * np.exp(-(((mirrored[..., 1] + 0.42) / 0.16) ** 2)) * (mirrored[..., 2] > 0)
    around = np.asarray(cv2.GaussianBlur(solid.height, (0, 0), 2.2 * MAP_UNIT), dtype=np.float32)
    depth = _look_up(around, hits.x, hits.y) - hits.z
    open_sky = 1.0 - 0.55 * np.clip(depth / 5.0, 0.0, 1.0)
    matt = 0.34 + 0.16 * normal[..., 2] + 0.62 * toward_light
    light = open_sky * ((1.0 - 0.45 * solid.gloss) * matt + 0.45 * solid.gloss * room)
    colour = _look_up(solid.colour, hits.x, hits.y)
    return np.asarray(
        colour * light[..., None] + (70.0 * solid.gloss) * (open_sky * highlight)[..., None], dtype=np.float32
    )


def _shrunk(image: Map, size: tuple[int, int]) -> Map:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _lowest(height: Map, rotation: NDArray[np.float64]) -> float:
    rows, columns = np.nonzero(height > 0.05)
    x = (columns + 0.5 - height.shape[1] / 2) / MAP_UNIT
    y = (rows + 0.5 - height.shape[0] / 2) / MAP_UNIT
    return float((rotation[2, 0] * x + rotation[2, 1] * y).min())


def render_solid(solid: Solid, scale: float, rotation: NDArray[np.float64] | None = None) -> Sprite:
    """Draw a solid as the camera sees it, with the shadow that it throws on the belt.

    Args:
        solid: the thing.
        scale: pixels to a canvas unit.
        rotation: (3, 3); None lets it lie flat. A turned solid is lifted until it just touches the belt.
    """
    turn = np.eye(3) if rotation is None else rotation
    lift = -_lowest(solid.height, turn)
    half_x = solid.height.shape[1] / MAP_UNIT / 2
    half_y = solid.height.shape[0] / MAP_UNIT / 2
    top = float(solid.height.max()) + 2.0 * lift + 0.5
    margin = 4.0
    left = half_x + margin
    right = half_x + margin + top * 0.62  # the light comes from the left, its shadows fall to the right
    above, below = half_y * _SIN + top * _COS + margin, half_y * _SIN + 0.4 * top + margin
    width, tall = math.ceil((left + right) * scale), math.ceil((above + below) * scale)
    step = 1.0 / (scale * _SUPER)
    columns = (np.arange(width * _SUPER, dtype=np.float32) + 0.5) * step - left
    rows = (np.arange(tall * _SUPER, dtype=np.float32) + 0.5) * step - above
    u, v = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    ground_y = v / np.float32(_SIN)
    hits = _march(solid.height, u, ground_y, (0.0, _COS / _SIN), top, turn, lift)
    lit = _march(
        solid.height,
        u,
        ground_y,
        (float(_LIGHT[0] / _LIGHT[2]), float(_LIGHT[1] / _LIGHT[2])),
        top,
        turn,
        lift,
    )
    colour = _shaded(solid, hits, turn)
    size = (width, tall)
    body_fine = hits.found.astype(np.float32)
    body = _shrunk(body_fine, size)
    shadow = cv2.GaussianBlur(lit.found.astype(np.float32), (0, 0), 1.1 * scale * _SUPER)
    contact = cv2.GaussianBlur(lit.found.astype(np.float32), (0, 0), 2.6 * scale * _SUPER)
    shade = _shrunk(np.asarray(_SHADOW_DARK * (0.75 * shadow + 0.25 * contact), dtype=np.float32), size)
    alpha = body + (1.0 - body) * shade
    layer = np.dstack([_shrunk(colour * body_fine[..., None], size), alpha]).astype(np.float32)
    marks = body
    if solid.marks is not None:
        marks = _shrunk(_look_up(solid.marks, hits.x, hits.y) * body_fine, size)
    return Sprite(layer, body, marks, (left * scale, above * scale))
