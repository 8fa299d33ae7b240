"""Each sink in a thread of its own: none blocks the loop that scores, none blocks another.

`Delivery.on_event` is the store's hook: it writes a row for each sink into the transaction that commits the event.
The threads do the rest, whenever the other side is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from anomaly.edge import outbox
from anomaly.edge.notify.clock import clock_offset_s as kernel_clock_offset_s
from anomaly.edge.notify.heartbeat import Heartbeat
from anomaly.edge.notify.message import Message, event_message, health_message
from anomaly.edge.notify.queue import SinkQueue
from anomaly.edge.notify.settings import MqttSettings, PeopleSettings, WebhookSettings
from anomaly.edge.store.database import transaction
from anomaly.errors import UsageError

if TYPE_CHECKING:
    import sqlite3

    from anomaly.edge.notify.message import Kind, Origin
    from anomaly.edge.notify.mqtt import MqttSink, OnState
    from anomaly.edge.notify.queue import OnTrouble
    from anomaly.edge.notify.settings import Bounds
    from anomaly.edge.store import StoredEvent

_log = logging.getLogger(__name__)

SinkSettings = MqttSettings | WebhookSettings | PeopleSettings


class Sink(Protocol):
    """One way out. `run` is called in the sink's own thread and again should it fail."""

    name: str
    kinds: tuple[Kind, ...]
    bounds: Bounds

    def run(self, queue: SinkQueue) -> None:
        """Deliver until `queue.stopping()`."""

    def interrupt(self) -> None:
        """End an exchange that is going on; called by another thread."""


