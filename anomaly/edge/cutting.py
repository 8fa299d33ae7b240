"""Clips out of recorded segments: packets copied as they are, and an H.264 picture of what browsers cannot play.

Runs in a process of its own (`clip_process`): a packet that makes FFmpeg crash takes one clip along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from anomaly.edge.durable import part_of, publish
from anomaly.edge.store.timeline import Segment
from anomaly.errors import FootageError
from anomaly.footage.clips import VideoWriter
from anomaly.privacy import Polygon, PrivacyMask

#: (x, y) corners in 0 .. 1 of the picture's width and height.

_TICK = Fraction(1, 90_000)
#: One clock ran through two segments where the stream's time and this machine's agree to this.
_SAME_CLOCK_S = 0.5
#: Segments that overlap by more were recorded under two clocks.
_OVERLAP_S = 1.0
#: A moov at the front and a fragment a keyframe: playable from the first byte, and up to where it breaks off.
_MUXER = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "2000000"}
_CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".part": "mp4"}
_MOST_PIXELS = 4096 * 2304


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip that was written.

    Attributes:
        path: where.
        start_utc_s, end_utc_s: POSIX seconds of the file's time 0 and of its end.
        frames, bytes, codec: what it holds.
        playable: whether browsers play it (H.264, 4:2:0, 8 bits).
        used: ids of the segments it shows.
        missing: why it is shorter than asked; "" where it is not.
    """

    path: Path
    start_utc_s: float
    end_utc_s: float
    frames: int
    bytes: int
    codec: str
    playable: bool
    used: tuple[int, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class _Packet:
    pts_s: float
    dts_s: float
    packet: Any


def cut(segments: Sequence[Segment], start_utc_s: float, end_utc_s: float, out: Path) -> Cut:
    """Copy the packets from the keyframe before `start_utc_s` to `end_utc_s` into a fragmented MP4.

    Only pictures are copied, never sound. Segments of another codec or size than the one that fills most of
    the time, and those that are gone or cannot be read, are left out. On the disk when it returns.

    Args:
        segments: in the order of recording; the clip begins with the first one's first keyframe at the earliest.
        start_utc_s, end_utc_s: POSIX seconds.
        out: the file, whose folder must exist; one that is there is replaced.

    Raises:
        FootageError: nothing in the segments can be shown; nothing is left behind.
        OSError: the disk is full; nothing is left behind.
    """
    readable = _of_one_clock([segment for segment in segments if segment.path.is_file()])
    kinds = {segment.path: _kind(segment.path) for segment in readable}
    shares: dict[Any, float] = {}
    for segment in readable:
        kind = kinds[segment.path]
        if kind is not None:
            overlap = min(segment.end_utc_s, end_utc_s) - max(segment.start_utc_s, start_utc_s)
            shares[kind] = shares.get(kind, 0.0) + max(overlap, 0.0)
    if not shares:
        raise FootageError(f"no recorded segment can be read between {start_utc_s:.3f} and {end_utc_s:.3f} s")
    kind = max(shares, key=lambda one: shares[one])
    used = [segment for segment in readable if kinds[segment.path] == kind]
    missing = "part of the recording is gone or cannot be read" if len(used) < len(segments) else ""
    if len(shares) > 1:
        missing = "the stream changed"
    part = part_of(out)
    try:
        first, last, frames = _copy(used, start_utc_s, end_utc_s, part)
        if not frames:
            raise FootageError(f"no keyframe was recorded before {end_utc_s:.3f} s; nothing can be shown")
        size = part.stat().st_size
        publish(part, out)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, av.error.FFmpegError) and not isinstance(error, OSError):
            raise FootageError(f"{out.name} cannot be cut: {error.strerror}") from error
        raise
    codec, pixels = kind[0], kind[3]
    playable = codec == "h264" and pixels in ("yuv420p", "yuvj420p")
    ids = tuple(segment.id for segment in used if segment.id)
    return Cut(out, first, last, frames, size, codec, playable, ids, missing)


def preview(clip: Path, out: Path, black: Sequence[Polygon] = ()) -> None:
    """Decode a clip and encode it as H.264, with polygons painted black.

    Args:
        clip: as `cut` wrote it.
        out: the new file, with the same times; pictures of another size than the first are scaled to it.
        black: corners (x, y) in 0 .. 1.

    Raises:
        FootageError: it cannot be decoded, or the disk is full; nothing is left behind.
    """
    mask = PrivacyMask(black)
    try:
        with _open(clip) as source:
            stream = source.streams.video[0]
            if stream.width * stream.height > _MOST_PIXELS:
                raise FootageError(
                    f"{clip.name} has {stream.width}x{stream.height} pixels; too many to decode"
                )
            first: float | None = None
            with VideoWriter(out, fps=float(stream.average_rate or 10), crf=26) as writer:
                size: dict[str, int] = {}
                for frame in source.decode(stream):
                    # A camera may change its size in the middle of a segment; a clip has one.
                    size = size or {"width": frame.width, "height": frame.height}
                    image = frame.to_ndarray(format="rgb24", **size)
                    mask.paint(image)
                    at = float(frame.time or 0.0)
                    first = at if first is None else first
                    writer.write(image, max(at - first, 0.0))
            if not writer.frames:
                raise FootageError(f"{clip.name} holds no picture that can be decoded")
    except (av.error.FFmpegError, IndexError) as error:
        reason = getattr(error, "strerror", "it holds no pictures")
        raise FootageError(f"{clip.name} cannot be decoded: {reason}") from error


