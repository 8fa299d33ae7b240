"""What goes wrong on the conveyor, and what is known of each fault before anything is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.conveyor.chance import hashed, uniform
from anomaly.conveyor.scene import PART_Y

if TYPE_CHECKING:
    from anomaly.conveyor.scene import Matrix

KINDS: tuple[str, ...] = ("missing", "wrong", "tilted", "scratch", "foreign", "spill", "jam", "backwards")
MOTION_KINDS: tuple[str, ...] = ("jam", "backwards")
PART_KINDS: tuple[str, ...] = ("missing", "wrong", "tilted", "scratch")
FOREIGN_OBJECTS: tuple[str, ...] = ("nut", "glove", "rag")
_FOREIGN_HALF_SIZES = {"nut": (8.0, 7.0), "glove": (21.0, 14.0), "rag": (20.0, 15.0)}
# Where on each product there is flat metal for a scratch: middle in x and in y, and the greatest length; it
# may lie on either side of the lines x = 0 and y = 0 where the third item says so.
_FLAT_METAL = {
    "plate": ((0.0, 9.0), (9.5, 13.0), "xy", 34.0),
    "cap": ((0.0, 6.0), (14.5, 17.0), "x", 24.0),
    "bracket": ((15.0, 17.5), (-8.0, -2.5), "x", 18.0),
}


@dataclass(frozen=True)
class PlannedFault:
    """A fault that is asked for.

    Attributes:
        kind: one of `KINDS`.
        at_s: middle of it: when it passes the middle of the picture, or half-way through a motion fault.
        severity: 0 (hard to see: a hairline scratch, a tilt of a few degrees) to 1 (plain); None draws it.
        duration_s: of a motion fault; None draws 3 to 5 s. The others last as long as they are in the
            picture.
    """

    kind: str
    at_s: float
    severity: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class Fault:
    """A fault with its place settled.

    Attributes:
        kind, severity: as in `PlannedFault`.
        seed: what its shape is drawn from.
        part: number of the part it is on; -1 where it is not on a part.
        along: for what lies on the belt, its place along it; canvas units of belt travel.
        y: its centre across the belt, canvas units.
        start_s, stop_s: when a motion fault begins and is over; 0 for the others.
        spans: half-open intervals of seconds in which it is visible. Their ends lie half-way between two
            frames, so that rounding a time cannot move a frame across them.
    """

    kind: str
    severity: float
    seed: int
    part: int = -1
    along: float = 0.0
    y: float = PART_Y
    start_s: float = 0.0
    stop_s: float = 0.0
    spans: tuple[tuple[float, float], ...] = ()

    def visible(self, time_s: float) -> bool:
        """Whether the fault is labelled at this time."""
        return any(start <= time_s < end for start, end in self.spans)

    @property
    def thing(self) -> str:
        """What a foreign object is: one of `FOREIGN_OBJECTS`."""
        return FOREIGN_OBJECTS[hashed(self.seed, 77) % len(FOREIGN_OBJECTS)]


def scratch_line(fault: Fault, product: str) -> Matrix:
    """(n, 2) points of a scratch, canvas units in the part's plane from its centre, on flat metal."""
    x_range, y_range, either_side, longest = _FLAT_METAL[product]
    length = min(longest, 15.0 + 16.0 * uniform(0.0, 1.0, fault.seed, 31) + 6.0 * fault.severity)
    side_x = -1.0 if "x" in either_side and hashed(fault.seed, 37) & 1 else 1.0
    side_y = -1.0 if "y" in either_side and hashed(fault.seed, 32) & 1 else 1.0
    middle_x = side_x * uniform(*x_range, fault.seed, 33)
    middle_y = side_y * uniform(*y_range, fault.seed, 34)
    angle = uniform(-0.30, 0.30, fault.seed, 35)
    bend = uniform(-1.6, 1.6, fault.seed, 36)
    t = np.linspace(-0.5, 0.5, 9)
    across = bend * (1.0 - 4.0 * t**2)
    x = middle_x + length * t * math.cos(angle) - across * math.sin(angle)
    y = middle_y + length * t * math.sin(angle) + across * math.cos(angle)
    return np.stack([np.clip(x, -25.0, 25.0), np.clip(y, -18.0, 18.0)], axis=1)


def fault_outline(fault: Fault, product: str) -> Matrix:
    """(4, 2) box around the fault in canvas units from its centre, to tell how much is in the picture."""
    if fault.kind == "scratch":
        line = scratch_line(fault, product)
        (left, top), (right, bottom) = line.min(axis=0), line.max(axis=0)
        left, right, top, bottom = left - 1.0, right + 1.0, 0.8 * top - 6.0, 0.8 * bottom - 4.0
    elif fault.kind == "foreign":
        right, bottom = _FOREIGN_HALF_SIZES[fault.thing]
        left, top = -right, -bottom
    elif fault.kind == "spill":
        right = spill_radius(fault)
        left, top, bottom = -right, -0.6 * right, 0.6 * right
    else:
        left, right, top, bottom = -29.0, 29.0, -23.0, 18.0
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def spill_radius(fault: Fault) -> float:
    """Half the extent of a spill along the belt, canvas units."""
    return 17.0 + 15.0 * fault.severity
