"""Messages to people through Apprise: mail, chat, SMS. Off unless enabled; pictures only with a second consent.

Past a number of messages in ten minutes people get one summary; the store keeps every event. Events and health are
counted apart. One address is one sink, so that an address that fails does not make the others hear everything twice.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomaly.edge import outbox
from anomaly.edge.notify.flood import Plan, Told, plan
from anomaly.edge.notify.message import summary_message
from anomaly.edge.notify.service import PartlyTakenError, Service
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from anomaly.edge.notify.queue import SinkQueue
    from anomaly.edge.notify.settings import PeopleSettings
    from anomaly.edge.outbox import Row

_MOST_SUMMED = 100_000
#: So many are enough to know whose messages wait.
_MOST_LOOKED = 1000
#: Where a message was not taken so often, another one is tried.
_TRIES = 4


class _Turn(NamedTuple):
    """What waits of health, or of all else: its rows, the messages they make one by one, and how those go out."""

    health: bool
    rows: Sequence[Row]
    messages: Sequence[Sequence[Row]]
    plan: Plan


class PeopleSink:
    """One address.

    Args:
        settings: whom to tell; `enabled` is looked at by who makes the sinks.
        picture: the path of an event's picture, None while there is none.
    """

    def __init__(self, settings: PeopleSettings, picture: Callable[[str], Path | None] | None = None) -> None:
        self.name = settings.name
        self.kinds = settings.kinds
        self.bounds = settings.bounds
        self._settings = settings
        self._picture = picture if settings.pictures else None
        #: What people were told of health, and of all else, by this process: the store may take nothing for a while.
        self._told: dict[bool, list[Told]] = {False: [], True: []}
        #: Of health, and of all else: what some recipients have and others do not, and whether it is told as one message.
        self._partly: dict[bool, tuple[bool, frozenset[int]]] = {}
        self._service = Service(settings.name, settings.address)

    def run(self, queue: SinkQueue) -> None:
        """Deliver until stopped."""
        failures, partly, tried, reached = 0, 0, 0, False
        while not queue.stopping():
            turns = [turn for health in (False, True) if (turn := self._turn(queue, health)) is not None]
            due = [turn for turn in turns if turn.plan.wait_s <= 0]
            if not due:
                wait_s = min((turn.plan.wait_s for turn in turns), default=0.0)
                queue.hold(wait_s) if turns else queue.wait()
                continue
            now = due[0]
            first, single = self._next(now)
            if now.rows[0].id != tried:
                tried, failures, partly, reached = now.rows[0].id, 0, 0, False
            # A service only says that it did not take a message. Where another one gets through, and this one then does
            # not, it is the message.
            others = [(now.health, one) for one in now.messages[1:]]
            others += [(turn.health, one) for turn in due[1:] for one in turn.messages if turn.plan.singles]
            beyond = single and bool(others) and not reached and failures >= _TRIES and failures % 2 == 0
            health, told = others[0] if beyond else (now.health, first)
            try:
                if single:
                    # It may be the picture that is not taken: every other try is without.
                    picture = self._picture_of(queue, told[-1]) if failures % 2 == 0 else None
                    self._tell(queue, told, _words_of(told), picture)
                else:
                    self._tell(queue, told, _summary_words(queue, told), None)
            except (OSError, AnomalyError) as error:
                failures += 1
                # Counted from the first that has it on: a service that comes back may take it of one after the other.
                if isinstance(error, PartlyTakenError):
                    partly += 1
                    if not beyond:
                        self._partly[health] = single, frozenset(row.id for row in told)
                if partly >= _TRIES and not beyond:
                    # Who has it is not to hear it for ever, nor to wait for the next until a recipient is set right.
                    for row in told:
                        queue.refused(row, f"{error}, in {partly} tries")
                    self._note_told(queue, health, told)
                    continue
                if reached and single:
                    for row in first:
                        queue.refused(row, f"not taken in {failures} tries, though another message was")
                    continue
                queue.unreachable(str(error))
                queue.pause(self._settings.backoff.delay_s(failures))
                continue
            reached = beyond
            for row in told:
                queue.sent(row.id)
            self._note_told(queue, health, told)

    def _next(self, turn: _Turn) -> tuple[Sequence[Row], bool]:
        """The rows that are told now, and whether as one message or summed up.

        What some recipients have is told to the others as it was: with what has come since, all would hear it again.
        """
        single, ids = self._partly.get(turn.health, (False, frozenset()))
        if again := [row for row in turn.rows if row.id in ids]:
            return again, single
        return (turn.rows, False) if turn.plan.summary else (turn.messages[0], True)

    def _turn(self, queue: SinkQueue, health: bool) -> _Turn | None:
        """How what waits of health, or of all else, goes out; None where nothing waits.

        Each has a bound of its own: a camera that comes and goes must not hold back an alarm.
        """
        rows = queue.take(limit=_MOST_LOOKED, health=health)
        if not rows:
            return None
        before = queue.read(lambda connection: outbox.told(connection, self.name, health=health)) or []
        kept = [Told(*one) for one in before]
        known = {one.utc_s for one in kept}
        told = kept + [one for one in self._told[health] if one.utc_s not in known]

        def planned(messages: Sequence[Sequence[Row]]) -> Plan:
            cameras = [message[-1].camera for message in messages]
            settings = self._settings
            return plan(cameras, told, time.time(), most=settings.most, window_s=settings.window_s)

        messages = [[row] for row in rows]
        how = planned(messages)
        if health and not how.singles:
            messages = _folded(rows)
            how = planned(messages)
        if how.summary:
            rows = queue.take(limit=_MOST_SUMMED, health=health)
        return _Turn(health, rows, messages, how)

    def _note_told(self, queue: SinkQueue, health: bool, rows: Sequence[Row]) -> None:
        now, kept_s = time.time(), self._settings.window_s
        cameras = sorted({row.camera for row in rows})
        recent = [one for one in self._told[health] if now - kept_s < one.utc_s <= now]
        self._told[health] = [*recent, Told(now, cameras)]
        queue.note(
            lambda connection: outbox.add_told(
                connection, self.name, cameras, now, health=health, kept_s=kept_s
            )
        )

    def _tell(
        self, queue: SinkQueue, rows: Sequence[Row], words: tuple[str, str], picture: Path | None
    ) -> None:
        ids = tuple(row.message_id for row in rows)
        self._service.tell(ids, *words, picture, meanwhile=queue.turn, stopping=queue.stopping)

    def interrupt(self) -> None:
        """Nothing here waits longer than seconds for a service once the sink is to stop."""

    def _picture_of(self, queue: SinkQueue, row: Row) -> Path | None:
        if self._picture is None or row.event_id is None:
            return None
        # The alarm is told before its picture is drawn; people's messages can wait a moment for it.
        until = time.monotonic() + self._settings.picture_wait_s
        while (
            (found := self._picture(row.event_id)) is None
            and time.monotonic() < until
            and not queue.stopping()
        ):
            queue.pause(0.1)
        return found if found is not None and found.is_file() else None


def words(message: dict[str, Any]) -> tuple[str, str]:
    """A message as people read it: a title of one line, and a few lines below it; the last is what every message carries."""
    title, body = _title_and_body(message)
    return title, "\n".join(filter(None, (body, _origin(message))))


def _title_and_body(message: dict[str, Any]) -> tuple[str, str]:
    place = " · ".join(part for part in (message["site"], message["line"], message["camera"]) if part)
    if message["kind"] == "summary":
        return _summed(place, message)
    if message["kind"] == "health":
        over = " is over" if message["over"] else ""
        return f"{place}: {message['health']}{over}", ""
    lines = [
        f"Since {message['start_utc']}, score {_shown(message['score'])} (threshold {_shown(message['threshold'])})."
    ]
    if not message["certified"]:
        lines.append(f"UNCERTIFIED: {message['doubt'] or 'no certificate holds here'}.")
    if message.get("link"):
        lines.append(message["link"])
    what = "is over" if message["kind"] == "end" else "something is not normal"
    return f"{place}: {what}", "\n".join(lines)


def _origin(message: dict[str, Any]) -> str:
    """Of which event and state a message is, when it was made, and how far that clock is to be trusted."""
    offset_s = message["clock_offset_s"]
    off = "its offset is not known" if offset_s is None else f"off by {offset_s:+.3f} s"
    parts = [f"Told {message['utc']} by this machine's clock ({off})"]
    parts += [f"camera {message['state']}"] if message["state"] else []
    parts += [f"event {message['event_id']}"] if message["event_id"] else []
    return f"{', '.join(parts)}."


def _folded(rows: Sequence[Row]) -> list[list[Row]]:
    """Health messages by camera and trouble: of one that comes and goes, its last says how it stands."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.camera, json.loads(row.body)["health"]), []).append(row)
    return list(found.values())


