"""All of a view that is drawn once: backdrop, belt, light, noise, the sprites of parts and faults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.conveyor.arm import ArmSprites, arm_sprites, draw_pedestal
from anomaly.conveyor.backdrop import backdrop, belt_strip, light_maps
from anomaly.conveyor.chance import hashed, uniform
from anomaly.conveyor.faults import Fault, spill_radius
from anomaly.conveyor.parts import foreign_solid, nest_solid, part_solid, scratched, wrong_solid
from anomaly.conveyor.scene import Look, SceneConfig, canvas_to_picture, look_of
from anomaly.conveyor.solids import Sprite, render_solid, turned

if TYPE_CHECKING:
    from anomaly.conveyor.scene import Matrix
    from anomaly.conveyor.solids import Map

_NOISE_SPARE = 256  # the noise is cut from a field larger than the picture by so many pixels each way


@dataclass(frozen=True, eq=False)
class Stage:
    """A view in one regime, ready for drawing frames; all pictures float32.

    Attributes:
        look, scale: how it looks; pixels to a canvas unit.
        backdrop: (h, w, 3) canvas, 0..255.
        belt: (rows, loop + w, 3) texture of the belt; `loop` is its length in pixels.
        ambient, lamp: (H, W, 3) factors of the two lights.
        noise: (H + spare, W + spare, 3) sensor noise, standard deviation in grey levels.
        to_picture: (3, 3) homography from canvas pixels to the picture's.
        arm: the arm's pieces.
    """

    look: Look
    scale: float
    backdrop: Map
    belt: Map
    loop: int
    ambient: Map
    lamp: Map
    noise: Map
    to_picture: Matrix
    arm: ArmSprites


# Three, so that hours with regimes stay in bounded memory and two cameras can be drawn in turn.
@lru_cache(maxsize=3)
def stage_of(config: SceneConfig, regime: int) -> Stage:
    """Draw what a view needs in a regime; a second or less at 320x192."""
    look, scale = look_of(config.view, regime), config.scale
    place = hashed(0x57A6E, config.view)
    scenery = backdrop(look, place, scale)
    draw_pedestal(scenery, look.arm, scale)
    strip = belt_strip(look, hashed(place, regime), scale)
    ambient, lamp = light_maps(config, look)
    shape = (config.height + _NOISE_SPARE, config.width + _NOISE_SPARE, 3)
    noise = np.random.default_rng(place).standard_normal(shape, dtype=np.float32)
    # Neighbouring pixels share some noise, because colour is interpolated between them on the sensor.
    noise = np.asarray(cv2.GaussianBlur(noise, (3, 3), 0.45), dtype=np.float32)
    noise *= look.noise / float(noise.std())
    return Stage(
        look=look,
        scale=scale,
        backdrop=scenery,
        belt=strip,
        loop=strip.shape[1] - scenery.shape[1] - 2,
        ambient=ambient,
        lamp=lamp,
        noise=noise,
        to_picture=canvas_to_picture(config, look) @ np.diag([1.0 / scale, 1.0 / scale, 1.0]),
        arm=arm_sprites(look.arm, scale),
    )


@lru_cache(maxsize=16)
def nest_sprite(look: Look, scale: float) -> Sprite:
    """An empty nest."""
    return render_solid(nest_solid(look.product), scale)


@lru_cache(maxsize=96)
def part_sprite(look: Look, scale: float, variant: int, fitted: bool) -> Sprite:
    """A part as it should be, in its nest."""
    part = render_solid(part_solid(look.product, look.metal, variant, fitted), scale)
    return _laid_over(part, nest_sprite(look, scale))


def _laid_over(top: Sprite, under: Sprite) -> Sprite:
    """Two sprites that are drawn at one place as one; what is marked is the upper one's."""
    left, above = (math.ceil(max(top.anchor[i], under.anchor[i])) for i in (0, 1))
    right = math.ceil(max(s.body.shape[1] - s.anchor[0] for s in (top, under))) + 1
    below = math.ceil(max(s.body.shape[0] - s.anchor[1] for s in (top, under))) + 1
    size = (left + right, above + below)

    def moved(image: Map, sprite: Sprite) -> Map:
        move = np.array([[1.0, 0.0, left - sprite.anchor[0]], [0.0, 1.0, above - sprite.anchor[1]]])
        return np.asarray(cv2.warpAffine(image, move, size, flags=cv2.INTER_LINEAR), dtype=np.float32)

    layer, base = moved(top.layer, top), moved(under.layer, under)
    return Sprite(
        layer=layer + (1.0 - layer[..., 3:]) * base,
        body=np.maximum(moved(top.body, top), moved(under.body, under)),
        marks=moved(top.marks, top),
        anchor=(float(left), float(above)),
    )


