"""What stands before the camera: its size, its look, and where canvas and picture meet.

Everything is laid out once on a **canvas** of `CANVAS_W` x `CANVAS_H` units, with the belt along the x axis;
a unit is one pixel of a 320x192 picture. A view is a homography from the canvas to the picture: another
place of the camera, another zoom, a belt that runs the other way. Solid things are drawn as seen from above
at `ELEVATION`, in parallel projection (a long lens), so that a part keeps its shape while the belt carries
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

from anomaly.conveyor.chance import uniform
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]
    Colour: TypeAlias = tuple[float, float, float]

CANVAS_W, CANVAS_H = 420, 268
BELT_TOP, BELT_BOTTOM = 110, 198
BELT_LOOP = 1640  # length of the belt before its texture comes round again
PART_Y = 152.0  # where on the canvas the feet of the parts' centres run
PITCH = 112.0  # distance from one part to the next
SPEED = 64.0  # of the belt, units a second
ELEVATION = math.radians(54.0)  # of the camera above the belt's plane
PRODUCTS = ("plate", "cap", "bracket")


@dataclass(frozen=True)
class SceneConfig:
    """One camera over one conveyor.

    Attributes:
        width, height: size of the picture in pixels; even, at least 32.
        fps: frames a second, above 0 and at most 120.
        view: which camera, from 0: angle, colours, light and product differ. 0 to 3 are made by hand; the
            numbers above vary these.
    """

    width: int = 320
    height: int = 192
    fps: float = 10.0
    view: int = 0

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32 or self.width % 2 or self.height % 2:
            raise UsageError(
                f"conveyor footage of {self.width}x{self.height} cannot be encoded; "
                "give an even width and height, 32 or more"
            )
        if not 0.0 < self.fps <= 120.0:
            raise UsageError(
                f"conveyor footage at {self.fps} frames a second is out of range; give 0 < fps <= 120"
            )
        if self.view < 0:
            raise UsageError(f"conveyor view {self.view} does not exist; give 0 or more")

    @property
    def scale(self) -> float:
        """Pixels to a canvas unit, before the view's own zoom."""
        return max(self.width / 320.0, self.height / 192.0)


@dataclass(frozen=True)
class Look:
    """How a view looks in one regime. Colours are RGB, 0..255; angles degrees; lengths canvas units."""

    product: str
    rotation: float
    zoom: float
    shift: tuple[float, float]
    keystone: float
    mirrored: bool
    belt: Colour
    wall: Colour
    arm: Colour
    metal: Colour
    lamp: Colour
    ambient: Colour
    lamp_at: tuple[float, float]
    drift: float
    noise: float


_LOOKS = (
    Look(
        product="plate", rotation=-2.0, zoom=1.0, shift=(0.0, 0.0), keystone=0.03, mirrored=False,
        belt=(58, 66, 62), wall=(112, 122, 128), arm=(226, 122, 30), metal=(178, 182, 188),
        lamp=(1.04, 1.0, 0.90), ambient=(0.92, 0.99, 1.06), lamp_at=(130.0, 40.0), drift=0.06, noise=2.2,
    ),
    Look(
        product="cap", rotation=3.0, zoom=1.12, shift=(10.0, -8.0), keystone=-0.04, mirrored=True,
        belt=(44, 62, 84), wall=(138, 132, 120), arm=(214, 190, 40), metal=(196, 184, 160),
        lamp=(1.02, 1.0, 0.94), ambient=(0.98, 1.0, 1.02), lamp_at=(300.0, 30.0), drift=0.05, noise=2.6,
    ),
    Look(
        product="bracket", rotation=6.0, zoom=0.94, shift=(-6.0, 4.0), keystone=0.05, mirrored=False,
        belt=(84, 80, 74), wall=(92, 104, 98), arm=(196, 204, 210), metal=(150, 160, 172),
        lamp=(0.96, 1.0, 1.06), ambient=(1.04, 1.0, 0.92), lamp_at=(210.0, 20.0), drift=0.08, noise=3.0,
    ),
    Look(
        product="plate", rotation=-7.0, zoom=1.06, shift=(4.0, 6.0), keystone=-0.02, mirrored=True,
        belt=(40, 88, 62), wall=(126, 126, 134), arm=(60, 110, 190), metal=(188, 176, 168),
        lamp=(1.06, 1.0, 0.86), ambient=(0.90, 0.98, 1.08), lamp_at=(90.0, 60.0), drift=0.07, noise=2.4,
    ),
)  # fmt: skip


