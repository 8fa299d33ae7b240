"""Events as rows: one incident of one camera, from its first frame to its last, and what it is shown by."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from anomaly.edge.store.database import rows
from anomaly.errors import StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_BITS = 128


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as the store holds it. Times are POSIX seconds (`_utc_s`) or seconds of the stream (`_pts_s`).

    Attributes:
        id: 26 characters; they sort in the order in which events were stored, whatever the clock did.
        camera: its name.
        model, recipe: sha256 of the model, and the product's code ("" where there are no recipes).
        state: the camera's state when it began: running, stopped, changeover, maintenance.
        announced: whether people and machines are told of it; outside `running` it is only stored.
        certified, doubt: whether the threshold's certificate holds here, and where not, why.
        start_utc_s, start_pts_s: the frame at which it started.
        peak_utc_s, peak_pts_s: the frame that scored highest so far.
        end_utc_s, end_pts_s: its last frame; None while it is on.
        score, threshold: highest decision score so far, and what it is compared with.
        continued: it is the rest of an event that was cut at the longest duration.
        box: (x0, y0, x1, y1) in pixels of the frame.
        frame_size: (height, width) of the frame.
        snapshot, heatmap, normal: pictures, as paths relative to the store's folder; `normal` shows the
            most similar normal moment.
        explanation: where that moment is from.
        clip, clip_state: path of the clip; pending, ready, failed, or none (nothing was recorded, or it was
            deleted).
        preview: H.264 version of a clip that browsers cannot play.
        clip_start_utc_s, clip_end_utc_s: what the clip covers.
        held: retention leaves it alone.
        status: open, ended, or cut off (the runner died while it was on).
    """

    id: str
    camera: str
    model: str
    recipe: str
    state: str
    announced: bool
    certified: bool
    doubt: str
    start_utc_s: float
    start_pts_s: float
    peak_utc_s: float
    peak_pts_s: float
    end_utc_s: float | None
    end_pts_s: float | None
    score: float
    threshold: float
    continued: bool
    box: tuple[int, int, int, int] | None
    frame_size: tuple[int, int] | None
    snapshot: str | None
    heatmap: str | None
    normal: str | None
    explanation: Mapping[str, Any]
    clip: str | None
    clip_state: str
    preview: str | None
    held: bool
    status: str
    clip_start_utc_s: float | None = None
    clip_end_utc_s: float | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Relative paths of all files that belong to it."""
        every = (self.snapshot, self.heatmap, self.normal, self.clip, self.preview)
        return tuple(one for one in every if one is not None)


_COLUMNS = tuple(field.name for field in fields(StoredEvent))
_FLAGS = ("announced", "certified", "continued", "held")
_DEFAULTS: dict[str, Any] = {
    "recipe": "",
    "state": "running",
    "announced": True,
    "certified": False,
    "doubt": "",
    "end_utc_s": None,
    "end_pts_s": None,
    "continued": False,
    "box": None,
    "frame_size": None,
    "snapshot": None,
    "heatmap": None,
    "normal": None,
    "explanation": {},
    "clip": None,
    "clip_state": "pending",
    "preview": None,
    "held": False,
    "status": "open",
    "clip_start_utc_s": None,
    "clip_end_utc_s": None,
}
#: What an event is never without.
REQUIRED = ("camera", "model", "start_utc_s", "start_pts_s", "score", "threshold")


def blank(given: Mapping[str, Any]) -> StoredEvent:
    """An event as it would be stored, with `REQUIRED` and its id given, the rest as for a new one."""
    peak = {"peak_utc_s": given["start_utc_s"], "peak_pts_s": given["start_pts_s"]}
    return StoredEvent(**{**_DEFAULTS, **peak, **given})


def insert(connection: sqlite3.Connection, given: Mapping[str, Any], now_utc_s: float) -> StoredEvent:
    """Write a new event; `given` holds `REQUIRED` and any other field; without an id it gets one.

    Raises:
        StoreError: a field is missing, or there is no such field.
    """
    missing = [name for name in REQUIRED if name not in given]
    if missing:
        raise StoreError(
            f"an event without {', '.join(missing)} cannot be stored; give {', '.join(REQUIRED)}"
        )
    last = connection.execute("SELECT max(id) FROM events").fetchone()[0]
    values = {
        **_DEFAULTS,
        "peak_utc_s": given["start_utc_s"],
        "peak_pts_s": given["start_pts_s"],
        **given,
        # One that was announced while it could not be stored keeps the id that it was announced by.
        "id": given.get("id") or next_id(last, now_utc_s),
    }
    row = _row(values)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO events ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    event = get(connection, values["id"])
    assert event is not None
    return event


def change(connection: sqlite3.Connection, event_id: str, changes: Mapping[str, Any]) -> StoredEvent | None:
    """Set fields of an event; None where there is no such event (it may have been deleted meanwhile)."""
    if "id" in changes:
        raise StoreError(f"event {event_id} keeps its id; change another field")
    row = _row(changes)
    if row:
        assigned = ", ".join(f"{name} = ?" for name in row)
        connection.execute(f"UPDATE events SET {assigned} WHERE id = ?", (*row.values(), event_id))
    return get(connection, event_id)


def get(connection: sqlite3.Connection, event_id: str) -> StoredEvent | None:
    """One event."""
    found = rows(connection, "SELECT * FROM events WHERE id = ?", (event_id,))
    return _event(found[0]) if found else None


def select(
    connection: sqlite3.Connection, where: Sequence[str], values: Sequence[object], limit: int
) -> list[StoredEvent]:
    """Events that meet all conditions, newest first."""
    conditions = " AND ".join(where) or "1"
    sql = f"SELECT * FROM events WHERE {conditions} ORDER BY id DESC LIMIT ?"
    return [_event(row) for row in rows(connection, sql, (*values, limit))]


def next_id(last: str | None, now_utc_s: float) -> str:
    """An id (a ULID: 48 bits of milliseconds, 80 of chance) that sorts after `last`, though the clock went back."""
    number = (max(round(now_utc_s * 1000), 0) << 80) | int.from_bytes(os.urandom(10), "big")
    if last is not None:
        # A step of chance, so that the id of a deleted event is not given out again.
        number = max(number, _number(last) + 1 + int.from_bytes(os.urandom(4), "big"))
    number %= 1 << _ID_BITS
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def made_utc_s(event_id: str) -> float | None:
    """When an id was given out, by the id itself, POSIX seconds; None for what is none."""
    if len(event_id) != 26 or not set(event_id) <= set(_ALPHABET):
        return None
    return (_number(event_id) >> 80) / 1000


def clip_folder(camera: str) -> str:
    """A camera's name as the name of one folder below `clips/`, whatever it holds."""
    return quote(camera, safe=" ").replace(".", "%2E")


def _number(event_id: str) -> int:
    number = 0
    for character in event_id:
        number = number << 5 | _ALPHABET.index(character)
    return number


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the fields; what SQLite has no type for becomes JSON."""
    unknown = [name for name in values if name not in _COLUMNS]
    if unknown:
        raise StoreError(f"an event has no field {unknown[0]!r}; it has {', '.join(_COLUMNS)}")
    row: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("box", "frame_size"):
            row[name] = None if value is None else json.dumps([int(number) for number in value])
        elif name == "explanation":
            row[name] = json.dumps(dict(value))
        elif name in _FLAGS:
            row[name] = int(value)
        elif isinstance(value, str) or value is None:
            row[name] = value
        else:
            # Also numpy's numbers, which SQLite would store as bytes.
            row[name] = float(value)
    return row


def _event(row: sqlite3.Row) -> StoredEvent:
    values = dict(zip(row.keys(), row, strict=True))
    for name in ("box", "frame_size"):
        values[name] = None if values[name] is None else tuple(json.loads(values[name]))
    for name in _FLAGS:
        values[name] = bool(values[name])
    values["explanation"] = json.loads(values["explanation"])
    return StoredEvent(**values)
