"""At the start: a damaged database set aside, events that a kill cut off ended, files and rows made to agree."""

from __future__ import annotations

import glob
import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.edge.segment_name import LONGEST_SEGMENT_S, start_of
from anomaly.edge.store import database, deletion, erased, event, review, timeline
from anomaly.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.edge.store.event import StoredEvent

#: Files that no row knows are moved here: not shown, not lost, removed by retention when they are old.
ORPHANS = "orphans"
#: What follows a database's name where it was set aside, and when that was.
ASIDE = ".damaged-"
ASIDE_TIME = "%Y%m%dT%H%M%S.%fZ"
_MEDIA = ("snapshots", "clips")
_FILE_COLUMNS = ("snapshot", "heatmap", "normal", "preview", "clip")
_FILES = ", ".join(_FILE_COLUMNS)
_SHOWN = f"events WHERE coalesce({_FILES}) IS NOT NULL"


def open_whole(path: Path, schemas: Sequence[str], version: int) -> list[str]:
    """Bring the database to its schema; a damaged one is set aside, and what can be read of it copied.

    Returns:
        What was done about damage, one line each.
    """
    try:
        with closing(database.open_database(path, schemas, version)) as connection, database.told(path):
            found = database.damage(connection)
    except StoreError as error:
        if not database.is_corrupt(error):
            raise
        found = str(error.__cause__)
    if found is None:
        return []
    aside = path.with_name(f"{path.name}{ASIDE}{datetime.now(UTC):{ASIDE_TIME}}")
    # The log first: left alone beside a new database, it would be taken for that one's.
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    with closing(database.open_database(path, schemas, version)) as connection:
        saved = _salvage(connection, aside)
    return [
        f"{path} was damaged ({found}); it was set aside as {aside.name}, and {saved} rows were read out of it "
        f"into a new one; keep it, `sqlite3 {aside.name} .recover` may read more; check the disk"
    ]


def end_cut_off(connection: sqlite3.Connection) -> list[StoredEvent]:
    """End the events that were on when the last owner died, at the last time known of each."""
    ended = []
    for cut in event.select(connection, ["status = 'open'"], (), deletion.ALL):
        last = timeline.last_score(connection, cut.camera, cut.peak_utc_s)
        end = (cut.peak_utc_s, cut.peak_pts_s) if last is None else (last.utc_s, last.pts_s)
        changes = {"status": "cut off", "end_utc_s": end[0], "end_pts_s": max(end[1], cut.peak_pts_s)}
        done = event.change(connection, cut.id, changes)
        assert done is not None
        ended.append(done)
    return ended


def files(connection: sqlite3.Connection, folder: Path, *, keep: bool) -> list[str]:
    """Make files and rows agree: half-written files go, rows lose files that are gone, lost files are found.

    A recorded segment without a row is indexed by its name and its time, or goes where its time was deleted; other files without a row move to
    `orphans/`. Files of deleted rows are none: their deletion is simply finished.

    Args:
        connection: inside a transaction.
        folder: the store's.
        keep: leave files without a row where they are (the rows may be in a database that was set aside).

    Returns:
        What was done, one line each.
    """
    # Not those of the recording: what was written of a segment plays, and the capture finishes it.
    parts = [part for kind in _MEDIA for part in (folder / kind).rglob("*.part")]
    for part in parts:
        part.unlink(missing_ok=True)
    doomed = set(deletion.doomed(connection, deletion.ALL))
    lost = _rows_without_files(connection, folder)
    found = _index_segments(connection, folder, doomed)
    moved = 0 if keep else _move_orphans(connection, folder, doomed)
    told = (
        (len(parts), "half-written files were removed"),
        (lost, "files that rows name are gone; the rows say so now"),
        (found, "recorded segments had no row; they are indexed again"),
        (moved, f"files that no event knows were moved to {ORPHANS}/"),
    )
    return [f"{count} {what}" for count, what in told if count]


