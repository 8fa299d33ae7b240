"""The robot arm: when it swings in, where its joints are, and how it is drawn.

Each time a part passes the station, the arm comes in, follows the part for a moment while it presses a bush
into the bore, and swings out again. Its cycle hangs on the belt's travel, as on a real line, so it halts
when the belt halts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.conveyor.scene import PITCH

if TYPE_CHECKING:
    from anomaly.conveyor.scene import Colour
    from anomaly.conveyor.solids import Map

STATION_X = 196.0  # where the bush goes in
SHOULDER = (262.0, 58.0)
_UPPER, FORE = 70.0, 74.0
_REST = (310.0, 76.0)
_PRESS_LIFT = 17.0  # of the wrist over the part's place on the belt, on the canvas
_SUPER = 3


@dataclass(frozen=True)
class ArmPose:
    """Canvas places of elbow and wrist, and how far the gripper is above the belt (0 pressing .. 1 away)."""

    elbow: tuple[float, float]
    wrist: tuple[float, float]
    height: float


def _eased(value: float) -> float:
    value = min(1.0, max(0.0, value))
    return value * value * value * (10.0 + value * (6.0 * value - 15.0))


def arm_pose(travel: float, part_place: tuple[float, float], wobble: float) -> ArmPose:
    """Where the arm is.

    Args:
        travel: how far the belt has come, canvas units.
        part_place: canvas place of the part nearest to the station.
        wobble: slight difference between cycles, about -1..1, in units of the canvas.
    """
    phase = ((travel - STATION_X) / PITCH + 0.5) % 1.0 - 0.5  # 0 when a part is at the station
    reach = 1.0 - _eased((abs(phase) - 0.10) / 0.30)
    down = 1.0 - _eased((abs(phase) - 0.045) / 0.075)
    # The arm follows the part only while it is near, and eases off where its reach ends.
    follow = STATION_X + 26.0 * math.tanh((part_place[0] - STATION_X) / 26.0)
    over = (follow, part_place[1] - _PRESS_LIFT - 17.0 * (1.0 - down))
    wrist = (
        _REST[0] + (over[0] - _REST[0]) * reach + 0.5 * wobble,
        _REST[1] + (over[1] - _REST[1]) * reach + 0.4 * wobble - 9.0 * math.sin(math.pi * reach),
    )
    return ArmPose(_elbow(wrist), wrist, 1.0 - down * reach)


def _elbow(wrist: tuple[float, float]) -> tuple[float, float]:
    dx, dy = wrist[0] - SHOULDER[0], wrist[1] - SHOULDER[1]
    distance = min(math.hypot(dx, dy), 0.999 * (_UPPER + FORE))
    cosine = (_UPPER**2 + distance**2 - FORE**2) / (2.0 * _UPPER * distance)
    bend = math.acos(max(-1.0, min(1.0, cosine)))
    angle = math.atan2(dy, dx) + bend  # the solution whose elbow stays up and back
    other = math.atan2(dy, dx) - bend
    if math.sin(other) < math.sin(angle):
        angle = other
    return SHOULDER[0] + _UPPER * math.cos(angle), SHOULDER[1] + _UPPER * math.sin(angle)


@dataclass(frozen=True, eq=False)
class ArmSprites:
    """Links lie along the x axis, their first joint at `joint`; the gripper hangs down from its own.

    (h, w, 4) float32, RGB premultiplied by alpha; the shadow is (h, w), how much light it takes.
    """

    upper: Map
    fore: Map
    gripper: Map
    fore_shadow: Map
    joint: tuple[float, float]
    gripper_joint: tuple[float, float]


def _finish(colour: Map, alpha: Map, size: tuple[int, int]) -> Map:
    premultiplied = np.dstack([colour * alpha[..., None], alpha])
    return np.asarray(cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _link(length: float, first: float, last: float, paint: Colour, scale: float) -> Map:
    """A tapering round link with joints at both ends, lit from above."""
    margin = 14.0
    size = (round((length + 2 * margin) * scale), round(2 * margin * scale))
    unit = scale * _SUPER
    x, y = np.meshgrid(
        (np.arange(size[0] * _SUPER, dtype=np.float32) + 0.5) / unit - margin,
        (np.arange(size[1] * _SUPER, dtype=np.float32) + 0.5) / unit - margin,
    )
    along = np.clip(x / length, 0.0, 1.0)
    half = (first + (last - first) * along) * (1.0 - 0.12 * np.sin(np.pi * along))
    across = y / half
    tube = (np.abs(across) < 1.0) & (x > 0) & (x < length)
    base = np.asarray(paint, dtype=np.float32)
    round_light = 0.42 + 0.72 * np.sqrt(np.clip(1.0 - (across + 0.25) ** 2 / 1.6, 0.0, 1.0))
    colour = base * round_light[..., None] + 60.0 * np.exp(-(((across + 0.42) / 0.16) ** 2))[..., None]
    groove = np.exp(-(((x - 0.30 * length) / 0.8) ** 2)) + np.exp(-(((x - 0.74 * length) / 0.8) ** 2))
    colour *= (1.0 - 0.5 * groove)[..., None]
    hose = np.abs(y - half * 0.55 - 1.2 * np.sin(x / 9.0)) < 1.25
    hose &= (x > 0.12 * length) & (x < 0.9 * length)
    colour[hose] = 34.0 + 26.0 * np.clip(-np.sin(y[hose] * 2.0), 0, 1)[:, None]
    alpha = tube | hose
    for place, radius in ((0.0, first * 1.28), (length, last * 1.28)):
        distance = np.hypot(x - place, y)
        disc = distance < radius
        shade = 0.66 + 0.30 * np.clip(-(y + 0.4 * (x - place)) / radius, -1.0, 1.0)
        tone = np.where((distance < radius * 0.55)[..., None], np.array([92.0, 95.0, 99.0], np.float32), base)
        rim = np.clip(1.0 - np.abs(distance - radius * 0.58) / 0.8, 0.0, 1.0)
        colour[disc] = (tone * shade[..., None] * (1.0 - 0.5 * rim)[..., None])[disc]
        alpha |= disc
    return _finish(np.clip(colour, 0.0, 255.0).astype(np.float32), alpha.astype(np.float32), size)


def _gripper(scale: float) -> tuple[Map, tuple[float, float]]:
    """The press head: a flange, a cylinder and a steel pin with two guards, its joint at the top."""
    half, above, below = 15.0, 9.0, 21.0
    size = (round(2 * half * scale), round((above + below) * scale))
    unit = scale * _SUPER
    x, y = np.meshgrid(
        (np.arange(size[0] * _SUPER, dtype=np.float32) + 0.5) / unit - half,
        (np.arange(size[1] * _SUPER, dtype=np.float32) + 0.5) / unit - above,
    )
    colour = np.zeros((*x.shape, 3), dtype=np.float32)
    alpha = np.zeros(x.shape, dtype=np.float32)

    def cylinder(half_width: float, top: float, bottom: float, tone: Colour, offset: float = 0.0) -> None:
        across = (x - offset) / half_width
        shape = (
            (np.abs(across) < 1.0)
            & (y > top)
            & (y < bottom + 0.22 * half_width * np.sqrt(np.clip(1 - across**2, 0, 1)))
        )
        light = 0.36 + 0.66 * np.sqrt(np.clip(1.0 - (across + 0.3) ** 2 / 1.7, 0.0, 1.0))
        gleam = 70.0 * np.exp(-(((across + 0.45) / 0.18) ** 2))
        drawn = np.asarray(tone, dtype=np.float32) * light[..., None] + gleam[..., None]
        colour[shape] = drawn[shape]
        alpha[shape] = 1.0

    cylinder(2.6, 6.0, 15.6, (176.0, 180.0, 186.0))
    cylinder(1.5, 6.0, 17.2, (70.0, 72.0, 76.0), -7.4)
    cylinder(1.5, 6.0, 17.2, (70.0, 72.0, 76.0), 7.4)
    cylinder(9.4, 3.6, 8.2, (58.0, 61.0, 66.0))
    cylinder(6.2, -4.5, 4.6, (132.0, 136.0, 142.0))
    cylinder(8.0, -7.0, -3.6, (86.0, 89.0, 94.0))
    return _finish(np.clip(colour, 0, 255).astype(np.float32), alpha, size), (half * scale, above * scale)


def arm_sprites(paint: Colour, scale: float) -> ArmSprites:
    """Draw the arm's pieces for a colour of paint; `scale` is pixels to a canvas unit."""
    gripper, joint = _gripper(scale)
    fore = _link(FORE, 7.2, 5.2, paint, scale)
    shadow = cv2.GaussianBlur(fore[..., 3], (0, 0), 3.0 * scale)
    return ArmSprites(
        upper=_link(_UPPER, 9.4, 7.6, paint, scale),
        fore=fore,
        gripper=gripper,
        fore_shadow=np.asarray(0.30 * shadow, dtype=np.float32),
        joint=(14.0 * scale, 14.0 * scale),
        gripper_joint=joint,
    )


