"""Frames of a clip, one after another, each drawn from the clip and the time alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from anomaly.conveyor.arm import FORE, SHOULDER, STATION_X, ArmPose, arm_pose
from anomaly.conveyor.camera import exposed, shaken
from anomaly.conveyor.chance import normal, uniform
from anomaly.conveyor.clips import Clip, PartPose, centre_x, part_pose
from anomaly.conveyor.faults import MOTION_KINDS, Fault
from anomaly.conveyor.scene import BELT_BOTTOM, BELT_LOOP, BELT_TOP, CANVAS_W, PITCH
from anomaly.conveyor.stage import Stage, fault_sprite, nest_sprite, part_sprite, stage_of
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.conveyor.solids import Map, Sprite
    from anomaly.types import ImageArray

    Rendered: TypeAlias = tuple[ImageArray, float, NDArray[np.bool_] | None]

_HALF_PART = 46.0  # parts are drawn while their centres are so near to the canvas
_GRIPPER_SHADOW = 0.34


def render_clip(clip: Clip, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Rendered]:
    """Draw a clip's frames as they are asked for, in memory that does not grow with its length.

    Args:
        clip: from `plan_clip`.
        start_s, end_s: the frames whose time is in start_s <= t < end_s; all by default. A stretch is the
            same frames that the whole clip has there.

    Yields:
        image (H, W, 3) uint8 RGB; its time in seconds from the start of the clip; mask (H, W) bool of the
        fault's visible pixels, or None while no fault is labelled. A missing part's mask is where it should
        have been; the mask of a motion fault is the belt with all on it. What the arm or a part hides is not
        in the mask.

    Raises:
        UsageError: a stretch that is not inside the clip.
    """
    end = clip.duration_s if end_s is None else end_s
    if not 0.0 <= start_s < end <= clip.duration_s:
        raise UsageError(
            f"seconds {start_s:g} to {end:g} are not a stretch of a clip of {clip.duration_s:g} s; "
            "give start < end inside it"
        )
    first = math.ceil(start_s * clip.config.fps - 1e-6)
    last = min(clip.frame_count, math.ceil(end * clip.config.fps - 1e-6))
    return (_rendered(clip, index) for index in range(first, max(last, first + 1)))


def _rendered(clip: Clip, index: int) -> Rendered:
    time_s = index / clip.config.fps
    stage = stage_of(clip.config, clip.regime(time_s))
    active = tuple(fault for fault in clip.faults if fault.visible(time_s))
    canvas, shown = _drawn(clip, stage, time_s, active)
    camera = shaken(clip, stage, time_s, index)
    size = (clip.config.width, clip.config.height)
    picture = cv2.warpPerspective(
        canvas, camera, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    image = exposed(clip, stage, np.asarray(picture, dtype=np.float32), time_s, index)
    if shown is None:
        return image, time_s, None
    return image, time_s, np.asarray(cv2.warpPerspective(shown, camera, size, flags=cv2.INTER_LINEAR) >= 0.5)


def _drawn(clip: Clip, stage: Stage, time_s: float, active: tuple[Fault, ...]) -> tuple[Map, Map | None]:
    """The canvas at a time, and (h, w) how far each of its pixels shows a fault; None without any."""
    scale = stage.scale
    travel = float(clip.travel(time_s))
    canvas = stage.backdrop.copy()
    shown = np.zeros(canvas.shape[:2], dtype=np.float32) if active else None
    top, bottom = round(BELT_TOP * scale), round(BELT_TOP * scale) + stage.belt.shape[0]
    _roll_belt(stage, canvas[top:bottom], clip, travel)
    for fault in clip.faults:
        if fault.kind == "spill":
            _lay_fault(clip, stage, canvas, shown, fault, travel, active)
    poses = _poses(clip, travel)
    on_parts = clip.faults_on_parts
    for number, pose in poses.items():
        _lay_part(stage, canvas, shown, travel, pose, on_parts.get(number), active)
    for fault in clip.faults:
        if fault.kind == "foreign":
            _lay_fault(clip, stage, canvas, shown, fault, travel, active)
    if shown is not None and any(fault.kind in MOTION_KINDS for fault in active):
        shown[top:bottom] = 1.0
    _lay_arm(clip, stage, canvas, shown, travel, poses)
    return canvas, shown


def _poses(clip: Clip, travel: float) -> dict[int, PartPose]:
    """The parts that are on the canvas, by number."""
    first = math.ceil((travel - CANVAS_W - _HALF_PART) / PITCH)
    last = math.floor((travel + _HALF_PART) / PITCH)
    return {number: part_pose(clip.seed, number) for number in range(first, last + 1)}


def _roll_belt(stage: Stage, band: Map, clip: Clip, travel: float) -> None:
    """Write the belt's texture, moved by the travel to a fraction of a pixel, into its band of the canvas."""
    start = (-(travel + uniform(0.0, BELT_LOOP, clip.seed, 5)) * stage.scale) % stage.loop
    whole = int(start)
    fraction = start - whole
    width = band.shape[1]
    left, right = stage.belt[:, whole : whole + width], stage.belt[:, whole + 1 : whole + 1 + width]
    cv2.addWeighted(left, 1.0 - fraction, right, fraction, 0.0, dst=band)


