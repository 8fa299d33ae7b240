"""A clip's contents as a function of time: where the belt has come, where the parts lie, what is wrong.

Nothing is counted up from frame to frame, so any moment of a clip of any length can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from anomaly.conveyor.chance import hashed, normal, uniform
from anomaly.conveyor.faults import MOTION_KINDS, Fault
from anomaly.conveyor.scene import PART_Y, PITCH, SPEED, Look, SceneConfig, look_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Times: TypeAlias = NDArray[np.float64]

VARIANTS = 4  # machined surfaces of each product
_RAMP_S = 0.2  # the belt's motor takes this long to change its speed


@dataclass(frozen=True)
class ClipLabel:
    """One event of a clip: start_s <= t < end_s in seconds, and its kind."""

    start_s: float
    end_s: float
    kind: str


@dataclass(frozen=True)
class Clip:
    """All that determines a clip; rendering the same clip twice gives the same frames.

    Attributes:
        seed: what everything that varies is drawn from.
        duration_s: length in seconds; any.
        config: the camera.
        faults: what goes wrong, in the order of planning.
        regime_every_s: a new regime (product, light, colours, camera's place) each so many seconds; None
            keeps one.
        light_drift: strength of the slow drift of light; 1 is usual, 0 switches it off.
    """

    seed: int
    duration_s: float
    config: SceneConfig = field(default_factory=SceneConfig)
    faults: tuple[Fault, ...] = ()
    regime_every_s: float | None = None
    light_drift: float = 1.0

    @property
    def frame_count(self) -> int:
        """Frames in the whole clip."""
        return max(1, round(self.duration_s * self.config.fps))

    @property
    def labels(self) -> tuple[ClipLabel, ...]:
        """Every fault's intervals in order of time."""
        found = [ClipLabel(start, end, fault.kind) for fault in self.faults for start, end in fault.spans]
        return tuple(sorted(found, key=lambda label: (label.start_s, label.end_s, label.kind)))

    def regime(self, time_s: float) -> int:
        """Number of the regime at this time, from 0."""
        return int(time_s // self.regime_every_s) if self.regime_every_s else 0

    def look(self, time_s: float) -> Look:
        """How the scene looks at this time."""
        return look_of(self.config.view, self.regime(time_s))

    def travel(self, time_s: Times | float) -> Times:
        """How far the belt has come at each time, canvas units; `SPEED` a second while all is well."""
        times = np.asarray(time_s, dtype=np.float64)
        distance = SPEED * times + uniform(0.0, 1000.0, self.seed, 1) * PITCH
        for fault in self.faults:
            if fault.kind in MOTION_KINDS:
                loss = SPEED if fault.kind == "jam" else 2.0 * SPEED
                distance = distance - loss * _ramped(times - fault.start_s, fault.stop_s - fault.start_s)
        return np.asarray(distance)

    @property
    def faults_on_parts(self) -> dict[int, Fault]:
        """The faults that sit on a part, by the part's number."""
        return {fault.part: fault for fault in self.faults if fault.part >= 0}


def _ramped(since: Times, length: float) -> Times:
    """Integral over time of a pulse of height 1 and the given length whose flanks take `_RAMP_S` each."""
    ramp = min(_RAMP_S, length / 2.0)
    u = np.clip(since, 0.0, length)
    rising = np.minimum(u, ramp) ** 2 / (2.0 * ramp)
    level = np.clip(u - ramp, 0.0, length - 2.0 * ramp)
    falling = np.clip(u - (length - ramp), 0.0, ramp)
    return np.asarray(rising + level + falling - falling**2 / (2.0 * ramp))


@dataclass(frozen=True)
class PartPose:
    """How one part lies on the belt: within what is normal.

    Attributes:
        along: place along the belt, canvas units of belt travel behind part 0's slot.
        y: centre across the belt. turn: degrees. tint: (3,) factors. variant: which machined surface, 0 to
            `VARIANTS` - 1.
    """

    along: float
    y: float
    turn: float
    tint: tuple[float, float, float]
    variant: int


# A part is on the canvas for tens of frames; the cache holds those of a few clips and no more.
@lru_cache(maxsize=256)
def part_pose(seed: int, number: int) -> PartPose:
    """The pose of the part with this number; spacing, turn and tint vary slightly, as on a real line."""

    def clipped(key: int) -> float:
        return max(-2.2, min(2.2, normal(seed, 2, number, key)))

    shade, warmth = 0.035 * clipped(4), 0.012 * clipped(5)
    return PartPose(
        along=-PITCH * number + 1.1 * clipped(1),
        y=PART_Y + 0.6 * clipped(2),
        turn=0.9 * clipped(3),
        tint=(1.0 + shade + warmth, 1.0 + shade, 1.0 + shade - warmth),
        variant=hashed(seed, 2, number, 6) % VARIANTS,
    )


def centre_x(clip: Clip, fault: Fault, travel: Times | float) -> Times:
    """Where a fault's centre is on the canvas once the belt has come so far; not for motion faults."""
    along = part_pose(clip.seed, fault.part).along if fault.part >= 0 else fault.along
    return np.asarray(travel) + along
