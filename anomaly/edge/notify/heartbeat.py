"""Silence is an alarm: a sign of life goes on only while frames are scored and messages get through."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from anomaly.edge.notify.message import Message, heartbeat_message

if TYPE_CHECKING:
    from anomaly.edge.notify.queue import SinkQueue

_log = logging.getLogger(__name__)


class Heartbeat:
    """When one sink is to send a sign of life.

    Args:
        every_s: seconds between two.
        scored_since: whether every camera that should be scored has been, within so many seconds. One that fails
            counts as no.
        sinks: of each sink, whether its queue drains; told in the heartbeat, so that one channel reports another.
    """

    def __init__(
        self, every_s: float, scored_since: Callable[[float], bool], sinks: Callable[[], Mapping[str, bool]]
    ) -> None:
        self.every_s = every_s
        self._scored_since = scored_since
        self._sinks = sinks
        self._next = 0.0
        self._silent = False

    def due_in_s(self) -> float:
        """Seconds until the next one may be sent; 0 = now."""
        return max(0.0, self._next - time.monotonic())

    def beat(self, queue: SinkQueue) -> Message | None:
        """The message to send, or None: it is too early, nothing is scored, or the queue does not drain."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self.every_s
        reason = self._why_silent(queue)
        if bool(reason) != self._silent:
            self._silent = bool(reason)
            _log.warning("sink %s: heartbeat %s %s", queue.sink, "stops:" if reason else "goes on", reason)
        if reason:
            return None
        return heartbeat_message(
            queue.origin,
            self._sinks(),
            every_s=self.every_s,
            utc_s=time.time(),
            clock_offset_s=queue.clock_offset_s(),
        )

    def _why_silent(self, queue: SinkQueue) -> str:
        try:
            if not self._scored_since(self.every_s):
                return f"no frame was scored for {self.every_s:g} s"
        except Exception as error:
            return f"whether frames are scored cannot be told ({error})"
        return "" if queue.draining() else "messages wait too long"
