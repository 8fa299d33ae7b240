"""Deleted intervals are remembered: what the runner held of one while it was deleted is not taken in afterwards.

There is always something: the segment that is being written, scores that were gathered, an event that a full disk
keeps in memory, a file that a kill left to be found at the next start.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

#: Name of the fact that holds deletions which are being done: camera, start and end of each.
_UNDER_WAY = "deletions"
_MEETS = "camera = ? AND start_utc_s <= ? AND end_utc_s > ? AND made_utc_s <= ?"


def erase(
    connection: sqlite3.Connection, camera: str, start_utc_s: float, end_utc_s: float, now_utc_s: float
) -> None:
    """Remember that start <= time < end was deleted now. What is still to come is not meant."""
    end_utc_s = min(end_utc_s, now_utc_s)
    if start_utc_s < end_utc_s:
        connection.execute(
            "INSERT INTO erased (camera, start_utc_s, end_utc_s, made_utc_s) VALUES (?, ?, ?, ?)",
            (camera, start_utc_s, end_utc_s, now_utc_s),
        )


def begin(
    connection: sqlite3.Connection, camera: str, start_utc_s: float, end_utc_s: float, now_utc_s: float
) -> None:
    """Remember that start <= time < end is deleted from now on, and that this is not done yet."""
    erase(connection, camera, start_utc_s, end_utc_s, now_utc_s)
    # Whoever goes on with it later means what was there now.
    _keep(connection, [*under_way(connection), (camera, start_utc_s, min(end_utc_s, now_utc_s))])


def under_way(connection: sqlite3.Connection) -> list[tuple[str, float, float]]:
    """Deletions that were begun and are not done: a kill or a full disk may have cut them off."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (_UNDER_WAY,)).fetchone()
    return [] if row is None else [(camera, start, end) for camera, start, end in json.loads(row[0])]


def end(connection: sqlite3.Connection, camera: str, start_utc_s: float, end_utc_s: float) -> None:
    """A deletion is done, and with it those that were begun within it."""
    left = [
        one for one in under_way(connection) if one[0] != camera or one[1] < start_utc_s or one[2] > end_utc_s
    ]
    _keep(connection, left)


def _keep(connection: sqlite3.Connection, spans: Sequence[tuple[str, float, float]]) -> None:
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (_UNDER_WAY, json.dumps(spans)))


def is_erased(
    connection: sqlite3.Connection, camera: str, start_utc_s: float, end_utc_s: float, now_utc_s: float
) -> bool:
    """Whether what lasts from start to end reaches into a deleted interval.

    One that was deleted later than now does not count: the clock was set back since, and what is recorded under it
    shows another time.
    """
    values = (camera, end_utc_s, start_utc_s, now_utc_s)
    return connection.execute(f"SELECT 1 FROM erased WHERE {_MEETS}", values).fetchone() is not None


def kept(
    connection: sqlite3.Connection,
    camera: str,
    points: Sequence[tuple[float, float, float, float]],
    now_utc_s: float,
) -> list[tuple[float, float, float, float]]:
    """Of scores (utc_s first) those that lie in no deleted interval."""
    times = [point[0] for point in points]
    if not times:
        return []
    spans = connection.execute(
        f"SELECT start_utc_s, end_utc_s FROM erased WHERE {_MEETS}",
        (camera, max(times), min(times), now_utc_s),
    ).fetchall()
    return [point for point in points if not any(start <= point[0] < end for start, end in spans)]
