"""Deleting what is old, or too much, a few rows at a time, so that an event never waits long for its commit."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from anomaly.edge.durable import publish
from anomaly.edge.store import deletion, event, review
from anomaly.edge.store.reconcile import ORPHANS, index_segment
from anomaly.edge.store.schema import MEDIA

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from anomaly.edge.store.event import StoredEvent
    from anomaly.edge.store.store import Store

#: Rows deleted in one transaction.
_STEP = 200
_EVER = float("-inf")
#: A clip begins at the keyframe before the seconds that it shows before its event.
_BEFORE_A_CLIP_S = 60.0
#: What one score takes in its batch, and what a batch takes beside; a snapshot, heatmap and normal moment.
SCORE_BYTES = 32
BATCH_BYTES = 180
PICTURE_BYTES = 300_000
#: A recorded file begins with a header of about a thousand bytes; the first of its fragments tells that a picture follows.
_FRAGMENT, _HEADER_BYTES = b"moof", 2**16
_MISS_MEDIA = "coalesce(clip, preview) IS NOT NULL"


def unknown_segments(store: Store) -> dict[Path, int]:
    """Segments of the recording without a row, and when each was last written, in ns of the files' clock: those that are not
    finished, and those whose process died when it had finished them, before it could say so.
    """
    recording, connection = store.folder / deletion.RECORDING, store.connection()
    found = {}
    for path in recording.glob("*/*/*"):
        # Asked after the file was found: a row comes after its file. Most have one.
        name = path.relative_to(recording).as_posix()
        if not name.endswith((".mp4", ".mp4.part")) or _is_known(connection, name):
            continue
        # It may have been finished just now.
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found


def _is_known(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a recorded file has a row, or had one and is still to go."""
    return any(
        connection.execute(f"SELECT 1 FROM {table} WHERE path = ?", (path,)).fetchone()
        for table, path in (("segments", name), ("doomed_files", f"{deletion.RECORDING}/{name}"))
    )


def take_in(store: Store, segment: Path) -> None:
    """Give a segment that nobody writes any more a row, and its name where it has none; one without a picture is removed."""
    path = segment
    try:
        if segment.suffix == ".part":
            with open(segment, "rb") as file:
                holds = _FRAGMENT in file.read(_HEADER_BYTES)
            if not holds:
                segment.unlink()
                return
            path = segment.with_suffix("")
            publish(segment, path)
    except OSError:
        # Gone, or it cannot be read now: it is looked at again.
        return
    relative = path.relative_to(store.folder / deletion.RECORDING)
    store.write(lambda connection: index_segment(connection, store.folder, relative))
    store.remove_doomed()


def delete_old_recording(store: Store, before_utc_s: float, after_utc_s: float = _EVER) -> int:
    """Delete segments and batches of scores that ended in after <= time < before; returns the count of segments."""
    span = after_utc_s, before_utc_s

    def step(connection: sqlite3.Connection) -> int:
        where = "end_utc_s >= ? AND end_utc_s < ? ORDER BY id LIMIT ?"
        return deletion.delete_segments(connection, store.folder, where, (*span, _STEP))

    def scores(connection: sqlite3.Connection) -> int:
        return connection.execute(
            "DELETE FROM scores WHERE id IN"
            " (SELECT id FROM scores WHERE end_utc_s >= ? AND end_utc_s < ? LIMIT ?)",
            (*span, 10 * _STEP),
        ).rowcount

    def intervals(connection: sqlite3.Connection) -> None:
        # What they would keep out is as old, and not kept either.
        connection.execute("DELETE FROM erased WHERE made_utc_s >= ? AND made_utc_s < ?", span)

    _repeat(store, scores)
    store.write(intervals)
    return _repeat(store, step)


def delete_recording(store: Store, count_bytes: int, *, spare_after: float | None = None) -> int:
    """Delete the segments that came first, until so many bytes are gone; returns the count of segments.

    Args:
        store: whose.
        count_bytes: nothing is done for 0 or less.
        spare_after: leave segments that ended after this time.
    """
    left = count_bytes

    def step(connection: sqlite3.Connection) -> int:
        nonlocal left
        done = 0
        first = connection.execute(
            "SELECT id, bytes FROM segments WHERE ? IS NULL OR end_utc_s <= ? ORDER BY id LIMIT ?",
            (spare_after, spare_after, _STEP),
        )
        for segment_id, size in first.fetchall():
            if left <= 0:
                break
            done += deletion.delete_segments(connection, store.folder, "id = ?", (segment_id,))
            left -= size
        return done

    return _repeat(store, step)


def delete_spent_recording(
    store: Store, camera: str, before_utc_s: float, mark: str, after_utc_s: float = _EVER
) -> int:
    """Delete what was recorded of a camera in after <= time < before under other privacy masks than those of this mark,
    but what a clip that is still to be made needs; how many.
    """

    def step(connection: sqlite3.Connection) -> int:
        (needed,) = connection.execute(
            "SELECT min(start_utc_s) FROM (SELECT camera, clip_state, start_utc_s FROM events"
            " UNION ALL SELECT camera, clip_state, start_utc_s FROM misses)"
            " WHERE camera = ? AND clip_state = 'pending'",
            (camera,),
        ).fetchone()
        before = before_utc_s if needed is None else min(before_utc_s, needed - _BEFORE_A_CLIP_S)
        return deletion.delete_segments(
            connection,
            store.folder,
            "id IN (SELECT id FROM segments WHERE camera = ? AND end_utc_s >= ? AND end_utc_s < ?"
            " AND path NOT LIKE ? LIMIT ?)",
            (camera, after_utc_s, before, f"%.{mark}.%", _STEP),
        )

    return _repeat(store, step)


