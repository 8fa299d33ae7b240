"""How long things are kept, and what gives way when the disk fills: recording first, then clips, never events."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from anomaly.edge.epochs import Epochs
from anomaly.edge.helper import Helper
from anomaly.edge.segment_name import LONGEST_SEGMENT_S
from anomaly.edge.store import upkeep
from anomaly.errors import StoreError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from sqlite3 import Connection
    from types import TracebackType

    from anomaly.edge.health import Trouble
    from anomaly.edge.store import Store

_LOG = logging.getLogger(__name__)
_DAY_S = 86_400.0
_EVERY_S = 30.0
#: What was recorded last stays even on a full disk: clips that wait are made from it.
_LAST_S = 120.0
#: What was recorded before a camera's privacy masks were set shows what they hide. It is kept for clips to be made from, no longer.
_MASKED_S = 600.0
#: What stopped for want of room goes on when there is this much more than needed.
_ROOM_AGAIN = 1.1
_EPOCHS = "retention.epochs"
#: What an older version kept in its place.
_LAST_SEEN = "retention.last_seen_utc_s"


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """What is kept.

    Attributes:
        clip_days: days that pictures and clips of events and misses are kept; the row stays.
        event_days: days that events are kept at all, with verdicts, health and gaps.
        keep_hours: hours of recording, with its scores.
        recording_bytes: most that the recording may take; None = what the disk has.
        clip_bytes: most that pictures and clips may take; None = what the disk has.
        recording_reserve_bytes: recording stops where less than this is free; None = 5 % of the disk, at most 2 GiB.
        clip_reserve_bytes: making clips stops where less is free; None = 2 % of the disk, at most 512 MiB.
    """

    clip_days: float = 30.0
    event_days: float = 365.0
    keep_hours: float = 24.0
    recording_bytes: int | None = None
    clip_bytes: int | None = None
    recording_reserve_bytes: int | None = None
    clip_reserve_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How full the disk is: bytes free to this user, and whether there is room to record and for clips."""

    free_bytes: int
    recording: bool = True
    clips: bool = True


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two clocks, in seconds; tests bring their own."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """Bytes a day that are written, and the most that is kept at once, for all cameras together."""

    recording_per_day: float
    clips_per_day: float
    scores_per_day: float
    kept: float

    def __str__(self) -> str:
        return (
            f"recording {_size(self.recording_per_day)} a day, clips {_size(self.clips_per_day)} a day, "
            f"scores {_size(self.scores_per_day)} a day; {_size(self.kept)} kept at most"
        )


class Retention:
    """Deletes what is old or too much, and says whether there is room; a thread does so twice a minute.

    Age is time that has passed, whatever the machine's clock jumped to (`anomaly.edge.epochs`); time off counts up to
    a day. By bytes the oldest in order of arrival goes, whatever the clock says. What is held stays, and events that
    are still on.

    Args:
        store: of the runner.
        settings: what is kept.
        on_room: called, in the thread, with each `Room` in which something stopped or goes on again.
        on_health: called inside the transaction that writes a full disk, or its end, as a health event: with the
            connection, plain values, and whether it is over.
        clocks: for tests.
        masked: the mark of the privacy masks of each camera that has some, or had when it was taken away
            (`anomaly.edge.segment_name`).
        on_trouble: called, in the thread, where its work fails for a reason that nobody foresaw, and when it is done again.
    """

    def __init__(
        self,
        store: Store,
        settings: RetentionSettings | None = None,
        on_room: Callable[[Room], None] | None = None,
        clocks: Clocks | None = None,
        masked: Callable[[], Mapping[str, str]] = dict,
        on_health: Callable[[Connection, Mapping[str, Any], bool], None] = lambda *_: None,
        on_trouble: Callable[[Trouble], None] = lambda _: None,
    ) -> None:
        self._helper = Helper("retention", on_trouble)
        self._on_health = on_health
        self._masked = masked
        self._store = store
        self._settings = settings or RetentionSettings()
        self._on_room = on_room
        self._clocks = clocks or Clocks()
        self._epochs: Epochs | None = None
        self._looked_s = 0.0
        # Segments without a row, and when each was last written, as they were found last; and when that was.
        self._unknown: dict[Path, int] = {}
        self._unknown_s = float("-inf")
        self._room = Room(0)
        self._health: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Look whether there is room, and tidy in a thread, from now on; what fails there is told and tried again.

        After a night off hours of recording are due at once: no camera waits until they are deleted.
        """
        try:
            self._act(self._look())
        except Exception as error:
            self._helper.failed(error)
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; what it has not deleted yet is left to the next start."""
        self._stop.set()
        self._store.leaving.set()
        if self._thread is not None:
            self._thread.join(30.0)

    @property
    def room(self) -> Room:
        """How it was at the last look."""
        return self._room

    def tidy(self) -> Room:
        """Delete what is due and look at the disk.

        Raises:
            StoreError: the store cannot be read or written.
        """
        now = self._clocks.wall()
        self._take_in_left()
        self._delete_old(self._look_at_the_clock(now), now)
        self._delete_too_much()
        room = self._look()
        if not room.recording and upkeep.delete_recording(
            self._store, self._reserves()[0] - room.free_bytes, spare_after=self._newest() - _LAST_S
        ):
            room = self._look()
        self._act(room)
        self._tell(room, now)
        if room.clips:
            self._store.keep_room()
        self._store.checkpoint()
        return room

    def _run(self) -> None:
        self._turn()
        while not self._stop.wait(_EVERY_S):
            self._turn()

    def _turn(self) -> None:
        try:
            try:
                self.tidy()
            except StoreError as error:
                _LOG.warning("retention waits: %s", error)
                # Nothing can be deleted: what is recorded must not take the room of what waits for the store.
                self._act(self._look())
                return
        except Exception as error:
            # Where the thread ends, the disk fills.
            self._helper.failed(error)
        else:
            self._helper.worked()

    def _look_at_the_clock(self, now: float) -> Epochs:
        steady = self._clocks.steady()
        passed_s = None if self._epochs is None else steady - self._looked_s
        if self._epochs is None:
            self._epochs = Epochs(self._store.fact(_EPOCHS) or self._store.fact(_LAST_SEEN))
        jump = self._epochs.look(now, passed_s)
        self._looked_s = steady
        if jump:
            _LOG.warning(
                "the clock jumped by %+.0f s%s: what was stored before ages by the time that passes, not by the date",
                jump,
                " while nothing ran" if passed_s is None else "",
            )
        settings = self._settings
        longest_s = max(settings.event_days * _DAY_S, settings.clip_days * _DAY_S, settings.keep_hours * 3600)
        self._epochs.forget(now, longest_s)
        try:
            self._store.set_fact(_EPOCHS, self._epochs.kept)
        except StoreFullError as error:
            _LOG.warning("%s", error)
        return self._epochs

    def _take_in_left(self) -> None:
        """Take in what was recorded by a process that was killed, where no other finishes it: its camera has left the site, or
        is not recorded any more; or it was finished, and not told yet. Until it has a row it is in no clip, and not deleted by
        age, by bytes, nor for its privacy masks.
        """
        now_s = self._clocks.steady()
        if now_s - self._unknown_s < LONGEST_SEGMENT_S:
            return
        before, self._unknown, self._unknown_s = self._unknown, upkeep.unknown_segments(self._store), now_s
        for path, written_ns in self._unknown.items():
            if before.get(path) == written_ns:
                upkeep.take_in(self._store, path)

    def _delete_old(self, epochs: Epochs, now: float) -> None:
        settings, store = self._settings, self._store
        for after, before in epochs.due(now, settings.keep_hours * 3600):
            upkeep.delete_old_recording(store, before, after)
        for camera, mark in self._masked().items():
            for after, before in epochs.due(now, _MASKED_S):
                upkeep.delete_spent_recording(store, camera, before, mark, after)
        for after, before in epochs.due(now, settings.clip_days * _DAY_S):
            upkeep.delete_old_media(store, before, after)
        for after, before in epochs.due(now, settings.event_days * _DAY_S):
            upkeep.delete_old_rows(store, before, after)

    def _delete_too_much(self) -> None:
        settings = self._settings
        if settings.recording_bytes is not None:
            too_much = upkeep.recording_bytes(self._store) - settings.recording_bytes
            upkeep.delete_recording(self._store, too_much)
        if settings.clip_bytes is not None:
            upkeep.delete_media(self._store, upkeep.media_bytes(self._store) - settings.clip_bytes)

    def _newest(self) -> float:
        """When the newest segment ended; by the recording's own times, so that a jump changes nothing."""
        return upkeep.newest_recording(self._store)

    def _reserves(self) -> tuple[int, int]:
        disk = os.statvfs(self._store.folder)
        total = disk.f_blocks * disk.f_frsize
        recording, clips = self._settings.recording_reserve_bytes, self._settings.clip_reserve_bytes
        return (
            min(2 * 2**30, total // 20) if recording is None else recording,
            min(512 * 2**20, total // 50) if clips is None else clips,
        )

    def _look(self) -> Room:
        disk = os.statvfs(self._store.folder)
        free = disk.f_bavail * disk.f_frsize
        for_recording, for_clips = self._reserves()
        before = self._room
        return Room(
            free,
            free >= for_recording * (1.0 if before.recording else _ROOM_AGAIN),
            free >= for_clips * (1.0 if before.clips else _ROOM_AGAIN),
        )

    def _act(self, room: Room) -> None:
        """Have the runner stop what there is no room for, or go on with it."""
        before, self._room = self._room, room
        if (room.recording, room.clips) != (before.recording, before.clips):
            _LOG.warning(
                "%s free on the disk: recording %s, clips %s; events and scores go on",
                _size(room.free_bytes),
                "goes on" if room.recording else "stopped",
                "go on" if room.clips else "stopped",
            )
            if self._on_room is not None:
                self._on_room(room)

    def _tell(self, room: Room, now: float) -> None:
        """Write the beginning and the end of a full disk as health events."""
        for what, stopped in (("recording", not room.recording), ("clips", not room.clips)):
            try:
                if stopped and what not in self._health:
                    detail = {"stopped": what, "free_bytes": room.free_bytes}
                    self._health[what] = self._store.write(partial(self._began, now, detail))
                elif not stopped and what in self._health:
                    self._store.write(partial(self._ended, now, what))
                    del self._health[what]
            except StoreFullError as error:
                _LOG.warning("%s", error)

    def _began(self, now: float, detail: Mapping[str, Any], connection: Connection) -> int:
        self._on_health(connection, detail, False)
        return self._store.add_health("", "disk", now, detail)

    def _ended(self, now: float, what: str, connection: Connection) -> None:
        self._on_health(connection, {"stopped": what}, True)
        self._store.end_health(self._health[what], now)


def estimate_disk(
    bits_per_s: Mapping[str, float],
    settings: RetentionSettings | None = None,
    *,
    scored_per_s: float = 10.0,
    events_per_day: float = 50.0,
    clip_s: float = 20.0,
    recording: bool = True,
) -> DiskEstimate:
    """What a site will write, told before it starts.

    Args:
        bits_per_s: of each camera's stream, by its name.
        settings: what is kept.
        scored_per_s: frames scored a second, of each camera.
        events_per_day: of each camera.
        clip_s: length of a clip.
        recording: whether the rolling recording is on.
    """
    settings = settings or RetentionSettings()
    bytes_per_s = sum(bits_per_s.values()) / 8
    recorded = bytes_per_s * _DAY_S if recording else 0.0
    clips = bytes_per_s * clip_s * events_per_day + len(bits_per_s) * events_per_day * upkeep.PICTURE_BYTES
    scores = len(bits_per_s) * (scored_per_s * upkeep.SCORE_BYTES + upkeep.BATCH_BYTES) * _DAY_S
    kept_recording = recorded * settings.keep_hours / 24
    kept_clips = clips * settings.clip_days
    if settings.recording_bytes is not None:
        kept_recording = min(kept_recording, settings.recording_bytes)
    if settings.clip_bytes is not None:
        kept_clips = min(kept_clips, settings.clip_bytes)
    kept = kept_recording + kept_clips + scores * settings.keep_hours / 24
    return DiskEstimate(recorded, clips, scores, kept)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
