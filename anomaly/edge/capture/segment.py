"""One segment: a fragmented MP4 that begins with a keyframe and knows when it began."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from anomaly.edge.capture.timing import RATE, TIME_BASE
from anomaly.edge.durable import publish, sync
from anomaly.edge.segment_name import segment_name

# A fragment is on disk after a second even if no keyframe came.
_MUXER = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
# This many first packets may come before libav knows the order of decoding.
_UNORDERED = 40
# The machine's clock was set while a segment was written: the next keyframe begins another.
_CLOCK_STEP_S = 2.0
# NAL unit types of parameter sets.
_PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
_START_CODE = re.compile(rb"\x00\x00\x01")


@dataclass(frozen=True, slots=True)
class Template:
    """What a segment must know of where its packets come from; it outlives the connection.

    Attributes:
        stream: libav's, of a container that nothing closes meanwhile.
        period: ticks from frame to frame, on average.
    """

    stream: VideoStream
    period: int

    @classmethod
    def of(cls, stream: VideoStream, period: int) -> Template:
        """A copy of what a connection's stream tells of itself, once its size is known; for a codec that segments hold."""
        # Nothing is written there.
        container = av.open(os.devnull, "w", format="mp4")
        return cls(_added(container, stream), period)


class Segment:
    """Writes one segment under a name that ends in `.part`.

    Args:
        folder, camera: see `anomaly.edge.capture.recorder.Recorder`.
        template: of the packets.
        parameters: parameter sets of the keyframe (Annex B); empty = those that the source announced.
        first: the keyframe; it is written by `write`.
        utc_s: when it arrived.
        before: `least_offset_s` of the segment before, in the same connection.
        mark: of the privacy masks that were painted, see `anomaly.edge.segment_name`.

    Attributes:
        path: where it will be.
        least_offset_s: clock minus stream time of the packet that was held up least.
    """

    def __init__(
        self,
        folder: Path,
        camera: str,
        template: Template,
        parameters: bytes,
        first: Packet[Any],
        utc_s: float,
        before: float | None,
        mark: str = "",
    ) -> None:
        assert first.pts is not None
        self._folder = folder
        self._codec = template.stream.codec_context.codec.canonical_name
        self._period = template.period
        self._start_utc_s = utc_s
        self._start_pts = first.pts
        self._offset_s = utc_s - first.pts / RATE
        self.least_offset_s = self._offset_s
        self._before = before
        self._base: int | None = None
        self._waiting: list[Packet[Any]] = []
        self._last_dts: int | None = None
        self._end_pts = first.pts
        self._frames = 0
        self.path = _free_path(folder / camera, utc_s, mark)
        self._part = self.path.with_name(self.path.name + ".part")
        self._file = _File(self._part, "wb")
        self._container = av.open(self._file, "w", format="mp4", options=_MUXER)
        self._container.metadata["comment"] = json.dumps(
            {"start_utc_s": utc_s, "start_pts_s": first.pts / RATE, "codec": self._codec}
        )
        stream = _added(self._container, template.stream)
        if parameters:
            stream.codec_context.extradata = parameters
        stream.time_base = TIME_BASE
        self._stream: VideoStream = stream

    def full(self, packet: Packet[Any], utc_s: float, segment_s: float) -> bool:
        """Whether this keyframe begins the next segment."""
        assert packet.pts is not None
        stepped = abs(utc_s - packet.pts / RATE - self._offset_s) > _CLOCK_STEP_S
        return stepped or packet.pts - self._start_pts >= segment_s * RATE - self._period // 2

    def lasts(self, packet: Packet[Any]) -> float:
        """Seconds from the segment's begin to this packet."""
        assert packet.pts is not None
        return (packet.pts - self._start_pts) / RATE

    def write(self, packet: Packet[Any], utc_s: float) -> None:
        """Write a packet; the order of decoding is completed where libav does not know it yet."""
        assert packet.pts is not None
        offset_s = utc_s - packet.pts / RATE
        if abs(offset_s - self._offset_s) <= _CLOCK_STEP_S:
            self.least_offset_s = min(self.least_offset_s, offset_s)
        self._frames += 1
        self._end_pts = max(self._end_pts, packet.pts + self._period)
        if packet.dts is None and self._last_dts is None and len(self._waiting) < _UNORDERED:
            self._waiting.append(packet)
            return
        self._release(packet.dts)
        self._mux(packet)

    def finish(self) -> dict[str, Any] | None:
        """Close, sync, rename; returns what "segment" tells, or None where nothing was written."""
        self._release(None)
        self._container.close()
        self._file.close()
        if not self._frames:
            self._part.unlink()
            return None
        size = self._part.stat().st_size
        publish(self._part, self.path)
        start_pts_s, end_pts_s = self._start_pts / RATE, self._end_pts / RATE
        # Packets arrive late, never early: the one that was held up least tells when the segment began.
        offset_s = self.least_offset_s
        if self._before is not None and abs(self._before - offset_s) < _CLOCK_STEP_S:
            offset_s = min(offset_s, self._before)
        start_utc_s = start_pts_s + offset_s
        return {
            "path": self.path.relative_to(self._folder).as_posix(),
            "start_utc_s": start_utc_s,
            "end_utc_s": start_utc_s + end_pts_s - start_pts_s,
            "start_pts_s": start_pts_s,
            "end_pts_s": end_pts_s,
            "bytes": size,
            "frames": self._frames,
            "codec": self._codec,
            "first_keyframe": True,
        }

    def discard(self) -> None:
        """Drop what was written."""
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError, ValueError):
            pass  # It is thrown away; that its end cannot be written no longer matters.
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def _release(self, dts: int | None) -> None:
        """Write the first packets, decoded at even steps before the first one whose time is known."""
        waiting, self._waiting = self._waiting, []
        for place, packet in enumerate(waiting):
            if dts is not None:
                packet.dts = dts - (len(waiting) - place) * self._period
            else:
                packet.dts = packet.pts
            self._mux(packet)

    def _mux(self, packet: Packet[Any]) -> None:
        assert packet.pts is not None
        dts = packet.pts if packet.dts is None else min(packet.dts, packet.pts)
        if self._last_dts is not None:
            dts = max(dts, self._last_dts + 1)
        self._last_dts = dts
        if self._base is None:
            self._base = dts
        packet.stream = self._stream
        packet.time_base = TIME_BASE
        packet.dts = dts - self._base
        packet.pts = max(packet.pts, dts) - self._base
        self._container.mux_one(packet)


