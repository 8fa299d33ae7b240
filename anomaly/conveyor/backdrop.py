"""What does not move with the parts: wall, rails, lamp, floor; the belt's surface; the light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly.conveyor.chance import hashed, uniform
from anomaly.conveyor.scene import (
    BELT_BOTTOM,
    BELT_LOOP,
    BELT_TOP,
    CANVAS_H,
    CANVAS_W,
    SceneConfig,
    canvas_to_picture,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.conveyor.scene import Colour, Look
    from anomaly.conveyor.solids import Map

_SUPER = 3
_RAIL_TOP, _FRONT_BOTTOM = 88, 222


class _Painter:
    """Draws in canvas units on an enlarged picture, antialiased."""

    def __init__(self, scale: float) -> None:
        self.unit = scale * _SUPER
        self.image = np.zeros((round(CANVAS_H * self.unit), round(CANVAS_W * self.unit), 3), dtype=np.float32)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.unit * 16), round(y * self.unit * 16)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        first, last = self._at(left, top), self._at(right, bottom)
        cv2.rectangle(self.image, first, (last[0] - 16, last[1] - 16), colour, -1, cv2.LINE_AA, 4)

    def shade_rows(self, top: float, bottom: float, stops: list[tuple[float, Colour]]) -> None:
        """A band whose colour goes through the stops (place 0..1, colour) from its top to its bottom."""
        first, last = round(top * self.unit), round(bottom * self.unit)
        place = (np.arange(last - first) + 0.5) / max(1, last - first)
        at = [stop for stop, _ in stops]
        columns = [np.interp(place, at, [colour[c] for _, colour in stops]) for c in range(3)]
        self.image[first:last] = np.stack(columns, axis=-1)[:, None, :]

    def disc(self, x: float, y: float, radius: float, colour: Colour, squash: float = 1.0) -> None:
        axes = (round(radius * self.unit * 16), round(radius * squash * self.unit * 16))
        cv2.ellipse(self.image, self._at(x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, 4)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        flat = np.array([self._at(*p) for p in points], dtype=np.int32)
        cv2.polylines(self.image, [flat], False, colour, max(1, round(width * self.unit)), cv2.LINE_AA, 4)

    def glow(self, x: float, y: float, reach: float, colour: Colour, strength: float) -> None:
        rows, columns = self.image.shape[:2]
        dx = (np.arange(columns, dtype=np.float32) / self.unit - x) / reach
        dy = (np.arange(rows, dtype=np.float32) / self.unit - y) / reach
        fall = strength * np.exp(-(dy[:, None] ** 2 + dx[None, :] ** 2))
        self.image += fall[..., None].astype(np.float32) * np.asarray(colour, dtype=np.float32)


def _times(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def _bolt(paint: _Painter, x: float, y: float, radius: float, seed: int) -> None:
    turn = uniform(0.0, np.pi, seed, 5)
    paint.disc(x + 0.7, y + 0.8, radius * 1.15, (34.0, 36.0, 38.0), 0.9)
    paint.disc(x, y, radius, (124.0, 127.0, 130.0), 0.9)
    paint.disc(x - 0.3, y - 0.35, radius * 0.7, (164.0, 167.0, 170.0), 0.9)
    reach = radius * 0.6
    dx, dy = reach * float(np.cos(turn)), 0.9 * reach * float(np.sin(turn))
    paint.line([(x - dx, y - dy), (x + dx, y + dy)], 0.6, (60.0, 62.0, 64.0))


def _rail(paint: _Painter, top: float, bottom: float, tone: float, seed: int) -> None:
    light, mid, dark = (_times((188.0, 192.0, 196.0), tone * f) for f in (1.0, 0.74, 0.40))
    slot = _times(dark, 0.5)
    height = bottom - top
    paint.shade_rows(
        top,
        bottom,
        [(0.0, dark), (0.06, light), (0.30, mid), (0.36, dark), (0.40, slot), (0.50, slot), (0.54, light),
         (0.60, mid), (0.90, mid), (1.0, dark)],
    )  # fmt: skip
    for i, x in enumerate(range(14, CANVAS_W, 58)):
        _bolt(paint, x + uniform(-1.5, 1.5, seed, i, 1), top + 0.74 * height, 2.5, hashed(seed, i))


def backdrop(look: Look, seed: int, scale: float) -> Map:
    """(h, w, 3) float32 canvas with all that stands still, 0..255; `seed` settles its small details."""
    paint = _Painter(scale)
    wall = look.wall
    paint.shade_rows(0, _RAIL_TOP, [(0.0, _times(wall, 0.92)), (0.75, wall), (1.0, _times(wall, 0.70))])
    for i, x in enumerate(range(-20, CANVAS_W, 96)):  # sheet-metal panels
        seam = x + uniform(-6.0, 6.0, seed, 10, i)
        paint.line([(seam, 0), (seam, _RAIL_TOP)], 1.4, _times(wall, 0.55))
        paint.line([(seam + 1.3, 0), (seam + 1.3, _RAIL_TOP)], 0.7, _times(wall, 1.16))
        for y in (26.0, 52.0, 78.0):
            _bolt(paint, seam + 7.0, y, 1.5, hashed(seed, 11, i, int(y)))
    _cabinet(paint, seed)
    tray = 79.0 + uniform(-2.0, 2.0, seed, 13)  # cables along the wall
    for i, (offset, colour) in enumerate(
        ((0.0, (34.0, 34.0, 36.0)), (2.6, (46.0, 44.0, 42.0)), (4.6, (120.0, 40.0, 36.0)))
    ):
        xs = np.linspace(0, CANVAS_W, 60)
        sag = 1.3 * np.sin(xs / (31.0 + 4.0 * i) + uniform(0, 6, seed, 14, i))
        paint.line([(float(a), tray + offset + float(b)) for a, b in zip(xs, sag, strict=True)], 1.6, colour)
    _rail(paint, _RAIL_TOP, BELT_TOP, 0.92, hashed(seed, 20))
    paint.box(0, BELT_TOP, CANVAS_W, BELT_BOTTOM, look.belt)
    _rail(paint, BELT_BOTTOM, _FRONT_BOTTOM, 1.0, hashed(seed, 21))
    paint.shade_rows(
        _FRONT_BOTTOM,
        CANVAS_H,
        [(0.0, (28.0, 30.0, 32.0)), (0.2, (52.0, 54.0, 56.0)), (1.0, (70.0, 72.0, 72.0))],
    )
    for i in range(5):  # feet of the frame and tape on the floor
        foot = 30.0 + 92.0 * i + uniform(-5.0, 5.0, seed, 30, i)
        paint.box(foot, _FRONT_BOTTOM, foot + 9.0, CANVAS_H, (84.0, 88.0, 92.0))
        paint.box(foot + 9.0, _FRONT_BOTTOM, foot + 11.5, CANVAS_H, (36.0, 38.0, 40.0))
    paint.line([(0, 255.0), (CANVAS_W, 250.0)], 3.2, (176.0, 150.0, 42.0))
    _lamp(paint, look.lamp_at)
    size = (round(CANVAS_W * scale), round(CANVAS_H * scale))
    small = cv2.resize(paint.image, size, interpolation=cv2.INTER_AREA)
    grime = _smooth_noise(small.shape[:2], 22.0 * scale, hashed(seed, 40))
    fine = _smooth_noise(small.shape[:2], 0.8, hashed(seed, 41))
    return np.asarray(small * (1.0 + 0.05 * grime + 0.018 * fine)[..., None], dtype=np.float32)


def _cabinet(paint: _Painter, seed: int) -> None:
    """A control box with a label and two lights, on the wall."""
    x, y = 332.0 + uniform(-8.0, 8.0, seed, 12), 34.0
    paint.box(x + 2, y + 3, x + 42, y + 40, (44.0, 46.0, 48.0))
    paint.box(x, y, x + 40, y + 38, (176.0, 178.0, 174.0))
    paint.box(x + 2, y + 2, x + 38, y + 36, (158.0, 161.0, 158.0))
    paint.box(x + 6, y + 6, x + 22, y + 14, (206.0, 180.0, 40.0))
    paint.line(
        [(x + 14, y + 7.4), (x + 10, y + 12.8), (x + 18, y + 12.8), (x + 14, y + 7.4)],
        0.7,
        (24.0, 24.0, 22.0),
    )
    paint.disc(x + 29, y + 10, 2.4, (46.0, 200.0, 92.0))
    paint.disc(x + 29, y + 18, 2.4, (86.0, 30.0, 28.0))
    for row in range(4):
        paint.line([(x + 6, y + 20 + 3.2 * row), (x + 20, y + 20 + 3.2 * row)], 0.8, (112.0, 114.0, 112.0))


def _lamp(paint: _Painter, at: tuple[float, float]) -> None:
    """A work lamp over the back rail, lit."""
    x, y = at
    paint.line([(x, 0.0), (x, y)], 2.6, (52.0, 54.0, 58.0))
    paint.box(x - 17, y - 3.4, x + 17, y + 3.2, (64.0, 66.0, 70.0))
    paint.box(x - 15, y + 0.8, x + 15, y + 3.0, (255.0, 250.0, 236.0))
    paint.glow(x, y + 3.0, 15.0, (90.0, 86.0, 76.0), 0.9)
    paint.glow(x, y + 10.0, 48.0, (44.0, 42.0, 36.0), 0.8)


def _smooth_noise(shape: tuple[int, ...], reach: float, seed: int, reach_y: float | None = None) -> Map:
    noise = np.random.default_rng(seed).standard_normal(shape[:2]).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=reach, sigmaY=reach if reach_y is None else reach_y)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), dtype=np.float32)


def belt_strip(look: Look, seed: int, scale: float) -> Map:
    """(h, w, 3) float32: the whole loop of the belt, and its start again over the canvas's length.

    Rubber with a woven grain, worn bright where the parts lie, with stains, scuffs and two oblique joints.
    """
    loop, tall = round(BELT_LOOP * scale), round((BELT_BOTTOM - BELT_TOP) * scale)
    rows = (np.arange(tall, dtype=np.float32) + 0.5)[:, None] / scale
    columns = (np.arange(loop, dtype=np.float32) + 0.5)[None, :] / scale

    def round_noise(reach_x: float, reach_y: float, key: int) -> Map:
        """Noise whose two ends fit together."""
        overlap = loop // 6
        long = _smooth_noise((tall, loop + overlap), reach_x * scale, hashed(seed, key), reach_y * scale)
        fade = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
        long[:, :overlap] = long[:, :overlap] * np.sqrt(fade) + long[:, loop:] * np.sqrt(1.0 - fade)
        return long[:, :loop]

    tone = (
        1.0
        + 0.045 * round_noise(42.0, 9.0, 1)
        + 0.035 * round_noise(16.0, 0.9, 2)
        + 0.03 * round_noise(0.7, 0.7, 3)
    )
    weave = np.sin(columns * np.float32(2 * np.pi / 3.1)) * np.sin(rows * np.float32(2 * np.pi / 2.7))
    tone = tone + 0.022 * weave.astype(np.float32)
    worn = np.exp(-(((rows - 45.0) / 21.0) ** 2))  # where parts lie and slide
    tone = tone + 0.09 * worn * (1.0 + 0.4 * round_noise(60.0, 3.0, 4))
    tone = tone - 0.30 * np.exp(-rows / 2.6) - 0.14 * np.exp(-((rows - tall / scale) ** 2) / 8.0)
    tone = tone * (1.0 - 0.28 * np.exp(-((rows / 9.0) ** 2)))  # the back rail's shadow
    stains = round_noise(9.0, 6.0, 5)
    tone = tone * (1.0 - 0.11 * np.clip(stains - 1.5, 0.0, 1.0))
    strip = np.asarray(look.belt, dtype=np.float32) * tone.astype(np.float32)[..., None]
    _scuffs(strip, seed, scale)
    for joint in range(2):
        place = BELT_LOOP * (joint + 0.35) / 2.0 + 0.22 * rows - columns
        strip *= (1.0 - 0.34 * np.exp(-((place / 0.8) ** 2)) - 0.10 * np.exp(-(((place - 5.0) / 4.0) ** 2)))[
            ..., None
        ]
        strip *= (1.0 + 0.16 * np.exp(-(((place - 1.8) / 0.8) ** 2)))[..., None]
    return np.ascontiguousarray(np.concatenate([strip, strip[:, : round(CANVAS_W * scale) + 2]], axis=1))


def _scuffs(strip: Map, seed: int, scale: float) -> None:
    """Short pale and dark rubs along the belt; drawn on it in place."""
    tall, loop = strip.shape[:2]
    pale = np.zeros((tall, loop), dtype=np.float32)
    for i in range(150):
        x, y = uniform(30.0, BELT_LOOP - 60.0, seed, 60, i), uniform(6.0, tall / scale - 6.0, seed, 61, i)
        length, slope = uniform(3.0, 26.0, seed, 62, i), uniform(-0.08, 0.08, seed, 63, i)
        first = (round(x * scale * 16), round(y * scale * 16))
        last = (round((x + length) * scale * 16), round((y + slope * length) * scale * 16))
        strength = uniform(0.03, 0.11, seed, 64, i) * (1.0 if hashed(seed, 65, i) % 3 else -1.0)
        cv2.line(pale, first, last, strength, max(1, round(0.7 * scale)), cv2.LINE_AA, 4)
    strip *= 1.0 + cv2.GaussianBlur(pale, (0, 0), 0.5 * scale)[..., None]


def light_maps(config: SceneConfig, look: Look) -> tuple[Map, Map]:
    """The shares of the ambient light and of the lamp at each pixel: two (H, W, 3) float32 maps of factors.

    Their sum is near 1 in the middle of the picture. The lens's vignette is in both.
    """
    to_canvas: NDArray[Any] = np.linalg.inv(canvas_to_picture(config, look))
    x, y = np.meshgrid(np.arange(config.width) + 0.5, np.arange(config.height) + 0.5)
    places = cv2.perspectiveTransform(np.stack([x, y], axis=-1).reshape(1, -1, 2), to_canvas)
    canvas_x, canvas_y = places.reshape(config.height, config.width, 2).transpose(2, 0, 1)
    from_lamp = ((canvas_x - look.lamp_at[0]) / 210.0) ** 2 + (
        (canvas_y - look.lamp_at[1] - 60.0) / 150.0
    ) ** 2
    lamp = 0.16 + 0.52 * np.exp(-from_lamp)
    window = 0.56 + 0.10 * (canvas_x / CANVAS_W - 0.5)
    radius = ((x - config.width / 2) / config.width) ** 2 + ((y - config.height / 2) / config.height) ** 2
    vignette = 1.0 - 0.30 * radius
    ambient_map = (window * vignette)[..., None] * np.asarray(look.ambient)
    lamp_map = (lamp * vignette)[..., None] * np.asarray(look.lamp)
    return ambient_map.astype(np.float32), lamp_map.astype(np.float32)