@lru_cache(maxsize=48)
def fault_sprite(fault: Fault, look: Look, scale: float, variant: int, fitted: bool) -> Sprite:
    """What a fault puts on the belt or in a nest; not for missing parts and motion faults."""
    if fault.kind == "spill":
        return _spill(fault, scale)
    if fault.kind == "foreign":
        return render_solid(foreign_solid(fault), scale)
    solid = part_solid(look.product, look.metal, variant, fitted)
    rotation = None
    if fault.kind == "wrong":
        solid = wrong_solid(look.product, look.metal, fault, fitted)
    elif fault.kind == "scratch":
        solid = scratched(solid, look.product, fault, scale)
    else:
        angle = math.radians(4.0 + 14.0 * fault.severity)
        rotation = turned(angle, uniform(0.0, 2.0 * math.pi, fault.seed, 81))
    return _laid_over(render_solid(solid, scale, rotation), nest_sprite(look, scale))


def _spill(fault: Fault, scale: float) -> Sprite:
    """A puddle of oil (dark) or of coolant (pale), lying flat: a ragged outline, a gleam along one side."""
    radius = spill_radius(fault)
    half = math.ceil(1.45 * radius * scale)
    x, y = np.meshgrid(
        np.arange(-half, half + 1, dtype=np.float32), np.arange(-half, half + 1, dtype=np.float32)
    )
    x, y = x / np.float32(scale), y / np.float32(scale)
    angle = np.arctan2(y / 0.6, x)
    reach = np.full_like(x, radius * 0.82)
    for wave in range(2, 8):
        phase = uniform(0.0, 2.0 * math.pi, fault.seed, 91, wave)
        reach += np.float32(radius * 0.20 / wave) * np.cos(wave * angle + np.float32(phase))
    inside = np.clip((reach - np.hypot(x, y / np.float32(0.6))) * np.float32(scale) / 1.5, 0.0, 1.0)
    for drop in range(4):  # splashes around it
        place = uniform(0.0, 2.0 * math.pi, fault.seed, 92, drop)
        out = radius * uniform(0.95, 1.15, fault.seed, 93, drop)
        size = uniform(1.0, 2.6, fault.seed, 94, drop)
        away = np.hypot(x - out * math.cos(place), (y - 0.6 * out * math.sin(place)) / 0.7)
        inside = np.maximum(inside, np.clip((size - away) * scale, 0.0, 1.0))
    inside = np.asarray(inside, dtype=np.float32)
    oil = bool(hashed(fault.seed, 95) & 1)
    tone = np.array((22.0, 18.0, 13.0) if oil else (136.0, 158.0, 150.0), dtype=np.float32)
    opacity = (0.42 + 0.38 * fault.severity) if oil else (0.28 + 0.32 * fault.severity)
    depth = cv2.GaussianBlur(inside, (0, 0), 2.2 * scale)
    slope_x, slope_y = np.gradient(depth)[::-1]
    gleam = np.clip((slope_x + slope_y) * np.float32(3.2 * scale), 0.0, 1.0) * inside
    sheen = (
        0.35 * np.clip(np.sin(x * 0.21 + y * 0.34 + uniform(0, 6, fault.seed, 96)), 0.0, 1.0) ** 3 * inside
    )
    alpha = opacity * inside
    bright = np.float32(150.0) * gleam + np.float32(70.0) * sheen
    layer = np.dstack([tone * alpha[..., None] + bright[..., None] * 0.5, alpha]).astype(np.float32)
    return Sprite(layer, inside, inside, (float(half), float(half)))
