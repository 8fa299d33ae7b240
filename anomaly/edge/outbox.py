"""Messages that wait to leave: one row for each message and sink, in the store's own database.

A row is written in the transaction that commits its event, so neither is ever there without the other. It leaves
only when the other side has taken it over; killed between sending and marking, the program sends it again with the
same message id. Rows of one camera leave in the order they came in. What the other side refuses is set aside, so
that nothing blocks for ever, and the outbox is bounded by age and bytes: what expires is counted and announced.

Age is time in which the program ran, not time on the wall: a clock that jumps makes nothing old.
All functions take a connection to a database that holds `SCHEMA`; those that write open no transaction themselves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import sqlite3

State: TypeAlias = Literal["pending", "sent", "set aside", "expired"]

#: Of each sink, so many rows that were sent or that expired are kept to be looked at.
KEPT_DONE = 1000

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL,
    camera TEXT NOT NULL,
    event_id TEXT,
    kind TEXT NOT NULL,
    message_id TEXT NOT NULL,
    body TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_utc_s REAL NOT NULL,
    created_running_s REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'set aside', 'expired')),
    reason TEXT NOT NULL DEFAULT '',
    done_utc_s REAL,
    UNIQUE (sink, message_id)
);
CREATE INDEX IF NOT EXISTS outbox_pending ON outbox (sink, id) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS outbox_event ON outbox (event_id);
CREATE INDEX IF NOT EXISTS outbox_size ON outbox (sink, state, id, bytes);
CREATE TABLE IF NOT EXISTS outbox_sink (
    sink TEXT PRIMARY KEY,
    running_s REAL NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    last_sent_utc_s REAL
);
CREATE TABLE IF NOT EXISTS outbox_retained (
    sink TEXT NOT NULL,
    camera TEXT NOT NULL,
    PRIMARY KEY (sink, camera)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox_told (
    sink TEXT NOT NULL,
    health INTEGER NOT NULL,
    utc_s REAL NOT NULL,
    cameras TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One message for one sink.

    Attributes:
        id: rises with the order in which rows were written; negative for a message that is only in memory.
        camera: whose order it keeps; "" for messages about the whole site.
        event_id: None for messages that are not of an event.
        kind: as in the message.
        message_id: the same whenever this message is sent again, and for every sink.
        body: JSON text.
        created_utc_s: POSIX seconds.
    """

    id: int
    camera: str
    event_id: str | None
    kind: str
    message_id: str
    body: str
    created_utc_s: float


@dataclass(frozen=True, slots=True)
class Expired:
    """Messages given up on: how many by camera, and the time they were from (POSIX seconds)."""

    cameras: Mapping[str, int]
    first_utc_s: float
    last_utc_s: float

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.cameras.values())


@dataclass(frozen=True, slots=True)
class Totals:
    """What one sink has to tell: rows waiting now, and what became of all rows so far."""

    pending: int
    sent: int
    set_aside: int
    expired: int
    last_sent_utc_s: float | None


#: Conditions for `health` = True, False and None.
_OF_HEALTH = {True: " AND kind = 'health'", False: " AND kind <> 'health'", None: ""}
_COLUMNS = "id, camera, event_id, kind, message_id, body, created_utc_s"


