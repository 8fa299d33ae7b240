"""A real server on a free port over a real store, with a small runner whose frames a test makes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from anomaly.edge.server import Controls, Server, ServeSettings, serve
from anomaly.edge.server.sessions import csrf_of
from anomaly.edge.store import Store, StoredEvent
from anomaly.errors import UsageError

PASSWORD = "correct horse battery"


@dataclass(frozen=True, eq=False)
class View:
    """What a runner tells of its last scored frame."""

    image: np.ndarray
    heatmap: np.ndarray
    score: float
    decision_score: float
    threshold: float | None
    alarm: bool
    utc_s: float
    sequence: int


class SmallRunner:
    """Cameras whose frames a test shows; states as they were set."""

    def __init__(self, cameras: tuple[str, ...] = ("cam",)) -> None:
        self._news = threading.Condition()
        self._views: dict[str, View | None] = dict.fromkeys(cameras)
        self.states = dict.fromkeys(cameras, "running")
        self.masks: dict[str, str] = {}
        self.recipes = dict.fromkeys(cameras, "A4")
        self.known: tuple[str, ...] = ("A4", "A5")
        self.set_by: list[tuple[str, str, str]] = []
        self.asked = 0
        self.reloads = 0
        self.scores = True
        self.not_stored: str | None = None

    def status(self) -> dict[str, Any]:
        return {
            "site": "works",
            "events_in_memory": 2 if self.not_stored else 0,
            "not_stored": self.not_stored,
            "cameras": {
                name: {
                    "state": self.states[name],
                    "threshold": 1.5,
                    "last_score": float("nan"),
                    "certificate": "0.90",
                    "masked": name in self.masks,
                    "mask": self.masks.get(name, ""),
                    "recipe": self.recipes[name],
                    "recipes": list(self.known),
                    "model": "line1",
                    "model_digest": "a" * 64,
                }
                for name in self._views
            },
        }

    def keeps_up(self, seconds: float) -> bool:
        return self.scores

    def live(self, camera: str) -> View | None:
        return self._views[camera]

    def wait_for(self, camera: str, after_sequence: int, timeout_s: float) -> View | None:
        self.asked += 1
        with self._news:
            self._news.wait_for(lambda: self._newer(camera, after_sequence), timeout_s)
            return self._views[camera] if self._newer(camera, after_sequence) else None

    def set_state(self, camera: str, state: str, who: str) -> None:
        self.states[camera] = state
        self.set_by.append((camera, state, who))

    def reload(self) -> None:
        self.reloads += 1

    def switch_recipe(self, camera: str, code: str) -> None:
        if code not in self.known:
            raise UsageError(f"camera {camera} has no recipe {code!r}; it has {', '.join(self.known)}")
        self.recipes[camera] = code

    def show(
        self,
        camera: str,
        score: float = 1.0,
        *,
        size: tuple[int, int] = (90, 160),
        hot: tuple[int, int] = (4, 8),
        image: np.ndarray | None = None,
        utc_s: float | None = None,
    ) -> View:
        """A new frame, unlike the one before unless an image is given, with a hot spot; of now unless a time is given."""
        with self._news:
            last = self._views[camera]
            sequence = 1 if last is None else last.sequence + 1
            if image is None:
                image = np.full((*size, 3), (sequence * 40) % 256, np.uint8)
            heatmap = np.ones((9, 16), np.float32)
            heatmap[hot] = 3.0
            view = View(image, heatmap, score, score, 1.5, score >= 1.5, utc_s or time.time(), sequence)
            self._views[camera] = view
            self._news.notify_all()
            return view

    def remove(self, camera: str) -> None:
        with self._news:
            del self._views[camera]
            self._news.notify_all()

    def _newer(self, camera: str, after: int) -> bool:
        view = self._views[camera]
        return view is not None and view.sequence > after


@dataclass(eq=False)
class Case:
    """A running server and what a test needs of it."""

    server: Server
    runner: SmallRunner
    store: Store
    models: list[Path]
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    def client(self, **headers: str) -> httpx.Client:
        """A browser that nobody has signed in with; it names its page, as browsers do."""
        client = httpx.Client(base_url=self.url, headers={"Origin": self.url, **headers}, timeout=20)
        self.clients.append(client)
        return client

    def account(self, role: str) -> str:
        """The name of an account with a role, made where there is none."""
        name = f"the-{role}"
        if self.server.door.accounts.named(name) is None:
            self.server.door.accounts.add(name, role, PASSWORD)
        return name

    def signed_in(self, role: str = "admin") -> httpx.Client:
        """A browser with a session of that role, that sends its CSRF token.

        The session is made without the password: proving it takes a tenth of a second each time.
        """
        client = self.client()
        account = self.server.door.accounts.named(self.account(role))
        assert account is not None
        identity = self.server.door.sessions.start(account, None)
        client.cookies.set("anomaly_session", identity)
        client.headers["X-CSRF-Token"] = csrf_of(identity)
        return client

    def token(self, role: str, *scopes: str) -> httpx.Client:
        """A program with a token; it sends neither cookie nor Origin."""
        _, text = self.server.door.accounts.add_token(self.account(role), "a program", role, scopes)
        client = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {text}"}, timeout=20)
        self.clients.append(client)
        return client

    def event(self, **fields: Any) -> StoredEvent:
        """An event in the store."""
        given = {
            "camera": "cam",
            "model": "a" * 64,
            "start_utc_s": 1000.0,
            "start_pts_s": 1.0,
            "score": 2.0,
            "threshold": 1.5,
            **fields,
        }
        return self.store.start_event(**given)


class SmallSinks:
    """A sink whose receiver has refused three messages."""

    def __init__(self) -> None:
        self.set_aside = 3

    def status(self) -> dict[str, dict[str, Any]]:
        return {
            "mes": {
                "connected": True,
                "draining": True,
                "last_error": "the receiver answered 422",
                "pending": 0,
                "sent": 12,
                "set_aside": self.set_aside,
                "expired": 0,
                "last_sent_utc_s": time.time(),
            }
        }

    def send_again(self, sink: str) -> int:
        if sink != "mes":
            raise KeyError(sink)
        count, self.set_aside = self.set_aside, 0
        return count


@contextmanager
def running(folder: Path, *, cameras: tuple[str, ...] = ("cam",), **settings: Any) -> Iterator[Case]:
    """A server over a new store."""
    with Store(folder / "store") as store, serving(store, cameras=cameras, **settings) as case:
        yield case


@contextmanager
def serving(store: Store, *, cameras: tuple[str, ...] = ("cam",), **settings: Any) -> Iterator[Case]:
    """A server over a store that is open."""
    runner = SmallRunner(cameras)
    models: list[Path] = []
    controls = Controls(SmallSinks(), runner.reload, lambda: models)
    server = serve(runner, store, ServeSettings(port=0, **settings), controls)
    server.start()
    case = Case(server, runner, store, models)
    try:
        yield case
    finally:
        for client in case.clients:
            client.close()
        server.stop()
