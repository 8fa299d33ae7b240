"""The outbox as one sink's thread sees it: what is next, what became of it, and when to look again."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from anomaly.edge import outbox
from anomaly.edge.notify.message import Message, summary_message
from anomaly.edge.store.database import transaction
from anomaly.errors import StoreError

if TYPE_CHECKING:
    from anomaly.edge.notify.message import Origin
    from anomaly.edge.notify.settings import Bounds

#: Told of a sink's trouble: its name, "expired" | "set aside" | "down" | "up", and plain values.
OnTrouble: TypeAlias = Callable[[str, str, Mapping[str, Any]], None]

_log = logging.getLogger(__name__)

#: Acknowledgements are written together: each write waits for the lock that a starting event needs too.
_FLUSH_S = 0.05
_FLUSH_ROWS = 100
#: After a message was announced, its transaction is about to be committed: looked for in such steps, for so long.
_SOON_S = 0.003
_EXPECTED_S = 0.5
#: Otherwise the table is looked at this often: another process may have written.
_LOOK_S = 0.25
#: Messages that could not be stored (a full disk) and are told all the same.
_MOST_IN_MEMORY = 1000


class _InMemory(NamedTuple):
    """A message that could not be stored, the row that was stored last before it, and when it came (monotonic)."""

    row: outbox.Row
    after_id: int
    came_s: float


class SinkQueue:
    """One sink's rows. `wake`, `expect`, `hand` and `stop` may be called by any thread, the rest by the sink's own.

    Attributes:
        last_error: why the last try failed; "" after one that went well.
        connected: whether the other side was reached at the last try; None before the first.
    """

    def __init__(
        self,
        sink: str,
        connect: Callable[[], sqlite3.Connection],
        bounds: Bounds,
        origin: Origin,
        *,
        on_trouble: OnTrouble,
        clock_offset_s: Callable[[], float | None],
        tend_every_s: float = 10.0,
    ) -> None:
        self.sink = sink
        self.origin = origin
        self.clock_offset_s = clock_offset_s
        self.last_error = ""
        self.connected: bool | None = None
        self._connect = connect
        self._bounds = bounds
        self._on_trouble = on_trouble
        self._tend_every_s = tend_every_s
        self._opened: sqlite3.Connection | None = None
        self._sent: dict[int, None] = {}
        self._flushed = time.monotonic()
        self._tended = time.monotonic()
        self._late = False
        self._refusing = False
        self._memory: deque[_InMemory] = deque()
        self._memory_id = 0
        self._memory_due = 0.0
        self._memory_lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._expected_until = 0.0
        self._held_until = 0.0

    # -- from any thread ------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has changed; look at once."""
        self._woken.set()

    def expect(self) -> None:
        """A row has been written in a transaction that is about to be committed."""
        self._expected_until = time.monotonic() + _EXPECTED_S
        self._woken.set()

    def hand(self, message: Message, utc_s: float) -> bool:
        """Tell a message that cannot be stored, in its camera's order; it is lost with the process.

        Returns:
            False where there are too many.
        """
        after_id = self._last_id()
        with self._memory_lock:
            if len(self._memory) >= _MOST_IN_MEMORY:
                return False
            self._memory_id -= 1
            row = outbox.Row(
                self._memory_id,
                message.camera,
                message.event_id,
                message.kind,
                message.id,
                message.body,
                utc_s,
                0,
            )
            self._memory.append(_InMemory(row, after_id, time.monotonic()))
        self.wake()
        return True

    def _last_id(self) -> int:
        # A disk that is full can be read. Where not even that goes, told out of turn is better than not told.
        try:
            with closing(self._connect()) as connection:
                return outbox.last_id(connection, self.sink)
        except (StoreError, sqlite3.Error):
            return 0

    def stop(self) -> None:
        """The sink's thread is to end."""
        self._stopping.set()
        self._woken.set()

    def stopping(self) -> bool:
        """Whether the sink's thread is to end."""
        return self._stopping.is_set()

    @property
    def late(self) -> bool:
        """Whether, when last looked at, the oldest message had waited too long."""
        return self._late

    # -- from the sink's own thread -------------------------------------------------------------------------

    @property
    def connection(self) -> sqlite3.Connection:
        """The thread's own connection. A mark lost in a power cut costs a message sent again, never one lost."""
        if self._opened is None:
            self._opened = self._connect()
            self._opened.execute("PRAGMA synchronous = NORMAL")
        return self._opened

    def close(self) -> None:
        """Write what is still to be written and let the database go."""
        if self._opened is not None:
            try:
                self.flush()
            finally:
                self._opened.close()
                self._opened = None

    @property
    def in_memory(self) -> bool:
        """Whether messages wait that could not be stored: stored ones that were passed over for them come later."""
        return bool(self._memory)

    def take(
        self,
        *,
        after_id: int = 0,
        limit: int = 50,
        without: Collection[int] = (),
        health: bool | None = None,
    ) -> list[outbox.Row]:
        """The next rows, those of each camera oldest first; none that was marked already, none in `without`.

        Args:
            after_id: only stored rows after this one.
            limit: so many at most.
            without: ids of rows that are on their way.
            health: only health messages, or none of them: each keep their own order then; None = all.
        """
        with self._memory_lock:
            memory = [one for one in self._memory if health is None or (one.row.kind == "health") is health]
        # What was stored after a message in memory waits for it, and that for what was stored before.
        upto: dict[str, int] = {}
        for row, last, _ in memory:
            upto.setdefault(row.camera, last)
        found: list[outbox.Row] = []
        if memory and time.monotonic() >= self._memory_due:
            found = [
                row for row, last, _ in memory if row.id not in without and not self._waits(row, last, health)
            ]
            found = found[:limit]
        room = limit - len(found)
        if room > 0:
            rows = outbox.pending(
                self.connection,
                self.sink,
                now_utc_s=time.time(),
                after_id=after_id,
                limit=room + len(self._sent) + len(without),
                upto=upto,
                health=health,
            )
            found += [row for row in rows if row.id not in self._sent and row.id not in without][:room]
        return found

    def _waits(self, row: outbox.Row, last_id: int, health: bool | None) -> bool:
        return outbox.waits(
            self.connection, self.sink, row.camera, last_id, without=self._sent, health=health
        )

    def sent(self, row_id: int) -> None:
        """The other side has taken this row over. Written down a little later, together with others."""
        self.well()
        self._refusing = False
        if row_id < 0:
            self._forget(row_id)
        else:
            self._sent[row_id] = None

    def refused(self, row: outbox.Row, reason: str) -> None:
        """The other side will not have this row, ever: it is set aside."""
        self.last_error = reason
        if row.id < 0:
            self._forget(row.id)
        else:
            with transaction(self.connection):
                outbox.set_aside(self.connection, self.sink, row.id, reason, time.time())
        # Told once, until something gets through again: telling it may itself be a message that is refused.
        if not self._refusing and row.kind != "health":
            self._refusing = True
            self._tell("set aside", {"message": row.message_id, "camera": row.camera, "reason": reason})

    def failed(self, row: outbox.Row, reason: str, delay_s: float) -> None:
        """A row did not get through; it and its camera wait."""
        self.last_error = reason
        if row.id < 0:
            self._memory_due = time.monotonic() + delay_s
        else:
            with transaction(self.connection):
                outbox.postpone(self.connection, row.id, reason, time.time() + delay_s)

    def unreachable(self, reason: str) -> None:
        """The other side could not be reached at all."""
        if self.connected is not False:
            _log.warning("sink %s: %s", self.sink, reason)
        self.connected, self.last_error = False, reason

    def well(self) -> None:
        """The other side was reached; what was put off meanwhile is due."""
        if self.connected is False:
            _log.info("sink %s: reached again", self.sink)
            with transaction(self.connection):
                outbox.hurry(self.connection, self.sink)
        self.connected, self.last_error = True, ""

    def flush(self) -> None:
        """Write down what was sent."""
        self._flushed = time.monotonic()
        if not self._sent:
            return
        marks = list(self._sent)
        with transaction(self.connection):
            outbox.mark_sent(self.connection, self.sink, marks, time.time())
        self._sent.clear()

    def turn(self) -> None:
        """What is to be done now and then; a sink calls it on every turn of its loop."""
        now = time.monotonic()
        if len(self._sent) >= _FLUSH_ROWS or now - self._flushed >= _FLUSH_S:
            self.flush()
        if now - self._tended >= self._tend_every_s:
            self.tend()

    def tend(self) -> None:
        """Let what waits grow older, give up on what is too old or too much, and say so."""
        now = time.monotonic()
        elapsed, self._tended = now - self._tended, now
        self.flush()
        connection, utc_s = self.connection, time.time()
        with transaction(connection):
            outbox.advance(connection, self.sink, elapsed)
            gone = outbox.expire(
                connection,
                self.sink,
                max_age_s=self._bounds.max_age_s,
                max_bytes=self._bounds.max_bytes,
                utc_s=utc_s,
            )
            if gone is not None:
                self._put_summary(gone, utc_s)
            outbox.prune(connection, self.sink)
        if gone is not None:
            self._tell("expired", {"count": gone.count, "cameras": dict(gone.cameras)})
        self._give_up_memory(now)
        waited = outbox.waiting_s(connection, self.sink)
        late = self._too_long(waited, now)
        if late != self._late:
            self._late = late
            self._tell("down" if late else "up", {"waited_s": waited, "reason": self.last_error})

    def draining(self) -> bool:
        """Whether no message has waited too long, as of now."""
        self.flush()
        waited, now = outbox.waiting_s(self.connection, self.sink), time.monotonic()
        return waited is None or not self._too_long(waited + now - self._tended, now)

    def hold(self, seconds: float) -> None:
        """Nothing is to be sent for so long, on purpose: what waits meanwhile is not late. Rests as `wait` does."""
        self._held_until = time.monotonic() + seconds
        self.wait(seconds)

    def _too_long(self, waited_s: float | None, now: float) -> bool:
        late_s = self._bounds.late_s
        return waited_s is not None and waited_s > late_s and now > self._held_until + late_s

    def wait(self, timeout_s: float = _LOOK_S) -> None:
        """Rest until woken, or until it is time to look again."""
        self.turn()
        soon = time.monotonic() < self._expected_until
        self._woken.wait(min(timeout_s, _SOON_S if soon else _LOOK_S))
        self._woken.clear()

    def pause(self, seconds: float) -> None:
        """Rest that long, unless stopped; the outbox is looked after meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.stopping():
            self.turn()
            self._stopping.wait(min(left, self._tend_every_s))

    def _forget(self, row_id: int) -> None:
        with self._memory_lock:
            self._memory = deque(one for one in self._memory if one.row.id != row_id)

    def _give_up_memory(self, now: float) -> None:
        """Messages in memory hold up what was stored after them; not for longer than those would be kept."""
        with self._memory_lock:
            cameras = Counter(
                one.row.camera for one in self._memory if now - one.came_s > self._bounds.max_age_s
            )
            self._memory = deque(one for one in self._memory if now - one.came_s <= self._bounds.max_age_s)
        if cameras:
            self._tell("expired", {"count": cameras.total(), "cameras": dict(cameras)})

    def _put_summary(self, gone: outbox.Expired, utc_s: float) -> None:
        cameras, first = dict(gone.cameras), gone.first_utc_s
        # Also one that was refused: a receiver that refuses all would have one for each time, without end.
        for earlier in outbox.withdraw_summaries(self.connection, self.sink):
            for camera, count in json.loads(earlier.body)["cameras"].items():
                cameras[camera] = cameras.get(camera, 0) + count
            # The first time stands in the row's own time: summaries are written with it.
            first = min(first, earlier.created_utc_s)
        message = summary_message(
            self.origin,
            "expired",
            cameras,
            first,
            gone.last_utc_s,
            utc_s=utc_s,
            clock_offset_s=self.clock_offset_s(),
        )
        outbox.put(
            self.connection,
            self.sink,
            camera=message.camera,
            event_id=None,
            kind=message.kind,
            message_id=message.id,
            body=message.body,
            utc_s=first,
        )

    def _tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        _log.warning("sink %s: %s %s", self.sink, kind, dict(detail))
        try:
            self._on_trouble(self.sink, kind, detail)
        except Exception:
            _log.exception("sink %s: nobody could be told that it is %s", self.sink, kind)