def _words_of(rows: Sequence[Row]) -> tuple[str, str]:
    """The words of the last of several messages that tell of one thing."""
    title, body = words(json.loads(rows[-1].body))
    if len(rows) > 1:
        first = json.loads(rows[0].body)["utc"]
        body += f" It came and went: {len(rows)} messages since {first}."
    return title, body


def _summary_words(queue: SinkQueue, rows: Sequence[Row]) -> tuple[str, str]:
    cameras: Counter[str] = Counter()
    for row in rows:
        # A summary of what was given up on counts as all that it tells of.
        told = json.loads(row.body)["cameras"] if row.kind == "summary" else {row.camera: 1}
        cameras.update(told)
    message = summary_message(
        queue.origin,
        "flood",
        cameras,
        rows[0].created_utc_s,
        rows[-1].created_utc_s,
        utc_s=time.time(),
        clock_offset_s=queue.clock_offset_s(),
    )
    return words(json.loads(message.body))


def _summed(place: str, message: dict[str, Any]) -> tuple[str, str]:
    why = "could not be delivered in time" if message["reason"] == "expired" else "came at once"
    lines = [f"{camera or 'the site'}: {count}" for camera, count in sorted(message["cameras"].items())]
    lines.append(f"From {message['first_utc']} to {message['last_utc']}. The page has every event.")
    return f"{place}: {message['count']} messages {why}", "\n".join(lines)


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"
