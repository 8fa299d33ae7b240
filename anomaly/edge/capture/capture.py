"""A camera as its user sees it: frames, reports, counts; the process behind it is started and restarted here."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from anomaly.edge.capture.settings import CaptureSettings, Counts, Report
from anomaly.edge.capture.shared import NewestFrame
from anomaly.errors import SourceError
from anomaly.types import Frame

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# A process that dies again and again costs half a second of processor each time.
_LONGEST_BACK_OFF_S = 5.0
_LIVED_S = 10.0
# No word from a process for this long beyond its own timeouts: it hangs where none of them reaches.
_HANGS_S = 60.0
# One that was killed ends at once, or when a disk that hangs lets it: what the kernel does for it meanwhile cannot be cut short.
_ENDS_S = 3.0


class _Memory:
    """A descriptor that travels into the process being started."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _identity, (DupFd(self._fd),)


def _identity(passed: Any) -> Any:
    return passed


class _Process(SpawnProcess):
    """A camera's process, for whose end nobody waits for ever: at its own end Python joins all that were started."""

    def join(self, timeout: float | None = _ENDS_S) -> None:
        """Wait until it has ended, or for so long."""
        until = time.monotonic() + (_ENDS_S if timeout is None else timeout)
        while self.is_alive() and time.monotonic() < until:
            time.sleep(0.02)


class _StillThere(Exception):
    """A process was killed and has not ended; it reads nothing any more."""

    def __init__(self) -> None:
        super().__init__(
            f"the process that reads it was killed and has not ended after {_ENDS_S:g} s, as where a disk hangs"
        )