def look_of(view: int, regime: int = 0) -> Look:
    """The look of a view; another regime is another product, light and colours, slightly moved."""
    base = _LOOKS[view % len(_LOOKS)]
    if view < len(_LOOKS) and regime == 0:
        return base

    def vary(amount: float, key: int) -> float:
        return uniform(-amount, amount, 0x10C, view, regime, key)

    def tint(colour: Colour, amount: float, key: int) -> Colour:
        common = 1.0 + vary(amount, key)
        red, green, blue = (c * common * (1.0 + vary(amount / 3.0, key + i)) for i, c in enumerate(colour, 1))
        return red, green, blue

    product = PRODUCTS[(PRODUCTS.index(base.product) + regime) % len(PRODUCTS)]
    return replace(
        base,
        product=product,
        rotation=base.rotation + vary(1.5, 1),
        zoom=base.zoom * (1.0 + vary(0.03, 2)),
        shift=(base.shift[0] + vary(5.0, 3), base.shift[1] + vary(4.0, 4)),
        belt=tint(base.belt, 0.18, 10),
        wall=tint(base.wall, 0.12, 20) if view >= len(_LOOKS) else base.wall,
        arm=tint(base.arm, 0.15, 30) if view >= len(_LOOKS) else base.arm,
        metal=tint(base.metal, 0.10, 40),
        lamp=tint(base.lamp, 0.12, 50),
        ambient=tint(base.ambient, 0.15, 60),
        drift=base.drift * (1.0 + vary(0.3, 5)),
    )


def canvas_to_picture(config: SceneConfig, look: Look) -> Matrix:
    """(3, 3) homography from canvas units to the picture's pixels, without camera shake."""
    scale = config.scale * look.zoom
    angle = math.radians(look.rotation)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    side = -1.0 if look.mirrored else 1.0
    to_centre = np.array(
        [
            [1.0, 0.0, -CANVAS_W / 2 - look.shift[0]],
            [0.0, 1.0, -CANVAS_H / 2 - look.shift[1]],
            [0.0, 0.0, 1.0],
        ]
    )
    turn = np.array([[side * cos, -side * sin, 0.0], [sin, cos, 0.0], [0.0, -look.keystone / CANVAS_H, 1.0]])
    to_picture = np.array([[1.0, 0.0, config.width / 2], [0.0, 1.0, config.height / 2], [0.0, 0.0, 1.0]])
    return np.asarray(to_picture @ turn @ to_centre)


def share_in_picture(outline: NDArray[np.float64], config: SceneConfig, look: Look) -> float:
    """Share of the area of a convex outline, (n, 2) in canvas units, that lies inside the picture, 0..1."""
    flat: NDArray[Any] = cv2.perspectiveTransform(
        outline[None].astype(np.float64), canvas_to_picture(config, look)
    )[0]
    low, high = flat.min(axis=0), flat.max(axis=0)
    if high[0] <= 0 or high[1] <= 0 or low[0] >= config.width or low[1] >= config.height:
        return 0.0
    shown = cv2.convexHull(flat.astype(np.float32))
    frame = np.array(
        [[0, 0], [config.width, 0], [config.width, config.height], [0, config.height]], dtype=np.float32
    )
    inside, _ = cv2.intersectConvexConvex(shown, frame)
    return float(inside) / max(float(cv2.contourArea(shown)), 1e-9)
