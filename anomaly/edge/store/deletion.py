"""Deletion that a kill cannot leave half done: rows go and files are doomed in one transaction, then files go."""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from anomaly.edge.store import review, timeline
from anomaly.edge.store.event import StoredEvent, select

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable
    from pathlib import Path

#: Footage of the rolling recording, and pictures and clips, below the store's folder.
RECORDING = "recording"
ALL = 2**31
#: Rows that go in one transaction, which whoever stores an event waits for; ten times as many scores.
_STEP = 200


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many were deleted: events, clips taken from events that stay, misses, segments, batches of scores, and files
    that no row knows.
    """

    events: int = 0
    clips: int = 0
    misses: int = 0
    segments: int = 0
    scores: int = 0
    leftovers: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        """Both together."""
        return Deleted(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __bool__(self) -> bool:
        """Whether anything was deleted."""
        return any(astuple(self))


def delete_event(connection: sqlite3.Connection, event: StoredEvent) -> None:
    """Delete an event's row and verdicts, and doom its files."""
    connection.execute("DELETE FROM events WHERE id = ?", (event.id,))
    doom(connection, event.files)


def delete_miss(connection: sqlite3.Connection, miss: review.Miss) -> None:
    """Delete a miss's row, and doom its files."""
    connection.execute("DELETE FROM misses WHERE id = ?", (miss.id,))
    doom(connection, miss.files)


def delete_some(
    connection: sqlite3.Connection,
    folder: Path,
    span: tuple[str, float, float],
    on_delete: Callable[[StoredEvent], None],
) -> Deleted:
    """Delete some of all that shows a camera at start <= time < end, more rather than less; nothing where all is gone.

    Events and misses that overlap it go whole, held ones too; of others whose clip reaches into it the clip
    goes; recorded segments and batches of scores that overlap it go whole. Health, gaps and states stay: they
    show nothing, and the share of blind time is counted from them.

    Args:
        connection: inside a transaction.
        folder: the store's.
        span: camera, start and end (POSIX seconds).
        on_delete: called with each event that is deleted.
    """
    camera, start_utc_s, end_utc_s = span
    values = (camera, end_utc_s, start_utc_s)
    # The segments first: a clip that is being made of them finds them gone from then on, and those that were made are there.
    overlaps = "camera = ? AND start_utc_s < ? AND end_utc_s >= ? LIMIT ?"
    if segments := delete_segments(connection, folder, overlaps, (*values, _STEP)):
        return Deleted(segments=segments)
    scores = connection.execute(
        f"DELETE FROM scores WHERE id IN (SELECT id FROM scores WHERE {overlaps})", (*values, 10 * _STEP)
    )
    if scores.rowcount:
        return Deleted(scores=scores.rowcount)
    last = "max(coalesce(end_utc_s, 9e99), start_utc_s) >= ?"
    if events := select(connection, ["camera = ?", "start_utc_s < ?", last], values, _STEP):
        for event in events:
            delete_event(connection, event)
            on_delete(event)
        return Deleted(len(events))
    misses = review.misses(connection, "camera = ? AND start_utc_s < ? AND end_utc_s >= ?", values)
    for miss in misses:
        delete_miss(connection, miss)
    reaching = "camera = ? AND clip_start_utc_s < ? AND clip_end_utc_s >= ?"
    shown = select(connection, [reaching], values, _STEP)
    for event in shown:
        take_clip(connection, "events", event.id, (event.clip, event.preview))
    reached = review.misses(connection, reaching, values)
    for miss in reached:
        take_clip(connection, "misses", miss.id, miss.files)
    return Deleted(clips=len(shown) + len(reached), misses=len(misses))


def delete_segments(
    connection: sqlite3.Connection, folder: Path, where: str, values: tuple[object, ...]
) -> int:
    """Delete the segments that meet a condition; returns how many."""
    found = timeline.segments(connection, folder / RECORDING, where, values)
    doom(connection, (segment.path.relative_to(folder).as_posix() for segment in found))
    connection.executemany("DELETE FROM segments WHERE id = ?", [(segment.id,) for segment in found])
    return len(found)


def take_clip(
    connection: sqlite3.Connection, table: str, row_id: str, files: Iterable[str | None], state: str = "none"
) -> None:
    """Take the clip, and its preview, from an event or a miss that stays."""
    connection.execute(
        f"UPDATE {table} SET clip = NULL, preview = NULL, clip_state = ?, clip_start_utc_s = NULL,"
        " clip_end_utc_s = NULL WHERE id = ?",
        (state, row_id),
    )
    doom(connection, (path for path in files if path is not None))


def doom(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Write down files, relative to the store's folder, that are to be removed once this is committed."""
    connection.executemany("INSERT OR IGNORE INTO doomed_files VALUES (?)", [(path,) for path in paths])


def doomed(connection: sqlite3.Connection, limit: int = 500) -> list[str]:
    """Files that are still to be removed."""
    return [row[0] for row in connection.execute("SELECT path FROM doomed_files LIMIT ?", (limit,))]


def remove(path: Path, below: Path) -> bool:
    """Remove a file, and folders that it leaves empty; False where it lies outside `below` or could not be."""
    if below not in path.parents or ".." in path.parts:
        return True
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        for parent in path.relative_to(below).parents:
            # Cameras and kinds of media keep their folders: a writer may be about to use them.
            if len(parent.parts) > 2:
                (below / parent).rmdir()
    return True
