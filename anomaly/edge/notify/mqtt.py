"""Messages to an MQTT broker: QoS 1, a row leaves on its PUBACK.

Topics, below `<prefix>/<site>/<line>`:

    status                        retained, `{"online": true|false, ...}`; the broker says false for us (last will)
    heartbeat                     not retained; goes on only while frames are scored and messages get through
    messages                      what is not of one camera: summaries
    cameras/<camera>/events       start, update, end
    cameras/<camera>/health       something is wrong with it, or no longer
    cameras/<camera>/state        retained, as the program last told it
    cameras/<camera>/state/set    listened to, where commands are allowed: running | stopped | changeover | maintenance

Messages go out several at a time on one connection, which keeps their order; after a broken one, all that was not
acknowledged goes out again, in order and with the same ids.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from anomaly.edge.notify.message import utc_text
from anomaly.edge.notify.tls import client_context
from anomaly.edge.notify.topics import from_topic_level, topic_level
from anomaly.edge.secrets import resolve
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from anomaly.edge.notify.heartbeat import Heartbeat
    from anomaly.edge.notify.message import Origin
    from anomaly.edge.notify.queue import SinkQueue
    from anomaly.edge.notify.settings import MqttSettings
    from anomaly.edge.outbox import Row

#: Told of a command: camera, state, who.
OnState: TypeAlias = Callable[[str, str, str], None]

STATES = ("running", "stopped", "changeover", "maintenance")
_log = logging.getLogger(__name__)

#: So many messages may wait for their acknowledgement, fewer where the broker asks for fewer.
_WINDOW = 20
_CONNECT_S = 5.0
#: MQTT 5: not authorised, topic name invalid, packet too large, payload format invalid. Trying again changes nothing.
_REFUSED = frozenset({0x87, 0x90, 0x95, 0x99})
_OFFLINE = json.dumps({"online": False})


class MqttSink:
    """One broker.

    Args:
        settings: whom to tell.
        origin: names for the topics.
        heartbeat: when to send a sign of life.
        on_state: called with camera, state and who when a state is set over MQTT; in the network's thread.
    """

    def __init__(
        self, settings: MqttSettings, origin: Origin, heartbeat: Heartbeat, on_state: OnState | None = None
    ) -> None:
        self.name = settings.name
        self.kinds = settings.kinds
        self.bounds = settings.bounds
        self._settings = settings
        self._heartbeat = heartbeat
        self._on_state = on_state if settings.commands else None
        self._base = "/".join(
            [settings.prefix.strip("/"), topic_level(origin.site), topic_level(origin.line)]
        )
        self._states: dict[str, str] = {}
        self._untold: set[str] = set()
        self._states_lock = threading.Lock()
        self._session: _Session | None = None

    def set_camera_state(self, camera: str, state: Mapping[str, Any]) -> None:
        """Keep a camera's state for `.../state`; published now, and again after each new connection."""
        with self._states_lock:
            self._states[camera] = json.dumps(dict(state), allow_nan=False)
            self._untold.add(camera)

    def run(self, queue: SinkQueue) -> None:
        """Deliver until stopped; connects again for ever."""
        failures = 0
        while not queue.stopping():
            began = time.monotonic()
            try:
                self._connected(queue)
                reason = "the connection was lost"
            except (OSError, ValueError, AnomalyError) as error:
                reason = _one_line(error)
            if queue.stopping():
                return
            # A connection that held is no failure: only those that come in a row wait longer.
            failures = 1 if time.monotonic() - began > self._settings.ack_s else failures + 1
            queue.unreachable(f"{self._settings.host}: {reason}")
            queue.pause(self._settings.backoff.delay_s(failures))

    def interrupt(self) -> None:
        """Nothing here waits longer than a moment for the other side once it is connected."""

    def _connected(self, queue: SinkQueue) -> None:
        session = _Session(self._settings, f"{self._base}/status", queue, self._command)
        try:
            session.open()
            queue.well()
            self._greet(session)
            self._pump(session, queue)
        finally:
            session.close()

    def _greet(self, session: _Session) -> None:
        now = utc_text(time.time())
        session.publish(f"{self._base}/status", json.dumps({"online": True, "since_utc": now}), retain=True)
        if self._on_state is not None:
            session.client.subscribe(f"{self._base}/cameras/+/state/set", qos=1)
        with self._states_lock:
            self._untold = set(self._states)

    def _pump(self, session: _Session, queue: SinkQueue) -> None:
        last = 0
        while not queue.stopping() and not session.lost.is_set():
            if session.room > 0:
                for row in queue.take(after_id=last, limit=session.room, without=session.rows):
                    session.publish(self._topic(row), row.body, row=row)
                    last = max(last, row.id)
            self._settle(session, queue)
            if session.room > 0 and (beat := self._heartbeat.beat(queue)) is not None:
                session.publish(f"{self._base}/heartbeat", beat.body)
            for camera, state in self._new_states(session.room):
                session.publish(f"{self._base}/cameras/{topic_level(camera)}/state", state, retain=True)
            queue.wait(self._heartbeat.due_in_s() or 0.01)

    def _settle(self, session: _Session, queue: SinkQueue) -> None:
        while session.acknowledged:
            mid, code = session.acknowledged.popleft()
            row, _ = session.in_flight.pop(mid)
            if row is None:
                continue
            session.rows.discard(row.id)
            if code < 0x80:
                queue.sent(row.id)
            elif code in _REFUSED:
                queue.refused(row, f"the broker refused it (MQTT reason 0x{code:02x})")
            else:
                raise OSError(f"the broker could not take a message (MQTT reason 0x{code:02x})")
        oldest = next(iter(session.in_flight.values()), None)
        if oldest is not None and time.monotonic() - oldest[1] > self._settings.ack_s:
            raise OSError(f"no acknowledgement for {self._settings.ack_s:g} s")

    def _new_states(self, most: int) -> list[tuple[str, str]]:
        with self._states_lock:
            cameras = sorted(self._untold)[: max(most, 0)]
            self._untold.difference_update(cameras)
            return [(camera, self._states[camera]) for camera in cameras]

    def _topic(self, row: Row) -> str:
        if not row.camera:
            return f"{self._base}/messages"
        leaf = "health" if row.kind == "health" else "events"
        return f"{self._base}/cameras/{topic_level(row.camera)}/{leaf}"

    def _command(self, topic: str, payload: bytes, retained: bool) -> None:
        # A retained command would be obeyed again after each reconnect, hours after it was meant.
        level = topic.removeprefix(f"{self._base}/cameras/").removesuffix("/state/set")
        state = payload[:64].decode("utf-8", "replace").strip().strip('"')
        if retained or state not in STATES or self._on_state is None:
            _log.warning(
                "sink %s: command ignored (%s); send one of %s, not retained",
                self.name,
                "retained" if retained else ascii(state),
                ", ".join(STATES),
            )
            return
        try:
            self._on_state(from_topic_level(level), state, f"mqtt:{self.name}")
        except Exception:
            _log.exception("sink %s: state %s of %s could not be set", self.name, state, ascii(level))