def _lay_part(
    stage: Stage,
    canvas: Map,
    shown: Map | None,
    travel: float,
    pose: PartPose,
    fault: Fault | None,
    active: tuple[Fault, ...],
) -> None:
    x = travel + pose.along
    fitted = x > STATION_X
    usual = part_sprite(stage.look, stage.scale, pose.variant, fitted)
    place = (x * stage.scale, pose.y * stage.scale)
    if fault is None:
        _lay(canvas, shown, usual, place, pose.turn, pose.tint, is_fault=False)
    elif fault.kind == "missing":
        nest = nest_sprite(stage.look, stage.scale)
        _lay(canvas, shown, nest, place, pose.turn, (1.0, 1.0, 1.0), is_fault=False)
        if shown is not None and fault in active:
            _mark(shown, usual, place, pose.turn)
    else:
        sprite = fault_sprite(fault, stage.look, stage.scale, pose.variant, fitted)
        _lay(canvas, shown, sprite, place, pose.turn, pose.tint, is_fault=fault in active)


def _lay_fault(
    clip: Clip,
    stage: Stage,
    canvas: Map,
    shown: Map | None,
    fault: Fault,
    travel: float,
    active: tuple[Fault, ...],
) -> None:
    x = float(centre_x(clip, fault, travel))
    if -_HALF_PART < x < CANVAS_W + _HALF_PART:
        sprite = fault_sprite(fault, stage.look, stage.scale, 0, False)
        place = (x * stage.scale, fault.y * stage.scale)
        _lay(canvas, shown, sprite, place, 0.0, (1.0, 1.0, 1.0), is_fault=fault in active)