def _open(path: Path) -> Any:
    """Open a segment or a clip of ours: by its suffix, from files only."""
    container = _CONTAINERS.get(path.suffix)
    if container is None:
        raise FootageError(f"{path.name} is no recorded segment; those end in .mp4 or .mkv")
    return av.open(str(path), format=container, options={"protocol_whitelist": "file"})


def _kind(path: Path) -> tuple[str, int, int, str, bytes] | None:
    """What packets must share to stand in one track; None for a file that cannot be read."""
    try:
        with _open(path) as source:
            stream = source.streams.video[0]
            context = stream.codec_context
            extra = bytes(context.extradata or b"")
            return context.name, context.width, context.height, str(context.pix_fmt), extra
    except (av.error.FFmpegError, FootageError, IndexError):
        return None


def _of_one_clock(segments: Sequence[Segment]) -> list[Segment]:
    """Without those that a clock set back has laid under later ones."""
    kept: list[Segment] = []
    for segment in reversed(segments):
        if not kept or segment.end_utc_s <= kept[-1].start_utc_s + _OVERLAP_S:
            kept.append(segment)
    return kept[::-1]


def _starts(segments: Sequence[Segment]) -> list[float]:
    """POSIX time of each segment's first packet; within one connection by the stream's own, even clock."""
    starts: list[float] = []
    for i, segment in enumerate(segments):
        start = segment.start_utc_s
        if i:
            before = segments[i - 1]
            even = starts[-1] + segment.start_pts_s - before.start_pts_s
            if abs(even - start) < _SAME_CLOCK_S and segment.start_pts_s > before.start_pts_s:
                start = even
        starts.append(start)
    return starts


def _packets(segments: Sequence[Segment], damage: list[str]) -> Iterator[_Packet]:
    """Packets of all segments in decoding order, their times as POSIX seconds."""
    for segment, start in zip(segments, _starts(segments), strict=True):
        try:
            with _open(segment.path) as source:
                stream = source.streams.video[0]
                origin: float | None = None
                for packet in source.demux(stream):
                    if packet.dts is None and packet.pts is None:
                        continue
                    pts = packet.pts if packet.pts is not None else packet.dts
                    dts = packet.dts if packet.dts is not None else packet.pts
                    if packet.is_corrupt or not packet.size:
                        continue
                    tick = float(packet.time_base)
                    origin = pts * tick if origin is None else origin
                    yield _Packet(start + pts * tick - origin, start + dts * tick - origin, packet)
        except av.error.FFmpegError as error:
            damage.append(f"{segment.path.name}: {error.strerror}")


def _between(packets: Iterator[_Packet], start_s: float, end_s: float) -> Iterator[_Packet]:
    """From the keyframe before the start to the last picture not after the end, in decoding order."""
    waiting: list[_Packet] = []
    first: float | None = None
    for one in packets:
        if one.dts_s > end_s:
            break
        if first is None and one.packet.is_keyframe and (one.pts_s <= start_s or not waiting):
            waiting = [one]
        elif waiting or first is not None:
            waiting.append(one)
        if first is None and waiting and one.dts_s > start_s:
            first = waiting[0].pts_s
        if first is not None and one.pts_s <= end_s:
            yield from _shown(waiting, first)
            waiting = []
    while waiting and waiting[-1].pts_s > end_s:
        waiting.pop()
    if waiting:
        yield from _shown(waiting, waiting[0].pts_s if first is None else first)


def _shown(packets: Sequence[_Packet], first_s: float) -> Iterator[_Packet]:
    """Without pictures shown before the first keyframe: they lean on some that are not here."""
    return (one for one in packets if one.pts_s >= first_s)


def _copy(segments: Sequence[Segment], start_s: float, end_s: float, part: Path) -> tuple[float, float, int]:
    """Write the packets; returns POSIX seconds of the file's time 0 and of its end, and the count of frames."""
    damage: list[str] = []
    frames, origin, last_dts, shift, end = 0, 0.0, -1, 0, 0
    with _open(segments[0].path) as source, av.open(str(part), "w", format="mp4", options=_MUXER) as out:
        template = source.streams.video[0]
        track = out.add_stream_from_template(template)
        track.metadata.clear()
        if template.codec_context.name == "hevc":
            track.codec_context.codec_tag = "hvc1"
        track.time_base = _TICK
        for one in _between(_packets(segments, damage), start_s, end_s):
            packet = one.packet
            if not frames:
                origin = one.dts_s
            # Where one segment meets the next, arrival times may overlap by a little: times must rise.
            dts = round((one.dts_s - origin) / _TICK)
            shift = max(shift, last_dts + 1 - dts)
            last_dts = dts + shift
            pts = round((one.pts_s - origin) / _TICK) + shift
            duration = round(float((packet.duration or 0) * packet.time_base) / _TICK)
            packet.stream = track
            packet.time_base = _TICK
            packet.dts, packet.pts, packet.duration = last_dts, max(pts, last_dts), duration
            end = max(end, pts + duration)
            out.mux(packet)
            frames += 1
    return origin, origin + float(end * _TICK), frames