class _Session:
    """One connection, from CONNECT to its loss."""

    def __init__(
        self,
        settings: MqttSettings,
        status_topic: str,
        queue: SinkQueue,
        on_command: Callable[[str, bytes, bool], None],
    ) -> None:
        self.client = _client(settings, status_topic)
        #: By packet number, oldest first: the row (None = not of the outbox) and when it went out.
        self.in_flight: dict[int, tuple[Row | None, float]] = {}
        self.rows: set[int] = set()
        self.acknowledged: deque[tuple[int, int]] = deque()
        self.lost = threading.Event()
        self._answered = threading.Event()
        self._refusal = ""
        self._window = _WINDOW
        self._settings = settings
        self._status_topic = status_topic
        self._queue = queue
        self._on_command = on_command
        self.client.on_connect = self._connack
        self.client.on_publish = self._puback
        self.client.on_disconnect = self._disconnected
        self.client.on_message = self._message

    def open(self) -> None:
        """Connect; raises OSError where the broker is not reached or will not have us."""
        port = self._settings.port or (8883 if self._settings.tls else 1883)
        self.client.connect(self._settings.host, port, self._settings.keepalive_s)
        self.client.loop_start()
        if not self._answered.wait(_CONNECT_S):
            raise OSError("the broker did not answer CONNECT")
        if self._refusal:
            raise OSError(f"the broker refused the connection: {self._refusal}")
        if self.lost.is_set():
            raise OSError("the broker closed the connection")

    @property
    def room(self) -> int:
        """How many more messages may go out before one is acknowledged."""
        return self._window - len(self.in_flight)

    def publish(self, topic: str, body: str, *, retain: bool = False, row: Row | None = None) -> None:
        """Publish with QoS 1; the acknowledgement comes to `acknowledged`. Raises OSError without a connection."""
        done = self.client.publish(topic, body.encode(), qos=1, retain=retain)
        if done.rc != paho.MQTT_ERR_SUCCESS:
            raise OSError(paho.error_string(done.rc))
        self.in_flight[done.mid] = row, time.monotonic()
        if row is not None:
            self.rows.add(row.id)

    def close(self) -> None:
        """Say good-bye where somebody listens, and end the network's thread."""
        if not self.lost.is_set() and self.client.is_connected():
            with suppress(OSError, ValueError, RuntimeError):
                offline = self.client.publish(self._status_topic, _OFFLINE, qos=1, retain=True)
                offline.wait_for_publish(1.0)
        self.client.disconnect()
        # The thread would wait for acknowledgements that may never come; what is not acknowledged is in the outbox.
        self.client.drop_out_messages()
        raw = self.client.socket()
        if raw is not None and not self.lost.wait(0.5):
            with suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        self.client.loop_stop()

    def _connack(
        self,
        client: paho.Client,
        data: Any,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        more: Properties | None,
    ) -> None:
        if code.is_failure:
            self._refusal = str(code)
        self._window = min(_WINDOW, getattr(more, "ReceiveMaximum", _WINDOW))
        self._answered.set()

    def _puback(self, client: paho.Client, data: Any, mid: int, code: ReasonCode, more: Properties) -> None:
        self.acknowledged.append((mid, int(code.value)))
        self._queue.wake()

    def _disconnected(
        self,
        client: paho.Client,
        data: Any,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        more: Properties | None,
    ) -> None:
        self.lost.set()
        self._answered.set()
        self._queue.wake()

    def _message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        self._on_command(message.topic, bytes(message.payload), message.retain)


def _client(settings: MqttSettings, status_topic: str) -> paho.Client:
    # Not paho's own reconnecting: it would send again what it remembers, beside what the outbox says.
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id or status_topic.replace("/", "-") + f"-{settings.name}",
        protocol=paho.MQTTv5 if settings.protocol == "5" else paho.MQTTv311,
        reconnect_on_failure=False,
    )
    client.connect_timeout = _CONNECT_S
    client.max_inflight_messages_set(0)
    if settings.user:
        client.username_pw_set(resolve(settings.user), resolve(settings.password) or None)
    if settings.tls is not None:
        client.tls_set_context(client_context(settings.tls))
    client.will_set(status_topic, _OFFLINE, qos=1, retain=True)
    return client


def _one_line(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error.strerror or error})"
    text = str(error) or type(error).__name__
    return " ".join(text.split())
