"""Footage in: videos and images, found by path and read as frames with their real times.

find_sources(paths)            what there is
probe(source)                  size, rate, length
read_frames(source, fps=2)     the frames, in order, one at a time
read_frame_at(source, 12.3)    the frame shown at a time
fingerprint(path)              SHA-256 of a file
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from anomaly.errors import DamagedFootageError, UsageError
from anomaly.footage.container import open_video
from anomaly.footage.images import image_header, read_image
from anomaly.footage.orientation import ROTATION, swaps_sides
from anomaly.footage.sources import (
    HEATMAPS,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Source,
    SourceInfo,
    find_sources,
    fingerprint,
    natural_key,
    under_masks,
)
from anomaly.footage.video import probe_video, read_video, read_video_frame_at, video_duration_s
from anomaly.privacy import PrivacyMask
from anomaly.types import Frame

__all__ = [
    "HEATMAPS",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Source",
    "SourceInfo",
    "duration_s",
    "find_sources",
    "fingerprint",
    "natural_key",
    "probe",
    "read_frame_at",
    "read_frames",
    "steps_s",
    "under_masks",
]


def probe(source: Source) -> SourceInfo:
    """What a source says about itself. A video's first frame is decoded; of an image only the header is read.

    Raises:
        DamagedFootageError: it cannot be opened, or holds nothing that can be decoded.
    """
    if source.kind == "video":
        return probe_video(source)
    header = image_header(source.path)
    width, height = header.width, header.height
    if swaps_sides(header.orientation):
        width, height = height, width
    return SourceInfo(width, height, None, None, 1, header.format, ROTATION[header.orientation])


def duration_s(source: Source) -> float | None:
    """Length of a video in seconds, nothing decoded; None for an image.

    Raises:
        DamagedFootageError: it cannot be opened.
    """
    return video_duration_s(source) if source.kind == "video" else None


def steps_s(sources: Iterable[Source], fps: float | None) -> dict[str, float]:
    """Seconds between frames, on average, of each video by its name, where `fps` frames a second are taken of it.

    As the files tell; nothing is decoded. One that cannot be opened is left out.
    """
    steps = {}
    for source in sources:
        if source.kind == "video":
            with suppress(DamagedFootageError), open_video(source.path, source.name) as video:
                steps[source.name] = max(video.period_s, 1 / fps if fps else 0.0)
    return steps


def read_frames(
    source: Source,
    *,
    fps: float | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    on_damage: Callable[[str], None] | None = None,
) -> Iterator[Frame]:
    """Yield the frames of a source shown in start_s <= t < end_s, one in memory at a time.

    Args:
        source: a video, or an image (one frame at 0 s).
        fps: take at most this many frames a second of the stream's own time, on the fixed grid
            start_s + k / fps, the first frame always among them; None takes every frame.
        start_s, end_s: seconds from the start of the stream, half-open; end_s None reads to the end.
        on_damage: called once, after all that could be read, with one line that names the file, what is lost
            and the time reached. Frames that the decoder marks as damaged are left out and counted.

    Yields:
        Frame: image (H, W, 3) uint8 RGB, upright, black under the source's privacy masks; pts_s strictly increasing;
            index counted before sampling.

    Raises:
        DamagedFootageError: in place of `on_damage` where that is None.
        UsageError: fps not positive, or times that are negative or not in order.
    """
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise UsageError(f"fps {fps} is not a rate; give a number of frames a second above 0")
    if not (start_s >= 0 and math.isfinite(start_s)):
        raise UsageError(
            f"start_s {start_s} is not a time in the video; give seconds from its start, 0 or more"
        )
    if end_s is not None and not end_s > start_s:
        raise UsageError(
            f"end_s {end_s} is not after start_s {start_s}; give the end that comes after the start"
        )
    frames = (
        read_video(source, fps=fps, start_s=start_s, end_s=end_s, on_damage=on_damage)
        if source.kind == "video"
        else _read_image(source, start_s, on_damage)
    )
    return _painted(frames, source) if source.black else frames


def read_frame_at(source: Source, time_s: float) -> Frame:
    """The frame shown at `time_s`: the last that starts no later (the first one before that).

    Sought, then decoded forward from the keyframe; a frame's own `pts_s`, even rounded to milliseconds, gives
    it back.

    Raises:
        FootageError: the time lies more than a second past the end.
        DamagedFootageError: the source cannot be opened.
    """
    if source.kind == "video":
        frame = read_video_frame_at(source, time_s)
    else:
        frame = Frame(read_image(source.path), 0.0, 0, source.name)
    return next(_painted([frame], source))


def _painted(frames: Iterable[Frame], source: Source) -> Iterator[Frame]:
    mask = PrivacyMask(source.black)
    for frame in frames:
        mask.paint(frame.image)
        yield frame


def _read_image(source: Source, start_s: float, on_damage: Callable[[str], None] | None) -> Iterator[Frame]:
    if start_s > 0:
        return
    try:
        image = read_image(source.path)
    except DamagedFootageError as error:
        if on_damage is None:
            raise
        on_damage(str(error))
        return
    yield Frame(image, 0.0, 0, source.name)
