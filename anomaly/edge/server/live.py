"""Live pictures for many watchers: each frame is made ready once, and a slow watcher misses frames, not others.

One thread a watched camera waits for the runner's frames; it lives while somebody watches. Watchers get the
newest picture there is when they are ready for one, so nothing queues up anywhere.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from anomaly.edge.server.picture import Picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anomaly.edge.server.picture import LiveView
    from anomaly.edge.server.settings import ServeSettings

#: A watcher is woken at least so often, so that it can look whether it may still watch.
WAKE_S = 2.0


class Runner(Protocol):
    """What the server needs of the runner."""

    def status(self) -> dict[str, Any]:
        """State of everything as plain values; `cameras` holds a dict a camera."""

    def keeps_up(self, seconds: float) -> bool:
        """Whether each camera that is there and should be looked at had a frame scored within so many seconds."""

    def live(self, camera: str) -> LiveView | None:
        """The last scored frame of a camera."""

    def wait_for(self, camera: str, after_sequence: int, timeout_s: float) -> LiveView | None:
        """The next one after that; None if none came in time."""

    def set_state(self, camera: str, state: str, who: str) -> None:
        """Set a camera's state."""

    def switch_recipe(self, camera: str, code: str) -> None:
        """Look at a camera with the model of another recipe; raises UsageError where it has no such recipe."""


@dataclass(eq=False)
class _Watcher:
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class _Channel:
    """One watched camera: the thread that makes its pictures, and who waits for them."""

    def __init__(self, camera: str, runner: Runner, settings: ServeSettings) -> None:
        self.newest: Picture | None = None
        self.watchers: set[_Watcher] = set()
        self._camera = camera
        self._runner = runner
        self._width = settings.live_width
        self._least_s = 1.0 / settings.live_fps
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"live {camera}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def stop(self) -> None:
        self._over.set()
        self._wake()

    def _run(self) -> None:
        after = -1
        while not self._over.is_set():
            began = time.monotonic()
            try:
                view = self._runner.wait_for(self._camera, after, 0.5)
            except KeyError:
                # The camera was taken away; its watchers leave when they next look.
                view = None
            if view is not None and view.sequence > after:
                after = view.sequence
                picture = Picture(self._camera, view, self._width)
                picture.jpeg("picture")
                self.newest = picture
                self._wake()
            # A runner that answers at once must not make this a busy loop.
            self._over.wait(max(0.0, began + self._least_s - time.monotonic()))

    def _wake(self) -> None:
        for watcher in tuple(self.watchers):
            try:
                watcher.loop.call_soon_threadsafe(watcher.woken.set)
            except RuntimeError:
                # The server's loop has closed while this thread had not yet seen it.
                self._over.set()


class TooManyStreams(Exception):
    """As many live streams are open as may be, in all or by one account."""


class Broadcast:
    """Live streams of all cameras.

    Args:
        runner: where the frames come from.
        settings: width, rate and number of the streams.
    """

    def __init__(self, runner: Runner, settings: ServeSettings) -> None:
        self._runner = runner
        self._settings = settings
        self._lock = threading.Lock()
        self._channels: dict[str, _Channel] = {}
        self._open: Counter[str] = Counter()

    def picture(self, camera: str) -> Picture | None:
        """The newest frame of a camera, or None where none has been scored yet."""
        try:
            view = self._runner.live(camera)
        except KeyError:
            # Taken away since somebody asked whether it is there.
            return None
        return None if view is None else Picture(camera, view, self._settings.live_width)

    @asynccontextmanager
    async def watching(self, camera: str, account: str) -> AsyncIterator[AsyncIterator[Picture | None]]:
        """Pictures of a camera as they come, each newer than the last; None where none came for `WAKE_S`.

        They end when the server stops.

        Raises:
            TooManyStreams: `max_streams` are open, or half of them by this account alone.
        """
        watcher = _Watcher(asyncio.get_running_loop())
        channel = self._join(camera, account, watcher)
        try:
            yield _pictures(channel, watcher)
        finally:
            self._leave(camera, account, channel, watcher)

    def close(self) -> None:
        """End all threads; watchers get nothing more."""
        with self._lock:
            for channel in self._channels.values():
                channel.stop()
            self._channels.clear()

    def _join(self, camera: str, account: str, watcher: _Watcher) -> _Channel:
        most = self._settings.max_streams
        with self._lock:
            # One account cannot take the live view from all others.
            if self._open.total() >= most or self._open[account] >= max(1, most // 2):
                raise TooManyStreams
            self._open[account] += 1
            channel = self._channels.get(camera)
            if channel is None:
                channel = self._channels[camera] = _Channel(camera, self._runner, self._settings)
                channel.start()
            channel.watchers.add(watcher)
            return channel

    def _leave(self, camera: str, account: str, channel: _Channel, watcher: _Watcher) -> None:
        with self._lock:
            self._open[account] -= 1
            self._open += Counter()  # forgets accounts that watch nothing
            channel.watchers.discard(watcher)
            if not channel.watchers:
                channel.stop()
                if self._channels.get(camera) is channel:
                    del self._channels[camera]


async def _pictures(channel: _Channel, watcher: _Watcher) -> AsyncIterator[Picture | None]:
    sent = -1
    while not channel.over:
        picture = channel.newest
        if picture is not None and picture.sequence > sent:
            sent = picture.sequence
            yield picture
            continue
        watcher.woken.clear()
        try:
            await asyncio.wait_for(watcher.woken.wait(), WAKE_S)
        except TimeoutError:
            yield None
