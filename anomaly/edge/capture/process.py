"""What runs in a camera's own process: connect, read, decode, hand over the newest frame; again, for ever."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from anomaly.edge.address import redact
from anomaly.edge.capture.encoding import FrameEncoder
from anomaly.edge.capture.opening import Lost, Opened, Refused, opened, why
from anomaly.edge.capture.recorder import Recorder
from anomaly.edge.capture.retry import Retry
from anomaly.edge.capture.segment import Template, holds
from anomaly.edge.capture.settings import CaptureSettings
from anomaly.edge.capture.shared import NewestFrame
from anomaly.edge.capture.timing import RATE, STANDS_STILL, TIME_BASE, StreamTime
from anomaly.edge.segment_name import mask_mark
from anomaly.footage import orientation
from anomaly.footage.clock import Sampler
from anomaly.privacy import PrivacyMask

if TYPE_CHECKING:
    from anomaly.types import ImageArray

# Where pictures came and then none can be decoded for so long, another connection may help. The first picture of one takes as
# long as the camera's next keyframe, which may be one in two minutes: each new connection would begin the wait anew.
_NO_PICTURE_S, _NO_FIRST_PICTURE_S = 30.0, 150.0
# Such a wait is told, as a camera that is not there, after so long.
_TELL_OF_WAIT_S = 15.0
# Told to stop, the process has so long to leave a read of its own accord; then its last segment is closed for it.
_GRACE_S = 1.0
# And the disk so long to take what is recorded, before the parent's patience is over: `Capture.stop`.
_FINISH_S = 3.0
_KEPT_ARRIVALS = 128
# A camera may change its size, or jump in time, with every frame. Each word of it is a row that is kept for a year, and
# a message to every sink: such a fault is told at once, and then so often.
_CHANGES_S = 5.0
_JUMPS_S = 60.0


def capture_main(
    settings: CaptureSettings,
    memory: Any,
    wake: Connection,
    messages: Connection,
    life: Connection,
    started_ns: int,
    known: dict[str, Any] | None,
    refused: int,
) -> None:
    """Entry of the process.

    Args:
        settings: which camera, and how.
        memory: the descriptor of the newest frame's memory, as multiprocessing passes it.
        wake: a byte written here wakes the parent.
        messages: reports, as JSON.
        life: where to record from now on, as JSON; closed when the parent wants an end, or has died.
        started_ns: monotonic clock that frame times count from.
        known: what the stream was before this process, as told by "connected".
        refused: how often the camera has refused the password since it was last connected.
    """
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    # No picture and no password in a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    av.logging.set_level(None)
    newest = NewestFrame(settings.max_pixels, memory.detach())
    camera = _Camera(settings, newest, wake, messages, started_ns, known, refused)
    camera.record_to(settings.recording)
    threading.Thread(target=camera.end_with, args=(life,), daemon=True).start()
    camera.run()
    camera.close()
    os._exit(0)


class _Camera:
    """One camera, from its first try to the end of the process."""

    def __init__(
        self,
        settings: CaptureSettings,
        newest: NewestFrame,
        wake: Connection,
        messages: Connection,
        started_ns: int,
        known: dict[str, Any] | None,
        refused: int,
    ) -> None:
        self._settings = settings
        self._newest = newest
        self._wake = wake
        self._messages = messages
        self._started_ns = started_ns
        # As told last.
        self._view = known
        self._changes = _Seldom(_CHANGES_S)
        self._jumps = _Seldom(_JUMPS_S)
        # It comes once a connection, and not again: a jump before it must not keep it from being told.
        self._stands = _Seldom(_JUMPS_S)
        self._stopping = threading.Event()
        self._sending = threading.Lock()
        self._recorder = Recorder(settings.camera, settings.segment_s, mask_mark(settings.black), self.report)
        self._mask = PrivacyMask(settings.black)
        # Where there is something to hide, only what was painted is recorded; see `_encodes`.
        self._encoder: FrameEncoder | None = None
        self._retry = Retry(settings.refused_wait_s, refused)
        self._told: str | None = None
        self._connected = False
        self._last_s = newest.last_pts_s
        self._sampler: Sampler | None = None
        self._reformatter = VideoReformatter()

    def report(self, kind: str, **detail: Any) -> None:
        """Tell the parent; a parent that is gone is no trouble."""
        told = {"kind": kind, "at_ns": time.monotonic_ns(), "utc_s": time.time(), "detail": detail}
        with self._sending, suppress(OSError):
            self._messages.send_bytes(json.dumps(told).encode())

    def end_with(self, life: Connection) -> None:
        """Obey the parent, in a thread, until its word or its death; then end, with the last segment whole."""
        while True:
            try:
                folder = json.loads(life.recv_bytes())
            except (EOFError, OSError):
                break
            self.record_to(None if folder is None else Path(folder))
        self._stopping.set()
        time.sleep(_GRACE_S)
        # Still here: the stream is being waited for. Nothing is written meanwhile.
        self.close()
        os._exit(0)

    def record_to(self, folder: Path | None) -> None:
        """Record into another folder from the next keyframe on, or not at all; from any thread."""
        self._recorder.record_to(folder)

    def close(self) -> None:
        """Finish what is being written, as far as the disk lets it."""
        if not self._recorder.close(_FINISH_S):
            self.report(
                "recording_stopped",
                reason="the disk took no more at the end; what waited for it is not recorded",
            )

    def run(self) -> None:
        """Read until told to stop, until a file is over, or until a camera has refused too often."""
        first_s = self._retry.at_first()
        if first_s is None:
            self._hold("")
        self._rest(first_s)
        while not self._stopping.is_set():
            self._newest.alive_ns = time.monotonic_ns()
            decoded = self._newest.decoded
            reason = "the stream ended"
            try:
                self._connection()
                if self._stopping.is_set():
                    return
                if self._settings.address.kind == "file":
                    if not self._settings.loop:
                        # Its last segment is told before that: nobody listens after.
                        while not self._recorder.close(1.0) and not self._stopping.is_set():
                            self._newest.alive_ns = time.monotonic_ns()
                        self.report("ended")
                        return
                    if self._newest.decoded > decoded:
                        continue
                    reason = "no picture in it can be decoded"
                wait_s: float | None = self._lost(reason)
            except Refused as refused:
                wait_s = self._refused(refused.status)
            except Lost as lost:
                wait_s = self._lost(str(lost))
            except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
                wait_s = self._lost(why(error, self._settings))
            self._rest(wait_s)

    def _rest(self, wait_s: float | None) -> None:
        """Wait before the next try; None waits until the parent says stop."""
        until = None if wait_s is None else time.monotonic() + wait_s
        while not self._stopping.is_set() and (until is None or time.monotonic() < until):
            self._newest.alive_ns = time.monotonic_ns()
            self._stopping.wait(1.0 if until is None else min(max(until - time.monotonic(), 0.0), 1.0))

    def _refused(self, status: int) -> float | None:
        self.report("refused", status=status)
        self._told, self._connected = f"refused with status {status}", False
        wait_s = self._retry.after_refusal()
        if wait_s is None:
            self._hold(f" (status {status})")
        return wait_s

    def _hold(self, status: str) -> None:
        self.report(
            "held",
            reason=f"{self._settings.address.shown} refused the user or password{status}; "
            "set them right, then start the camera again",
        )

    def _lost(self, reason: str) -> float:
        self._tell_lost(reason)
        return self._retry.after_loss()

    def _tell_lost(self, reason: str) -> None:
        reason = redact(reason, self._settings.address)
        # A camera that stays away is told once, and again when it stays away for another reason.
        if self._connected or reason != self._told:
            self.report("disconnected", reason=reason)
        self._told, self._connected = reason, False

    def _connection(self) -> None:
        """One connection, from opening to its end."""
        with opened(self._settings) as source:
            try:
                self._read(source)
            except Lost as lost:
                # Before closing, which says good-bye to a camera that may not listen.
                self._tell_lost(str(lost))
                raise
            finally:
                self._encoder = None
                self._recorder.end_connection()

    def _read(self, source: Opened) -> None:
        # An arrival is not rounded to the clock of a stream that has none: libav gives Motion JPEG one of 40 ms.
        base = (source.stream.time_base or TIME_BASE) if source.timed else TIME_BASE
        times = StreamTime(
            base,
            source.period,
            round(self._last_s * RATE) + source.period if self._last_s >= 0 else -1,
            from_zero=self._settings.address.kind == "rtsp",
        )
        encode = self._encodes(source)
        template: Template | None = None
        pace = _Pace() if self._settings.address.kind == "file" else None
        arrivals: OrderedDict[int, tuple[int, float]] = OrderedDict()
        picture_at, limit_s = time.monotonic(), _NO_FIRST_PICTURE_S
        lies = 0
        due: int | None = None
        for packet in self._packets(source):
            received_ns, utc_s = time.monotonic_ns(), time.time()
            if packet.size:
                arrival = round((received_ns - self._started_ns) * RATE / 1e9)
                if source.timed:
                    placed = times.place(packet.dts, packet.pts, arrival)
                else:
                    placed = times.place(None, None if pace is not None else arrival, arrival)
                if placed.note is not None:
                    self._tell_odd_time(placed.note)
                packet.time_base = TIME_BASE
                packet.pts, packet.dts = placed.pts, placed.dts
                if pace is not None:
                    due = placed.pts if placed.dts is None else placed.dts
                    if not pace.wait(due, self._stopping):
                        return
                    received_ns, utc_s = time.monotonic_ns(), time.time()
                arrivals[placed.pts] = received_ns, utc_s
                if len(arrivals) > _KEPT_ARRIVALS:
                    arrivals.popitem(last=False)
            self._newest.alive_ns = received_ns
            for frame in _decoded(packet):
                picture_at, limit_s = time.monotonic(), _NO_PICTURE_S
                lies = lies or _orientation(frame, source)
                self._frame(frame, source, lies, arrivals, encode)
            waited_s = time.monotonic() - picture_at
            if waited_s > limit_s:
                raise Lost(f"nothing that came in {limit_s:g} s could be decoded")
            if waited_s > _TELL_OF_WAIT_S and not self._connected:
                self._tell_lost(
                    "it sends, and no picture can be decoded yet: its next keyframe is waited for"
                )
            if template is None and not encode and source.stream.width:
                template = Template.of(source.stream, source.period)
            if template is not None and packet.size and self._recorder.on:
                # A USB camera lends its memory, and takes it back when it is closed.
                kept = _copied(packet) if self._settings.address.kind == "v4l2" else packet
                self._recorder.write(kept, template, utc_s)
        if pace is not None and due is not None and self._settings.loop:
            # The last frame has its time too; a file of a single one would be read as fast as it can be.
            pace.wait(due + source.period, self._stopping)

    def _encodes(self, source: Opened) -> bool:
        """Whether frames are encoded to be recorded, painted where there are masks; else packets are, as they come."""
        return bool(self._settings.black) or not holds(source.stream.codec_context.name)

    def _tell_odd_time(self, note: str) -> None:
        seldom = self._stands if note == STANDS_STILL else self._jumps
        if seldom.due():
            self.report("timing", reason=note)

    def _packets(self, source: Opened) -> Iterator[Packet[Any]]:
        limit_s = self._settings.read_timeout_s
        lost = Lost(f"nothing came for {limit_s:g} s")
        asked = time.monotonic()
        try:
            for packet in source.container.demux(source.stream):
                if self._stopping.is_set():
                    return
                # At a timeout libav first hands out the packet that it was still putting together.
                late = time.monotonic() - asked >= limit_s
                yield packet
                if late and packet.size and self._settings.address.kind != "file":
                    raise lost
                asked = time.monotonic()
        except av.error.ExitError:
            raise lost from None
        except av.error.EOFError:
            return

    def _frame(
        self,
        frame: VideoFrame,
        source: Opened,
        lies: int,
        arrivals: OrderedDict[int, tuple[int, float]],
        encode: bool,
    ) -> None:
        index = self._newest.count_decoded()
        if frame.is_corrupt or frame.pts is None:
            return
        now = time.monotonic_ns(), time.time()
        received_ns, utc_s = arrivals.get(frame.pts, now)
        pts_s = frame.pts / RATE
        if not self._connected:
            self._on_connected(frame, source)
        self._compare(frame, source)
        painted = None
        if encode and self._recorder.on:
            painted = self._painted(frame, lies)
            self._record(painted, frame.pts, source, utc_s)
        # Leading frames of a first keyframe, or a stray timestamp: time only grows.
        if pts_s <= self._last_s:
            return
        if self._sampler is None:
            self._sampler = Sampler(self._settings.fps, pts_s)
        if not self._sampler.takes(pts_s):
            return
        image = self._painted(frame, lies) if painted is None else painted
        self._last_s = pts_s
        if self._newest.publish(image, index=index, received_ns=received_ns, pts_s=pts_s, utc_s=utc_s):
            # A full pipe holds a byte that was not read yet: the parent will wake.
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._wake.fileno(), b"f")

    def _painted(self, frame: VideoFrame, lies: int) -> ImageArray:
        """(H, W, 3) uint8 RGB, upright, with the masks on it."""
        picture = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        image = orientation.set_upright(picture, lies)
        self._mask.paint(image)
        return image

    def _record(self, painted: ImageArray, pts: int, source: Opened, utc_s: float) -> None:
        if self._encoder is None:
            self._encoder = FrameEncoder(source.period)
        for packet in self._encoder.encode(painted, pts):
            if self._encoder.template is not None:
                self._recorder.write(packet, self._encoder.template, utc_s)

    def _on_connected(self, frame: VideoFrame, source: Opened) -> None:
        self._connected, self._told = True, None
        self._retry.connected()
        self.report("connected", **_view(frame, source), rate=RATE / source.period, audio=source.audio)

    def _compare(self, frame: VideoFrame, source: Opened) -> None:
        """Tell of another size or codec than before, in this connection or over a pause."""
        view = _view(frame, source)
        if self._view is None:
            self._view = view
        elif view != self._view and self._changes.due():
            self.report("changed", before=self._view, after=view)
            self._view = view


class _Seldom:
    """Lets something happen at once, and again only after some time."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0

    def due(self) -> bool:
        """Whether it may happen now; then it counts as done."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True


class _Pace:
    """Holds a file back to its own speed."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def wait(self, tick: int, stopping: threading.Event) -> bool:
        """Wait until a packet is due; False when told to stop."""
        if self._first is None:
            self._first = tick, time.monotonic()
        due = self._first[1] + (tick - self._first[0]) / RATE
        return not stopping.wait(max(due - time.monotonic(), 0.0))


def _copied(packet: Packet[Any]) -> Packet[Any]:
    copy: Packet[Any] = Packet(bytes(packet))
    copy.time_base, copy.pts, copy.dts = packet.time_base, packet.pts, packet.dts
    copy.is_keyframe = packet.is_keyframe
    return copy


def _decoded(packet: Packet[Any]) -> list[VideoFrame]:
    """Frames that a packet gives; none where it cannot be decoded."""
    try:
        return list(packet.decode())
    except (av.error.FFmpegError, ValueError):
        return []


def _view(frame: VideoFrame, source: Opened) -> dict[str, Any]:
    return {"width": frame.width, "height": frame.height, "codec": source.stream.codec_context.name}


def _orientation(frame: VideoFrame, source: Opened) -> int:
    """EXIF number of how a frame lies; see `anomaly.footage.video`."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        return orientation.from_display_matrix(bytes(np.asarray(matrix)))
    return orientation.from_degrees(source.stream.metadata.get("rotate", "0"))