def _placed(
    shape: tuple[int, ...], image: Map, place: tuple[float, float], anchor: tuple[float, float], turn: float
) -> tuple[tuple[slice, slice], Map] | None:
    """Turn an image about its anchor by degrees and cut it to the canvas; None where it is off it."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    tall, wide = image.shape[:2]
    corners_x = [cos * (cx - anchor[0]) - sin * (cy - anchor[1]) for cx in (0, wide) for cy in (0, tall)]
    corners_y = [sin * (cx - anchor[0]) + cos * (cy - anchor[1]) for cx in (0, wide) for cy in (0, tall)]
    left, right = (
        max(0, math.floor(place[0] + min(corners_x))),
        min(shape[1], math.ceil(place[0] + max(corners_x)) + 1),
    )
    top, bottom = (
        max(0, math.floor(place[1] + min(corners_y))),
        min(shape[0], math.ceil(place[1] + max(corners_y)) + 1),
    )
    if left >= right or top >= bottom:
        return None
    # Centres of pixels lie at halves, in the image as on the canvas.
    shift_x, shift_y = place[0] - left - 0.5, place[1] - top - 0.5
    move = np.array(
        [
            [cos, -sin, shift_x - cos * (anchor[0] - 0.5) + sin * (anchor[1] - 0.5)],
            [sin, cos, shift_y - sin * (anchor[0] - 0.5) - cos * (anchor[1] - 0.5)],
        ]
    )
    moved = cv2.warpAffine(image, move, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    return (slice(top, bottom), slice(left, right)), np.asarray(moved, dtype=np.float32)


def _lay(
    canvas: Map,
    shown: Map | None,
    sprite: Sprite,
    place: tuple[float, float],
    turn: float,
    tint: tuple[float, float, float],
    *,
    is_fault: bool,
) -> None:
    found = _placed(canvas.shape, sprite.layer, place, sprite.anchor, turn)
    if found is None:
        return
    where, moved = found
    _blend(canvas[where], moved, tint)
    if shown is None:
        return
    cover = _placed(canvas.shape, sprite.body, place, sprite.anchor, turn)
    if cover is not None:
        shown[cover[0]] *= 1.0 - cover[1]
    if is_fault:
        _mark(shown, sprite, place, turn)


def _blend(under: Map, layer: Map, tint: tuple[float, float, float]) -> None:
    under *= 1.0 - layer[..., 3:]
    under += layer[..., :3] * np.asarray(tint, dtype=np.float32)


def _mark(shown: Map, sprite: Sprite, place: tuple[float, float], turn: float) -> None:
    found = _placed(shown.shape, sprite.marks, place, sprite.anchor, turn)
    if found is not None:
        np.maximum(shown[found[0]], found[1], out=shown[found[0]])


def _lay_arm(
    clip: Clip, stage: Stage, canvas: Map, shown: Map | None, travel: float, poses: dict[int, PartPose]
) -> None:
    cycle = round((travel - STATION_X) / PITCH)
    held = poses.get(cycle) or part_pose(clip.seed, cycle)
    arm = arm_pose(travel, (travel + held.along, held.y), _between_cycles(clip.seed, travel))
    scale, pieces = stage.scale, stage.arm
    shoulder_to_elbow, elbow_to_wrist = _links(arm)
    placed = (
        (pieces.upper, shoulder_to_elbow[0], pieces.joint, shoulder_to_elbow[1]),
        (pieces.gripper, arm.wrist, pieces.gripper_joint, 0.0),
        (pieces.fore, elbow_to_wrist[0], pieces.joint, elbow_to_wrist[1]),
    )
    _shade_under_arm(canvas, stage, arm, elbow_to_wrist[1])
    for image, joint, anchor, turn in placed:
        found = _placed(canvas.shape, image, (joint[0] * scale, joint[1] * scale), anchor, turn)
        if found is None:
            continue
        where, moved = found
        _blend(canvas[where], moved, (1.0, 1.0, 1.0))
        if shown is not None:
            shown[where] *= 1.0 - moved[..., 3]


def _between_cycles(seed: int, travel: float) -> float:
    """How the present cycle of the arm differs from the usual one; changes while the arm is away."""
    place = (travel - STATION_X) / PITCH
    cycle = math.floor(place)
    share = min(1.0, max(0.0, (place - cycle - 0.4) / 0.2))
    return (1.0 - share) * max(-2.0, min(2.0, normal(seed, 6, cycle))) + share * max(
        -2.0, min(2.0, normal(seed, 6, cycle + 1))
    )


def _links(arm: ArmPose) -> tuple[tuple[tuple[float, float], float], tuple[tuple[float, float], float]]:
    upper = math.degrees(math.atan2(arm.elbow[1] - SHOULDER[1], arm.elbow[0] - SHOULDER[0]))
    fore = math.degrees(math.atan2(arm.wrist[1] - arm.elbow[1], arm.wrist[0] - arm.elbow[0]))
    return (SHOULDER, upper), (arm.elbow, fore)


def _shade_under_arm(canvas: Map, stage: Stage, arm: ArmPose, fore_turn: float) -> None:
    """Darken belt and parts where forearm and press head keep the light off; softer the higher they are."""
    scale = stage.scale
    top, bottom = round(BELT_TOP * scale), round(BELT_BOTTOM * scale)
    spread = (13.0 + 9.0 * arm.height) * scale
    x = (arm.wrist[0] + 6.0 + 16.0 * arm.height) * scale
    y = (arm.wrist[1] + 19.0 + 20.0 * arm.height) * scale
    band = canvas[top:bottom]
    direction = math.radians(fore_turn)
    elbow = (x - FORE * scale * math.cos(direction), y - top - FORE * scale * math.sin(direction))
    found = _placed(band.shape, stage.arm.fore_shadow, elbow, stage.arm.joint, fore_turn)
    if found is not None:
        where, taken = found
        band[where] *= 1.0 - taken[..., None]
    first, last = max(top, int(y - 2 * spread)), min(bottom, int(y + 2 * spread))
    left, right = max(0, int(x - 2.2 * spread)), min(canvas.shape[1], int(x + 2.2 * spread))
    if first >= last or left >= right:
        return
    strength = np.float32(_GRIPPER_SHADOW * (1.0 - 0.45 * arm.height))
    across = np.exp(-(((np.arange(left, right, dtype=np.float32) - x) / spread) ** 2))
    down = np.exp(-(((np.arange(first, last, dtype=np.float32) - y) / (0.6 * spread)) ** 2))
    canvas[first:last, left:right] *= (1.0 - strength * down[:, None] * across[None, :])[..., None]
