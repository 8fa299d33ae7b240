"""Messages to an MQTT broker: QoS 1, a row leaves on its PUBACK.

Topics, below `<prefix>/<site>/<line>`:

    status                        retained, `{"online": true|false, ...}`; the broker says false for us (last will)
    heartbeat                     not retained; goes on only while frames are scored and messages get through
    messages                      what is not of one camera: summaries
    cameras/<camera>/events       start, update, end
    cameras/<camera>/health       something is wrong with it, or no longer
    cameras/<camera>/state        retained, as the program last told it; empty once the camera has left the site
    cameras/<camera>/state/set    listened to, where commands are allowed: running | stopped | changeover | maintenance

Messages go out several at a time on one connection, which keeps their order; after a broken one, all that was not
acknowledged goes out again, in order and with the same ids. While the broker does not take a camera's message for now,
that camera's wait for its next try, and those of others go on.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from anomaly.edge import outbox
from anomaly.edge.notify.message import utc_text
from anomaly.edge.notify.mqtt_session import MqttSession, client_id
from anomaly.edge.notify.mqtt_tries import MqttTries
from anomaly.edge.notify.topics import from_topic_level, topic_level
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from anomaly.edge.notify.heartbeat import Heartbeat
    from anomaly.edge.notify.message import Origin
    from anomaly.edge.notify.queue import SinkQueue
    from anomaly.edge.notify.settings import MqttSettings
    from anomaly.edge.outbox import Row

#: Told of a command: camera, state, who.
OnState: TypeAlias = Callable[[str, str, str], None]

STATES = ("running", "stopped", "changeover", "maintenance")
_log = logging.getLogger(__name__)

#: A message at which the connection broke so often, though the broker took others on it, is set aside.
_MOST_BROKEN = 8
#: How often it is looked which cameras there are, in seconds.
_LOOK_S = 1.0
#: MQTT 5: not authorised, topic name invalid, packet too large, payload format invalid. Trying again changes nothing. Not
#: so of 0x83, "implementation specific": RabbitMQ says it of a queue that is full for now, too.
_REFUSED = frozenset({0x87, 0x90, 0x95, 0x99})


class MqttSink:
    """One broker.

    Args:
        settings: whom to tell.
        origin: names for the topics.
        heartbeat: when to send a sign of life.
        on_state: called with camera, state and who when a state is set over MQTT; in the network's thread.
        cameras: the cameras there are now; the state of others is taken back. None = not known.
    """

    def __init__(
        self,
        settings: MqttSettings,
        origin: Origin,
        heartbeat: Heartbeat,
        on_state: OnState | None = None,
        cameras: Callable[[], Collection[str]] | None = None,
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
        self._cameras = cameras
        self._looked_s = -_LOOK_S
        #: Cameras whose state the broker keeps, None = not looked up yet; and the last states of those that left.
        self._kept: set[str] | None = None
        self._away: dict[str, str] = {}
        #: Whose state is being taken back, by the packet that does it: the broker keeps it until it has said so.
        self._taking_back: dict[int, str] = {}
        self._forbidden_topics: set[str] = set()
        #: The message at which the connection last broke, and how often in a row.
        self._broken: tuple[str, int] = "", 0
        self._tries = MqttTries(settings.backoff)

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
                reason = self._connected(queue)
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

    def _connected(self, queue: SinkQueue) -> str:
        """Deliver over one connection until it ends; why it did."""
        session = MqttSession(self._settings, f"{self._base}/status", queue.wake, self._command)
        self._taking_back.clear()
        self._tries.begin()
        try:
            session.open()
            queue.well()
            try:
                self._greet(session)
                self._pump(session, queue)
            except OSError as error:
                self._broke(queue, _one_line(error))
                raise
            self._broke(queue, session.loss)
        finally:
            session.close()
        # What was acknowledged before the connection ended need not go out again.
        self._settle(session, queue)
        self._suspect(session, queue)
        return session.loss

    def _broke(self, queue: SinkQueue, reason: str) -> None:
        if not queue.stopping():
            ours = client_id(self._settings, f"{self._base}/status")
            queue.broke(
                f"the connection keeps breaking off ({reason}). Where another program comes with our client id, {ours!r}, "
                "each hangs up on the other: give each its own sinks.mqtt.client_id"
            )

    def _greet(self, session: MqttSession) -> None:
        # First, so that who is told that we are here can send commands.
        if self._on_state is not None:
            session.listen(f"{self._base}/cameras/+/state/set")
        now = utc_text(time.time())
        session.publish(f"{self._base}/status", json.dumps({"online": True, "since_utc": now}), retain=True)
        with self._states_lock:
            self._untold = set(self._states)

    def _pump(self, session: MqttSession, queue: SinkQueue) -> None:
        while not queue.stopping() and not session.lost.is_set():
            # Once a connection broke, messages go one at a time until it is clear which one breaks it.
            room = min(session.room, 1 - len(session.rows)) if self._broken[1] else session.room
            if room > 0:
                for row in self._tries.take(queue, session, room):
                    if session.too_large(self._topic(row), row.body):
                        queue.refused(
                            row, f"it has {len(row.body.encode())} bytes, more than the broker takes"
                        )
                        continue
                    session.publish(self._topic(row), row.body, row=row)
                self._tries.end(queue, session)
            self._settle(session, queue)
            if session.room > 0 and (beat := self._heartbeat.beat(queue)) is not None:
                session.publish(f"{self._base}/heartbeat", beat.body)
            self._publish_states(session, queue)
            queue.wait(self._heartbeat.due_in_s() or 0.01)

    def _settle(self, session: MqttSession, queue: SinkQueue) -> None:
        while session.acknowledged:
            mid, code = session.acknowledged.popleft()
            flight, camera = session.in_flight.pop(mid, None), self._taking_back.pop(mid, None)
            if camera is not None and code < 0x80:
                self._retained(queue, camera, False)
            if flight is None:
                continue
            row, topic, since_s = flight
            if row is None:
                if code >= 0x80:
                    self._forbidden(queue, "publish to", topic, f"MQTT reason 0x{code:02x}")
                continue
            self._broken = "", 0
            session.rows.discard(row.id)
            if code < 0x80:
                self._tries.taken(row, since_s)
                queue.sent(row.id)
            elif code in _REFUSED:
                queue.refused(row, f"the broker refused it (MQTT reason 0x{code:02x})")
            else:
                reason = f"the broker could not take a message (MQTT reason 0x{code:02x})"
                self._tries.not_taken(queue, row, since_s, reason)
        while session.unheard:
            self._forbidden(queue, "listen to", *session.unheard.popleft())
        oldest = next(iter(session.in_flight.values()), None)
        if oldest is not None and time.monotonic() - oldest.since_s > self._settings.ack_s:
            raise OSError(f"no acknowledgement for {self._settings.ack_s:g} s")

    def _forbidden(self, queue: SinkQueue, what: str, topic: str, reason: str) -> None:
        """The broker does not let us do something that no message of the outbox hangs on."""
        queue.last_error = f"the broker does not let us {what} {topic} ({reason})"
        if topic not in self._forbidden_topics:
            self._forbidden_topics.add(topic)
            _log.warning("sink %s: %s", self.name, queue.last_error)

    def _suspect(self, session: MqttSession, queue: SinkQueue) -> None:
        """A broker may hang up on a message (one too large for it, say); it must not block the others for ever."""
        row = next((one.row for one in session.in_flight.values() if one.row is not None), None)
        if row is None or queue.stopping() or not session.answered_any:
            return
        count = self._broken[1] + 1 if self._broken[0] == row.message_id else 1
        self._broken = row.message_id, count
        if count >= _MOST_BROKEN:
            queue.refused(row, f"the connection broke {count} times while it was sent: {session.loss}")
            self._broken = "", 0

    def _publish_states(self, session: MqttSession, queue: SinkQueue) -> None:
        if self._kept is None:
            self._kept = queue.read(lambda connection: outbox.retained(connection, self.name)) or set()
        for camera in self._left()[: max(session.room, 0)]:
            self._taking_back[session.publish(self._state_topic(camera), "", retain=True)] = camera
        states = self._new_states(session.room)
        told = {camera for camera, _ in states}
        self._taking_back = {mid: one for mid, one in self._taking_back.items() if one not in told}
        # Written down before it is told: one that a kill left behind is taken back at the next start.
        for camera in told:
            self._retained(queue, camera, True)
        for camera, state in states:
            session.publish(self._state_topic(camera), state, retain=True)

    def _left(self) -> list[str]:
        """Cameras whose state the broker keeps though they have left; looked for now and then."""
        now = time.monotonic()
        if self._cameras is None or now - self._looked_s < _LOOK_S:
            return []
        self._looked_s, there = now, set(self._cameras())
        left = sorted((self._kept or set()) - there - set(self._taking_back.values()))
        with self._states_lock:
            self._away |= {camera: self._states.pop(camera) for camera in left if camera in self._states}
            # Told of before the site had it, a camera is not away.
            for camera in self._away.keys() & there:
                self._states.setdefault(camera, self._away.pop(camera))
                self._untold.add(camera)
        return left

    def _retained(self, queue: SinkQueue, camera: str, kept: bool) -> None:
        """The broker is about to keep a camera's state, or keeps none any more."""
        assert self._kept is not None
        if (camera in self._kept) is not kept:
            (self._kept.add if kept else self._kept.discard)(camera)
            queue.note(lambda connection: outbox.set_retained(connection, self.name, camera, kept))

    def _state_topic(self, camera: str) -> str:
        return f"{self._base}/cameras/{topic_level(camera)}/state"

    def _new_states(self, most: int) -> list[tuple[str, str]]:
        with self._states_lock:
            cameras = sorted(self._untold & self._states.keys())[: max(most, 0)]
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


def _one_line(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: the broker's certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error.strerror or error})"
    text = str(error) or type(error).__name__
    return " ".join(text.split())