def _added(container: OutputContainer, stream: VideoStream) -> VideoStream:
    """A stream like another one in a container that is not written yet."""
    copy = container.add_stream_from_template(stream, opaque=True)
    # Of a stream that was joined between two keyframes only the decoder knows its size, from the first of them on.
    copy.width, copy.height = stream.width, stream.height
    return copy


def holds(codec: str) -> bool:
    """Whether a segment holds packets of a codec, by libav's name: not the raw pictures of a USB camera, for one."""
    return codec in av.open(os.devnull, "w", format="mp4").supported_codecs


class _File(io.FileIO):
    """A file that lets the process's other threads go on while a disk is slow; libav's own stops them all."""

    def write(self, data: Any, /) -> int:
        """Write all of it: a nearly full disk takes a part."""
        view, done = memoryview(data), 0
        while done < len(view):
            done += super().write(view[done:])
        return done


def adopt(part: Path, folder: Path) -> dict[str, Any] | None:
    """Finish the segment that a killed process left; returns what "segment" tells, or None where nothing plays.

    Raises:
        OSError: it cannot be looked at now (no descriptor, a disk that fails); it is left as it is.
    """
    path = part.with_name(part.name.removesuffix(".part"))
    try:
        with av.open(
            f"file:{part.absolute()}", options={"protocol_whitelist": "file", "format_whitelist": "mov,mp4"}
        ) as container:
            told = json.loads(container.metadata["comment"])
            start_utc_s, start_pts_s = float(told["start_utc_s"]), float(told["start_pts_s"])
            stream = container.streams.video[0]
            base = float(stream.time_base or TIME_BASE)
            times = [packet.pts * base for packet in container.demux(stream) if packet.pts is not None]
            codec = str(told["codec"])
    except OSError:
        # FFmpeg's errors of the system are such, too: what cannot be opened now may play tomorrow.
        raise
    except (av.error.FFmpegError, ValueError, LookupError, TypeError):
        times = []
    if not times:
        part.unlink()
        return None
    length_s = (max(times) - times[0]) * (1 + 1 / max(len(times) - 1, 1))
    size = part.stat().st_size
    publish(part, path)
    return {
        "path": path.relative_to(folder).as_posix(),
        "start_utc_s": start_utc_s,
        "end_utc_s": start_utc_s + length_s,
        "start_pts_s": start_pts_s,
        "end_pts_s": start_pts_s + length_s,
        "bytes": size,
        "frames": len(times),
        "codec": codec,
        "first_keyframe": True,
    }


def parameter_sets(data: bytes, codec: str) -> bytes:
    """The parameter sets inside a keyframe of H.264 or H.265 (Annex B), as one header; empty where there are none.

    Each once: encoder and server both add them to some keyframes, which are no other stream for that.
    """
    types = _PARAMETER_SETS.get(codec)
    if types is None or not data.startswith((b"\0\0\1", b"\0\0\0\1")):
        return b""
    starts = [found.end() for found in _START_CODE.finditer(data[:65536])]
    found: dict[bytes, None] = {}
    for start, end in zip(starts, [*(start - 3 for start in starts[1:]), len(data)], strict=True):
        kind = data[start] & 0x1F if codec == "h264" else data[start] >> 1 & 0x3F
        if kind in types:
            found[data[start:end].rstrip(b"\0")] = None
    return b"".join(b"\0\0\0\1" + one for one in found)


def frame_size_marker(data: bytes) -> bytes:
    """The part of a JPEG that tells its size; empty where there is none."""
    at = max(data.find(b"\xff\xc0\x00"), data.find(b"\xff\xc2\x00"))
    return data[at : at + 9] if at >= 0 else b""


def _free_path(folder: Path, utc_s: float, mark: str) -> Path:
    """A name that no segment has; a clock that was set back comes to the same moment twice."""
    while True:
        path = folder / segment_name(utc_s, mark)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            sync(folder)
        if not path.exists() and not path.with_name(path.name + ".part").exists():
            return path
        utc_s += 0.001
