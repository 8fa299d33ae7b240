"""From an open video to its decoded frames and their times, past whatever is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from anomaly.footage.clock import Clock
from anomaly.footage.container import Video
from anomaly.footage.damage import Damage

# A container that gives nothing but errors is given up after this many in a row.
_PATIENCE = 50
# Bytes in a packet of an MPEG transport stream: plain, with a time code, with error correction.
_TRANSPORT_PACKETS = (188, 192, 204)
# Matroska: a jump of this many frames over this many packets' worth of unread bytes was a search for the next
# readable cluster. A pause in the recording jumps in time only, an index in the middle in bytes only.
_SEARCHED = "matroska,webm"
_JUMP_FRAMES = 2.5
_JUMP_PACKETS = 2.0


def decoded_frames(
    video: Video, damage: Damage, from_tick: int | None = None
) -> Iterator[tuple[VideoFrame, float, bool]]:
    """Yield (frame, seconds, whole) in the order shown; `whole` is False where the decoder marks damage.

    Packets that the container marks as incomplete are not decoded, those that the decoder refuses are passed
    over, and a container that fails is asked again. All of it is counted in `damage`, and so is, once the
    end is reached, what was announced or went in and never came out.

    Args:
        video: an open video, at its start or where it was sought to.
        damage: receives what is wrong.
        from_tick: after a seek, the timestamp from which damage matters.
    """
    clock = Clock(video.origin_s, video.period_s)
    tally = _Tally(video, from_tick)
    time_s = 0.0
    for packet in _packets(video, damage, tally):
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError) as error:
            if tally.counts(packet):
                tally.refused += 1
                damage.undecodable += 1
                damage.note(_cause(error), tally.seconds(packet, time_s))
            continue
        for frame in frames:
            tick = frame.pts if video.timed else None
            base = frame.time_base or video.stream.time_base
            timestamp_s = float(tick * base) if tick is not None and base is not None else None
            # A damaged packet's timestamp may be noise; without timestamps the frame still takes its turn.
            if timestamp_s is None or not frame.is_corrupt:
                time_s = clock.seconds(timestamp_s)
            if from_tick is not None and (frame.pts is None or frame.pts < from_tick):
                yield frame, time_s, True
                continue
            tally.came_out += 1
            if frame.is_corrupt:
                damage.flawed += 1
                damage.note("the decoder met damaged data", time_s)
            yield frame, time_s, not frame.is_corrupt
    tally.settle(damage, time_s)


def _packets(video: Video, damage: Damage, tally: _Tally) -> Iterator[Packet[Any]]:
    """Packets of the video stream to decode, the empty one that empties the decoder included."""
    # All streams are read, not only the pictures: the end of the sound tells a cut file from a long
    # soundtrack.
    demux = video.container.demux()
    failures = 0
    while True:
        try:
            packet = next(demux, None)
        except (av.error.FFmpegError, ValueError) as error:
            failures += 1
            if failures == 1:
                damage.breaks += 1
                damage.note(_cause(error), tally.reached_s)
            if failures > _PATIENCE:
                return
            demux = video.container.demux()
            continue
        if packet is None:
            return
        failures = 0
        if packet.size:
            tally.read(packet, damage)
        if packet.stream_index != video.stream.index:
            continue
        if packet.size and packet.is_corrupt:
            if tally.counts(packet):
                damage.undecodable += 1
                damage.note("the container marks data as incomplete", tally.seconds(packet, tally.reached_s))
            continue
        tally.went_in += tally.counts(packet)
        yield packet


class _Tally:
    """Compares what was announced, what was read and what was decoded."""

    def __init__(self, video: Video, from_tick: int | None) -> None:
        self._video = video
        self._from_tick = from_tick
        self._origin_s = video.origin_s or 0.0
        self._end_of_last = 0
        self._last_picture_s = 0.0
        self._bytes = 0
        self._packets = 0
        self.went_in = 0
        self.came_out = 0
        self.refused = 0
        self.reached_s = 0.0

    def counts(self, packet: Packet[Any]) -> bool:
        """Whether a packet should become a frame that matters."""
        if not packet.size or packet.is_discard:
            return False
        if self._from_tick is not None:
            return packet.pts is not None and packet.pts >= self._from_tick
        return packet.pts is not None or not self._video.timed

    def seconds(self, packet: Packet[Any], otherwise: float) -> float:
        """Time of a packet, from the start of the stream; `otherwise` where it has none."""
        if packet.pts is None or packet.time_base is None or not self._video.timed:
            return otherwise
        return max(float(packet.pts * packet.time_base) - self._origin_s, 0.0)

    def read(self, packet: Packet[Any], damage: Damage) -> None:
        """Take note of a packet of any stream."""
        end = self.seconds(packet, self.reached_s)
        if packet.duration and packet.time_base is not None:
            end += float(packet.duration * packet.time_base)
        position = packet.pos if packet.pos is not None else -1
        is_picture = packet.stream_index == self._video.stream.index
        if is_picture and position >= 0 and packet.pts is not None:
            self._look_for_jump(packet, position, damage)
            self._last_picture_s = self.seconds(packet, 0.0)
        self.reached_s = max(self.reached_s, end)
        if position >= 0:
            self._end_of_last = position + packet.size
        if is_picture:
            self._packets += 1
            self._bytes += packet.size

    def _look_for_jump(self, packet: Packet[Any], position: int, damage: Damage) -> None:
        if self._video.container.format.name != _SEARCHED or not self._packets:
            return
        # Reordered frames come out of turn by as many as the decoder holds back.
        frames = _JUMP_FRAMES + 2 * self._video.stream.codec_context.has_b_frames
        step_s = self.seconds(packet, 0.0) - self._last_picture_s
        unread = position - self._end_of_last
        if step_s > frames * self._video.period_s and unread > max(
            _JUMP_PACKETS * self._bytes / self._packets, 1024
        ):
            damage.breaks += 1
            damage.note(
                f"{unread} bytes are no part of the container",
                self.reached_s,
                self.seconds(packet, self.reached_s),
            )

    def settle(self, damage: Damage, time_s: float) -> None:
        """At the end: count what is missing."""
        video = self._video
        if video.countable and (missing := self.went_in - self.refused - self.came_out) > 0:
            damage.missing += missing
            damage.note("the decoder gave fewer frames than there are packets", time_s)
        if self._from_tick is not None:
            return
        kind = video.container.format.name
        announced = 0
        if kind.startswith("mov,"):
            announced = len(video.stream.index_entries)
        elif kind == "avi":
            announced = video.stream.frames
        if announced > self._packets:
            damage.missing += announced - self._packets
            damage.note("the file ends before its index says", time_s)
        if kind == "mpegts" and all(video.container.size % size for size in _TRANSPORT_PACKETS):
            damage.missing += 1
            damage.note("the file ends inside a packet", time_s)
        if kind in ("matroska,webm", "flv"):
            declared = video.declared_duration_s()
            if declared is not None and declared - self.reached_s > 3 * video.period_s + 0.1:
                damage.cut_short_s = declared
                damage.note("the file ends before its header says", time_s)


def _cause(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).splitlines()[0]
