"""What a camera's time was filled with: recorded segments, scores, health, gaps, states, models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from anomaly.edge.store.database import rows

if TYPE_CHECKING:
    import sqlite3


#: Polygons, each of corners (x, y) in 0 .. 1 of the picture's width and height.
Masks: TypeAlias = tuple[tuple[tuple[float, float], ...], ...]
#: Where one part of a gap ends and the next begins.
_SAME_MOMENT_S = 0.001


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the rolling recording.

    Attributes:
        camera: whose.
        path: where it lies.
        start_utc_s, end_utc_s: POSIX seconds of its first packet and of its end.
        start_pts_s: the stream's time of its first packet, in seconds.
        bytes: its size.
        codec: as libav calls it ("h264", "hevc", "mjpeg"); "" where it was found without its row.
        id: rises in the order of arrival, whatever the clock did; 0 = not in a store.
    """

    camera: str
    path: Path
    start_utc_s: float
    end_utc_s: float
    start_pts_s: float
    bytes: int
    codec: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """Score of one frame: raw, and as the decider saw it (-inf where it could not decide yet)."""

    utc_s: float
    pts_s: float
    score: float
    decision_score: float


@dataclass(frozen=True, slots=True)
class Health:
    """Something that was wrong with a camera or with the machine (camera ""), apart from anomalies.

    Attributes:
        id: for `end_health`.
        camera, kind: where and what.
        utc_s, end_utc_s: from when to when; None = still so.
        detail: plain values.
    """

    id: int
    camera: str
    kind: str
    utc_s: float
    end_utc_s: float | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """Time in which nothing could be scored ("blind"), nothing was to be announced ("state") or nothing ran ("off")."""

    camera: str
    start_utc_s: float
    end_utc_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class CameraState:
    """State that a camera was last set to, by whom, and since when."""

    camera: str
    state: str
    who: str
    since_utc_s: float


def add_segment(connection: sqlite3.Connection, segment: Segment) -> int:
    """Index a recorded file, whose path is relative to the recording folder; returns its id."""
    found = connection.execute(
        "INSERT INTO segments (camera, path, start_utc_s, end_utc_s, start_pts_s, bytes, codec)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET start_utc_s = excluded.start_utc_s,"
        " end_utc_s = excluded.end_utc_s, start_pts_s = excluded.start_pts_s, bytes = excluded.bytes,"
        " codec = excluded.codec RETURNING id",
        (
            segment.camera,
            segment.path.as_posix(),
            segment.start_utc_s,
            segment.end_utc_s,
            segment.start_pts_s,
            segment.bytes,
            segment.codec,
        ),
    ).fetchone()
    return int(found[0])


def segments(
    connection: sqlite3.Connection, recording: Path, where: str, values: Sequence[object]
) -> list[Segment]:
    """Segments that meet a condition (and its ORDER BY), with whole paths."""
    return [
        Segment(
            row["camera"],
            recording / row["path"],
            row["start_utc_s"],
            row["end_utc_s"],
            row["start_pts_s"],
            row["bytes"],
            row["codec"],
            row["id"],
        )
        for row in rows(connection, f"SELECT * FROM segments WHERE {where}", values)
    ]


def add_scores(
    connection: sqlite3.Connection, camera: str, points: Sequence[tuple[float, float, float, float]]
) -> None:
    """Store a batch of (utc_s, pts_s, score, decision_score) in one row."""
    table = np.array(points, "<f8").reshape(-1, 4)
    if not len(table):
        return
    best = table[int(table[:, 2].argmax())].copy()
    best[3] = table[:, 3].max()
    connection.execute(
        "INSERT INTO scores (camera, start_utc_s, end_utc_s, best, points) VALUES (?, ?, ?, ?, ?)",
        (camera, float(table[:, 0].min()), float(table[:, 0].max()), best.tobytes(), table.tobytes()),
    )