def delete_old_media(store: Store, before_utc_s: float, after_utc_s: float = _EVER) -> int:
    """Delete pictures and clips of events and misses of after <= time < before, and such orphans; returns of how many."""
    span = after_utc_s, before_utc_s

    def step(connection: sqlite3.Connection) -> int:
        events = event.select(connection, [MEDIA, "start_utc_s >= ?", "start_utc_s < ?"], span, _STEP)
        misses = review.misses(connection, f"{_MISS_MEDIA} AND utc_s >= ? AND utc_s < ?", span)
        for stored in events:
            _take_media(connection, stored)
        for miss in misses:
            deletion.take_clip(connection, "misses", miss.id, miss.files)
        return len(events) + len(misses)

    for path in (store.folder / ORPHANS).rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and after_utc_s <= path.stat().st_mtime < before_utc_s:
                path.unlink()
    return _repeat(store, step)


def delete_media(store: Store, count_bytes: int) -> int:
    """Delete pictures and clips of the events and misses that came first, until so many bytes are gone; returns of how many.

    Before them go those that no event knows, the oldest first: nobody can look at them.
    """
    left = count_bytes - (_delete_orphans(store.folder, count_bytes) if count_bytes > 0 else 0)

    def step(connection: sqlite3.Connection) -> int:
        nonlocal left
        done = 0
        # Ids sort by arrival, though a clock went back.
        ids = connection.execute(
            f"SELECT id, 0 FROM events WHERE {MEDIA} UNION ALL SELECT id, 1 FROM misses WHERE {_MISS_MEDIA}"
            " ORDER BY id LIMIT ?",
            (_STEP,),
        )
        for row_id, is_miss in ids.fetchall():
            if left <= 0:
                break
            take = _take_miss_media if is_miss else _take_event_media
            left -= sum(_bytes_of(store.folder / path) for path in take(connection, row_id))
            done += 1
        return done

    return _repeat(store, step)


def delete_old_rows(store: Store, before_utc_s: float, after_utc_s: float = _EVER) -> int:
    """Delete events, misses, health and gaps of after <= time < before; returns the count of events."""
    span = after_utc_s, before_utc_s

    def step(connection: sqlite3.Connection) -> int:
        where = ["held = 0", "status != 'open'", "start_utc_s >= ?", "start_utc_s < ?"]
        events = event.select(connection, where, span, _STEP)
        for stored in events:
            deletion.delete_event(connection, stored)
            store.forget(connection, stored)
        return len(events)

    def rest(connection: sqlite3.Connection) -> int:
        done = 0
        for table, column in (("misses", "utc_s"), ("health", "end_utc_s"), ("gaps", "end_utc_s")):
            where = f"id IN (SELECT id FROM {table} WHERE {column} >= ? AND {column} < ? LIMIT ?)"
            done += connection.execute(f"DELETE FROM {table} WHERE {where}", (*span, _STEP)).rowcount
        return done

    _repeat(store, rest)
    return _repeat(store, step)


def recording_bytes(store: Store) -> int:
    """What the recording takes."""
    return int(store.connection().execute("SELECT coalesce(sum(bytes), 0) FROM segments").fetchone()[0])


def media_bytes(store: Store) -> int:
    """What pictures and clips take, orphans included."""
    return sum(
        _bytes_of(path)
        for kind in ("snapshots", "clips", ORPHANS)
        for path in (store.folder / kind).rglob("*.*")
    )


def newest_recording(store: Store) -> float:
    """When the segment that came last ended, in POSIX seconds; 0 where there is none."""
    row = store.connection().execute("SELECT end_utc_s FROM segments ORDER BY id DESC LIMIT 1").fetchone()
    return 0.0 if row is None else float(row[0])


def _repeat(store: Store, step: Callable[[sqlite3.Connection], int]) -> int:
    """Run a step in transactions of its own until it finds nothing more to do, or the program ends."""
    total = 0
    while not store.leaving.is_set() and (done := store.write(step)):
        store.remove_doomed()
        total += done
    return total


def _take_media(connection: sqlite3.Connection, stored: StoredEvent) -> None:
    deletion.take_clip(connection, "events", stored.id, stored.files)
    event.change(connection, stored.id, {"snapshot": None, "heatmap": None, "normal": None})


def _take_event_media(connection: sqlite3.Connection, event_id: str) -> tuple[str, ...]:
    """Returns the files that are to go."""
    stored = event.get(connection, event_id)
    assert stored is not None
    _take_media(connection, stored)
    return stored.files


def _take_miss_media(connection: sqlite3.Connection, miss_id: str) -> tuple[str, ...]:
    """Returns the files that are to go."""
    (miss,) = review.misses(connection, "id = ?", (miss_id,))
    deletion.take_clip(connection, "misses", miss.id, miss.files)
    return miss.files


def _delete_orphans(folder: Path, count_bytes: int) -> int:
    """Delete the oldest files that no row knows, until so many bytes are gone; returns how many are."""
    found = [(path.lstat().st_mtime, path) for path in (folder / ORPHANS).rglob("*") if path.is_file()]
    gone = 0
    for _, path in sorted(found):
        if gone >= count_bytes:
            break
        size = _bytes_of(path)
        with contextlib.suppress(OSError):
            path.unlink()
            gone += size
    return gone


def _bytes_of(path: Path) -> int:
    try:
        about = os.lstat(path)
    except OSError:
        return 0
    return about.st_blocks * 512
