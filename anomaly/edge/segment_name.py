"""The name of a recorded segment: when it began, and under which privacy masks it was painted.

`<camera>/<YYYYmmdd>/<HHMMSS.mmm>.mp4`, and `<HHMMSS.mmm>.<mark>.mp4` of a camera with masks. The name says it, not a clock
and not a table: whatever was killed, restored or indexed again, a file that was recorded under other masks is known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath

#: A segment lasts no longer: without a keyframe for so long it ends. What was written later after its name's time is not
#: of it, and one that is begun is waited for no longer.
LONGEST_SEGMENT_S = 600.0

_NAME = re.compile(r"(\d{6})\.(\d{3})(?:\.(m[0-9a-f]{16}))?\.\w+")


def mask_mark(black: Sequence[Sequence[Sequence[float]]]) -> str:
    """What the segments of a camera with these polygons carry in their names; empty where there is none."""
    if not black:
        return ""
    corners = [[[float(value) for value in corner] for corner in polygon] for polygon in black]
    return "m" + hashlib.sha256(json.dumps(corners).encode()).hexdigest()[:16]


def segment_name(utc_s: float, mark: str) -> PurePath:
    """Day and name, below the camera's folder, of a segment that began then."""
    when = datetime.fromtimestamp(utc_s, UTC)
    marked = f".{mark}" if mark else ""
    return PurePath(f"{when:%Y%m%d}", f"{when:%H%M%S}.{when.microsecond // 1000:03d}{marked}.mp4")


def start_of(path: PurePath) -> float | None:
    """When a segment began, POSIX seconds, by its name and its folder's; None for other files."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        second = datetime.strptime(path.parent.name + match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return second.timestamp() + int(match[2]) / 1000


def mark_of(path: PurePath) -> str:
    """The mark in a segment's name; empty where it was recorded without masks."""
    match = _NAME.fullmatch(path.name)
    return (match and match[3]) or ""