def put(
    connection: sqlite3.Connection,
    sink: str,
    *,
    camera: str,
    event_id: str | None,
    kind: str,
    message_id: str,
    body: str,
    utc_s: float,
    behind_s: float = 0.0,
) -> bool:
    """Write a message for a sink, in the caller's transaction.

    An update that still waits is replaced by the next update or the end of its event: who was away learns how it
    stands, not every step to it.

    Args:
        connection, sink: of the outbox.
        camera, event_id, kind, message_id, body, utc_s: as in `Row`.
        behind_s: so many seconds, which this message has not waited, has the program run since it last told `advance`.

    Returns:
        False where a row with this message id was there already.
    """
    if event_id is not None and kind in ("update", "end"):
        connection.execute(
            "DELETE FROM outbox WHERE event_id = ? AND sink = ? AND kind = 'update' AND state = 'pending'",
            (event_id, sink),
        )
    done = connection.execute(
        "INSERT OR IGNORE INTO outbox (sink, camera, event_id, kind, message_id, body, bytes, created_utc_s,"
        " created_running_s) SELECT ?, ?, ?, ?, ?, ?, ?, ?,"
        " coalesce((SELECT running_s FROM outbox_sink WHERE sink = ?), 0) + ?",
        (sink, camera, event_id, kind, message_id, body, len(body.encode()), utc_s, sink, behind_s),
    )
    return done.rowcount == 1


def pending(
    connection: sqlite3.Connection,
    sink: str,
    *,
    after_id: int = 0,
    limit: int = 50,
    upto: Mapping[str, int] | None = None,
    health: bool | None = None,
) -> list[Row]:
    """The next messages of a sink in the order they were written.

    Args:
        connection, sink: of the outbox.
        after_id: only rows after this one.
        limit: so many at most.
        upto: of these cameras only rows up to this id.
        health: only health messages, or none of them; None = all.
    """
    held = upto or {}
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE state = 'pending' AND sink = ? AND id > ?"
        + " AND NOT (camera = ? AND id > ?)" * len(held)
        + _OF_HEALTH[health]
        + " ORDER BY id LIMIT ?",
        (sink, after_id, *chain.from_iterable(held.items()), limit),
    )
    return [Row(*row) for row in rows]


def last_id(connection: sqlite3.Connection, sink: str) -> int:
    """Id of the row that was written last for a sink; 0 where there is none."""
    (found,) = connection.execute("SELECT max(id) FROM outbox WHERE sink = ?", (sink,)).fetchone()
    return found or 0


def first_id(
    connection: sqlite3.Connection,
    sink: str,
    camera: str,
    *,
    without: Collection[int],
    health: bool | None = None,
) -> int | None:
    """Id of a camera's first message that is still to leave, None where there is none; those in `without` have left.

    `health`: only health messages count, or none of them; None = all do.
    """
    found = connection.execute(
        "SELECT id FROM outbox WHERE state = 'pending' AND sink = ? AND camera = ?"
        f"{_OF_HEALTH[health]} ORDER BY id LIMIT ?",
        (sink, camera, len(without) + 1),
    )
    return next((row_id for (row_id,) in found if row_id not in without), None)


def mark_sent(connection: sqlite3.Connection, sink: str, row_id: int, utc_s: float) -> None:
    """A row has been taken over by the other side; what it told is kept no longer, its event may be gone."""
    done = connection.execute(
        "UPDATE outbox SET state = 'sent', body = '', bytes = 0, done_utc_s = ? WHERE id = ? AND state = 'pending'",
        (utc_s, row_id),
    )
    _count(connection, sink, "sent", done.rowcount)
    connection.execute("UPDATE outbox_sink SET last_sent_utc_s = ? WHERE sink = ?", (utc_s, sink))


def set_aside(connection: sqlite3.Connection, sink: str, row_id: int, reason: str, utc_s: float) -> None:
    """The other side will not have this row, whenever it comes."""
    done = connection.execute(
        "UPDATE outbox SET state = 'set aside', reason = ?, done_utc_s = ? WHERE id = ? AND state = 'pending'",
        (reason, utc_s, row_id),
    )
    _count(connection, sink, "set_aside", done.rowcount)


