"""Video files to frames, by their real timestamps, losing nothing that can be read.

Pixels: libswscale's conversion to RGB with the stream's own matrix and range; a stream that names no matrix
is read as BT.601, one that names no range as limited (full for JPEG formats). Pixel shape and interlacing are
left as stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from anomaly.errors import DamagedFootageError, FootageError
from anomaly.footage import orientation
from anomaly.footage.clock import Sampler
from anomaly.footage.container import Video, open_video
from anomaly.footage.damage import Damage
from anomaly.footage.decode import decoded_frames
from anomaly.footage.sources import Source, SourceInfo
from anomaly.footage.timeline import timeline
from anomaly.types import Frame

if TYPE_CHECKING:
    from anomaly.types import ImageArray

# A later start is sought only where that saves decoding more than this; the packets have to be read
# once for it.
_WORTH_A_SEEK_S = 10.0
# Times that went through a CSV are rounded; a frame is still found by a time this much too early.
_ROUNDING_S = 0.0005


def probe_video(source: Source) -> SourceInfo:
    """What a video says about itself, its first frame decoded.

    Raises:
        DamagedFootageError: it cannot be opened, or not one frame of it decoded.
    """
    with open_video(source.path, source.name) as video:
        damage = Damage()
        first = next((frame for frame, _, whole in decoded_frames(video, damage) if whole), None)
        if first is None:
            damage.note("not one frame could be decoded", 0.0)
            raise DamagedFootageError(damage.message(source.name, 0, 0.0))
        lies = _orientation(first, video)
        duration = video.declared_duration_s()
        frames: int | None = video.stream.frames or None
        codec = video.stream.codec_context.name
        period = video.period_s
        width, height = first.width, first.height
    if orientation.swaps_sides(lies):
        width, height = height, width
    if duration is None:
        duration, frames = _measured(source.path, period)
    return SourceInfo(width, height, 1 / period, duration, frames, codec, orientation.ROTATION[lies])


def video_duration_s(source: Source) -> float:
    """Length of a video in seconds: as the file states it, else from its packets. Nothing is decoded.

    Raises:
        DamagedFootageError: it cannot be opened.
    """
    with open_video(source.path, source.name) as video:
        duration = video.declared_duration_s()
        period = video.period_s
    return _measured(source.path, period)[0] if duration is None else duration


def read_video(
    source: Source,
    *,
    fps: float | None,
    start_s: float,
    end_s: float | None,
    on_damage: Callable[[str], None] | None,
) -> Iterator[Frame]:
    """Frames of a video; see `anomaly.footage.source.read_frames`."""
    damage = Damage()
    sampler = Sampler(fps, start_s)
    reformatter = VideoReformatter()
    reached_s = 0.0
    frames = 0
    try:
        for picture in _pictures(source, start_s, damage):
            if end_s is not None and picture.time_s >= end_s:
                break
            reached_s = picture.time_s
            frames += picture.whole
            if picture.whole and picture.time_s >= start_s and sampler.takes(picture.time_s):
                image = _to_rgb(picture.frame, reformatter, picture.orientation)
                yield Frame(image, picture.time_s, picture.index, source.name)
    except DamagedFootageError as error:
        message = str(error)
    else:
        if not damage:
            return
        message = damage.message(source.name, frames, reached_s)
    if on_damage is None:
        raise DamagedFootageError(message)
    on_damage(message)


def read_video_frame_at(source: Source, time_s: float) -> Frame:
    """The frame of a video shown at `time_s`; see `anomaly.footage.source.read_frame_at`."""
    until = max(time_s, 0.0) + _ROUNDING_S
    shown: _Picture | None = None
    damage = Damage()
    for picture in _pictures(source, until, damage):
        if shown is not None and picture.time_s > until:
            break
        if picture.whole:
            shown = picture
    else:
        end_s = 0.0 if shown is None else shown.time_s + shown.period_s
        if shown is None or time_s > end_s + 1.0:
            raise FootageError(
                f"{source.name} shows nothing at {time_s:.3f} s: its last readable frame ends at {end_s:.3f} "
                "s; give a time inside the video"
            )
    return Frame(
        _to_rgb(shown.frame, VideoReformatter(), shown.orientation), shown.time_s, shown.index, source.name
    )


@dataclass(slots=True)
class _Picture:
    """A decoded frame that may not be wanted: its pixels are converted only if it is."""

    frame: VideoFrame
    time_s: float
    index: int
    whole: bool
    orientation: int
    period_s: float


def _pictures(source: Source, start_s: float, damage: Damage) -> Iterator[_Picture]:
    """Frames from a keyframe before the one shown at `start_s`; from the first if seeking is unsafe."""
    if start_s > _WORTH_A_SEEK_S:
        sought = _sought(source, start_s, damage)
        first = next(sought, None)
        if first is not None:
            yield first
            yield from sought
            return
        damage.reset()
    with open_video(source.path, source.name) as video:
        lies = 0
        index = -1
        for index, (frame, time_s, whole) in enumerate(decoded_frames(video, damage)):
            lies = lies or _orientation(frame, video)
            yield _Picture(frame, time_s, index, whole, lies, video.period_s)
        if index < 0:
            damage.note("not one frame could be decoded", 0.0)


def _sought(source: Source, start_s: float, damage: Damage) -> Iterator[_Picture]:
    """Frames from a keyframe before the one shown at `start_s`, numbered; none if that cannot be exact."""
    times = timeline(source.path)
    if not times.exact:
        return
    with open_video(source.path, source.name) as video:
        base, origin = video.stream.time_base, video.origin_s
        if base is None or origin is None:
            return
        target = int(np.searchsorted(times.ticks, math.floor((start_s + origin) / base), side="right")) - 1
        if target <= 0:
            return
        tick = int(times.ticks[target])
        video.container.seek(tick, stream=video.stream)
        lies = index = 0
        for frame, time_s, whole in decoded_frames(video, damage, from_tick=tick):
            if not lies and (frame.pts is None or frame.pts > tick):
                return
            lies = lies or _orientation(frame, video)
            index = index + 1 if frame.pts is None else int(np.searchsorted(times.ticks, frame.pts))
            yield _Picture(frame, time_s, index, whole, lies, video.period_s)


def _orientation(frame: VideoFrame, video: Video) -> int:
    """EXIF number of how a frame lies: its display matrix, else the stream's older `rotate` tag."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if isinstance(matrix, Buffer):
        return orientation.from_display_matrix(bytes(matrix))
    tags = {key.lower(): value for key, value in video.stream.metadata.items()}
    return orientation.from_degrees(tags.get("rotate", "0"))


def _to_rgb(frame: VideoFrame, reformatter: VideoReformatter, lies: int) -> ImageArray:
    image = reformatter.reformat(frame, format="rgb24").to_ndarray()
    return orientation.set_upright(image, lies)


def _measured(path: Path, period_s: float) -> tuple[float, int]:
    """Duration in seconds and number of frames, from the packets."""
    times = timeline(path)
    return times.duration_s or times.frames * period_s, times.frames