def scores(
    connection: sqlite3.Connection, camera: str, since_utc_s: float, until_utc_s: float, at_most: int
) -> list[ScorePoint]:
    """Scores of since <= time < until; of each of `at_most` equal stretches of time only the maxima."""
    where = "FROM scores WHERE camera = ? AND start_utc_s < ? AND end_utc_s >= ? ORDER BY start_utc_s"
    values = (camera, until_utc_s, since_utc_s)
    batches = int(connection.execute(f"SELECT count(*) {where}", values).fetchone()[0])
    # Where a stretch holds several batches, their own maxima are fine enough.
    column = "best" if batches > 4 * at_most else "points"
    found = [row[0] for row in connection.execute(f"SELECT {column} {where}", values)]
    table = np.frombuffer(b"".join(found), "<f8").reshape(-1, 4)
    table = table[(table[:, 0] >= since_utc_s) & (table[:, 0] < until_utc_s)]
    table = table[np.argsort(table[:, 0], kind="stable")]
    if len(table) > at_most:
        width = (until_utc_s - since_utc_s) / at_most
        stretch = np.minimum(((table[:, 0] - since_utc_s) / width).astype(int), at_most - 1)
        first = np.flatnonzero(np.diff(stretch, prepend=-1))
        best = np.array([start + int(part[:, 2].argmax()) for start, part in _parts(table, first)])
        decided = np.maximum.reduceat(table[:, 3], first)
        table = table[best]
        table[:, 3] = decided
    return [ScorePoint(*(float(number) for number in row)) for row in table]


def last_score(connection: sqlite3.Connection, camera: str, since_utc_s: float) -> ScorePoint | None:
    """The last score stored of a camera, where it is not from before a time."""
    row = connection.execute(
        "SELECT points FROM scores WHERE camera = ? AND end_utc_s >= ? ORDER BY id DESC LIMIT 1",
        (camera, since_utc_s),
    ).fetchone()
    if row is None:
        return None
    return ScorePoint(*(float(number) for number in np.frombuffer(row[0], "<f8")[-4:]))


def add_health(
    connection: sqlite3.Connection, camera: str, kind: str, utc_s: float, detail: Mapping[str, Any]
) -> int:
    """Write the beginning of a health event; returns its id."""
    found = connection.execute(
        "INSERT INTO health (camera, kind, utc_s, detail) VALUES (?, ?, ?, ?) RETURNING id",
        (camera, kind, utc_s, json.dumps(dict(detail))),
    ).fetchone()
    return int(found[0])


def open_health(connection: sqlite3.Connection) -> list[Health]:
    """Health events that have no end, oldest first."""
    return [
        _health(row)
        for row in rows(connection, "SELECT * FROM health WHERE end_utc_s IS NULL ORDER BY id", ())
    ]


def end_health(connection: sqlite3.Connection, health_id: int, utc_s: float) -> None:
    """Write the end of a health event."""
    connection.execute("UPDATE health SET end_utc_s = ? WHERE id = ?", (utc_s, health_id))


def health(
    connection: sqlite3.Connection, camera: str | None, since_utc_s: float | None, limit: int
) -> list[Health]:
    """Health events that began, or were still on, since then; newest first."""
    sql = (
        "SELECT * FROM health WHERE (? IS NULL OR camera = ?)"
        " AND (? IS NULL OR utc_s >= ? OR end_utc_s IS NULL OR end_utc_s >= ?) ORDER BY id DESC LIMIT ?"
    )
    values = (camera, camera, since_utc_s, since_utc_s, since_utc_s, limit)
    return [_health(row) for row in rows(connection, sql, values)]


def _health(row: sqlite3.Row) -> Health:
    return Health(
        row["id"], row["camera"], row["kind"], row["utc_s"], row["end_utc_s"], json.loads(row["detail"])
    )


def add_gap(
    connection: sqlite3.Connection, camera: str, start_utc_s: float, end_utc_s: float, reason: str
) -> None:
    """Store a gap. One that goes on is told a minute at a time, and stays one row: a line that rests for a week is no
    ten thousand.
    """
    done = connection.execute(
        "UPDATE gaps SET end_utc_s = ? WHERE id ="
        " (SELECT id FROM gaps WHERE camera = ? ORDER BY start_utc_s DESC LIMIT 1)"
        " AND reason = ? AND start_utc_s < ? AND abs(end_utc_s - ?) < ?",
        (end_utc_s, camera, reason, start_utc_s, start_utc_s, _SAME_MOMENT_S),
    )
    if done.rowcount == 0:
        connection.execute(
            "INSERT INTO gaps (camera, start_utc_s, end_utc_s, reason) VALUES (?, ?, ?, ?)",
            (camera, start_utc_s, end_utc_s, reason),
        )