def send_again(connection: sqlite3.Connection, sink: str, behind_s: float = 0.0) -> int:
    """Put what was set aside back at the end of the queue (the receiver was repaired); returns how many.

    Not an update whose event has a later message: that one tells how the event stands. `behind_s`: as of `put`.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM outbox AS one WHERE sink = ? AND state = 'set aside' AND NOT (kind = 'update' AND"
        " EXISTS (SELECT 1 FROM outbox AS later WHERE later.event_id = one.event_id AND later.sink = one.sink"
        " AND later.id > one.id AND later.kind IN ('update', 'end'))) ORDER BY id",
        (sink,),
    )
    waiting = [Row(*row) for row in rows]
    done = connection.execute("DELETE FROM outbox WHERE sink = ? AND state = 'set aside'", (sink,))
    for row in waiting:
        put(
            connection,
            sink,
            camera=row.camera,
            event_id=row.event_id,
            kind=row.kind,
            message_id=row.message_id,
            body=row.body,
            utc_s=row.created_utc_s,
            behind_s=behind_s,
        )
    _count(connection, sink, "set_aside", -done.rowcount)
    return len(waiting)


def advance(connection: sqlite3.Connection, sink: str, seconds: float) -> None:
    """The program has run so much longer: what waits has become older by that."""
    connection.execute(
        "INSERT INTO outbox_sink (sink, running_s) VALUES (?, ?)"
        " ON CONFLICT (sink) DO UPDATE SET running_s = running_s + excluded.running_s",
        (sink, seconds),
    )


def expire(
    connection: sqlite3.Connection, sink: str, *, max_age_s: float, max_bytes: int, utc_s: float
) -> Expired | None:
    """Give up on what is too old, then on the oldest of what is too much; what was set aside goes first.

    Summaries stay: they tell of what was given up, and the next one takes the place of all before it.

    Returns:
        What was given up on; None where nothing was.
    """
    gone: list[tuple[int, str, float, int]] = list(
        connection.execute(
            "SELECT id, camera, created_utc_s, bytes FROM outbox WHERE sink = ? AND state IN ('pending', 'set aside')"
            " AND kind <> 'summary' AND created_running_s <"
            " (SELECT running_s FROM outbox_sink WHERE sink = ?) - ?",
            (sink, sink, max_age_s),
        )
    )
    (held,) = connection.execute(
        "SELECT coalesce(sum(bytes), 0) FROM outbox WHERE sink = ? AND state IN ('pending', 'set aside')",
        (sink,),
    ).fetchone()
    held -= sum(size for *_, size in gone)
    if held > max_bytes:
        old = {row_id for row_id, *_ in gone}
        for row_id, camera, created, size in connection.execute(
            "SELECT id, camera, created_utc_s, bytes FROM outbox WHERE sink = ?"
            " AND state IN ('pending', 'set aside') AND kind <> 'summary' ORDER BY state = 'pending', id",
            (sink,),
        ):
            if held <= max_bytes:
                break
            if row_id not in old:
                held -= size
                gone.append((row_id, camera, created, size))
    if not gone:
        return None
    cameras: dict[str, int] = {}
    for row_id, camera, *_ in gone:
        cameras[camera] = cameras.get(camera, 0) + 1
        connection.execute(
            "UPDATE outbox SET state = 'expired', body = '', bytes = 0, done_utc_s = ? WHERE id = ?",
            (utc_s, row_id),
        )
    _count(connection, sink, "expired", len(gone))
    times = [created for _, _, created, _ in gone]
    return Expired(cameras, min(times), max(times))


def forget(connection: sqlite3.Connection, event_id: str) -> None:
    """Delete what was told of an event; what still waits stays, for nobody has been told yet."""
    connection.execute("DELETE FROM outbox WHERE event_id = ? AND state <> 'pending'", (event_id,))


def prune(connection: sqlite3.Connection, sink: str) -> None:
    """Forget all but the newest rows that are done with."""
    for state in ("sent", "expired"):
        connection.execute(
            "DELETE FROM outbox WHERE sink = ? AND state = ? AND id <= (SELECT id FROM outbox WHERE sink = ?"
            " AND state = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (sink, state, sink, state, KEPT_DONE),
        )


def totals(connection: sqlite3.Connection, sink: str) -> Totals:
    """How a sink stands."""
    (waiting,) = connection.execute(
        "SELECT count(*) FROM outbox WHERE sink = ? AND state = 'pending'", (sink,)
    ).fetchone()
    row = connection.execute(
        "SELECT sent, set_aside, expired, last_sent_utc_s FROM outbox_sink WHERE sink = ?", (sink,)
    ).fetchone()
    return Totals(waiting, *(row or (0, 0, 0, None)))


def waiting_s(connection: sqlite3.Connection, sink: str, *, without: Collection[int] = ()) -> float | None:
    """How long the oldest message of a sink has waited while the program ran, seconds; None where none waits.

    Those in `without` do not wait any more.
    """
    rows = connection.execute(
        "SELECT id, coalesce((SELECT running_s FROM outbox_sink WHERE sink = ?), 0) - created_running_s"
        " FROM outbox WHERE sink = ? AND state = 'pending' ORDER BY id LIMIT ?",
        (sink, sink, len(without) + 1),
    )
    return next((float(waited_s) for row_id, waited_s in rows if row_id not in without), None)


def withdraw_summaries(connection: sqlite3.Connection, sink: str) -> list[Row]:
    """Take back the summaries that wait or were set aside, for another one to tell all that they told."""
    where = "sink = ? AND kind = 'summary' AND state"
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE {where} IN ('pending', 'set aside')", (sink,)
    )
    summaries = [Row(*row) for row in found]
    connection.execute(f"DELETE FROM outbox WHERE {where} = 'pending'", (sink,))
    done = connection.execute(f"DELETE FROM outbox WHERE {where} = 'set aside'", (sink,))
    _count(connection, sink, "set_aside", -done.rowcount)
    return summaries


def told(connection: sqlite3.Connection, sink: str, *, health: bool) -> list[tuple[float, list[str]]]:
    """What people were told lately, of health or of all else: when (POSIX seconds), and of which cameras."""
    found = connection.execute(
        "SELECT utc_s, cameras FROM outbox_told WHERE sink = ? AND health = ?", (sink, health)
    )
    return [(utc_s, json.loads(cameras)) for utc_s, cameras in found]


def add_told(
    connection: sqlite3.Connection,
    sink: str,
    cameras: Iterable[str],
    utc_s: float,
    *,
    health: bool,
    kept_s: float,
) -> None:
    """Keep for `kept_s` seconds that people were told, so that a restart does not begin to count anew."""
    # What lies in the future was told before the clock was set back.
    connection.execute(
        "DELETE FROM outbox_told WHERE sink = ? AND health = ? AND NOT (utc_s > ? AND utc_s <= ?)",
        (sink, health, utc_s - kept_s, utc_s),
    )
    connection.execute(
        "INSERT INTO outbox_told (sink, health, utc_s, cameras) VALUES (?, ?, ?, ?)",
        (sink, health, utc_s, json.dumps(sorted(cameras))),
    )


def retained(connection: sqlite3.Connection, sink: str) -> set[str]:
    """Cameras whose state the other side keeps, as far as it was told."""
    return {
        row[0] for row in connection.execute("SELECT camera FROM outbox_retained WHERE sink = ?", (sink,))
    }


def set_retained(connection: sqlite3.Connection, sink: str, camera: str, kept: bool) -> None:
    """Write that the other side is about to keep a camera's state, or no longer does."""
    if kept:
        connection.execute("INSERT OR IGNORE INTO outbox_retained VALUES (?, ?)", (sink, camera))
    else:
        connection.execute("DELETE FROM outbox_retained WHERE sink = ? AND camera = ?", (sink, camera))


def _count(connection: sqlite3.Connection, sink: str, column: str, count: int) -> None:
    connection.execute(
        f"INSERT INTO outbox_sink (sink, {column}) VALUES (?, ?)"
        f" ON CONFLICT (sink) DO UPDATE SET {column} = {column} + excluded.{column}",
        (sink, count),
    )
