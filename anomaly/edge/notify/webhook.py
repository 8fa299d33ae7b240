"""Messages to a receiver by HTTP POST: signed, one at a time, a row leaves on 2xx.

- 2xx: taken over.
- 4xx, but not 408 and 429: set aside, for the receiver will not have this message, whenever it comes.
- All else is tried again later: 408, 429, 5xx, no answer in time, no connection, and redirects. None is followed: a
  signed message goes where it was told to, or nowhere.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Answer:
    """What came back: a status, and how long the receiver asks us to wait (seconds)."""

    status: int
    retry_after_s: float | None


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

    def run(self, queue: SinkQueue) -> None:
        """Deliver until stopped."""
        failures: dict[str, int] = {}
        try:
            while not queue.stopping():
                rows = queue.take()
                held: set[str] = set()
                for row in rows:
                    if queue.stopping():
                        break
                    if row.camera in held:
                        continue
                    rest_s = self._deliver(queue, row, failures)
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

    def _deliver(self, queue: SinkQueue, row: Row, failures: dict[str, int]) -> float | None:
        """None: the row is done with. Else it stays, and nothing goes to this receiver for so many seconds."""
        shown = "the receiver"
        try:
            destination = self._destination()
            shown = destination.shown
            answer = self._post(destination, row.message_id, row.body)
        except (OSError, http.client.HTTPException, AnomalyError, ValueError) as error:
            failures[row.camera] = failures.get(row.camera, 0) + 1
            delay_s = self._settings.backoff.delay_s(failures[row.camera])
            queue.failed(row, _reason(error), delay_s)
            queue.unreachable(f"{shown}: {_reason(error)}")
            return delay_s
        if 200 <= answer.status < 300:
            failures.clear()
            queue.sent(row.id)
            return None
        reason = f"{shown} answered {answer.status}"
        if 400 <= answer.status < 500 and answer.status not in (408, 429):
            queue.well()
            queue.refused(row, reason)
            failures.pop(row.camera, None)
            return None
        if 300 <= answer.status < 400:
            reason += ", a redirect, which is not followed; give the final address"
        failures[row.camera] = failures.get(row.camera, 0) + 1
        delay_s = max(self._settings.backoff.delay_s(failures[row.camera]), answer.retry_after_s or 0.0)
        queue.failed(row, reason, delay_s)
        # "Too many" is said to all of us; another failure may lie in this one message, and others can go on.
        return delay_s if answer.status in (429, 503) else 0.0

    def _beat(self, queue: SinkQueue) -> None:
        message = self._heartbeat.beat(queue) if self._heartbeat is not None else None
        if message is None:
            return
        try:
            answer = self._post(self._destination(), message.id, message.body)
        except (OSError, http.client.HTTPException, AnomalyError, ValueError) as error:
            queue.unreachable(_reason(error))
            return
        if 200 <= answer.status < 300:
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
