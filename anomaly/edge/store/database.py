"""One SQLite file: opened so that a commit is on the disk, checked, and brought to the present schema."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.errors import StoreError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: How long a writer waits for another process to finish its transaction.
BUSY_S = 5.0
#: And how long where that was not enough, until it has finished.
BUSY_AGAIN_S = 0.05
#: And who empties the write-ahead log, for those who read in it.
_WIPE_MS = 500
#: A write-ahead log that once grew is cut back to this at the next checkpoint.
_WAL_BYTES = 8 * 2**20


def connect(path: Path) -> sqlite3.Connection:
    """Open a database file that exists; where there is none, `open_database` makes one.

    In the connection a commit is synced to the disk before it returns (WAL, synchronous=FULL), foreign keys
    hold, and a lock is waited for up to `BUSY_S`. Transactions are begun by hand (`transaction`).

    Raises:
        StoreError: it cannot be opened, or is no database (`is_corrupt` tells the two apart).
        StoreFullError: the disk is full.
    """
    connection: sqlite3.Connection | None = None
    with told(path):
        # Never by a descriptor of our own: to close one lets go of all locks that this process holds on the file, and the
        # next process that looks into it takes itself for the last one, and deletes the log that is written here.
        path.stat()
        try:
            # Of a file that was taken away the log may still lie there, too: beside an empty file made in its place SQLite
            # would delete it.
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA temp_store=MEMORY")
            # What is deleted is overwritten, however SQLite was built: the words that were said of an event are gone with it.
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
        except BaseException:
            if connection is not None:
                connection.close()
            raise
    return connection


def open_database(
    path: Path, schemas: Sequence[str], version: int, migrations: Mapping[int, str] | None = None
) -> sqlite3.Connection:
    """Open a database, which is made (mode 0600) where there is none, and bring it to a schema.

    Args:
        path: the file; its folder must exist.
        schemas: scripts that may run again on a database that has them (CREATE TABLE IF NOT EXISTS ...).
        version: of the whole schema, kept in the file (PRAGMA user_version), 1 or more.
        migrations: for each older version the script that leads to the next one.

    Raises:
        StoreError: it cannot be opened, or a newer version of this program wrote it.
        StoreFullError: the disk is full.
    """
    with told(path), suppress(FileExistsError):
        # SQLite gives its log the mode of the file itself: made first, with no one else's eyes.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    try:
        with told(path), transaction(connection):
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found > version:
                raise StoreError(
                    f"{path} has schema {found}, newer than this program's {version}; update the program, "
                    "or give it another folder"
                )
            for older in range(found, version) if found else ():
                _run(connection, (migrations or {})[older])
            for schema in schemas:
                _run(connection, schema)
            if found != version:
                connection.execute(f"PRAGMA user_version={version:d}")
    except BaseException:
        connection.close()
        raise
    return connection


def damage(connection: sqlite3.Connection) -> str | None:
    """What `quick_check` finds wrong with a database, in one line; None where it is whole."""
    try:
        row = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if is_corrupt(error):
            return str(error)
        raise
    return None if row is None or row[0] == "ok" else " ".join(str(row[0]).split())


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing: committed at the end, rolled back on an exception. Inside another one it joins it."""
    inside = connection.in_transaction
    if inside:
        yield connection
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.commit()
    except BaseException:
        # A commit that found the disk full may have rolled back by itself already.
        if connection.in_transaction:
            connection.rollback()
        raise


def wipe_log(connection: sqlite3.Connection) -> None:
    """Empty the write-ahead log, which holds what was deleted until it is written anew.

    Where somebody reads for longer, it stays until then: no writer is to wait for that.
    """
    connection.execute(f"PRAGMA busy_timeout={_WIPE_MS}")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout={round(BUSY_S * 1000)}")


def rows(connection: sqlite3.Connection, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
    """All rows of a query, their columns by name."""
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    return cursor.execute(sql, tuple(values)).fetchall()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say of a database file into one line with a next step."""
    try:
        yield
    except sqlite3.Error as error:
        raise _error(path, error) from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be opened ({error.strerror}); check the folder and its rights"
        ) from error


def is_corrupt(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, says that a file is not, or no longer, a database."""
    while error is not None:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return True
        # All text is written as UTF-8; Python finds that it is none, and SQLite does not look.
        if isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode"):
            return True
        error = error.__cause__
    return False


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process held the database for as long as a lock is waited for."""
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _error(path: Path, error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    # Where the log's index cannot grow, SQLite calls a full disk an input/output error.
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _is_full(path.parent)):
        return StoreFullError(f"{path}: {error}; make room on the disk that holds {path.parent}")
    if is_busy(error):
        return StoreError(
            f"{path} was locked for over {BUSY_S:g} s by another process; look for one that hangs"
        )
    if is_corrupt(error):
        return StoreError(
            f"{path} is damaged ({error}); start `run` again: it sets the file aside and goes on"
        )
    return StoreError(f"{path}: {error}; check the disk that holds {path.parent}")


def _is_full(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        # The disk itself is gone.
        return False
    return disk.f_bavail * disk.f_frsize < 2**16


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run a script inside the present transaction (`executescript` would commit it first)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    if statement.strip():
        connection.execute(statement)
