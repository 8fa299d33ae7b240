"""The server itself: a thread that answers, started and stopped by the runner's process."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import uvicorn

from anomaly.edge.health import Trouble
from anomaly.edge.server.app import build_app
from anomaly.edge.server.certificate import Certificate
from anomaly.edge.server.connections import Connections, Listening
from anomaly.edge.server.door import Controls, open_door
from anomaly.edge.server.guard import Guard
from anomaly.edge.server.settings import check_binding
from anomaly.errors import AddressTakenError, AnomalyError, CertificateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from anomaly.edge.server.door import Door
    from anomaly.edge.server.live import Runner
    from anomaly.edge.server.settings import ServeSettings
    from anomaly.edge.store import Store

_LOG = logging.getLogger(__name__)
_START_S = 20.0
_STOP_S = 5.0
#: What is not to be had now, and may be later.
_NOT_YET = (AddressTakenError, CertificateError)
#: It is tried again so often.
_TRY_AGAIN_S = 10.0
#: Of what is written to a connection the system keeps so much that is not on its way yet (Linux); it would keep
#: megabytes: live pictures that are old when a slow link has taken those before them.
_UNSENT_BYTES = 64 * 1024
#: Whether certificate and key have changed is looked at so often.
_RENEW_S = 10.0


class Server:
    """The page and the API of one runner, in a thread of its own.

    Args:
        door: what stands behind the routes; closed by `stop`.
        settings: where it listens.

    Attributes:
        door: as given.
        app: the routes, without the guard in front of them.
        problem: why it did not listen when that was first tried; "" where it did.
    """

    def __init__(self, door: Door, settings: ServeSettings) -> None:
        self.door = door
        self.problem = ""
        self.app: FastAPI = build_app(door)
        self._settings = settings
        self._socket: socket.socket | None = None
        self._uvicorn: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._waiting: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it answers, such as "http://127.0.0.1:8080"; known once it is started."""
        if self._socket is None:
            raise AnomalyError("the server is not started; call start() first")
        host, port = self._socket.getsockname()[:2]
        return f"{'https' if self._settings.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises:
            AddressTakenError: another program has the address, or this machine has not.
            CertificateError: the certificate or its key cannot be used.
            UsageError: there can be no such address.
            AnomalyError: it did not come up in time.
        """
        settings = self._settings
        connections = Connections(settings.trusted_proxy)
        config = uvicorn.Config(
            Guard(self.app, settings, connections),
            # Another loop would not ask our socket for its connections.
            loop="asyncio",
            callback_notify=connections.close_late,
            timeout_notify=1,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws_max_size=65_536,
            # Pictures are compressed already.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        config.load()
        certificate = _certificate(settings)
        if certificate is not None:
            config.ssl = certificate.context
        self._socket = _listening(settings, connections)
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, name="server", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise AnomalyError("the server did not start; its log says why")
            time.sleep(0.01)
        if certificate is not None:
            threading.Thread(target=self._renew, args=(certificate,), name="certificate", daemon=True).start()

    def _renew(self, certificate: Certificate) -> None:
        while not self._closing.wait(_RENEW_S):
            certificate.renew()

    def start_when_free(self, on_trouble: Callable[[Trouble], None]) -> bool:
        """Listen; False where address or certificate are not to be had now. That is told as trouble, and tried again until
        they are; `problem` tells which.

        Raises:
            UsageError, AnomalyError: as `start`, at the first try.
        """
        try:
            self.start()
        except _NOT_YET as error:
            self.problem = str(error)
            on_trouble(Trouble("page", True, time.time(), {"reason": self.problem}))
            self._waiting = threading.Thread(
                target=self._wait, args=(on_trouble,), name="server waits", daemon=True
            )
            self._waiting.start()
            return False
        return True

    def _wait(self, on_trouble: Callable[[Trouble], None]) -> None:
        while not self._closing.wait(_TRY_AGAIN_S):
            try:
                self.start()
            except _NOT_YET:
                continue
            except AnomalyError as error:
                _LOG.error("no page: %s", error)
                return
            on_trouble(Trouble("page", False, time.time()))
            return

    def stop(self) -> None:
        """End the streams, answer what is being answered, close the port and the accounts."""
        self._closing.set()
        if self._waiting not in (None, threading.current_thread()):
            self._waiting.join(_START_S)
        self.door.broadcast.close()
        if self._uvicorn is not None and self._thread is not None:
            self._uvicorn.should_exit = True
            self._thread.join(_STOP_S)
            if self._thread.is_alive():
                self._uvicorn.force_exit = True
                self._thread.join(_STOP_S)
        if self._socket is not None:
            self._socket.close()
        self.door.vault.close()


def serve(runner: Runner, store: Store, settings: ServeSettings, controls: Controls | None = None) -> Server:
    """The server of a runner and its store; `start` makes it listen.

    Raises:
        UsageError: it would listen off loopback without TLS, `insecure` or a trusted proxy.
        StoreError: the accounts cannot be opened.
    """
    check_binding(settings)
    return Server(open_door(runner, store, settings, controls or Controls()), settings)


def _certificate(settings: ServeSettings) -> Certificate | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    for file in (settings.tls_cert, settings.tls_key):
        try:
            file.open("rb").close()
        except OSError as error:
            raise CertificateError(
                f"the TLS file {file} cannot be read ({error.strerror}); give a PEM file that this user may read"
            ) from None
    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(
            f"the TLS certificate {settings.tls_cert} cannot be used ({error}); give a PEM certificate and its key"
        ) from None
    except UsageError as error:
        raise CertificateError(str(error)) from None


def _listening(settings: ServeSettings, connections: Connections) -> Listening:
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host.strip("[]") or None,
            settings.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
    except OSError as error:
        raise UsageError(
            f"{where} cannot be listened on ({error.strerror}); give this machine's name or address"
        ) from None
    listening = Listening(family, kind, protocol, connections)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Its connections have it, too.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        taken = error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
        raise (AddressTakenError if taken else UsageError)(
            f"{where} cannot be listened on ({error.strerror}); choose another port with --serve HOST:PORT"
        ) from None
    return listening
