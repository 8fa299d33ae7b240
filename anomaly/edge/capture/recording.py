"""A camera's packets to segments: as they came, or (`masked`) encoded anew under its privacy masks, never with sound.

A segment starts at a keyframe and is written as `<folder>/<camera>/<YYYYmmdd>/<HHMMSS.mmm>.mp4.part`, in fragments
of about a second, so that a process killed at any moment leaves a file that plays to its last second. Whole, it is
synced, renamed and its folder synced; only then it is told. The next process finishes what a killed one left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
from av.packet import Packet

from anomaly.edge.capture.masked import Encoded
from anomaly.edge.capture.opening import Opened
from anomaly.edge.capture.segment import Segment, adopt, frame_size_marker, parameter_sets
from anomaly.edge.segment_name import LONGEST_SEGMENT_S

# After a failure (a full disk, as a rule) the next try comes so much later.
_TRY_AGAIN_S = 10.0


class Recorder:
    """Writes the segments of one camera; used by one thread, and `close` by any.

    Args:
        folder: of all recordings; segments are named relative to it.
        camera: name of the folder inside.
        segment_s: seconds to a segment, to the next keyframe.
        report: called with "segment", "recording_stopped" and "recording_resumed" and their details.
        mark: of the privacy masks that were painted on what is written; it is part of the segments' names.
    """

    def __init__(
        self, folder: Path, camera: str, segment_s: float, report: Callable[..., None], mark: str = ""
    ) -> None:
        self._mark = mark
        self._folder = folder
        self._camera = camera
        self._segment_s = segment_s
        self._report = report
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._look = b""
        self._offset_s: float | None = None
        self._closed = False
        self._stopped = False
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
            except OSError as error:
                self._stop(error)
                continue
            if detail is not None:
                self._report("segment", **detail)

    def write(self, packet: Packet[Any], source: Opened | Encoded, utc_s: float) -> None:
        """Write a packet; its `stream`, `pts` and `dts` are spent by it.

        Args:
            packet: with times in ticks of the capture, no longer needed by a decoder.
            source: where it came from.
            utc_s: POSIX seconds at which it arrived.
        """
        with self._lock:
            if self._closed:
                return
            try:
                if packet.is_keyframe:
                    self._turn(packet, source, utc_s)
                elif self._segment is not None and self._segment.lasts(packet) > LONGEST_SEGMENT_S:
                    # A file that goes on for ever is never indexed, nor deleted.
                    self._finish()
                    raise ValueError(
                        f"no keyframe came for {LONGEST_SEGMENT_S:g} s: have the camera send one each second"
                    )
                if self._segment is not None:
                    self._segment.write(packet, utc_s)
            except (av.error.FFmpegError, OSError, ValueError) as error:
                self._discard()
                self._stop(error)

    def end_connection(self) -> None:
        """The connection is over: what was written of its last segment is whole."""
        with self._lock:
            self._finish()
            self._look = b""
            self._offset_s = None

    def close(self) -> None:
        """Finish the last segment; nothing is written after."""
        with self._lock:
            self._finish()
            self._closed = True

    def _turn(self, packet: Packet[Any], source: Opened | Encoded, utc_s: float) -> None:
        """At a keyframe: begin a segment where it is time for one."""
        codec = source.stream.codec_context.codec.canonical_name
        parameters = parameter_sets(bytes(packet), codec)
        look = frame_size_marker(bytes(packet)) if codec == "mjpeg" else parameters
        changed = bool(look) and look != self._look
        segment = self._segment
        if segment is not None and not changed and not segment.full(packet, utc_s, self._segment_s):
            return
        self._finish()
        if time.monotonic() < self._not_before:
            return
        self._look = look or self._look
        self._segment = Segment(
            self._folder, self._camera, source, parameters, packet, utc_s, self._offset_s, self._mark
        )

    def _finish(self) -> None:
        segment, self._segment = self._segment, None
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
        if self._stopped:
            self._stopped = False
            self._report("recording_resumed")
        self._report("segment", **detail)

    def _discard(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.discard()

    def _stop(self, error: Exception) -> None:
        """Decoding goes on; recording is tried again later."""
        self._not_before = time.monotonic() + _TRY_AGAIN_S
        if not self._stopped:
            self._stopped = True
            text = str(getattr(error, "strerror", None) or error).splitlines()[0]
            self._report("recording_stopped", reason=f"segments cannot be written ({text})")
