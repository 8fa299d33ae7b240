"""Clips of events and of misses, made from the recording once it is there; an alarm never waits for one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from anomaly.edge.cutting import Cut, cut, preview
from anomaly.edge.helper import Helper
from anomaly.edge.segment_name import LONGEST_SEGMENT_S, mask_mark, start_of
from anomaly.edge.store.deletion import RECORDING
from anomaly.edge.store.event import clip_folder
from anomaly.edge.store.timeline import Segment
from anomaly.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from anomaly.edge.health import Trouble
    from anomaly.edge.store import Miss, Store, StoredEvent
    from anomaly.privacy import Polygon

__all__ = ["ClipMaker", "Cut", "Segment", "cut", "preview"]

_LOG = logging.getLogger(__name__)
#: A file that makes FFmpeg crash or hang does so again; once more, in case it was something else.
_TRIES = 2
_LOOK_S = 1.0
#: Rest after a disk was found full.
_REST_S = 30.0
#: An hour of footage is encoded anew in less on a small machine; longer is a hang.
_LONGEST_JOB_S = 600.0


class ClipMaker:
    """A thread, with a process of its own for the work, that makes the clips that the store has pending.

    What was pending when the last run ended is found again. Clips lie in `clips/<camera>/<id>.mp4`; H.265
    and MJPEG are kept as they are, with an H.264 `<id>.preview.mp4` beside.

    Args:
        store: of the runner.
        before_s, after_s: seconds shown before and after.
        wait_s: how long the recording may take, after that, to have its segment finished.
        black: gives a camera's polygons to paint black, corners (x, y) in 0 .. 1; its clips are then
            encoded anew, and nothing of them is kept as it was recorded.
        room: whether the disk has room for clips; where not they stay pending.
        on_trouble: called, in the thread, where its work fails for a reason that nobody foresaw, and when it is done again.
    """

    def __init__(
        self,
        store: Store,
        before_s: float = 5.0,
        after_s: float = 5.0,
        *,
        wait_s: float = 30.0,
        black: Callable[[str], Sequence[Polygon]] = lambda camera: (),
        room: Callable[[], bool] = lambda: True,
        on_trouble: Callable[[Trouble], None] = lambda _: None,
    ) -> None:
        self._helper = Helper("clips", on_trouble)
        self._store = store
        self._before_s = before_s
        self._after_s = after_s
        self._wait_s = wait_s
        self._black = black
        self._room = room
        # Of each item that is pending, since when that is known.
        self._seen: dict[str, float] = {}
        self._newest_first = False
        self._tries: dict[str, int] = {}
        # Of each camera, when its segments began that are not finished; looked up once a turn.
        self._begun: dict[str, list[float]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._worker: _Worker | None = None
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def offer(self, item_id: str) -> None:
        """An event ended, or a miss was marked: look now rather than within a second."""
        self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop; a clip in the making is given up and stays pending."""
        self._stopping = True
        self._wake.set()
        worker = self._worker
        if worker is not None:
            worker.kill()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            rest = _LOOK_S
            try:
                if not self._look():
                    rest = _REST_S
            except StoreError as error:
                _LOG.warning("clips wait: %s", error)
                rest = _REST_S
            except Exception as error:
                # Where this thread ends, no clip is made any more.
                self._helper.failed(error)
                rest = _REST_S
            self._wake.wait(rest)
            self._wake.clear()

    def _look(self) -> bool:
        """Make what is due; False where the disk has no room for it, or some of it failed and is to be tried again."""
        tried: set[str] = set()
        failed = False
        while not self._stopping and (due := self._due(tried)) is not None:
            item, segments = due
            if not self._room():
                return False
            tried.add(item.id)
            try:
                if not self._make(item, segments):
                    return False
            except StoreError:
                raise
            except Exception as error:
                # It may lie with this one: those behind it are not to wait for it.
                self._helper.failed(error)
                failed = True
        if not failed:
            self._helper.worked()
        return not failed

    def _due(self, tried: Collection[str]) -> tuple[StoredEvent | Miss, list[Segment]] | None:
        """The next item whose recording is there, and that; None where there is none but those that were tried.

        Looked up for each clip anew, the newest and the oldest in turn: an operator waits for what has just come,
        however many are behind, and the footage of the oldest is the next to go.
        """
        pending: list[StoredEvent | Miss] = [*self._store.misses(clip_state="pending")]
        pending += [
            one for one in self._store.events(clip_state="pending", limit=1000) if one.end_utc_s is not None
        ]
        ids = {one.id for one in pending}
        self._seen = {item_id: self._seen.get(item_id, time.monotonic()) for item_id in ids}
        self._tries = {item_id: tries for item_id, tries in self._tries.items() if item_id in ids}
        self._begun.clear()
        self._newest_first = not self._newest_first
        for item in sorted(pending, key=lambda one: one.id, reverse=self._newest_first):
            if item.id not in tried and (segments := self._segments(item)) is not None:
                return item, segments
        return None

    def _span(self, item: StoredEvent | Miss) -> tuple[float, float]:
        end = item.start_utc_s if item.end_utc_s is None else item.end_utc_s
        return item.start_utc_s - self._before_s, max(end, item.start_utc_s) + self._after_s

    def _segments(self, item: StoredEvent | Miss) -> list[Segment] | None:
        """The recording of an item, once it is whole or waited for long enough; None before that."""
        start, end = self._span(item)
        segments = self._store.segments(item.camera, start, end)
        if any(segment.end_utc_s >= end for segment in segments):
            return segments
        waited_s = time.monotonic() - self._seen[item.id]
        if any(began <= end for began in self._unfinished(item.camera)):
            # Keyframes may be minutes apart, and what a power cut left is finished by the camera's next process.
            over = waited_s > LONGEST_SEGMENT_S
        else:
            over = waited_s > self._after_s + self._wait_s or time.time() > end + self._wait_s
        return segments if over else None

    def _unfinished(self, camera: str) -> list[float]:
        """When the segments of a camera began that are still being written, or were left by a process that died."""
        if camera not in self._begun:
            # Each second, among a day's 8,640 files and more, in the process that scores.
            found = os.walk(self._store.folder / RECORDING / camera)
            parts = [Path(day, name) for day, _, names in found for name in names if name.endswith(".part")]
            began = [start_of(part.with_suffix("")) for part in parts]
            self._begun[camera] = [one for one in began if one is not None]
        return self._begun[camera]

    def _make(self, item: StoredEvent | Miss, segments: Sequence[Segment]) -> bool:
        """Make one clip and write it down; False where the disk is full."""
        miss = not hasattr(item, "status")
        if not segments:
            self._store.set_clip(item.id, miss=miss, clip_state="none")
            return True
        start, end = self._span(item)
        name = f"clips/{clip_folder(item.camera)}/{item.id}"
        out, beside = self._store.folder / f"{name}.mp4", self._store.folder / f"{name}.preview.mp4"
        black = self._black(item.camera)
        job = {
            "segments": [{**asdict(segment), "path": str(segment.path)} for segment in segments],
            "start_utc_s": start,
            "end_utc_s": end,
            "out": str(out),
            "preview": str(beside),
            "black": [[list(corner) for corner in polygon] for polygon in black],
        }
        answer = self._work(job)
        if self._stopping and "error" in answer:
            return True
        if answer.get("full"):
            _LOG.warning("clips wait: %s", answer["error"])
            return False
        if "error" in answer:
            self._tries[item.id] = self._tries.get(item.id, 0) + 1
            if self._tries[item.id] >= _TRIES:
                _LOG.warning("no clip of %s: %s", item.id, answer["error"])
                self._store.set_clip(item.id, miss=miss, clip_state="failed")
            _remove(out, beside)
            return True
        written = self._store.set_clip(
            item.id,
            answer["used"],
            miss=miss,
            mark=mask_mark(black),
            clip=f"{name}.mp4",
            clip_state="ready",
            preview=f"{name}.preview.mp4" if answer["preview"] else None,
            clip_start_utc_s=answer["start_utc_s"],
            clip_end_utc_s=answer["end_utc_s"],
        )
        if not written:
            # Deleted while the clip was made: it must not show what is to be gone.
            _remove(out, beside)
        return True

    def _work(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None:
            self._worker = _Worker()
            if self._stopping:
                self._worker.kill()
        answer = self._worker.ask(job)
        if answer is None:
            status = self._worker.kill()
            self._worker = None
            return {"error": f"the process that makes clips ended ({status}) at it"}
        return answer


class _Worker:
    """The process that does the work (`clip_process`)."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in the terminal is for the runner.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "anomaly.edge.clip_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Answer to a job; None where the process died, or hangs."""
        given, taken = self._pipes()
        try:
            given.write(json.dumps(job).encode() + b"\n")
            given.flush()
            if not select.select([taken], [], [], _LONGEST_JOB_S)[0]:
                return None
            line = taken.readline()
            return json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None

    def kill(self) -> int:
        """End it; returns its exit status."""
        self._process.kill()
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        return self._process.wait()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None
        assert taken is not None
        return given, taken


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
