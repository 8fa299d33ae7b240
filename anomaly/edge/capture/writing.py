"""A camera's packets to segments: as they came, or those of `encoding`; never with sound.

A segment starts at a keyframe and is written as `<folder>/<camera>/<YYYYmmdd>/<HHMMSS.mmm>.mp4.part`, in fragments
of about a second, so that a process killed at any moment leaves a file that plays to its last second. Whole, it is
synced, renamed and its folder synced; only then it is told. The next process finishes what a killed one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
from av.packet import Packet

from anomaly.edge.capture.segment import Segment, Template, adopt, frame_size_marker, parameter_sets
from anomaly.edge.segment_name import LONGEST_SEGMENT_S

# After a failure (a full disk, as a rule) the next try comes so much later.
_TRY_AGAIN_S = 10.0


class SegmentWriter:
    """Writes the segments of one camera into one folder; used by one thread.

    Args:
        folder: of all recordings; segments are named relative to it.
        camera: name of the folder inside.
        segment_s: seconds to a segment, to the next keyframe.
        mark: of the privacy masks that were painted on what is written; it is part of the segments' names.
        written: called with what is told of a segment that is whole and on disk.
        stopped: called with a reason, one line, when nothing can be written for now.
    """

    def __init__(
        self,
        folder: Path,
        camera: str,
        segment_s: float,
        mark: str,
        *,
        written: Callable[[dict[str, Any]], None],
        stopped: Callable[[str], None],
    ) -> None:
        self._mark = mark
        self._folder = folder
        self._camera = camera
        self._segment_s = segment_s
        self._written = written
        self._stopped = stopped
        self._segment: Segment | None = None
        self._look = b""
        self._offset_s: float | None = None
        self._not_before = 0.0

    def recover(self) -> None:
        """Finish the segments that a killed process left."""
        try:
            left = sorted((self._folder / self._camera).glob("*/*.mp4.part"))
        except OSError as error:
            # They stay for the next process; what comes from now on is recorded as soon as the folder can be written.
            self._stop(error)
            return
        for part in left:
            try:
                detail = adopt(part, self._folder)
            except FileNotFoundError:
                # Of a runner that was killed just now the camera's process still lives, and has finished it.
                continue
            except OSError as error:
                self._stop(error)
                continue
            if detail is not None:
                self._written(detail)

    def write(self, packet: Packet[Any], template: Template, utc_s: float) -> None:
        """Write a packet; its `stream`, `pts` and `dts` are spent by it.

        Args:
            packet: with times in ticks of the capture, no longer needed by a decoder.
            template: of its connection.
            utc_s: POSIX seconds at which it arrived.
        """
        try:
            if packet.is_keyframe:
                self._turn(packet, template, utc_s)
            elif self._segment is not None and self._segment.lasts(packet) > LONGEST_SEGMENT_S:
                # A file that goes on for ever is never indexed, nor deleted.
                self.finish()
                raise ValueError(
                    f"no keyframe came for {LONGEST_SEGMENT_S:g} s: have the camera send one each second"
                )
            if self._segment is not None:
                self._segment.write(packet, utc_s)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.fail(error)

    def end_connection(self) -> None:
        """The connection is over: what was written of its last segment is whole."""
        self.finish()
        self._look = b""
        self._offset_s = None

    def finish(self) -> None:
        """Finish the segment, if there is one; the next keyframe begins another."""
        segment, self._segment = self._segment, None
        self._finish(segment)

    def fail(self, error: Exception) -> None:
        """Drop the segment, and begin another later."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.discard()
        self._stop(error)

    def _finish(self, segment: Segment | None) -> None:
        if segment is None:
            return
        try:
            detail = segment.finish()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            segment.discard()
            self._stop(error)
            return
        if detail is None:
            return
        self._offset_s = segment.least_offset_s
        self._written(detail)

    def _turn(self, packet: Packet[Any], template: Template, utc_s: float) -> None:
        """At a keyframe: begin a segment where it is time for one."""
        codec = template.stream.codec_context.codec.canonical_name
        parameters = parameter_sets(bytes(packet), codec)
        look = frame_size_marker(bytes(packet)) if codec == "mjpeg" else parameters
        changed = bool(look) and look != self._look
        segment = self._segment
        if segment is not None and not changed and not segment.full(packet, utc_s, self._segment_s):
            return
        try:
            # Before the last is finished: whoever makes a clip waits for what comes as long as there is one that was begun.
            following = self._begun(packet, template, parameters, utc_s)
        except BaseException:
            self.finish()
            raise
        last, self._segment = segment, following
        self._look = look or self._look
        self._finish(last)

    def _begun(
        self, packet: Packet[Any], template: Template, parameters: bytes, utc_s: float
    ) -> Segment | None:
        """A segment from this keyframe on; None where it is too early to try again."""
        if time.monotonic() < self._not_before:
            return None
        before = self._offset_s if self._segment is None else self._segment.least_offset_s
        return Segment(self._folder, self._camera, template, parameters, packet, utc_s, before, self._mark)

    def _stop(self, error: Exception) -> None:
        """Decoding goes on; recording is tried again later."""
        self._not_before = time.monotonic() + _TRY_AGAIN_S
        text = (str(getattr(error, "strerror", None) or error) or type(error).__name__).splitlines()[0]
        self._stopped(f"segments cannot be written ({text})")
