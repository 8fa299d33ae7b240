"""The store: events, recordings, scores and health in one SQLite file beside the folders of their pictures."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anomaly.edge.store import ballast, database, deletion, event, reconcile, review, timeline
from anomaly.edge.store.schema import SCHEMA, VERSION
from anomaly.errors import StoreError, StoreFullError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from anomaly.edge.store.deletion import Deleted
    from anomaly.edge.store.event import StoredEvent
    from anomaly.edge.store.review import Miss, Verdict
    from anomaly.edge.store.timeline import CameraState, Gap, Health, ScorePoint, Segment

    OnEvent = Callable[[sqlite3.Connection, StoredEvent, str], None]

_T = TypeVar("_T")
DATABASE = "anomaly.db"


class _OfThread:
    """Closes a thread's connection when the thread ends; the connection alone would wait for the collector."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class Store:
    """A folder with `anomaly.db`, `snapshots/`, `clips/` and `recording/`; for many threads and processes.

    The runner owns it: one owner at a time, who repairs at the start what a kill or a fault left behind
    (`notices` says what). Other processes open it with `owner=False`, beside the owner or without one.

    Every method that writes has committed, synced to the disk, when it returns. All raise StoreError, and
    StoreFullError where the disk is full: nothing was written then.

    Args:
        folder: made where there is none (by an owner).
        on_event: called inside the transaction that writes an event, with the connection, the event and
            "start", "update" or "end": what they write is committed with it, or not at all.
        on_delete: called likewise with the connection and each event that is deleted.
        schemas: more tables, of those who share the database.
        owner: see above.

    Attributes:
        folder: as given.
        notices: what was repaired when it was opened, one line each.
    """

    def __init__(
        self,
        folder: str | Path,
        on_event: Sequence[OnEvent] = (),
        *,
        on_delete: Sequence[Callable[[sqlite3.Connection, StoredEvent], None]] = (),
        schemas: Sequence[str] = (),
        owner: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.notices: tuple[str, ...] = ()
        self._on_event = tuple(on_event)
        self._on_delete = tuple(on_delete)
        self._schemas = (SCHEMA, *schemas)
        self._path = self.folder / DATABASE
        self._local = threading.local()
        self._threads: weakref.WeakSet[_OfThread] = weakref.WeakSet()
        # Threads of one process queue here, in order and at once; SQLite's own waiting sleeps and retries.
        self._writing = threading.RLock()
        self._lock: int | None = None
        self._closed = False
        if owner:
            self._open_as_owner()
        elif not self._path.exists():
            raise StoreError(
                f"{self.folder} holds no store ({DATABASE}); give the folder that `run` writes to"
            )
        else:
            self.connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all threads' connections; the threads that used it must be done with it."""
        self._closed = True
        with self._writing:
            for one in list(self._threads):
                one.connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def connection(self) -> sqlite3.Connection:
        """The calling thread's connection; it is closed when the thread ends."""
        if self._closed:
            raise StoreError(f"the store in {self.folder} is closed; open it again")
        held: _OfThread | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = _OfThread(database.connect(self._path))
            self._threads.add(held)
        return held.connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, committed to the disk at the end; within another one of this thread it joins it."""
        with self._writing, database.told(self._path), database.transaction(self.connection()) as connection:
            yield connection

    def path(self, relative: str) -> Path:
        """Where a file that a row names lies; StoreError for a name that leads out of the folder."""
        path = self.folder / relative
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise StoreError(f"{relative!r} leads out of the store; its rows name files inside it only")
        return path

    # Events

    def start_event(self, **values: Any) -> StoredEvent:
        """Store a new event; it may be announced once this has returned.

        Args:
            values: fields of `StoredEvent` but the id; `event.REQUIRED` at least. The peak is the start
                where it is not given.

        Raises:
            StoreFullError: not even the room kept for events (the ballast) was enough.
        """

        def write(connection: sqlite3.Connection) -> StoredEvent:
            stored = event.insert(connection, values, time.time())
            self._tell(connection, stored, "start")
            return stored

        return self._write(write)

    def update_event(self, event_id: str, **changes: Any) -> StoredEvent:
        """Change fields of an event, which is told as its "update"."""
        return self._change(event_id, changes, "update")

    def end_event(self, event_id: str, end_utc_s: float, end_pts_s: float, **changes: Any) -> StoredEvent:
        """Write the end of an event (and other fields), which is told as its "end"."""
        ended = {"status": "ended", **changes, "end_utc_s": end_utc_s, "end_pts_s": end_pts_s}
        return self._change(event_id, ended, "end")

    def set_clip(self, item_id: str, used: Sequence[int] = (), *, miss: bool = False, **changes: Any) -> bool:
        """Write clip, clip_state, preview and what the clip covers, of an event or a miss; tells nobody.

        Args:
            item_id: id of the event or the miss.
            used: ids of the segments that the clip shows.
            miss: whether it is a miss.
            changes: the columns.

        Returns:
            False where the item or one of the segments was deleted meanwhile: nothing was written then, and
            the files must go.
        """

        def write(connection: sqlite3.Connection) -> bool:
            marks = ", ".join("?" for _ in used)
            there = connection.execute(f"SELECT count(*) FROM segments WHERE id IN ({marks})", tuple(used))
            if there.fetchone()[0] < len(used):
                return False
            assigned = ", ".join(f"{name} = ?" for name in changes)
            table = "misses" if miss else "events"
            done = connection.execute(
                f"UPDATE {table} SET {assigned} WHERE id = ?", (*changes.values(), item_id)
            )
            return done.rowcount == 1

        return self._write(write)

    def events(
        self,
        *,
        camera: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before_id: str | None = None,
        limit: int = 100,
        unreviewed: bool = False,
        announced: bool | None = None,
        clip_state: str | None = None,
    ) -> list[StoredEvent]:
        """Events that meet all that is given, newest first.

        Args:
            camera: of this camera.
            since, until: that overlap since <= time < until, in POSIX seconds.
            before_id: stored before this one (the last of the page before).
            limit: so many at most.
            unreviewed: without a verdict.
            announced: announced, or only stored.
            clip_state: with this state of their clip.
        """
        conditions = {
            "camera = ?": camera,
            "(end_utc_s IS NULL OR end_utc_s >= ?)": since,
            "start_utc_s < ?": until,
            "id < ?": before_id,
            "announced = ?": announced,
            "clip_state = ?": clip_state,
        }
        given = {where: value for where, value in conditions.items() if value is not None}
        where = [*given, *(["id NOT IN (SELECT event_id FROM verdicts)"] if unreviewed else [])]
        with self._reading() as connection:
            return event.select(connection, where, tuple(given.values()), limit)

    def event(self, event_id: str) -> StoredEvent | None:
        """One event; None where there is none."""
        with self._reading() as connection:
            return event.get(connection, event_id)

    def hold(self, event_id: str, held: bool = True) -> StoredEvent:
        """Keep an event from retention, or let it go again."""
        return self._change(event_id, {"held": held}, None)

    def delete_event(self, event_id: str) -> bool:
        """Delete an event, its verdicts and its files, held or not; False where there was none."""

        def write(connection: sqlite3.Connection) -> bool:
            stored = event.get(connection, event_id)
            if stored is None:
                return False
            deletion.delete_event(connection, stored)
            self._forget(connection, stored)
            return True

        done = self._write(write)
        self.remove_doomed()
        return done

    def delete(self, camera: str, start_utc_s: float, end_utc_s: float) -> Deleted:
        """Delete all that shows a camera in an interval, as `deletion.delete_interval` says."""
        done = self._write(
            lambda connection: deletion.delete_interval(
                connection,
                self.folder,
                camera,
                start_utc_s,
                end_utc_s,
                lambda stored: self._forget(connection, stored),
            )
        )
        self.remove_doomed()
        return done

    def remove_doomed(self) -> None:
        """Remove the files of what was deleted; what cannot be removed now is tried again next time."""
        while paths := deletion.doomed(self.connection()):
            gone = [path for path in paths if deletion.remove(self.folder / path, self.folder)]
            self._write(
                lambda connection, gone=gone: connection.executemany(  # type: ignore[misc]
                    "DELETE FROM doomed_files WHERE path = ?", [(path,) for path in gone]
                )
            )
            if len(gone) < len(paths):
                return

    # What people say

    def add_verdict(self, event_id: str, verdict: str, who: str, note: str = "") -> Verdict:
        """Write what somebody says of an event: "real", "false alarm" or "unsure"; the last verdict counts."""
        return self._write(
            lambda connection: review.add_verdict(connection, event_id, verdict, who, note, time.time())
        )

    def verdicts(self, event_id: str | None = None) -> list[Verdict]:
        """Verdicts of an event (or of all), oldest first."""
        with self._reading() as connection:
            return review.verdicts(connection, event_id)

    def mark_miss(
        self,
        camera: str,
        start_utc_s: float,
        end_utc_s: float,
        label: str,
        who: str,
        model: str | None = None,
    ) -> Miss:
        """Write an anomaly that raised no event; `model` is the one that watched then, where not given."""
        return self._write(
            lambda connection: review.mark_miss(
                connection, camera, start_utc_s, end_utc_s, label, who, model, time.time()
            )
        )

    def misses(self, camera: str | None = None, *, clip_state: str | None = None) -> list[Miss]:
        """Marked misses, newest first."""
        where = "(? IS NULL OR camera = ?) AND (? IS NULL OR clip_state = ?)"
        with self._reading() as connection:
            return review.misses(connection, where, (camera, camera, clip_state, clip_state))

    # What fills a camera's time

    def add_segment(
        self,
        camera: str,
        path: str | Path,
        start_utc_s: float,
        end_utc_s: float,
        start_pts_s: float,
        bytes: int,
        codec: str,
    ) -> int:
        """Index a recorded file; `path` is relative to `recording/`. Returns its id."""
        segment = timeline.Segment(camera, Path(path), start_utc_s, end_utc_s, start_pts_s, bytes, codec)
        return self._write(lambda connection: timeline.add_segment(connection, segment))

    def segments(self, camera: str, start_utc_s: float, end_utc_s: float) -> list[Segment]:
        """Segments that overlap start <= time < end, in the order in which they were recorded."""
        where = "camera = ? AND start_utc_s < ? AND end_utc_s > ? ORDER BY id"
        with self._reading() as connection:
            return timeline.segments(
                connection, self.folder / deletion.RECORDING, where, (camera, end_utc_s, start_utc_s)
            )

    def add_scores(self, camera: str, scores: Sequence[tuple[float, float, float, float]]) -> None:
        """Store a batch of (utc_s, pts_s, score, decision_score), about a second of it."""
        self._write(lambda connection: timeline.add_scores(connection, camera, scores))

    def scores(self, camera: str, since: float, until: float, at_most: int = 2000) -> list[ScorePoint]:
        """Scores of since <= time < until, thinned to the maxima of `at_most` stretches of time."""
        with self._reading() as connection:
            return timeline.scores(connection, camera, since, until, at_most)

    def add_health(
        self, camera: str, kind: str, utc_s: float, detail: Mapping[str, Any] | None = None
    ) -> int:
        """Write the beginning of a health event; returns its id for `end_health`. Camera "" is the machine."""
        return self._write(
            lambda connection: timeline.add_health(connection, camera, kind, utc_s, detail or {})
        )

    def end_health(self, health_id: int, utc_s: float) -> None:
        """Write the end of a health event."""
        self._write(
            lambda connection: connection.execute(
                "UPDATE health SET end_utc_s = ? WHERE id = ?", (utc_s, health_id)
            )
        )

    def health(self, camera: str | None = None, since: float | None = None, limit: int = 100) -> list[Health]:
        """Health events that were on since then, newest first."""
        with self._reading() as connection:
            return timeline.health(connection, camera, since, limit)

    def add_gap(self, camera: str, start_utc_s: float, end_utc_s: float, reason: str) -> None:
        """Write time in which a camera was blind ("blind") or not monitored ("state")."""
        self._write(
            lambda connection: connection.execute(
                "INSERT INTO gaps (camera, start_utc_s, end_utc_s, reason) VALUES (?, ?, ?, ?)",
                (camera, start_utc_s, end_utc_s, reason),
            )
        )

    def gaps(self, camera: str, since: float, until: float) -> list[Gap]:
        """Gaps that overlap since <= time < until, oldest first."""
        with self._reading() as connection:
            return timeline.gaps(connection, camera, since, until)

    def set_state(self, camera: str, state: str, who: str, since_utc_s: float) -> None:
        """Write the state that somebody set a camera to."""
        self._write(
            lambda connection: connection.execute(
                "INSERT INTO states (camera, state, who, since_utc_s) VALUES (?, ?, ?, ?)",
                (camera, state, who, since_utc_s),
            )
        )

    def states(self) -> dict[str, CameraState]:
        """The last state set, by camera."""
        with self._reading() as connection:
            return timeline.states(connection)

    def set_model(self, camera: str, model: str, recipe: str, since_utc_s: float) -> None:
        """Write which model (sha256) and recipe watch a camera from now on; misses are put down to them."""
        self._write(
            lambda connection: connection.execute(
                "INSERT INTO models (camera, model, recipe, since_utc_s) VALUES (?, ?, ?, ?)",
                (camera, model, recipe, since_utc_s),
            )
        )

    # Upkeep

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database, as far as readers allow, and cut it back."""
        with self._writing, database.told(self._path):
            self.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def fact(self, name: str) -> str | None:
        """A small value kept under a name; None where there is none."""
        with self._reading() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Keep a small value under a name."""
        self._write(
            lambda connection: connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
        )

    def _open_as_owner(self) -> None:
        try:
            for name in ("", "snapshots", "clips", deletion.RECORDING):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be written ({error.strerror}); give a folder of this user's own"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreError(
                f"{self.folder} is in use by another runner; stop that one, or give each its own folder"
            ) from None
        try:
            self._repair()
        except BaseException:
            self.close()
            raise

    def _repair(self) -> None:
        """Open the database whatever state it is in, and set right what a kill left behind."""
        try:
            notices = reconcile.open_whole(self._path, self._schemas, VERSION)
        except StoreFullError:
            if not ballast.drop(self.folder):
                raise
            notices = reconcile.open_whole(self._path, self._schemas, VERSION)
        with self.transaction() as connection:
            ended = reconcile.end_cut_off(connection)
            for one in ended:
                self._tell(connection, one, "end")
            notices += reconcile.files(connection, self.folder, keep=bool(notices))
            for notice in notices:
                timeline.add_health(connection, "", "store", time.time(), {"notice": notice})
        self.remove_doomed()
        ballast.load(self.folder)
        if ended:
            notices.append(f"{len(ended)} events were on when the last run died; they are marked as cut off")
        self.notices = tuple(notices)

    def _tell(self, connection: sqlite3.Connection, stored: StoredEvent, what: str) -> None:
        for hook in self._on_event:
            hook(connection, stored, what)

    def _forget(self, connection: sqlite3.Connection, stored: StoredEvent) -> None:
        for hook in self._on_delete:
            hook(connection, stored)

    def _change(self, event_id: str, changes: Mapping[str, Any], what: str | None) -> StoredEvent:
        def write(connection: sqlite3.Connection) -> StoredEvent:
            stored = event.change(connection, event_id, changes)
            if stored is None:
                raise StoreError(f"there is no event {event_id}; it may have been deleted")
            if what is not None:
                self._tell(connection, stored, what)
            return stored

        return self._write(write)

    def _write(self, write: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a write in a transaction; where the disk is full, once more in the room kept for that."""
        try:
            with self.transaction() as connection:
                return write(connection)
        except StoreFullError:
            if self.connection().in_transaction or not ballast.drop(self.folder):
                raise
        with self.transaction() as connection:
            return write(connection)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with database.told(self._path):
            yield self.connection()