def last_known(connection: sqlite3.Connection, camera: str) -> float | None:
    """When the last score or gap of a camera ended, of any for "" (the machine); None where there is none."""
    if not camera:
        last = connection.execute(
            "SELECT (SELECT max(end_utc_s) FROM scores), (SELECT max(end_utc_s) FROM gaps)"
        )
        return max((float(end) for end in last.fetchone() if end is not None), default=None)
    ends = [
        connection.execute(
            f"SELECT end_utc_s FROM {table} WHERE camera = ? ORDER BY start_utc_s DESC LIMIT 1", (camera,)
        ).fetchone()
        for table in ("scores", "gaps")
    ]
    return max((float(row[0]) for row in ends if row is not None), default=None)


def gaps(connection: sqlite3.Connection, camera: str, since_utc_s: float, until_utc_s: float) -> list[Gap]:
    """Gaps that overlap since <= time < until, oldest first."""
    found = rows(
        connection,
        "SELECT camera, start_utc_s, end_utc_s, reason FROM gaps WHERE camera = ? AND start_utc_s < ?"
        " AND end_utc_s > ? ORDER BY start_utc_s, id",
        (camera, until_utc_s, since_utc_s),
    )
    return [Gap(*row) for row in found]


def states(connection: sqlite3.Connection) -> dict[str, CameraState]:
    """The last state set, by camera."""
    found = rows(
        connection,
        "SELECT camera, state, who, since_utc_s FROM states WHERE id IN"
        " (SELECT max(id) FROM states GROUP BY camera)",
    )
    return {row["camera"]: CameraState(*row) for row in found}


def cameras(connection: sqlite3.Connection) -> set[str]:
    """Names of all cameras that some row is of."""
    tables = ("models", "events", "misses", "segments", "scores", "states", "masks")
    sql = " UNION ".join(f"SELECT camera FROM {table}" for table in tables)
    return {row[0] for row in connection.execute(sql)}


def set_masks(connection: sqlite3.Connection, camera: str, black: Masks) -> None:
    """Keep the privacy masks of a camera, in place of those before."""
    connection.execute("INSERT OR REPLACE INTO masks VALUES (?, ?)", (camera, json.dumps(black)))


def masks(connection: sqlite3.Connection) -> dict[str, Masks]:
    """The privacy masks that each camera had last, none of cameras without."""
    found = connection.execute("SELECT camera, black FROM masks WHERE black != '[]'")
    return {
        camera: tuple(tuple((x, y) for x, y in polygon) for polygon in json.loads(black))
        for camera, black in found
    }


def mark_media(connection: sqlite3.Connection, item_id: str, kind: str, mark: str) -> None:
    """Note under which masks pictures or a clip were made."""
    connection.execute("INSERT OR REPLACE INTO media_masks VALUES (?, ?, ?)", (item_id, kind, mark))


def media_mark(connection: sqlite3.Connection, item_id: str, kind: str) -> str:
    """The mark of the masks under which they were made; "" where there were none, or none is known."""
    row = connection.execute(
        "SELECT mark FROM media_masks WHERE item_id = ? AND kind = ?", (item_id, kind)
    ).fetchone()
    return "" if row is None else str(row[0])


def model_at(connection: sqlite3.Connection, camera: str, utc_s: float) -> str:
    """The model (sha256) that watched a camera at a time; "" where none is known."""
    row = connection.execute(
        "SELECT model FROM models WHERE camera = ? AND since_utc_s <= ? ORDER BY since_utc_s DESC, id DESC",
        (camera, utc_s),
    ).fetchone()
    if row is None:
        row = connection.execute(
            "SELECT model FROM events WHERE camera = ? AND start_utc_s <= ? ORDER BY start_utc_s DESC",
            (camera, utc_s),
        ).fetchone()
    return "" if row is None else str(row[0])


def _parts(table: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> Any:
    return zip(first, np.split(table, first[1:]), strict=True)
