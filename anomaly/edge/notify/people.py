"""Messages to people through Apprise: mail, chat, SMS. Off unless enabled; pictures only with a second consent.

Past a number of messages in ten minutes people get one summary; the store keeps every event. One address is one
sink, so that an address that fails does not make the others hear everything twice.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.edge import outbox
from anomaly.edge.notify.flood import Window, plan
from anomaly.edge.notify.message import summary_message
from anomaly.edge.secrets import resolve
from anomaly.edge.store.database import transaction
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from anomaly.edge.notify.queue import SinkQueue
    from anomaly.edge.notify.settings import PeopleSettings
    from anomaly.edge.outbox import Row

_MOST_SUMMED = 100_000
#: Where a message was not taken so often, another one is tried.
_TRIES = 4


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

    def run(self, queue: SinkQueue) -> None:
        """Deliver until stopped."""
        failures, tried, reached = 0, 0, False
        while not queue.stopping():
            # One more than may be told singly is enough to know that a summary is due.
            rows = queue.take(limit=self._settings.most + 1)
            if not rows:
                queue.wait()
                continue
            window = Window(*outbox.flood_window(queue.connection, self.name))
            now = time.time()
            next_step = plan(
                len(rows), window, now, most=self._settings.most, window_s=self._settings.window_s
            )
            if next_step.wait_s > 0:
                queue.hold(next_step.wait_s)
                continue
            rows = queue.take(limit=_MOST_SUMMED) if next_step.summary else rows
            if rows[0].id != tried:
                tried, failures, reached = rows[0].id, 0, False
            single = not next_step.summary
            # A service only says that it did not take a message. Where another one gets through, and this one then does
            # not, it is the message.
            beyond = single and len(rows) > 1 and not reached and failures >= _TRIES and failures % 2 == 0
            told = rows[1:2] if beyond else rows[:1] if single else rows
            try:
                if single:
                    # It may be the picture that is not taken: every other try is without.
                    picture = self._picture_of(queue, told[0]) if failures % 2 == 0 else None
                    self._send(*words(json.loads(told[0].body)), picture)
                else:
                    self._send(*_summary_words(queue, told), None)
            except (OSError, AnomalyError) as error:
                failures += 1
                if reached and single:
                    queue.refused(rows[0], f"not taken in {failures} tries, though another message was")
                    continue
                queue.unreachable(str(error))
                queue.pause(self._settings.backoff.delay_s(failures))
                continue
            reached = beyond
            for row in told:
                queue.sent(row.id)
            queue.flush()
            with transaction(queue.connection):
                outbox.set_flood_window(
                    queue.connection, self.name, next_step.window.start_utc_s, next_step.window.told + 1
                )

    def interrupt(self) -> None:
        """Apprise ends by its own timeouts."""

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

    def _send(self, title: str, body: str, picture: Path | None) -> None:
        try:
            import apprise
        except ImportError:
            raise AnomalyError(
                "messages to people need Apprise, which is not installed; pip install 'anomaly[live]'"
            ) from None
        # Their log lines hold addresses, and addresses hold passwords.
        for name in ("apprise", "requests", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        asset = apprise.AppriseAsset(app_id="anomaly", async_mode=False)
        sender = apprise.Apprise(asset=asset)
        if not sender.add(resolve(self._settings.address)):
            raise AnomalyError(
                f"sinks.people.{self.name}: Apprise cannot read the address; see its list of services"
            )
        told = sender.notify(
            body=body,
            title=title,
            notify_type=apprise.NotifyType.WARNING,
            body_format=apprise.NotifyFormat.TEXT,
            attach=None if picture is None else str(picture),
        )
        if not told:
            raise OSError("the service did not take the message")


def words(message: dict[str, Any]) -> tuple[str, str]:
    """A message as people read it: a title of one line, and a few lines below it."""
    place = " · ".join(part for part in (message["site"], message["line"], message["camera"]) if part)
    if message["kind"] == "summary":
        return _summed(place, message)
    if message["kind"] == "health":
        over = " is over" if message["over"] else ""
        return f"{place}: {message['health']}{over}", f"At {message['utc']}."
    lines = [
        f"Since {message['start_utc']}, score {_shown(message['score'])} (threshold {_shown(message['threshold'])})."
    ]
    if not message["certified"]:
        lines.append(f"UNCERTIFIED: {message['doubt'] or 'no certificate holds here'}.")
    if message.get("link"):
        lines.append(message["link"])
    what = "is over" if message["kind"] == "end" else "something is not normal"
    return f"{place}: {what}", "\n".join(lines)


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
    lines = [f"{camera or 'the site'}: {count}" for camera, count in message["cameras"].items()]
    lines.append(f"From {message['first_utc']} to {message['last_utc']}. The page has every event.")
    return f"{place}: {message['count']} messages {why}", "\n".join(lines)


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"
