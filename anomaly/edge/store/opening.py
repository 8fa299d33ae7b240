"""The folder of a store, opened: one connection a thread, one owner, and repair at the start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from anomaly.edge.store import ballast, database, deletion, erased, leftovers, reconcile, timeline
from anomaly.edge.store.schema import SCHEMA, VERSION
from anomaly.errors import StoreError, StoreFullError, StoreReplacedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from anomaly.edge.store.event import StoredEvent

    OnEvent = Callable[[sqlite3.Connection, StoredEvent, str], None]
    OnDelete = Callable[[sqlite3.Connection, StoredEvent], None]

_T = TypeVar("_T")
DATABASE = "anomaly.db"
#: Pages in the log at which they are moved into the database: usually, and on a disk that is full.
_LOG_PAGES = 1000
_TIGHT_LOG_PAGES = 16


class _OfThread:
    """Closes a thread's connection when the thread ends; the connection alone would wait for the collector."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.tight = False
        self.locked = False

    def __del__(self) -> None:
        self.connection.close()


class OpenFolder:
    """A store's folder and database, opened; `Store` says what its arguments are.

    Attributes:
        leaving: set where the program ends: what is old or too much is left to the next start, between two steps.
    """

    def __init__(
        self,
        folder: str | Path,
        on_event: Sequence[OnEvent] = (),
        *,
        on_delete: Sequence[OnDelete] = (),
        schemas: Sequence[str] = (),
        owner: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.notices: tuple[str, ...] = ()
        self._on_event = tuple(on_event)
        self._on_delete = tuple(on_delete)
        self._schemas = (SCHEMA, *schemas)
        self._path = self.folder / DATABASE
        # Device and inode of the file that was opened.
        self._identity: tuple[int, int] | None = None
        self._local = threading.local()
        self._threads: weakref.WeakSet[_OfThread] = weakref.WeakSet()
        # Threads of one process queue here, in order and at once; SQLite's own waiting sleeps and retries.
        self._writing = threading.RLock()
        self._tight = False
        # Another process holds the database for longer than any of ours should have to wait twice.
        self._locked = False
        self._lock: int | None = None
        self._closed = False
        self.leaving = threading.Event()
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
        """The calling thread's connection; it is closed when the thread ends.

        Raises:
            StoreReplacedError: the file is another one than was opened first.
        """
        if self._closed:
            raise StoreError(f"the store in {self.folder} is closed; open it again")
        if self._identity is not None and _identity(self._path) != self._identity:
            raise StoreReplacedError(
                f"{self._path} was removed or replaced while it was open, or a disk was mounted over its folder; put back "
                "what was there, or start `run` again"
            )
        held: _OfThread | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = _OfThread(database.connect(self._path))
            self._identity = self._identity or _identity(self._path)
            self._threads.add(held)
        if held.tight != self._tight:
            held.tight = self._tight
            pages = _TIGHT_LOG_PAGES if held.tight else _LOG_PAGES
            held.connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
        if held.locked != self._locked:
            held.locked = self._locked
            wait_s = database.BUSY_AGAIN_S if held.locked else database.BUSY_S
            held.connection.execute(f"PRAGMA busy_timeout={1000 * wait_s:.0f}")
        return held.connection

    def keep_room(self) -> None:
        """Keep room for events again (the ballast), once there is some."""
        if ballast.load(self.folder):
            self._tight = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, committed to the disk at the end; within another one of this thread it joins it."""
        with self._writing, database.told(self._path):
            try:
                with database.transaction(self.connection()) as connection:
                    self._locked = False
                    yield connection
            except sqlite3.Error as error:
                # The thread that scores writes, too: it must not wait anew with each of its writes.
                self._locked = self._locked or database.is_busy(error)
                raise

    def path(self, relative: str) -> Path:
        """Where a file that a row names lies; StoreError for a name that leads out of the folder."""
        path = self.folder / relative
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise StoreError(f"{relative!r} leads out of the store; its rows name files inside it only")
        return path

    def write(self, write: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a write in a transaction; where the disk is full, once more in the room kept for that."""
        try:
            with self.transaction() as connection:
                return write(connection)
        except StoreFullError:
            connection = self.connection()
            if connection.in_transaction:
                raise
            ballast.drop(self.folder)
            # What the log holds goes into the database, so that the log's own room is written again; from
            # now on at once, or the log would take what room there is.
            self._tight = True
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        with self.transaction() as connection:
            return write(connection)

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
                self.tell(connection, one, "end")
            notices += reconcile.files(connection, self.folder, keep=bool(notices))
            for notice in notices:
                now = time.time()
                done = timeline.add_health(connection, "", "store", now, {"notice": notice})
                timeline.end_health(connection, done, now)
        self.remove_doomed()
        with self.reading() as connection:
            cut_off = erased.under_way(connection)
        for span in cut_off:
            self.delete_begun(*span)
        self.keep_room()
        if ended:
            notices.append(f"{len(ended)} events were on when the last run died; they are marked as cut off")
        self.notices = tuple(notices)

    def tell(self, connection: sqlite3.Connection, stored: StoredEvent, what: str) -> None:
        """Call the hooks with an event, inside the transaction that writes it."""
        for hook in self._on_event:
            hook(connection, stored, what)

    def forget(self, connection: sqlite3.Connection, stored: StoredEvent) -> None:
        """Call the hooks with an event that is deleted, inside the transaction."""
        for hook in self._on_delete:
            hook(connection, stored)

    def delete_begun(self, camera: str, start_utc_s: float, end_utc_s: float) -> deletion.Deleted:
        """Do a deletion that is written down as begun, a few rows at a time: an event never waits long for its commit."""
        span = (camera, start_utc_s, end_utc_s)
        with self.reading() as connection:
            left = leftovers.of_interval(connection, self.folder, *span)
        total = deletion.Deleted()

        def some(connection: sqlite3.Connection) -> deletion.Deleted:
            return deletion.delete_some(
                connection, self.folder, span, lambda stored: self.forget(connection, stored)
            )

        def rest(connection: sqlite3.Connection) -> None:
            deletion.doom(connection, left)
            erased.end(connection, *span)

        while done := self.write(some):
            total += done
        self.write(rest)
        self._wipe()
        return total + deletion.Deleted(leftovers=len(left))

    def _wipe(self) -> None:
        """Remove the files of what was deleted, and what the log still holds of it."""
        self.remove_doomed()
        # It is deleted, whether the log can be emptied now or not.
        with contextlib.suppress(sqlite3.Error):
            database.wipe_log(self.connection())

    def remove_doomed(self) -> None:
        """Remove the files of what was deleted; what cannot be removed now is tried again next time."""
        while paths := deletion.doomed(self.connection()):
            gone = [path for path in paths if deletion.remove(self.folder / path, self.folder)]
            self.write(
                lambda connection, gone=gone: connection.executemany(  # type: ignore[misc]
                    "DELETE FROM doomed_files WHERE path = ?", [(path,) for path in gone]
                )
            )
            if len(gone) < len(paths):
                return

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The calling thread's connection, for queries."""
        with database.told(self._path):
            yield self.connection()


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none that can be looked at."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino
