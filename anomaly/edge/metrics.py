"""What machines ask of the runner: is it alive, is it ready, and its figures; on loopback, apart from the page."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from anomaly.edge.health import Trouble
from anomaly.edge.server import guard
from anomaly.edge.server.access import enough, program, right_token
from anomaly.edge.server.probes import ALIVE_S
from anomaly.edge.server.settings import LOOPBACK
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Self

    from prometheus_client.core import Metric

    from anomaly.edge.runner import Runner
    from anomaly.edge.server.accounts import Accounts

#: Connections at once, and how long one may say nothing.
_MOST, _SILENT_S = 32, 5.0
#: A port that another program has is tried again so often.
_TRY_AGAIN_S = 10.0
_NO_TOKEN = (
    b"send Authorization: Bearer TOKEN, the one that `run --scrape-token` names or, where the page is served, an "
    b"API token of scope metrics\n"
)
#: Of a camera's status: name, help, key; nothing is told where there is no value.
_GAUGES = (
    ("score", "Score of the last frame (1 = an ordinary normal frame)", "score"),
    ("threshold", "Score at which an alarm starts", "threshold"),
    ("alarm", "1 while an event is on", "alarm"),
    ("connected", "1 while the camera gives frames", "connected"),
    ("certified", "1 where the certificate holds for what runs", "certified"),
    ("frames_per_second", "Frames scored a second", "fps"),
    ("latency_seconds_p50", "Frame received to frame decided, median", "latency_p50_s"),
    ("latency_seconds_p99", "Frame received to frame decided, 99th percentile", "latency_p99_s"),
    (
        "blind_share",
        "Upper bound on the share of event starts that fall into blind time, since blind_since_utc_seconds",
        "blind_share",
    ),
    (
        "blind_since_utc_seconds",
        "Since when blind time is counted: the day so far and the day before",
        "blind_since_utc_s",
    ),
    (
        "operational_recall",
        "Certified recall lowered by blind time since blind_since_utc_seconds",
        "operational_recall",
    ),
    ("last_frame_utc_seconds", "When the last scored frame arrived", "last_utc_s"),
)


class Figures(Collector):
    """Collects the runner's figures when they are asked for, as long as the context is open."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __enter__(self) -> Self:
        REGISTRY.register(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        REGISTRY.unregister(self)

    def collect(self) -> Iterable[Metric]:
        """All figures, by camera."""
        status = self._runner.status()
        cameras: dict[str, dict[str, Any]] = status["cameras"]
        for name, told, key in _GAUGES:
            family = GaugeMetricFamily(f"anomaly_{name}", told, labels=("camera",))
            for camera, values in cameras.items():
                if values[key] is not None:
                    family.add_metric((camera,), float(values[key]))
            yield family
        frames = CounterMetricFamily(
            "anomaly_frames", "Frames by what became of them", labels=("camera", "what")
        )
        events = CounterMetricFamily("anomaly_events", "Events begun", labels=("camera",))
        trouble = GaugeMetricFamily(
            "anomaly_trouble",
            'Trouble that is on; camera="" is this machine: store, disk, page, ...',
            labels=("camera", "kind"),
        )
        for kind in status["trouble"]:
            trouble.add_metric(("", kind), 1.0)
        for camera, values in cameras.items():
            for what, count in values["counts"].items():
                frames.add_metric((camera, what), count)
            events.add_metric((camera,), values["events"])
            for kind in values["health"]:
                trouble.add_metric((camera, kind), 1.0)
        yield from (frames, events, trouble)
        yield CounterMetricFamily(
            "anomaly_model_seconds", "Time in the network and the search", value=status["model_seconds"]
        )
        yield CounterMetricFamily(
            "anomaly_busy_seconds",
            "Time of the scoring thread, the model's included",
            value=status["busy_seconds"],
        )
        yield GaugeMetricFamily(
            "anomaly_server_thread_seconds",
            "Processor time of the threads that serve the page and the API, of those that run now",
            value=_server_s(),
        )
        yield GaugeMetricFamily(
            "anomaly_events_in_memory",
            "Events that the store could not take yet",
            value=status["events_in_memory"],
        )


def _server_s() -> float:
    """Processor seconds of the server's threads, as Linux counts them; 0 where nothing is served."""
    total = 0.0
    for thread in threading.enumerate():
        # Its loop, a camera's live pictures, and the pools that asyncio and AnyIO run routes in.
        if thread.name.startswith(("server", "live ", "asyncio_", "AnyIO")):
            with contextlib.suppress(OSError):
                told = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
                total += int(told.split()[0]) / 1e9
    return total


class Probes:
    """`/healthz`, `/readyz` and `/metrics` over HTTP, for this machine alone.

    The first two tell nothing but yes or no. The figures name cameras, and a page of the browser on this machine, or
    any of its users, can ask here: they are for who brings a token. Every request must ask for this machine by a
    name of loopback, so that no page elsewhere can point its own name here.

    Args:
        runner: whose figures.
        where: "HOST:PORT" on loopback; port 0 = any free one.
        token: opens `/metrics`; None = it does not.
        accounts: whose tokens of scope `metrics` open it too; None = nobody's.

    A port that another program has ends no watch over cameras: that is trouble, and it is tried again.

    Attributes:
        url: where it answers; None = nowhere yet.

    Raises:
        UsageError: the address is not one of loopback's.
    """

    def __init__(
        self, runner: Runner, where: str, token: str | None = None, accounts: Accounts | None = None
    ) -> None:
        host, _, port = where.rpartition(":")
        if host not in ("127.0.0.1", "localhost", "[::1]") or not _is_port(port):
            raise UsageError(
                f"run.metrics={where!r} is not HOST:PORT of this machine's loopback; give one such as "
                "127.0.0.1:9188, or null for none (--serve answers elsewhere, behind a log-in)"
            )
        self._runner = runner
        self._where = (host.strip("[]"), int(port))
        self._handler = _handler(runner, token, accounts)
        self._server: _Listening | None = None
        self._closing = threading.Event()
        self._told = False
        self.url: str | None = None
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._listen()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while self._server is None:
            if self._closing.wait(_TRY_AGAIN_S):
                return
            self._listen()
        with self._server as server:
            server.timeout = 0.25
            while not self._closing.is_set():
                server.handle_request()

    def _listen(self) -> None:
        """Take the port, or tell once that it is not to be had, and later that it is."""
        host, port = self._where
        try:
            server = _Listening(self._where, self._handler)
        except OSError as error:
            if not self._told:
                self._told = True
                reason = f"run.metrics={host}:{port} cannot be listened on ({error.strerror})"
                self._runner.trouble(Trouble("metrics", True, time.time(), {"reason": reason}))
            return
        self._server = server
        self.url = f"http://[{host}]:" if ":" in host else f"http://{host}:"
        self.url += str(server.server_address[1])
        if self._told:
            self._runner.trouble(Trouble("metrics", False, time.time()))


class _Listening(ThreadingHTTPServer):
    """A thread a connection, and few: each costs a file handle of the process that records and stores."""

    daemon_threads = True

    def __init__(self, where: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in where[0]:
            self.address_family = socket.AF_INET6
        super().__init__(where, handler)
        self._free = threading.BoundedSemaphore(_MOST)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close at once where too many wait."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def _is_port(text: str) -> bool:
    return text.isdigit() and int(text) < 2**16


def _handler(runner: Runner, token: str | None, accounts: Accounts | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SILENT_S
        server_version = "anomaly"
        sys_version = ""

        def do_GET(self) -> None:
            hosts = self.headers.get_all("host", [])
            if len(hosts) != 1 or not guard.host_allowed(hosts[0], LOOPBACK, ""):
                self._answer(421, b"this machine is asked for as 127.0.0.1 or localhost here\n")
            elif self.path == "/metrics" and self._known():
                self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
            elif self.path == "/metrics":
                self._answer(401, _NO_TOKEN)
            elif self.path in ("/healthz", "/readyz"):
                self._answer(*_probe(runner, self.path, named=self._known()))
            else:
                self._answer(404, b"there are /healthz, /readyz and /metrics\n")

        def _known(self) -> bool:
            authorization = self.headers.get("authorization", "")
            if right_token(authorization, token):
                return True
            who = None if accounts is None else program(accounts, authorization, self.client_address[0])
            return who is not None and enough("viewer", "metrics", who)

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            for name, value in guard.SECURITY_HEADERS.items():
                self.send_header(name, value)
            self.send_header("Cache-Control", "no-store")
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Asked every few seconds; no news."""

    return Handler


def _probe(runner: Runner, path: str, *, named: bool) -> tuple[int, bytes]:
    if path == "/healthz":
        well = runner.keeps_up(ALIVE_S)
        return (200, b"ok\n") if well else (503, b"a camera that is there has not been scored lately\n")
    waiting = [name for name, one in runner.status()["cameras"].items() if one["last_utc_s"] is None]
    if waiting:
        return 503, f"no frame scored yet of {', '.join(waiting) if named else 'a camera'}\n".encode()
    return 200, b"ok\n"
