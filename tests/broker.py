"""A real MQTT broker as a child process, somebody who listens to it, and a real webhook receiver."""

from __future__ import annotations

import getpass
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="no MQTT broker; apt-get install --no-install-recommends mosquitto"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(met: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Poll for something; what it came to."""
    deadline = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < deadline, f"not met in {timeout_s:g} s"
        time.sleep(0.005)
    return found


class Broker:
    """Mosquitto on loopback; keeps sessions and retained messages over a restart, as a plant's broker does."""

    def __init__(self, folder: Path, *extra: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        lines = [
            *[line for line in extra if line.startswith("per_listener")],
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 100000",
            # Started as root it would become another user, who cannot write into the folder.
            f"user {getpass.getuser()}",
            *[line for line in extra if not line.startswith("per_listener")],
        ]
        if not any(line.startswith("allow_anonymous") for line in extra):
            lines.append("allow_anonymous true")
        self._config.write_text("\n".join(lines) + "\n")
        self._log = folder / "mosquitto.log"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        assert MOSQUITTO is not None
        with self._log.open("ab") as log:
            self._child = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)
        until(self._listens)

    def stop(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            self._child.wait(10)
            self._child = None

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait(10)
        self._child = None

    def freeze(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)

    def _listens(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, self._log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Listener:
    """Subscribed to everything in a session that the broker keeps; notes what comes, in order."""

    def __init__(
        self, port: int, *, tls: Callable[[paho.Client], None] | None = None, topic: str = "#"
    ) -> None:
        self.messages: list[tuple[str, dict[str, Any], bool]] = []
        self.times: dict[str, float] = {}
        self._subscribed = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = self._note
        if tls is not None:
            tls(self.client)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def __enter__(self) -> Listener:
        assert self._subscribed.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _note(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        at = time.perf_counter()
        # What is retained is taken back by an empty payload.
        content = json.loads(message.payload or b"{}")
        self.messages.append((message.topic, content, bool(message.retain)))
        if "id" in content:
            self.times.setdefault(content["id"], at)

    def told(self, *kinds: str) -> list[dict[str, Any]]:
        """The messages of these kinds in the order in which they came, repeated ones included."""
        return [content for _, content, _ in list(self.messages) if content.get("kind") in kinds]

    def once(self, *kinds: str) -> list[dict[str, Any]]:
        """The same, each id once, as a receiver should read them."""
        return list({content["id"]: content for content in reversed(self.told(*kinds))}.values())[::-1]

    def statuses(self) -> list[bool]:
        return [content["online"] for topic, content, _ in list(self.messages) if topic.endswith("/status")]


class Receiver:
    """A webhook receiver. `answer` is asked for each request: a status, headers, and whether to answer at all."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[dict[str, Any]], int | tuple[int, dict[str, str]] | None] = lambda content: 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append((self.path, headers, body))
                answer = receiver.answer(json.loads(body))
                if answer is None:
                    self.close_connection = True
                    return
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in list(self.requests)]

    def contents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in list(self.requests)]


class FakeBroker:
    """As much of a broker of MQTT 5 as answers each message as it is told to: Mosquitto has few reasons to refuse one.

    `answer` is asked for each QoS 1 message (topic and content): the reason code of its PUBACK, None for no answer.
    """

    def __init__(self, answer: Callable[[str, dict[str, Any]], int | None]) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._answer = answer
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(self, *error: object) -> None:
        self._door.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._door.accept()
                threading.Thread(target=self._talk, args=(here,), daemon=True).start()

    def _talk(self, here: socket.socket) -> None:
        with here, here.makefile("rb") as read, suppress(OSError, IndexError):
            while True:
                kind, length, shift = read.read(1)[0], 0, 0
                while True:
                    digit = read.read(1)[0]
                    length |= (digit & 0x7F) << shift
                    shift += 7
                    if digit < 0x80:
                        break
                packet = read.read(length)
                if kind >> 4 == 1:
                    here.sendall(b"\x20\x03\x00\x00\x00")
                elif kind >> 4 == 3:
                    ends = 2 + int.from_bytes(packet[:2], "big")
                    topic, number = packet[2:ends].decode(), packet[ends : ends + 2]
                    # Behind the number, the (no) properties.
                    content = json.loads(packet[ends + 3 :] or b"{}")
                    self.messages.append((topic, content))
                    code = self._answer(topic, content)
                    if code is not None:
                        here.sendall(b"\x40\x03" + number + bytes([code]))
                elif kind >> 4 == 12:
                    here.sendall(b"\xd0\x00")
                elif kind >> 4 == 14:
                    return
