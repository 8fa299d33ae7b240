"""Settling which faults a clip shows, where, and from when to when each is visible."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from anomaly.conveyor.chance import hashed, uniform
from anomaly.conveyor.clips import Clip, centre_x, part_pose
from anomaly.conveyor.faults import KINDS, MOTION_KINDS, PART_KINDS, Fault, PlannedFault, fault_outline
from anomaly.conveyor.scene import BELT_BOTTOM, BELT_TOP, CANVAS_W, PITCH, SceneConfig, share_in_picture
from anomaly.errors import UsageError

VISIBLE_SHARE = 0.35  # of a fault's outline; it is labelled while at least so much of it is in the picture
_REACH = 48.0  # no fault reaches further than this from its own centre, in canvas units


def _spans(clip: Clip, fault: Fault) -> tuple[tuple[float, float], ...]:
    """The stretches of the clip in which the fault is visible, by asking every frame that might show it."""
    fps, count = clip.config.fps, clip.frame_count
    if fault.kind in MOTION_KINDS:
        first, last = max(0.0, fault.start_s), min(fault.stop_s, (count - 0.5) / fps)
        return ((first, last),) if first < last else ()
    times = np.arange(count) / fps
    xs = centre_x(clip, fault, clip.travel(times))
    near = np.flatnonzero((xs > -_REACH) & (xs < CANVAS_W + _REACH))
    shown: list[int] = []
    for i in map(int, near):
        look = clip.look(float(times[i]))
        outline = fault_outline(fault, look.product) + np.array([xs[i], fault.y])
        if share_in_picture(outline, clip.config, look) >= VISIBLE_SHARE:
            shown.append(i)
    runs: list[list[int]] = []
    for i in shown:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return tuple((max(0.0, (first - 0.5) / fps), (last + 0.5) / fps) for first, last in runs)


def _spread(kinds: Sequence[PlannedFault | str], duration_s: float, seed: int) -> Iterator[PlannedFault]:
    """Give each kind that came without a time its slot of the clip, in order."""
    slot = duration_s / max(1, len(kinds))
    for i, kind in enumerate(kinds):
        if isinstance(kind, PlannedFault):
            yield kind
        else:
            yield PlannedFault(kind, slot * (i + uniform(0.45, 0.55, seed, 3, i)))


def _settled_motion(plan: PlannedFault, seed: int, severity: float, fps: float, duration_s: float) -> Fault:
    length = plan.duration_s or min(uniform(3.0, 5.0, seed, 21), 0.5 * duration_s)
    # Half-way between frames, as all interval ends are.
    start = (math.floor((plan.at_s - length / 2.0) * fps) + 0.5) / fps
    stop = start + max(1, round(length * fps)) / fps
    return Fault(plan.kind, severity, seed, start_s=start, stop_s=stop)


def _settled(clip: Clip, plan: PlannedFault, seed: int, severity: float, taken: set[int]) -> Fault:
    look = clip.look(plan.at_s)
    travel = float(clip.travel(plan.at_s))
    middle = CANVAS_W / 2 + look.shift[0]
    number = round((travel - middle) / PITCH - (0.0 if plan.kind in PART_KINDS else 0.5))
    while number in taken:
        number += 1
    taken.add(number)
    if plan.kind in PART_KINDS:
        return Fault(plan.kind, severity, seed, part=number, y=part_pose(clip.seed, number).y)
    reach = 19.0 if plan.kind == "spill" else 14.0
    return Fault(
        plan.kind,
        severity,
        seed,
        along=-PITCH * (number + 0.5) + uniform(-4.0, 4.0, seed, 22),
        y=uniform(BELT_TOP + reach + 4.0, BELT_BOTTOM - reach - 4.0, seed, 23),
    )


def plan_clip(
    seed: int,
    duration_s: float,
    faults: Sequence[PlannedFault | str] = (),
    *,
    config: SceneConfig | None = None,
    regime_every_s: float | None = None,
    light_drift: float = 1.0,
) -> Clip:
    """Settle what a clip shows; renders nothing.

    Args:
        seed: of all that varies; clips of different seeds start at different phases of belt, arm and light.
        duration_s: length in seconds, above 0.
        faults: `PlannedFault`s, or kinds, which are then spread evenly over the clip in the order given.
        config: the camera; the default is 320x192 at 10 frames a second.
        regime_every_s: see `Clip`.
        light_drift: see `Clip`.

    Raises:
        UsageError: an unknown kind, a severity outside 0..1, a length that is not above 0, or a fault that
        would never be seen in the clip.
    """
    if not duration_s > 0.0:
        raise UsageError(f"a conveyor clip of {duration_s} s cannot be made; give a duration above 0")
    if regime_every_s is not None and not regime_every_s > 0.0:
        raise UsageError(
            f"regime_every_s {regime_every_s} is not a length of time; give one above 0, or None"
        )
    clip = Clip(seed, duration_s, config or SceneConfig(), (), regime_every_s, light_drift)
    plans = list(_spread(faults, duration_s, seed))
    for plan in plans:
        if plan.kind not in KINDS:
            raise UsageError(f"conveyor fault {plan.kind!r} does not exist; give one of {', '.join(KINDS)}")
        if plan.severity is not None and not 0.0 <= plan.severity <= 1.0:
            raise UsageError(f"severity {plan.severity} of fault {plan.kind!r} is out of range; give 0 to 1")
    # The belt's motion decides which part is in the middle at a time, so it is settled first.
    order = sorted(range(len(plans)), key=lambda i: plans[i].kind not in MOTION_KINDS)
    settled: dict[int, Fault] = {}
    taken: dict[bool, set[int]] = {True: set(), False: set()}
    for i in order:
        plan, fault_seed = plans[i], hashed(seed, 4, i)
        severity = uniform(0.0, 1.0, fault_seed, 20) if plan.severity is None else plan.severity
        if plan.kind in MOTION_KINDS:
            settled[i] = _settled_motion(plan, fault_seed, severity, clip.config.fps, duration_s)
            clip = replace(clip, faults=(*clip.faults, settled[i]))
        else:
            settled[i] = _settled(clip, plan, fault_seed, severity, taken[plan.kind in PART_KINDS])
    found = [replace(settled[i], spans=_spans(clip, settled[i])) for i in range(len(plans))]
    for plan, fault in zip(plans, found, strict=True):
        if not fault.spans:
            raise UsageError(
                f"conveyor fault {plan.kind!r} at {plan.at_s:g} s is never in a picture of a clip of "
                f"{duration_s:g} s; give a time inside the clip"
            )
    return replace(clip, faults=tuple(found))