def _salvage(connection: sqlite3.Connection, aside: Path) -> int:
    """Copy every row that a damaged database still gives, table by table; returns how many."""
    saved = 0
    try:
        old = sqlite3.connect(f"file:{aside}?mode=ro", uri=True)
    except sqlite3.Error:
        return 0
    with closing(old), database.transaction(connection):
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        connection.execute("PRAGMA defer_foreign_keys=ON")
        for (table,) in tables:
            if table.startswith("sqlite_"):
                continue
            try:
                # By their names: another version may have had other columns.
                had, has = (
                    {row[1]: None for row in one.execute(f'PRAGMA table_info("{table}")')}
                    for one in (old, connection)
                )
                columns = ", ".join(name for name in had if name in has)
                marks = ", ".join("?" for name in had if name in has)
                for row in old.execute(f'SELECT {columns} FROM "{table}"'):
                    done = connection.execute(
                        f'INSERT OR IGNORE INTO "{table}" ({columns}) VALUES ({marks})', row
                    )
                    saved += done.rowcount
            except sqlite3.Error:
                continue
        # A verdict whose event could not be read hangs on nothing.
        connection.execute("DELETE FROM verdicts WHERE event_id NOT IN (SELECT id FROM events)")
    return saved


def _rows_without_files(connection: sqlite3.Connection, folder: Path) -> int:
    count = 0
    for event_id, *paths in connection.execute(f"SELECT id, {_FILES} FROM {_SHOWN}").fetchall():
        gone: dict[str, str | None] = {
            name: None
            for name, path in zip(_FILE_COLUMNS, paths, strict=True)
            if path is not None and not _is_there(f"{folder}/{path}")
        }
        if gone:
            count += len(gone)
            # What was recorded may still be there: the clip is made again, or found to be impossible.
            event.change(
                connection, event_id, {**gone, **({"clip_state": "pending"} if "clip" in gone else {})}
            )
    for miss in review.misses(connection, "clip IS NOT NULL", ()):
        if not all((folder / path).exists() for path in miss.files):
            count += 1
            deletion.take_clip(connection, "misses", miss.id, miss.files, "pending")
    recording = folder / deletion.RECORDING
    segments = connection.execute("SELECT id, path FROM segments").fetchall()
    lost = [(segment_id,) for segment_id, path in segments if not _is_there(f"{recording}/{path}")]
    connection.executemany("DELETE FROM segments WHERE id = ?", lost)
    return count + len(lost)


def _is_there(path: str) -> bool:
    """Whether a file is there; raises OSError where a disk or a right keeps it from being known."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _index_segments(connection: sqlite3.Connection, folder: Path, doomed: set[str]) -> int:
    recording = folder / deletion.RECORDING
    known = {row[0] for row in connection.execute("SELECT path FROM segments")}
    count = 0
    # As text, and sorted once what has a row is out: a week of many cameras is half a million files, and no camera is
    # watched before they are looked through.
    found = set(glob.iglob("*/*/*", root_dir=recording)) - known
    for name in sorted(found):
        if f"{deletion.RECORDING}/{name}" not in doomed:
            count += index_segment(connection, folder, Path(name))
    return count


def index_segment(connection: sqlite3.Connection, folder: Path, path: Path) -> bool:
    """Give a recorded file that has none a row, by its name and its time; where its time was deleted it is doomed instead.

    Args:
        connection: inside a transaction.
        folder: the store's.
        path: relative to the recording.

    Returns:
        Whether it has a row now.
    """
    start = start_of(path)
    if start is None:
        return False
    about = (folder / deletion.RECORDING / path).stat()
    # The file was last written when its last packet came.
    end = about.st_mtime if start < about.st_mtime < start + LONGEST_SEGMENT_S else start + 10.0
    segment = timeline.Segment(path.parts[0], path, start, end, 0.0, about.st_size, "")
    if erased.is_erased(connection, segment.camera, start, end, time.time()):
        deletion.doom(connection, [f"{deletion.RECORDING}/{path.as_posix()}"])
        return False
    timeline.add_segment(connection, segment)
    return True


def _move_orphans(connection: sqlite3.Connection, folder: Path, doomed: set[str]) -> int:
    known = set(doomed)
    known.update(*connection.execute(f"SELECT {_FILES} FROM {_SHOWN}"))
    known |= {
        row[0] for row in connection.execute("SELECT clip FROM misses UNION SELECT preview FROM misses")
    }
    moved = 0
    for kind in _MEDIA:
        found = (f"{where}/{name}" for where, _, names in os.walk(folder / kind) for name in names)
        for name in sorted({path.removeprefix(f"{folder}/") for path in found} - known):
            target = folder / ORPHANS / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(target)
            moved += 1
    return moved
