"""What a camera's process is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly.edge.address import Address


@dataclass(frozen=True)
class CaptureSettings:
    """How one camera is read.

    Attributes:
        camera: its name; also the name of its folder below `recording`.
        address: where it is.
        fps: frames a second of the stream's time that are handed over; None hands over every frame.
        recording: folder for segments; None writes none. With `black`, they hold painted frames, encoded anew.
        segment_s: length of a segment, to the next keyframe.
        open_timeout_s, read_timeout_s: a camera that says nothing for so long is taken for lost.
        refused_wait_s: between tries after a wrong password; cameras lock out who tries often.
        max_pixels: of a frame; larger ones are not decoded.
        loop: a file is played again and again.
        black: polygons of (x, y) in 0..1, painted black before a frame leaves the process.
    """

    camera: str
    address: Address
    fps: float | None = 10.0
    recording: Path | None = None
    segment_s: float = 10.0
    open_timeout_s: float = 5.0
    read_timeout_s: float = 5.0
    refused_wait_s: float = 60.0
    max_pixels: int = 4096 * 2304
    loop: bool = False
    black: tuple[tuple[tuple[float, float], ...], ...] = ()


@dataclass(frozen=True)
class Report:
    """Something that happened to a camera.

    Attributes:
        camera: its name.
        kind: connected, disconnected, refused, held, changed, crashed, ended, segment, recording_stopped,
            recording_resumed or timing.
        at_ns: monotonic clock.
        utc_s: this machine's clock, POSIX seconds.
        detail: plain values; which ones hangs on the kind.
    """

    camera: str
    kind: str
    at_ns: int
    utc_s: float
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What became of a camera's frames: captured == taken + dropped + (1 if one waits, else 0).

    Attributes:
        decoded: frames that came out of the decoder.
        captured: those of them that were due by `fps`.
        taken: handed over by `newest`.
        dropped: replaced by a newer one before they were taken.
    """

    decoded: int
    captured: int
    taken: int
    dropped: int
