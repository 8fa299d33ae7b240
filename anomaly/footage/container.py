"""Opening a video file, and only that file.

libav follows what a file says: a playlist named `.mp4` would open whatever it lists, a session description
would open the network. Here the container found in the bytes must be on an allow-list (checked by libav
before it reads anything else), and no protocol but `file` exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from anomaly.errors import DamagedFootageError

MAX_PIXELS = 100_000_000
# libav's demuxers that hold pictures themselves and refer to no other file.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,nut,dv,ivf,"
    "yuv4mpegpipe,mjpeg,h264,hevc,m4v,obu"
)
# Raw streams: no timestamps, no length; libav supposes 25 frames a second unless the stream says more.
RAW_STREAMS = frozenset({"mjpeg", "h264", "hevc", "m4v", "mpegvideo", "obu"})
# Codecs of which one packet may hold no picture or two; for all others packets and pictures are
# counted alike.
_UNEVEN_CODECS = frozenset({"vp8", "mpeg4", "msmpeg4v3", "msmpeg4v2", "msmpeg4v1", "vc1", "wmv3"})
# libav's AVFieldOrder: unknown and progressive. Interlaced video may keep each field in a packet of its own.
_WHOLE_PICTURES = (0, 1)


@dataclass(frozen=True, slots=True)
class Video:
    """An open video file.

    Attributes:
        container, stream: libav's; the stream decodes on as many threads as it likes.
        name: what messages call the file.
        origin_s: the stream's own start time in seconds, subtracted from every timestamp; None if absent.
        period_s: seconds between frames on average.
        timed: whether timestamps are used. False for raw streams and for AVI with reordered frames, which
            store none that could be trusted; their frames are `period_s` apart.
        countable: whether a packet is a frame.
    """

    container: InputContainer
    stream: VideoStream
    name: str
    origin_s: float | None
    period_s: float
    timed: bool
    countable: bool

    def declared_duration_s(self) -> float | None:
        """Length that the file states, in seconds from its first frame; None where it states none."""
        if self.container.format.name in RAW_STREAMS:
            return None
        stream = self.stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if self.container.duration is not None:
            # Containers that state only one length for all streams count it from zero, not from their start.
            return max(self.container.duration / 1e6 - (self.origin_s or 0.0), 0.0)
        return None


@contextmanager
def open_video(path: Path, name: str | None = None) -> Iterator[Video]:
    """Open the first video stream of a file (cover pictures are passed over).

    Args:
        path: a regular file.
        name: what messages call it; the path if not given.

    Raises:
        DamagedFootageError: no video of an accepted container, cut short before its index, or too large.
    """
    name = name or str(path)
    try:
        container = av.open(
            f"file:{path.absolute()}",
            options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise DamagedFootageError(_why_not_opened(path, name, error)) from None
    with container:
        stream = next(
            (s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None
        )
        if stream is None or stream.codec_context is None:
            raise DamagedFootageError(f"{name} holds no video stream; give a file with pictures in it")
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise DamagedFootageError(
                f"{name} claims {context.width} x {context.height} pixels, more than the "
                f"{MAX_PIXELS / 1e6:.0f} million that one frame may have; scale it down"
            )
        # Frames may grow later in the stream; the decoder refuses those itself.
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_type = "AUTO"
        kind = container.format.name
        # In a raw stream libav's average is its own default; the guess comes from what the codec says.
        rates = (stream.guessed_rate, stream.average_rate)
        rate = next((r for r in (rates if kind in RAW_STREAMS else rates[::-1]) if r), None)
        start, base = stream.start_time, stream.time_base
        yield Video(
            container=container,
            stream=stream,
            name=name,
            origin_s=float(start * base) if start is not None and base is not None else None,
            period_s=float(1 / rate) if rate else 0.04,
            timed=kind not in RAW_STREAMS and not (kind == "avi" and context.has_b_frames),
            countable=context.name not in _UNEVEN_CODECS and context.field_order in _WHOLE_PICTURES,
        )


def _why_not_opened(path: Path, name: str, error: Exception) -> str:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.read(1)
    except OSError as cause:
        return f"{name} cannot be read ({cause.strerror}); check that it exists and may be read"
    if size == 0:
        return f"{name} is empty (0 bytes); record or copy it again"
    cause_text = getattr(error, "strerror", None) or str(error)
    return (
        f"{name} cannot be opened as video ({cause_text}): it is of no accepted container, or was cut short "
        "before its index was written; give a complete video file"
    )