def draw_pedestal(canvas: Map, paint: Colour, scale: float) -> None:
    """Draw the arm's foot, which stands behind the back rail, on the canvas in place."""
    x, y = SHOULDER
    unit = 16.0 * scale
    left, right, top, bottom = (round(value * scale) for value in (x - 12.0, x + 12.0, y, 88.0))
    across = (np.arange(left, right, dtype=np.float32) + 0.5) / scale - x
    light = 0.34 + 0.62 * np.sqrt(np.clip(1.0 - (across / 13.0 + 0.25) ** 2 / 1.7, 0.0, 1.0))
    canvas[top:bottom, left:right] = light[None, :, None] * np.asarray(paint, dtype=np.float32)
    canvas[bottom - round(5.0 * scale) : bottom, left:right] *= np.float32(0.72)
    corners = (round((x - 18) * unit), round(86 * unit)), (round((x + 18) * unit), round(92 * unit))
    cv2.rectangle(canvas, *corners, (66.0, 69.0, 73.0), -1, cv2.LINE_AA, 4)
    for side in (-15, 15):
        middle = (round((x + side) * unit), round(89 * unit))
        cv2.circle(canvas, middle, round(1.5 * unit), (150.0, 152.0, 155.0), -1, cv2.LINE_AA, 4)