class Capture:
    """One camera, read by a process of its own that keeps only the newest frame.

    Frames are taken by one thread; everything else may be called from any. `stop`, then `start`, goes on with
    counts and times where they were; it is also how a held camera is tried again.

    Args:
        settings: which camera, and how.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self.settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._newest: NewestFrame | None = None
        self._wake_read: Connection
        self._wake_write: Connection
        self._wake_read, self._wake_write = self._context.Pipe(duplex=False)
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end.fileno(), False)
        self._started_ns = 0
        self._reports: deque[Report] = deque()
        self._known: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        # Held by whoever writes to, or closes, the pipe that tells the process where to record, or to end.
        self._speaking = threading.Lock()
        self._life: Connection | None = None
        self._refused = 0
        self._over = False
        self._left_behind = False
        self._kill_at = float("inf")
        self.pid: int | None = None

    def __enter__(self) -> Capture:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def wait_handle(self) -> Connection:
        """Readable while a frame or a report waits; for `multiprocessing.connection.wait`, not to be read from."""
        return self._wake_read

    def start(self) -> None:
        """Start the process; it connects by itself and keeps trying.

        Raises:
            SourceError: it runs already.
            OSError, RuntimeError: the machine has no memory, descriptor or thread for it now; try again later.
        """
        if self._thread is not None:
            raise SourceError(f"camera {self.settings.camera} is being read already; stop it first")
        if self._newest is None:
            self._newest = NewestFrame(self.settings.max_pixels)
            self._started_ns = time.monotonic_ns()
        self._stopping.clear()
        self._refused = 0
        self._over = self._left_behind = False
        self._kill_at = float("inf")
        thread = threading.Thread(target=self._supervise, name=f"capture {self.settings.camera}", daemon=True)
        thread.start()
        self._thread = thread

    def record_to(self, folder: Path | None) -> None:
        """Record into another folder from the next keyframe on, or not at all; the process that runs goes on."""
        self.settings = replace(self.settings, recording=folder)
        with self._speaking, suppress(OSError):
            # One that is being born, or dies, hears of it by its settings, or those of the next one.
            if self._life is not None:
                self._life.send_bytes(json.dumps(None if folder is None else str(folder)).encode())

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the process; its last segment is finished. What does not end in time is killed.

        Returns:
            Whether it has ended; one that a disk holds up ends when that lets it.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._kill_at = time.monotonic() + timeout_s
        self._stopping.set()
        self._end_life()
        thread.join()
        return not self._left_behind

    def newest(self) -> Frame | None:
        """The newest frame that was not taken yet, as a copy; None if there is none."""
        if self._newest is None:
            return None
        self._drain()
        taken = self._newest.take()
        if self._reports:
            self._wake()
        if taken is None:
            return None
        camera = self.settings.camera
        return Frame(taken.image, taken.pts_s, taken.index, camera, camera, taken.received_ns, taken.utc_s)

    def reports(self) -> list[Report]:
        """What happened since the last call, in order."""
        self._drain()
        found = []
        while self._reports:
            found.append(self._reports.popleft())
        if self._newest is not None and self._newest.latest != self._newest.taken:
            self._wake()
        return found

    def counts(self) -> Counts:
        """What became of the frames so far; see `Counts`."""
        newest = self._newest
        if newest is None:
            return Counts(0, 0, 0, 0)
        return newest.counts()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read.fileno(), 65536)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake_write.fileno(), b"r")

    def _tell(self, report: Report) -> None:
        self._reports.append(report)
        self._wake()

    def _end_life(self) -> None:
        with self._speaking:
            life, self._life = self._life, None
            if life is not None:
                life.close()

    def _supervise(self) -> None:
        """Keep one process alive until told to stop, or until it has nothing more to do."""
        back_off_s = 0.1
        while not self._stopping.is_set():
            born = time.monotonic()
            try:
                exit_code = self._one_life()
                detail: dict[str, Any] = {"exit": exit_code}
            except _StillThere as error:
                self._left_behind = True
                exit_code, detail = None, {"exit": None, "reason": str(error)}
            except Exception as error:
                # No process, memory or descriptor to be had for now: the camera must not be lost for it.
                exit_code = None
                text = " ".join(str(error).split())[:200]
                detail = {"exit": None, "reason": f"its process could not be run ({text})"}
            # One that ends well without a word that its file is over was not asked to, and the camera is not watched.
            if self._stopping.is_set() or (exit_code == 0 and self._over):
                return
            self._tell(Report(self.settings.camera, "crashed", time.monotonic_ns(), time.time(), detail))
            if time.monotonic() - born > _LIVED_S:
                back_off_s = 0.1
            self._stopping.wait(back_off_s * random.uniform(0.5, 1.0))
            back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)

    def _one_life(self) -> int | None:
        """Start a process and attend to it until it ends; returns its exit code."""
        assert self._newest is not None
        self._newest.alive_ns = time.monotonic_ns()
        with ExitStack() as ends:
            ends.callback(self._end_life)
            messages, theirs = self._context.Pipe(duplex=False)
            ends.enter_context(messages)
            with theirs:
                life, self._life = self._context.Pipe(duplex=False)
                with life:
                    process = self._born(theirs, life)
            if self._stopping.is_set():
                self._end_life()
            return self._attend(process, messages)

    def _born(self, messages: Connection, life: Connection) -> _Process:
        # Born with these signals blocked, so that a Ctrl-C in its first half second does not end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._spawn(messages, life)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _attend(self, process: _Process, messages: Connection) -> int | None:
        """Take in what a process tells until it ends; returns its exit code.

        Raises:
            _StillThere: it had to be killed, and does not end.
        """
        assert self._newest is not None
        self.pid = process.pid
        limit_s = _HANGS_S + self.settings.open_timeout_s + self.settings.read_timeout_s
        try:
            while process.is_alive():
                wait([messages, process.sentinel], timeout=0.1 if self._stopping.is_set() else 1.0)
                self._receive(messages)
                still_s = (time.monotonic_ns() - self._newest.alive_ns) / 1e9
                if time.monotonic() > self._kill_at or still_s > limit_s:
                    process.kill()
                    break
        except BaseException:
            # Two processes must not read one camera.
            process.kill()
            raise
        finally:
            process.join()
            self.pid = None
        self._receive(messages)
        if process.is_alive():
            raise _StillThere
        exit_code = process.exitcode
        process.close()
        return exit_code

    def _spawn(self, messages: Connection, life: Connection) -> _Process:
        # Imported by the child; the parent needs no decoder.
        from anomaly.edge.capture.process import capture_main

        assert self._newest is not None
        process = _Process(
            target=capture_main,
            args=(
                self.settings,
                _Memory(self._newest.fd),
                self._wake_write,
                messages,
                life,
                self._started_ns,
                self._known,
                self._refused,
            ),
            name=f"capture {self.settings.camera}",
            daemon=True,
        )
        process.start()
        return process

    def _receive(self, messages: Connection) -> None:
        """Take in what the process told. It handles what strangers send: nothing it says is run."""
        with suppress(EOFError, OSError, ValueError, LookupError, TypeError):
            while messages.poll():
                told = json.loads(messages.recv_bytes())
                report = Report(
                    self.settings.camera,
                    str(told["kind"]),
                    int(told["at_ns"]),
                    float(told["utc_s"]),
                    dict(told["detail"]),
                )
                # The next process compares with what this one saw last, and tries no password more often.
                if report.kind == "refused":
                    self._refused += 1
                elif report.kind == "ended":
                    self._over = True
                elif report.kind == "connected":
                    self._refused = 0
                    self._known = {key: report.detail[key] for key in ("width", "height", "codec")}
                elif report.kind == "changed":
                    self._known = dict(report.detail["after"])
                self._tell(report)
