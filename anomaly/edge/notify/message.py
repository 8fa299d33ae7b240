"""What people and machines are told: one JSON object, the same over MQTT and by webhook.

Every message carries `schema`, `id`, `kind`, `site`, `line`, `camera`, `event_id`, `state`, `utc` and
`clock_offset_s`. `id` is the message's own: sent again, it is the same, so a receiver drops what it has already.
`event_id` is the incident's: its start, updates and end share it.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from anomaly.edge.store import StoredEvent

SCHEMA_VERSION = 1

Kind: TypeAlias = Literal["start", "update", "end", "summary", "health", "heartbeat"]


@dataclass(frozen=True)
class Origin:
    """Where messages come from.

    Attributes:
        site, line: names, as people on the spot use them.
        page: address of the operator's page, for a link to the event; "" = no link.
    """

    site: str
    line: str
    page: str = ""


@dataclass(frozen=True)
class Message:
    """One message, ready to be written down.

    Attributes:
        id: its own, the same however often it is sent.
        kind: what it tells.
        camera: "" where it is about the whole site.
        event_id: None where it is not of an event.
        body: JSON text.
    """

    id: str
    kind: Kind
    camera: str
    event_id: str | None
    body: str


def event_message(
    origin: Origin,
    event: StoredEvent,
    kind: Literal["start", "update", "end"],
    *,
    utc_s: float,
    clock_offset_s: float | None,
) -> Message:
    """Tell how an event stands.

    Args:
        utc_s: now, POSIX seconds of this machine.
        clock_offset_s: seconds by which this machine's clock is known to be off; None = not known.
    """
    # Start and end are told once, so their id follows from the event: told a second time they are known.
    own = uuid.uuid4().hex if kind == "update" else kind
    return _message(
        origin,
        f"{event.id}-{own}",
        kind,
        event.camera,
        event.id,
        event.state,
        utc_s,
        clock_offset_s,
        {
            "score": event.score,
            "threshold": event.threshold,
            "certified": event.certified,
            "doubt": event.doubt,
            "start_utc": utc_text(event.start_utc_s),
            "peak_utc": utc_text(event.peak_utc_s),
            "end_utc": None if event.end_utc_s is None else utc_text(event.end_utc_s),
            "model": event.model,
            "recipe": event.recipe,
            "continued": event.continued,
            "box": None if event.box is None else list(event.box),
            "frame_size": None if event.frame_size is None else list(event.frame_size),
            "clip_state": event.clip_state,
            **({"link": f"{origin.page.rstrip('/')}/#/events/{event.id}"} if origin.page else {}),
        },
    )


def health_message(
    origin: Origin,
    camera: str,
    state: str,
    what: str,
    detail: Mapping[str, Any],
    *,
    over: bool,
    utc_s: float,
    clock_offset_s: float | None,
) -> Message:
    """Tell that something is wrong with a camera or the machine, or (`over`) that it no longer is."""
    told = {"health": what, "over": over, "detail": dict(detail)}
    return _message(origin, uuid.uuid4().hex, "health", camera, None, state, utc_s, clock_offset_s, told)


def summary_message(
    origin: Origin,
    reason: Literal["expired", "flood"],
    cameras: Mapping[str, int],
    first_utc_s: float,
    last_utc_s: float,
    *,
    utc_s: float,
    clock_offset_s: float | None,
) -> Message:
    """Tell of many messages in one: how many by camera, and from when (POSIX seconds) to when."""
    told = {
        "reason": reason,
        "count": sum(cameras.values()),
        "cameras": dict(cameras),
        "first_utc": utc_text(first_utc_s),
        "last_utc": utc_text(last_utc_s),
    }
    return _message(origin, uuid.uuid4().hex, "summary", "", None, "", utc_s, clock_offset_s, told)


def heartbeat_message(
    origin: Origin, sinks: Mapping[str, bool], *, every_s: float, utc_s: float, clock_offset_s: float | None
) -> Message:
    """Tell that frames are scored and messages get through, and when the next one is due.

    Args:
        sinks: of each sink, whether its queue drains.
        every_s: seconds until the next heartbeat; silence of several times that is an alarm.
    """
    told = {"every_s": every_s, "sinks": dict(sinks)}
    return _message(origin, uuid.uuid4().hex, "heartbeat", "", None, "", utc_s, clock_offset_s, told)


def utc_text(utc_s: float) -> str:
    """POSIX seconds as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(utc_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(
    origin: Origin,
    message_id: str,
    kind: Kind,
    camera: str,
    event_id: str | None,
    state: str,
    utc_s: float,
    clock_offset_s: float | None,
    told: Mapping[str, Any],
) -> Message:
    content = {
        "schema": SCHEMA_VERSION,
        "id": message_id,
        "kind": kind,
        "site": origin.site,
        "line": origin.line,
        "camera": camera,
        "event_id": event_id,
        "state": state,
        "utc": utc_text(utc_s),
        "clock_offset_s": clock_offset_s,
        **told,
    }
    body = json.dumps(_finite(content), allow_nan=False, ensure_ascii=False, default=str)
    return Message(message_id, kind, camera, event_id, body)


def _finite(value: Any) -> Any:
    """What is not a number is null: JSON knows neither NaN nor infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