class Delivery:
    """All sinks of a site.

    Args:
        connect: opens a connection to the store's database (it must hold `outbox.SCHEMA` by the time of `start`);
            each thread opens one.
        sinks: settings; people who are not `enabled` are left out.
        origin: what every message carries.
        scored_since: whether every camera that should be scored has been, within so many seconds; heartbeats
            hang on it.
        on_state: called with camera, state and who, when a state is set over MQTT.
        on_trouble: called with a sink's name, "expired" | "set aside" | "down" | "up" and plain values; in the
            sink's thread.
        picture: the path of an event's picture, None while there is none; for people who agreed to pictures.
        clock_offset_s: by how much this machine's clock is known to be off.
        tend_every_s: how often age and size are looked at.
        cameras: names of the cameras there are now; MQTT keeps no state of others. None = not known.

    Raises:
        UsageError: two sinks have one name.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        sinks: Sequence[SinkSettings],
        origin: Origin,
        *,
        scored_since: Callable[[float], bool] = lambda seconds: True,
        on_state: OnState | None = None,
        on_trouble: OnTrouble = lambda sink, kind, detail: None,
        picture: Callable[[str], Path | None] | None = None,
        clock_offset_s: Callable[[], float | None] = kernel_clock_offset_s,
        tend_every_s: float = 10.0,
        cameras: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self._connect = connect
        self._cameras = cameras
        self._origin = origin
        self._clock_offset_s = clock_offset_s
        self._scored_since = scored_since
        self._mqtt: list[MqttSink] = []
        self._sinks = [
            self._made(one, on_state, picture)
            for one in sinks
            if not isinstance(one, PeopleSettings) or one.enabled
        ]
        names = [sink.name for sink in self._sinks]
        if len(set(names)) < len(names):
            raise UsageError(f"two sinks have one name ({', '.join(names)}); give each a name of its own")
        self._queues = {
            sink.name: SinkQueue(
                sink.name,
                connect,
                sink.bounds,
                origin,
                on_trouble=on_trouble,
                clock_offset_s=clock_offset_s,
                tend_every_s=tend_every_s,
            )
            for sink in self._sinks
        }
        self._threads: list[threading.Thread] = []

    def _made(
        self, settings: SinkSettings, on_state: OnState | None, picture: Callable[[str], Path | None] | None
    ) -> Sink:
        # What a sink needs is imported where it is used: who has no broker needs no MQTT library.
        if isinstance(settings, MqttSettings):
            try:
                from anomaly.edge.notify.mqtt import MqttSink
            except ImportError:
                raise UsageError(
                    "sinks.mqtt needs paho-mqtt, which is not installed; pip install 'anomaly[live]'"
                ) from None
            mqtt = MqttSink(
                settings, self._origin, self._heartbeat(settings.heartbeat_s), on_state, self._cameras
            )
            self._mqtt.append(mqtt)
            return mqtt
        if isinstance(settings, WebhookSettings):
            from anomaly.edge.notify.webhook import WebhookSink

            beat = None if settings.heartbeat_s is None else self._heartbeat(settings.heartbeat_s)
            return WebhookSink(settings, beat)
        from anomaly.edge.notify.people import PeopleSink

        return PeopleSink(settings, picture)

    def _heartbeat(self, every_s: float) -> Heartbeat:
        return Heartbeat(every_s, self._scored_since, self._draining)

    # -- what is told -----------------------------------------------------------------------------------------

    def on_event(
        self,
        connection: sqlite3.Connection,
        event: StoredEvent,
        what: str,
    ) -> None:
        """The store's hook, called inside the transaction that commits the event; unannounced events are not told."""
        if event.announced:
            self._put(connection, self._event(event, what))

    def on_delete(self, connection: sqlite3.Connection, event: StoredEvent) -> None:
        """The store's hook for a deleted event: what was told of it is forgotten, what still waits is told."""
        outbox.forget(connection, event.id)

    def on_health(
        self,
        connection: sqlite3.Connection,
        camera: str,
        state: str,
        what: str,
        detail: Mapping[str, Any],
        *,
        over: bool = False,
    ) -> None:
        """Tell of something wrong with a camera, inside a transaction of the caller's; `over` = no longer."""
        self._put(connection, self._health(camera, state, what, detail, over))

    def on_health_not_stored(
        self, camera: str, state: str, what: str, detail: Mapping[str, Any], *, over: bool = False
    ) -> None:
        """Tell of something wrong that could not be committed (a full disk); it dies with the process."""
        self._hand(self._health(camera, state, what, detail, over))

    def on_event_not_stored(self, event: StoredEvent, what: str) -> None:
        """Tell an event that could not be committed (a full disk). It is in memory only and dies with the process;
        stored later under the same event id, its start and end have the same message ids, and are not told again by this
        process; the next one does not know.
        """
        if event.announced:
            self._hand(self._event(event, what))

    def set_camera_state(self, camera: str, state: Mapping[str, Any]) -> None:
        """Keep a camera's state (plain values) for MQTT's retained `.../cameras/<camera>/state`."""
        for sink in self._mqtt:
            sink.set_camera_state(camera, state)
            self._queues[sink.name].wake()

    def _event(self, event: StoredEvent, what: str) -> Message:
        kind: Literal["start", "update", "end"]
        kind = "start" if what == "start" else "end" if what == "end" else "update"
        return event_message(
            self._origin, event, kind, utc_s=time.time(), clock_offset_s=self._clock_offset_s()
        )

    def _health(self, camera: str, state: str, what: str, detail: Mapping[str, Any], over: bool) -> Message:
        return health_message(
            self._origin,
            camera,
            state,
            what,
            detail,
            over=over,
            utc_s=time.time(),
            clock_offset_s=self._clock_offset_s(),
        )

    def _hand(self, message: Message) -> None:
        now = time.time()
        for sink in self._sinks:
            if message.kind in sink.kinds and not self._queues[sink.name].hand(message, now):
                _log.error("sink %s: too many messages that cannot be stored; one is lost", sink.name)

    def _put(self, connection: sqlite3.Connection, message: Message) -> None:
        now = time.time()
        for sink in self._sinks:
            if message.kind in sink.kinds:
                outbox.put(
                    connection,
                    sink.name,
                    camera=message.camera,
                    event_id=message.event_id,
                    kind=message.kind,
                    message_id=message.id,
                    body=message.body,
                    utc_s=now,
                    behind_s=self._queues[sink.name].behind_s,
                )
                self._queues[sink.name].expect()

    # -- the threads ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a thread for each sink; returns at once."""
        for sink in self._sinks:
            thread = threading.Thread(
                target=_run, args=(sink, self._queues[sink.name]), name=f"sink-{sink.name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the threads; what was not delivered stays in the outbox. False where one did not end in time."""
        for queue in self._queues.values():
            queue.stop()
        for sink in self._sinks:
            sink.interrupt()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def status(self) -> dict[str, dict[str, Any]]:
        """How each sink stands, plain values: connected (None = not tried yet), draining, last_error, pending, sent,
        set_aside, expired, last_sent_utc_s (None = never). Opens a connection; raises sqlite3.Error.
        """
        connection = self._connect()
        try:
            told = {}
            for name, queue in self._queues.items():
                totals = outbox.totals(connection, name)
                told[name] = {
                    "connected": queue.connected,
                    "draining": not queue.late,
                    "last_error": queue.last_error,
                    "pending": totals.pending + queue.in_memory,
                    "sent": totals.sent,
                    "set_aside": totals.set_aside,
                    "expired": totals.expired,
                    "last_sent_utc_s": totals.last_sent_utc_s,
                }
            return told
        finally:
            connection.close()

    def send_again(self, sink: str) -> int:
        """Put what a sink's receiver refused back into its queue; returns how many. Raises KeyError."""
        queue = self._queues[sink]
        connection = self._connect()
        try:
            with transaction(connection):
                count = outbox.send_again(connection, sink, queue.behind_s)
        finally:
            connection.close()
        queue.wake()
        return count

    def _draining(self) -> dict[str, bool]:
        return {name: not queue.late for name, queue in self._queues.items()}


def _run(sink: Sink, queue: SinkQueue) -> None:
    """A sink's thread: it ends when it is told to, never by itself."""
    while not queue.stopping():
        try:
            sink.run(queue)
        except Exception as error:
            # The words of an unknown error may hold an address; its kind tells enough without a debugger.
            _log.error(
                "sink %s: %s; going on", sink.name, type(error).__name__, exc_info=_log.isEnabledFor(10)
            )
            queue.last_error = f"internal error ({type(error).__name__})"
            _rest(queue)
    try:
        queue.close()
    except Exception as error:
        _log.error("sink %s: what was sent last could not be noted (%s)", sink.name, type(error).__name__)


def _rest(queue: SinkQueue) -> None:
    # Not `queue.pause`, which writes: the failure may be the database's.
    until = time.monotonic() + 1.0
    while time.monotonic() < until and not queue.stopping():
        time.sleep(0.05)
