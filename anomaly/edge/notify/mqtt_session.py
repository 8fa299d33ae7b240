"""One connection to an MQTT broker, from CONNECT to its loss."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from anomaly.edge.notify.tls import client_context
from anomaly.edge.secrets import resolve

if TYPE_CHECKING:
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from anomaly.edge.notify.settings import MqttSettings
    from anomaly.edge.outbox import Row

#: So many messages may wait for their acknowledgement, fewer where the broker asks for fewer.
_WINDOW = 20
_CONNECT_S = 5.0
_OFFLINE = json.dumps({"online": False})
_LOST = "the connection was lost"
_UNANSWERED = "the broker closed the connection without an answer; look whether it wants TLS, or a certificate of ours (sinks.mqtt.tls)"
#: Of a PUBLISH, beside topic and body: lengths, packet number, properties.
_FRAMING = 16


class Flight(NamedTuple):
    """A message on its way: its row (None = not of the outbox), its topic, and when it went out (monotonic)."""

    row: Row | None
    topic: str
    since_s: float


class MqttSession:
    """One connection.

    Args:
        settings: of the broker.
        status_topic: where the last will goes.
        wake: called from the network's thread when something has come.
        on_command: called from the network's thread with topic, payload and whether it was retained.

    Attributes:
        client: paho's.
        in_flight: by packet number, oldest first.
        rows: ids of the rows in flight.
        acknowledged: packet numbers and MQTT reason codes, as they came.
        unheard: topics that the broker does not let us listen to, with its reason.
        lost: the connection has ended.
        loss: why, in words.
        largest: bytes of topic and body together that the broker takes; None = any.
        answered_any: something was acknowledged.
    """

    def __init__(
        self,
        settings: MqttSettings,
        status_topic: str,
        wake: Callable[[], None],
        on_command: Callable[[str, bytes, bool], None],
    ) -> None:
        self.client = _client(settings, status_topic)
        self.in_flight: dict[int, Flight] = {}
        self.rows: set[int] = set()
        self.acknowledged: deque[tuple[int, int]] = deque()
        self.unheard: deque[tuple[str, str]] = deque()
        self.lost = threading.Event()
        self.loss = _LOST
        self.largest: int | None = None
        self.answered_any = False
        self._answered = threading.Event()
        self._refusal = ""
        self._window = _WINDOW
        self._settings = settings
        self._status_topic = status_topic
        self._listening: dict[int, str] = {}
        self._wake = wake
        self._on_command = on_command
        self.client.on_connect = self._connack
        self.client.on_publish = self._puback
        self.client.on_disconnect = self._disconnected
        self.client.on_message = self._message
        self.client.on_subscribe = self._suback

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
            raise OSError(_UNANSWERED if self.loss == _LOST else self.loss)

    @property
    def room(self) -> int:
        """How many more messages may go out before one is acknowledged."""
        return self._window - len(self.in_flight)

    @property
    def cameras(self) -> set[str]:
        """Those of which a message of the outbox is on its way."""
        return {flight.row.camera for flight in self.in_flight.values() if flight.row is not None}

    def publish(self, topic: str, body: str, *, retain: bool = False, row: Row | None = None) -> int:
        """Publish with QoS 1; the acknowledgement comes to `acknowledged`. Raises OSError without a connection.

        Returns:
            The packet's number.
        """
        done = self.client.publish(topic, body.encode(), qos=1, retain=retain)
        if done.rc != paho.MQTT_ERR_SUCCESS:
            # The network's thread is about to say why.
            raise OSError(self.loss if self.lost.wait(0.5) else paho.error_string(done.rc))
        self.in_flight[done.mid] = Flight(row, topic, time.monotonic())
        if row is not None:
            self.rows.add(row.id)
        return done.mid

    def listen(self, topic: str) -> None:
        """Ask for what is published there; a refusal comes to `unheard`."""
        _, mid = self.client.subscribe(topic, qos=1)
        if mid is not None:
            self._listening[mid] = topic

    def too_large(self, topic: str, body: str) -> bool:
        """Whether the broker has said that it takes no message of this size."""
        return self.largest is not None and len(topic.encode()) + len(body.encode()) > self.largest

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
        # The client and this session know each other; parted, their sockets close now and not at some collection.
        self.client.on_connect = self.client.on_publish = self.client.on_disconnect = None
        self.client.on_message = self.client.on_subscribe = None

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
        largest = getattr(more, "MaximumPacketSize", None)
        self.largest = None if largest is None else largest - _FRAMING
        self._answered.set()

    def _puback(self, client: paho.Client, data: Any, mid: int, code: ReasonCode, more: Properties) -> None:
        self.answered_any = True
        self.acknowledged.append((mid, int(code.value)))
        self._wake()

    def _disconnected(
        self,
        client: paho.Client,
        data: Any,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        more: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.loss = f"the broker ended the connection ({code})"
        self.lost.set()
        self._answered.set()
        self._wake()

    def _suback(
        self, client: paho.Client, data: Any, mid: int, codes: list[ReasonCode], more: Properties | None
    ) -> None:
        for code in codes:
            if code.is_failure:
                self.unheard.append((self._listening.get(mid, ""), str(code)))
        self._wake()

    def _message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        self._on_command(message.topic, bytes(message.payload), message.retain)


def client_id(settings: MqttSettings, status_topic: str) -> str:
    """The id with which we come; a broker has one client of an id and hangs up on the one before."""
    return settings.client_id or status_topic.replace("/", "-") + f"-{settings.name}"


def _client(settings: MqttSettings, status_topic: str) -> paho.Client:
    # Not paho's own reconnecting: it would send again what it remembers, beside what the outbox says.
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id(settings, status_topic),
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
