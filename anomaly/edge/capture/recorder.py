"""A camera's recording, in a thread of its own: a disk that is slow or hangs holds up no frame.

What comes waits in memory for the disk, in order and up to a bound; beyond it recording stops, and decoding goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from av.packet import Packet

from anomaly.edge.capture.segment import Template
from anomaly.edge.capture.writing import SegmentWriter

# A camera's half minute at 8 Mbit a second. Eight cameras before a disk that hangs take eight times as much.
_MOST_WAITING = 32 * 2**20
# What a disk has not taken after so long is told, though it may still come.
_LATE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Work:
    """Something for the thread to do: `nbytes` are held until it is done, and it waits since `since` (monotonic)."""

    do: Callable[[], None]
    nbytes: int
    since: float


class Recorder:
    """Writes the segments of one camera; no method waits for the disk but `close`.

    Args:
        camera: name of the folder inside that of all recordings.
        segment_s: seconds to a segment, to the next keyframe.
        mark: of the privacy masks that were painted on what is written; it is part of the segments' names.
        report: called with "segment", "recording_stopped" and "recording_resumed" and their details, by any thread;
            "recording_resumed" comes with the first segment, too.
        most_waiting: bytes that may wait for the disk.
    """

    def __init__(
        self,
        camera: str,
        segment_s: float,
        mark: str,
        report: Callable[..., None],
        *,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._camera = camera
        self._segment_s = segment_s
        self._mark = mark
        self._report = report
        self._most_waiting = most_waiting
        # Guards what is below.
        self._changed = threading.Condition()
        self._work: deque[_Work] = deque()
        self._waiting = 0
        self._folder: Path | None = None
        # What came did not fit: until the disk has caught up, and a keyframe comes, nothing is taken.
        self._passing = False
        self._closed = False
        # As told last; None = nothing was told since it records there, though the process before may have told that it stopped.
        self._goes_on: bool | None = None
        # Used by the thread only.
        self._writer: SegmentWriter | None = None
        self._thread = threading.Thread(target=self._run, name=f"recorder {camera}", daemon=True)
        self._thread.start()

    @property
    def on(self) -> bool:
        """Whether what is written now is recorded."""
        return self._folder is not None

    def record_to(self, folder: Path | None) -> None:
        """Record into another folder from the next keyframe on, or not at all; segments left there are finished."""
        with self._changed:
            if folder != self._folder and not self._closed:
                self._folder = folder
                # Whoever had it recorded no more was told that its trouble is over: it is told anew where it goes on.
                self._goes_on = None
                self._add(partial(self._switch, folder))

    def write(self, packet: Packet[Any], template: Template, utc_s: float) -> None:
        """Record a packet; nobody else may use it any more.

        Args:
            packet: with times in ticks of the capture, whose bytes outlive its connection.
            template: of its connection.
            utc_s: POSIX seconds at which it arrived.
        """
        with self._changed:
            if self._folder is None or self._closed:
                return
            behind_s = time.monotonic() - self._work[0].since if self._work else 0.0
            if behind_s > _LATE_S:
                self._tell_stopped(
                    f"the disk has taken nothing for {behind_s:.0f} s; {self._waiting / 2**20:.0f} MiB wait for it"
                )
            if self._passing and not (packet.is_keyframe and not self._work):
                return
            self._passing = False
            if self._waiting + packet.size > self._most_waiting:
                self._passing = True
                self._add(self._interrupted)
                self._tell_stopped(
                    f"the disk takes less than comes; {self._waiting / 2**20:.0f} MiB wait for it, "
                    "and what comes now is not recorded"
                )
                return
            self._add(partial(self._write, packet, template, utc_s), packet.size)

    def end_connection(self) -> None:
        """The connection is over: its last segment ends with what was written."""
        with self._changed:
            if self._folder is not None and not self._closed:
                self._add(self._ended)

    def close(self, timeout_s: float) -> bool:
        """Finish the last segment; nothing is taken any more. By any thread, and again.

        Returns:
            Whether all that was taken is on disk. What is not after `timeout_s` may still get there.
        """
        with self._changed:
            if not self._closed:
                self._add(self._interrupted)
                self._closed = True
                self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _add(self, do: Callable[[], None], nbytes: int = 0) -> None:
        self._work.append(_Work(do, nbytes, time.monotonic()))
        self._waiting += nbytes
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work or self._closed)
                if not self._work:
                    return
                work = self._work[0]
            try:
                work.do()
            except Exception as error:
                # A fault of ours in writing costs footage and is told; the camera is watched all the same.
                self._failed(error)
            with self._changed:
                # It counts as waiting until it is done: it may be what the disk hangs on.
                self._work.popleft()
                self._waiting -= work.nbytes

    def _switch(self, folder: Path | None) -> None:
        self._interrupted()
        self._writer = None
        if folder is not None:
            self._writer = SegmentWriter(
                folder,
                self._camera,
                self._segment_s,
                self._mark,
                written=self._tell_written,
                stopped=self._tell_stopped,
            )
            self._writer.recover()

    def _write(self, packet: Packet[Any], template: Template, utc_s: float) -> None:
        if self._writer is not None:
            self._writer.write(packet, template, utc_s)

    def _ended(self) -> None:
        if self._writer is not None:
            self._writer.end_connection()

    def _interrupted(self) -> None:
        if self._writer is not None:
            self._writer.finish()

    def _failed(self, error: Exception) -> None:
        if self._writer is not None:
            self._writer.fail(error)

    def _tell_written(self, detail: dict[str, Any]) -> None:
        with self._changed:
            # The first is what is being done.
            behind_s = time.monotonic() - self._work[1].since if len(self._work) > 1 else 0.0
            resumed = not self._goes_on and not self._passing and behind_s <= _LATE_S
            if resumed:
                self._goes_on = True
        if resumed:
            self._report("recording_resumed")
        self._report("segment", **detail)

    def _tell_stopped(self, reason: str) -> None:
        with self._changed:
            if self._goes_on is False:
                return
            self._goes_on = False
        self._report("recording_stopped", reason=reason)
