"""What people say of events: verdicts, and anomalies that raised none. Both are kept with who, when and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from anomaly.edge.store.database import rows
from anomaly.edge.store.event import get, next_id
from anomaly.edge.store.timeline import model_at
from anomaly.errors import EventGoneError, StoreError

if TYPE_CHECKING:
    import sqlite3

VerdictWord: TypeAlias = Literal["real", "false alarm", "unsure"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person said of an event; a later one stands beside it, the last one counts."""

    id: int
    event_id: str
    verdict: str
    who: str
    note: str
    model: str
    utc_s: float


@dataclass(frozen=True, slots=True)
class Miss:
    """An anomaly that a person found in the recording, start <= time < end, and that raised no event.

    Attributes:
        id: 26 characters, as of events.
        camera, start_utc_s, end_utc_s, label: what was missed.
        who, model, utc_s: who said so, what watched at the time (sha256; "" unknown), and when it was said.
        clip, clip_state, preview, clip_start_utc_s, clip_end_utc_s: its footage, as of an event.
    """

    id: str
    camera: str
    start_utc_s: float
    end_utc_s: float
    label: str
    who: str
    model: str
    utc_s: float
    clip: str | None
    clip_state: str
    preview: str | None
    clip_start_utc_s: float | None
    clip_end_utc_s: float | None

    @property
    def files(self) -> tuple[str, ...]:
        """Relative paths of all files that belong to it."""
        return tuple(one for one in (self.clip, self.preview) if one is not None)


def add_verdict(
    connection: sqlite3.Connection, event_id: str, verdict: str, who: str, note: str, utc_s: float
) -> Verdict:
    """Write a verdict beside those that are there.

    Raises:
        StoreError: no such word.
        EventGoneError: no such event.
    """
    if verdict not in get_args(VerdictWord):
        raise StoreError(f"verdict {verdict!r} is none; say {', '.join(get_args(VerdictWord))}")
    event = get(connection, event_id)
    if event is None:
        raise EventGoneError(f"there is no event {event_id}; it may have been deleted")
    values = (event_id, verdict, who, note, event.model, utc_s)
    found = connection.execute(
        "INSERT INTO verdicts (event_id, verdict, who, note, model, utc_s) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        values,
    ).fetchone()
    return Verdict(int(found[0]), *values)


def verdicts(connection: sqlite3.Connection, event_id: str | None) -> list[Verdict]:
    """Verdicts of an event, or of all, oldest first."""
    found = rows(
        connection,
        "SELECT id, event_id, verdict, who, note, model, utc_s FROM verdicts WHERE ? IS NULL OR event_id = ?"
        " ORDER BY id",
        (event_id, event_id),
    )
    return [Verdict(*row) for row in found]


def mark_miss(
    connection: sqlite3.Connection,
    camera: str,
    start_utc_s: float,
    end_utc_s: float,
    label: str,
    who: str,
    model: str | None,
    utc_s: float,
) -> Miss:
    """Write a miss; its clip is then made from the recording, so that it outlives it.

    Raises:
        StoreError: it does not end after it starts.
    """
    if not start_utc_s < end_utc_s:
        raise StoreError(
            f"a miss from {start_utc_s} to {end_utc_s} s has no length; mark its start, then its end"
        )
    last = connection.execute("SELECT max(id) FROM misses").fetchone()[0]
    model = model_at(connection, camera, start_utc_s) if model is None else model
    miss_id = next_id(last, utc_s)
    connection.execute(
        "INSERT INTO misses (id, camera, start_utc_s, end_utc_s, label, who, model, utc_s, clip_state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
        (miss_id, camera, start_utc_s, end_utc_s, label, who, model, utc_s),
    )
    return misses(connection, "id = ?", (miss_id,))[0]


def misses(connection: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[Miss]:
    """Misses that meet a condition, newest first."""
    return [
        Miss(*row) for row in rows(connection, f"SELECT * FROM misses WHERE {where} ORDER BY id DESC", values)
    ]
