"""Connections of whoever comes, before anybody signs in: none keeps others out, none is held for nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_case import Case, SmallRunner, running

from anomaly.edge.health import Trouble
from anomaly.edge.server import ServeSettings, connections, serve, serving
from anomaly.edge.store import Store
from anomaly.edge.store.database import connect
from anomaly.edge.store.opening import DATABASE


def _occupy(port: int, address: str, count: int) -> subprocess.Popen[str]:
    """Another process that opens connections from an address and says nothing; it prints how many were taken."""
    program = (
        "import resource, socket, sys, time\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        f"held = [socket.create_connection(('127.0.0.1', {port}), 5, ('{address}', 0)) for _ in range({count})]\n"
        "print(len(held), flush=True)\n"
        "time.sleep(60)\n"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def _held(case: Case) -> int:
    """Connections that the server holds now."""
    port = f"{httpx.URL(case.url).port:04X}"
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port}") and row[3] == "01" for row in rows)


@pytest.fixture
def few_files() -> Iterator[None]:
    """A process that may have as many files open as Linux gives by default."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_silent_connections_keep_nobody_out_and_take_no_files(tmp_path: Path, few_files: None):
    with running(tmp_path) as case:
        viewer = case.signed_in("viewer")
        intruder = _occupy(int(httpx.URL(case.url).port or 0), "127.0.0.2", 1100)
        try:
            assert intruder.stdout is not None
            assert intruder.stdout.readline() == "1100\n"
            for _ in range(5):
                # Also for who comes anew, and from the intruder's own address.
                assert httpx.get(f"{case.url}/healthz").status_code == 200
                with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as beside:
                    assert beside.get(f"{case.url}/healthz").status_code == 200
                assert viewer.get("/api/cameras").status_code == 200
            assert _held(case) <= 256
            with contextlib.ExitStack() as files:
                for _ in range(500):
                    files.enter_context(open("/dev/null"))
                connect(case.store.folder / DATABASE).close()
        finally:
            intruder.kill()
            intruder.communicate()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: 90\r\n\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET",
    ],
    ids=["nothing", "half a head", "half a body", "half of the next"],
)
def test_who_sends_no_whole_request_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes):
    monkeypatch.setattr(connections, "REQUEST_S", 1.0)
    with running(tmp_path) as case:
        port = int(httpx.URL(case.url).port or 0)
        head = sent.replace(b"http://127.0.0.1", case.url.encode()).replace(
            b"Host: 127.0.0.1", b"Host: 127.0.0.1:%d" % port
        )
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head)
            client.settimeout(6.0)
            began = time.monotonic()
            while client.recv(65_536):
                pass
            assert time.monotonic() - began > 0.5
        # Who asks again in time keeps the connection.
        browser = case.signed_in("viewer")
        for _ in range(4):
            assert browser.get("/api/cameras").status_code == 200
            time.sleep(0.4)
        assert _held(case) >= 1


def test_an_answer_that_takes_long_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "REQUEST_S", 1.0)
    with running(tmp_path) as case:
        case.runner.show("cam")
        with case.signed_in("viewer").stream("GET", "/api/cameras/cam/live.mjpeg") as answer:
            parts = answer.iter_bytes()
            next(parts)
            time.sleep(4.0)
            case.runner.show("cam")
            while b"--frame" not in next(parts):
                pass


def test_who_takes_nothing_of_an_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "_TAKE_S", 1.0)
    with running(tmp_path) as case:
        clip = case.store.folder / "clips" / "long.mp4"
        clip.parent.mkdir(exist_ok=True)
        with open(clip, "wb") as file:
            file.truncate(64 * 1024 * 1024)
        event = case.event()
        case.store.update_event(event.id, clip="clips/long.mp4")
        with case.token("viewer", "events").stream("GET", f"/api/events/{event.id}/clip") as answer:
            time.sleep(5.0)
            with pytest.raises(httpx.TransportError):
                for _ in answer.iter_raw():
                    pass


def test_an_address_that_another_program_has_is_told_and_taken_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It ended the watch over all cameras, and under a service manager again and again."""
    monkeypatch.setattr(serving, "_TRY_AGAIN_S", 0.05)
    told: list[Trouble] = []
    with Store(tmp_path) as store:
        other = socket.create_server(("127.0.0.1", 0))
        port = other.getsockname()[1]
        server = serve(SmallRunner(), store, ServeSettings(port=port))
        try:
            assert not server.start_when_free(told.append)
            time.sleep(0.2)
            assert [(one.kind, one.begins) for one in told] == [("page", True)]
            assert f"127.0.0.1:{port} cannot be listened on" in told[0].detail["reason"]
            other.close()
            until = time.monotonic() + 20
            while len(told) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            assert [one.begins for one in told] == [True, False]
            assert httpx.get(f"{server.url}/healthz").status_code == 200
        finally:
            server.stop()
        # One that is ended while it waits waits no longer.
        with socket.create_server(("127.0.0.1", port)):
            server = serve(SmallRunner(), store, ServeSettings(port=port))
            assert not server.start_when_free(told.append)
            server.stop()
        time.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
