"""Messages to a receiver by HTTP POST: signed, one at a time, a row leaves on 2xx.

- 2xx: taken over.
- 4xx, but not 408 and 429: set aside, for the receiver will not have this message, whenever it comes.
- All else is tried again later: 408, 429, 5xx, no answer in time, no connection, and redirects. None is followed: a
  signed message goes where it was told to, or nowhere.
- A message that fails again and again for an hour is set aside too, once another is taken: what fails lies in it, and its
  camera must not stay silent. That is one of another camera in this time, or else, once an hour, one of those that wait
  behind it; those between them go with it, so that what is sent keeps its order. Where none is taken it may be the
  receiver, and nothing is set aside.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomaly.edge.notify.destination import Destination, connect, parse_destination
from anomaly.edge.notify.signature import key_of, sign
from anomaly.edge.notify.tls import client_context
from anomaly.edge.secrets import resolve
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from anomaly.edge.notify.heartbeat import Heartbeat
    from anomaly.edge.notify.queue import SinkQueue
    from anomaly.edge.notify.settings import WebhookSettings
    from anomaly.edge.outbox import Row

_LONGEST_RETRY_AFTER_S = 3600.0
_MOST_ANSWER = 64 * 1024
#: While a camera's messages fail, so many are looked at, to find those of others.
_MOST_LOOKED = 1000
#: So many that wait behind one that fails are tried, to see whether what fails lies in it.
_PROBED = 10
#: A message is set aside where, so often and over so many seconds, it failed after another was taken.
_STRIKES = 5
_PATIENCE_S = 3600.0


@dataclass(frozen=True)
class _Answer:
    """What came back: a status, and how long the receiver asks us to wait (seconds)."""

    status: int
    retry_after_s: float | None

    @property
    def takes(self) -> bool:
        """Whether the message was taken over."""
        return 200 <= self.status < 300


@dataclass
class _Failing:
    """A camera's message that did not get through.

    Attributes:
        row_id: of it.
        tries: so far, in a row.
        failed_s: when they began, or when those behind it were tried last, monotonic.
        passed: whether another camera's was taken since the last of them.
        strikes: how often it failed after that was so.
        since_s: of the first of these, monotonic.
    """

    row_id: int
    tries: int = 0
    failed_s: float = field(default_factory=time.monotonic)
    passed: bool = False
    strikes: int = 0
    since_s: float = 0.0

    def again(self) -> None:
        """It failed once more."""
        self.tries += 1
        if self.passed:
            self.passed = False
            self.since_s = self.since_s or time.monotonic()
            self.strikes += 1

    @property
    def to_blame(self) -> bool:
        """Whether what fails lies in the message, for the receiver takes others."""
        return self.strikes >= _STRIKES and time.monotonic() - self.since_s >= _PATIENCE_S

    def probes(self) -> bool:
        """Whether those behind it are to be tried now; once in that time."""
        now = time.monotonic()
        if self.tries < _STRIKES or now - self.failed_s < _PATIENCE_S:
            return False
        self.failed_s = now
        return True


class WebhookSink:
    """One receiver.

    Args:
        settings: whom to tell.
        heartbeat: when to send a sign of life; None = never.
    """

    def __init__(self, settings: WebhookSettings, heartbeat: Heartbeat | None) -> None:
        self.name = settings.name
        self.kinds = settings.kinds
        self.bounds = settings.bounds
        self._settings = settings
        self._heartbeat = heartbeat
        self._open: _Connection | None = None
        self._failing: dict[str, _Failing] = {}
        # Failures in a row of whichever camera: after them everything rests.
        self._in_a_row = 0

    def run(self, queue: SinkQueue) -> None:
        """Deliver until stopped."""
        try:
            while not queue.stopping():
                rows = queue.take(limit=_MOST_LOOKED) if self._failing else queue.take()
                # Behind one that makes the receiver hang, or say that it is busy, no other camera would have its turn.
                rows.sort(key=lambda row: row.camera in self._failing)
                held: set[str] = set()
                for row in rows:
                    if queue.stopping():
                        break
                    if row.camera in held:
                        continue
                    rest_s = self._deliver(queue, row)
                    if rest_s is not None:
                        held.add(row.camera)
                        if rest_s > 0:
                            queue.pause(rest_s)
                            break
                    self._beat(queue)
                    queue.turn()
                self._beat(queue)
                if not rows:
                    queue.wait()
        finally:
            self._close()

    def interrupt(self) -> None:
        """End an exchange that is going on; called by another thread."""
        if self._open is not None:
            self._open.abort()

    def _deliver(self, queue: SinkQueue, row: Row) -> float | None:
        """None: the row is done with. Else it stays, and nothing goes to this receiver for so many seconds."""
        answer, reason = self._ask(row)
        if answer is None:
            rest_s = self._failed(queue, row, reason, None)
            if rest_s:
                queue.unreachable(reason)
            return rest_s
        if answer.takes:
            self._taken(queue, row)
            return None
        if 400 <= answer.status < 500 and answer.status not in (408, 429):
            self._answered(row)
            queue.well()
            queue.refused(row, reason)
            return None
        if 300 <= answer.status < 400:
            reason += ", a redirect, which is not followed; give the final address"
        return self._failed(queue, row, reason, answer)

    def _ask(self, row: Row) -> tuple[_Answer | None, str]:
        """What the receiver answers to a message, None for no answer, and that in words."""
        shown = "the receiver"
        try:
            destination = self._destination()
            shown = destination.shown
            answer = self._post(destination, row.message_id, row.body)
        except (OSError, http.client.HTTPException, AnomalyError, ValueError) as error:
            return None, f"{shown}: {_reason(error)}"
        return answer, f"{shown} answered {answer.status}"

    def _taken(self, queue: SinkQueue, row: Row) -> None:
        self._answered(row)
        for other in self._failing.values():
            other.passed = True
        queue.sent(row.id)

    def _answered(self, row: Row) -> None:
        self._failing.pop(row.camera, None)
        self._in_a_row = 0

    def _failed(self, queue: SinkQueue, row: Row, reason: str, answer: _Answer | None) -> float | None:
        """As `_deliver`, of a row that did not get through."""
        failing = self._failing.get(row.camera)
        if failing is None or failing.row_id != row.id:
            failing = self._failing[row.camera] = _Failing(row.id)
        failing.again()
        self._in_a_row += 1
        if failing.to_blame:
            del self._failing[row.camera]
            queue.refused(row, f"{reason}, {failing.tries} times, though other cameras' messages were taken")
            return None
        if failing.probes() and self._probe(queue, row, reason):
            # Those behind it are done with as well: none of them as it was read before.
            return 0.0
        backoff = self._settings.backoff
        asked_s = 0.0 if answer is None else answer.retry_after_s or 0.0
        # "Too many" is said to all of us; another failure may lie in this one message, and others can go on.
        rests = answer is None or answer.status in (429, 503)
        rest_s = max(backoff.delay_s(self._in_a_row), asked_s) if rests else 0.0
        queue.failed(row, reason, max(backoff.delay_s(failing.tries), asked_s, rest_s))
        return rest_s

    def _probe(self, queue: SinkQueue, row: Row, reason: str) -> bool:
        """Try what waits behind a message that fails; whether one was taken, and those before it set aside."""
        failed = [(row, reason)]
        # Two that hang are enough: it is the receiver.
        until = time.monotonic() + 2 * self._settings.timeout_s
        waiting = queue.take(after_id=row.id, limit=_MOST_LOOKED) if row.id > 0 else []
        for behind in [one for one in waiting if one.camera == row.camera][:_PROBED]:
            if queue.stopping() or time.monotonic() >= until:
                break
            answer, said = self._ask(behind)
            if answer is not None and answer.takes:
                for one, why in failed:
                    queue.refused(one, f"{why}, again and again, though a later message was taken")
                self._taken(queue, behind)
                return True
            failed.append((behind, said))
        return False

    def _beat(self, queue: SinkQueue) -> None:
        message = self._heartbeat.beat(queue) if self._heartbeat is not None else None
        if message is None:
            return
        try:
            answer = self._post(self._destination(), message.id, message.body)
        except (OSError, http.client.HTTPException, AnomalyError, ValueError) as error:
            queue.unreachable(_reason(error))
            return
        if answer.takes:
            queue.well()
        else:
            queue.last_error = f"the heartbeat was answered with {answer.status}"

    def _destination(self) -> Destination:
        return parse_destination(resolve(self._settings.url), cleartext=self._settings.cleartext)

    def _post(self, destination: Destination, message_id: str, body: str) -> _Answer:
        keys = [key_of(resolve(secret)) for secret in self._settings.secrets]
        content = body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "anomaly-webhook/1",
            **sign(keys, message_id, int(time.time()), content),
        }
        used_before = self._open is not None and self._open.destination == destination
        try:
            return self._exchange(destination, headers, content)
        except (ConnectionError, http.client.BadStatusLine):
            # A kept connection may have been closed by the other side meanwhile; a fresh one tells whether it is there.
            if not used_before:
                raise
            return self._exchange(destination, headers, content)

    def _exchange(self, destination: Destination, headers: dict[str, str], content: bytes) -> _Answer:
        if self._open is None or self._open.destination != destination:
            self._close()
            self._open = _Connection(destination, self._settings)
        connection = self._open
        # A socket's timeout starts anew with every byte; who sends one a second would hold us for ever.
        watch = threading.Timer(self._settings.timeout_s, connection.abort)
        watch.daemon = True
        watch.start()
        keep = False
        try:
            connection.request("POST", destination.target, content, headers)
            response = connection.getresponse()
            keep = len(response.read(_MOST_ANSWER + 1)) <= _MOST_ANSWER and not response.will_close
            return _Answer(response.status, _seconds(response.getheader("Retry-After")))
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection.aborted:
                raise TimeoutError(f"no whole answer in {self._settings.timeout_s:g} s") from error
            raise
        finally:
            watch.cancel()
            if not keep:
                self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class _Connection(http.client.HTTPConnection):
    """HTTP to the very address that was checked; TLS over it where the destination says so."""

    def __init__(self, destination: Destination, settings: WebhookSettings) -> None:
        super().__init__(destination.host, destination.port, timeout=settings.timeout_s)
        self.destination = destination
        self.aborted = False
        self._timeout_s = settings.timeout_s
        self._context = client_context(settings.tls) if destination.secure else None

    def connect(self) -> None:
        """Connect; called by http.client when it is needed."""
        raw = connect(self.destination, self._timeout_s)
        self.sock = raw
        if self.aborted:
            raise TimeoutError
        if self._context is not None:
            self.sock = self._context.wrap_socket(raw, server_hostname=self.destination.host)

    def abort(self) -> None:
        """End whatever is going on; called by another thread."""
        self.aborted = True
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def _seconds(text: str | None) -> float | None:
    """`Retry-After` in seconds, within reason; dates are left aside."""
    return min(float(text), _LONGEST_RETRY_AFTER_S) if text is not None and text.strip().isdecimal() else None


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return str(error) if str(error).startswith("no whole") else "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, http.client.HTTPException):
        return f"an answer that is not HTTP ({type(error).__name__})"
    return " ".join(str(error).split()) or type(error).__name__
