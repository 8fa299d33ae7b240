"""Messages of one sink that the store could not take: they go out from memory, and are lost with the process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from anomaly.edge.outbox import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomaly.edge.notify.message import Message

#: So many messages at most.
_MOST = 1000
#: Of so many that were taken it is known: what is stored later is not to be told again.
_MOST_TAKEN = 10_000


class Held(NamedTuple):
    """A message, the row that was stored last before it, and when it came (monotonic)."""

    row: Row
    after_id: int
    came_s: float


class Memory:
    """In the order in which they came; for any thread."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._taken: dict[str, None] = {}
        self._last_id = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, message: Message, after_id: int, utc_s: float) -> bool:
        """Keep a message that came at this time (POSIX seconds), behind this stored row; False where there are too many."""
        with self._lock:
            if len(self._held) >= _MOST:
                return False
            # Below 0, apart from those of stored rows.
            self._last_id -= 1
            row = Row(
                self._last_id,
                message.camera,
                message.event_id,
                message.kind,
                message.id,
                message.body,
                utc_s,
            )
            self._held[row.id] = Held(row, after_id, time.monotonic())
        return True

    def held(self, health: bool | None = None) -> list[Held]:
        """Those that wait, oldest first; only of health, or none of it; None = all."""
        with self._lock:
            return [
                one for one in self._held.values() if health is None or (one.row.kind == "health") is health
            ]

    def done(self, row_id: int, *, taken: bool) -> None:
        """A message waits no longer, `taken` over by the other side or not."""
        with self._lock:
            one = self._held.pop(row_id, None)
            if one is not None and taken:
                self._taken[one.row.message_id] = None
                if len(self._taken) > _MOST_TAKEN:
                    del self._taken[next(iter(self._taken))]

    def took(self, message_id: str) -> bool:
        """Whether the other side took this message over from here."""
        return message_id in self._taken

    def give_up(self, max_age_s: float) -> Mapping[str, int]:
        """Let go of what has waited longer; how many of each camera."""
        oldest_s = time.monotonic() - max_age_s
        with self._lock:
            gone = [one for one in self._held.values() if one.came_s < oldest_s]
            for one in gone:
                del self._held[one.row.id]
        return Counter(one.row.camera for one in gone)
