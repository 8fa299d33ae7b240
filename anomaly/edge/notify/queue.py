"""The outbox as one sink's thread sees it: what is next, what became of it, and when to look again."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from anomaly.edge import outbox
from anomaly.edge.notify.memory import Memory
from anomaly.edge.notify.message import Message, summary_message
from anomaly.edge.store.database import transaction
from anomaly.errors import StoreError

if TYPE_CHECKING:
    from anomaly.edge.notify.message import Origin
    from anomaly.edge.notify.settings import Bounds

#: Told of a sink's trouble: its name, "expired" | "set aside" | "down" | "up", and plain values.
OnTrouble: TypeAlias = Callable[[str, str, Mapping[str, Any]], None]
#: What is to be written down, in a transaction.
Write: TypeAlias = Callable[[sqlite3.Connection], object]

_Found = TypeVar("_Found")
_log = logging.getLogger(__name__)

#: What a store raises that cannot be opened, read or written.
_STORE_ERRORS = (sqlite3.Error, StoreError)
#: Acknowledgements are written together: each write waits for the lock that a starting event needs too.
_FLUSH_S = 0.05
_FLUSH_ROWS = 100
#: After a message was announced, its transaction is about to be committed: looked for in such steps, for so long.
_SOON_S = 0.003
_EXPECTED_S = 0.5
#: Otherwise the table is looked at this often: another process may have written.
_LOOK_S = 0.25
#: A connection that broke off so often within this is in trouble, though each message gets its turn. A broker that
#: acknowledges nothing is left every twenty seconds or so.
_BREAKS = 4
_BREAKS_S = 120.0
#: After a store that could not be written, so long until the next try: each may wait long for a lock.
_WRITE_AGAIN_S = 10.0
#: No exchange keeps a sink's thread from looking after its queue for so long.
_UNTENDED_S = 120.0
_UNREADABLE = "the store cannot be read; only what could not be stored is told"
#: A store that cannot be read is said so seldom, in seconds.
_SAY_AGAIN_S = 60.0


class SinkQueue:
    """One sink's rows. `wake`, `expect`, `hand` and `stop` may be called by any thread, the rest by the sink's own.

    While the store takes nothing (a full disk, another process that holds it), messages go out all the same: what became
    of them is known here, and written down as soon as it can be. Where it cannot even be read (it is damaged), those in
    memory go out.

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
        #: What is still to be written, in this order, and rows that are done with though the table says that they wait.
        self._writes: list[Write] = []
        self._done: set[int] = set()
        self._write_again_s = 0.0
        self._say_again_s = 0.0
        #: Cameras after a failure: when their next try is due (monotonic), and why the last one failed.
        self._put_off: dict[str, tuple[float, str]] = {}
        self._flushed = time.monotonic()
        #: Until when what waits has grown older, and when that is looked at again.
        self._tended = time.monotonic()
        self._tend_at = self._tended + tend_every_s
        self._late = False
        #: When connections that stood broke off, what may be behind it, whether they keep doing so, and whether that or another
        #: trouble was told.
        self._breaks: deque[float] = deque(maxlen=_BREAKS)
        self._broken = ""
        self._breaking, self._ill = False, False
        self._refusing = False
        self._memory = Memory()
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
        kept = self._memory.add(message, self._last_id(), utc_s)
        self.wake()
        return kept

    def _last_id(self) -> int:
        # A disk that is full can be read. Where not even that goes, told out of turn is better than not told.
        try:
            with closing(self._connect()) as connection:
                return outbox.last_id(connection, self.sink)
        except _STORE_ERRORS:
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
        """Whether, when last looked at, the oldest message had waited too long; or nobody has looked for as long."""
        return self._late or time.monotonic() > self._tend_at + max(self._bounds.late_s, _UNTENDED_S)

    @property
    def behind_s(self) -> float:
        """For how many seconds, by which what waits has become older, the outbox has not been told so: it may not be writable."""
        return time.monotonic() - self._tended

    @property
    def in_memory(self) -> int:
        """Messages that could not be stored and wait: stored ones that were passed over for them come later."""
        return len(self._memory)

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
                self._write_again_s = 0.0
                if not self.flush():
                    _log.error("sink %s: what was sent last could not be noted", self.sink)
            finally:
                self._opened.close()
                self._opened = None

    def read(self, ask: Callable[[sqlite3.Connection], _Found]) -> _Found | None:
        """What the store says; None where it cannot be read."""
        try:
            return ask(self.connection)
        except _STORE_ERRORS as error:
            if time.monotonic() >= self._say_again_s:
                self._say_again_s = time.monotonic() + _SAY_AGAIN_S
                _log.error("sink %s: %s (%s)", self.sink, _UNREADABLE, error)
            return None

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
        now = time.monotonic()
        # None of a camera that is put off.
        upto = {camera: 0 for camera, (due_s, _) in self._put_off.items() if now < due_s}
        held = self._memory.held(health)
        waiting = [one for one in held if one.row.camera not in upto and one.row.id not in without]
        # What was stored after a message in memory waits for it, and that for what was stored before.
        for row, last_id, _ in held:
            upto.setdefault(row.camera, last_id)

        def ask(connection: sqlite3.Connection) -> list[outbox.Row]:
            firsts = {
                camera: outbox.first_id(connection, self.sink, camera, without=self._done, health=health)
                for camera in {one.row.camera for one in waiting}
            }
            found = [
                row for row, last_id, _ in waiting if not (first := firsts[row.camera]) or first > last_id
            ]
            room = limit - len(found)
            if room > 0:
                found += self._stored(connection, room, without, after_id=after_id, upto=upto, health=health)
            return found[:limit]

        # Where not even that can be read, told out of turn is better than not told.
        found = self.read(ask)
        return [one.row for one in waiting[:limit]] if found is None else found

    def _stored(
        self, connection: sqlite3.Connection, limit: int, without: Collection[int], **where: Any
    ) -> list[outbox.Row]:
        while True:
            rows = outbox.pending(
                connection, self.sink, limit=limit + len(self._done) + len(without), **where
            )
            rows = [row for row in rows if row.id not in self._done]
            # Stored at last, after it had been told from memory.
            again = [row for row in rows if self._memory.took(row.message_id)]
            if not again:
                return [row for row in rows if row.id not in without][:limit]
            for row in again:
                self._note_sent(row.id)

    def sent(self, row_id: int) -> None:
        """The other side has taken this row over. Written down a little later, together with others."""
        self._refusing = False
        if row_id < 0:
            self._memory.done(row_id, taken=True)
        else:
            self._note_sent(row_id)
        self.well()

    def _note_sent(self, row_id: int) -> None:
        utc_s = time.time()
        self._done.add(row_id)
        self._writes.append(lambda connection: outbox.mark_sent(connection, self.sink, row_id, utc_s))

    def refused(self, row: outbox.Row, reason: str) -> None:
        """The other side will not have this row, ever: it is set aside."""
        self.last_error = reason
        if row.id < 0:
            self._memory.done(row.id, taken=False)
        else:
            utc_s = time.time()
            self._done.add(row.id)
            self.note(lambda connection: outbox.set_aside(connection, self.sink, row.id, reason, utc_s))
        # Told once, until something gets through again: telling it may itself be a message that is refused.
        if not self._refusing and row.kind != "health":
            self._refusing = True
            self._tell("set aside", {"message": row.message_id, "camera": row.camera, "reason": reason})

    def failed(self, row: outbox.Row, reason: str, delay_s: float) -> None:
        """A row did not get through; its camera waits so long. By the monotonic clock, whatever the other one does."""
        self.last_error = reason
        self._put_off[row.camera] = time.monotonic() + delay_s, reason

    def unreachable(self, reason: str) -> None:
        """The other side could not be reached at all."""
        if self.connected is not False:
            _log.warning("sink %s: %s", self.sink, reason)
        self.connected, self.last_error = False, reason

    def broke(self, why: str) -> None:
        """A connection that stood has broken off; `why` is told where that comes again and again."""
        self._breaks.append(time.monotonic())
        self._broken = why

    def well(self) -> None:
        """The other side was reached; what was put off meanwhile is due."""
        back, self.connected, self.last_error = self.connected is False, True, ""
        if back:
            _log.info("sink %s: reached again", self.sink)
            self._put_off.clear()

    def note(self, write: Write) -> None:
        """Write something down, behind what waits to be; now or, where the store takes nothing, as soon as it does."""
        self._writes.append(write)
        self.flush()

    def flush(self) -> bool:
        """Write down what became of messages, and what else is to be; False where the store takes nothing now."""
        now = self._flushed = time.monotonic()
        if not self._writes:
            return True
        if now < self._write_again_s:
            return False
        try:
            with transaction(self.connection) as connection:
                for write in self._writes:
                    write(connection)
        except _STORE_ERRORS as error:
            self._not_written(error)
            return False
        self._writes.clear()
        self._done.clear()
        return True

    def _not_written(self, error: Exception) -> None:
        self._write_again_s = time.monotonic() + _WRITE_AGAIN_S
        _log.warning("sink %s: the store takes nothing (%s); messages go on", self.sink, error)

    def turn(self) -> None:
        """What is to be done now and then; a sink calls it on every turn of its loop."""
        now = time.monotonic()
        if len(self._writes) >= _FLUSH_ROWS or now - self._flushed >= _FLUSH_S:
            self.flush()
        if now >= self._tend_at:
            self.tend()

    def tend(self) -> None:
        """Let what waits grow older, give up on what is too old or too much, and say so."""
        now = time.monotonic()
        self._tend_at = now + self._tend_every_s
        if self.flush() and now >= self._write_again_s and (gone := self._expire(now)) is not None:
            self._tell("expired", {"count": gone.count, "cameras": dict(gone.cameras)})
        # Messages in memory hold up what was stored after them; not for longer than those would be kept.
        if cameras := self._memory.give_up(self._bounds.max_age_s):
            self._tell("expired", {"count": sum(cameras.values()), "cameras": dict(cameras)})
        try:
            waited, unread = self._waited_s(now), ""
        except _STORE_ERRORS as error:
            waited, unread = None, f"{_UNREADABLE} ({error})"
        self._late = bool(unread) or self._too_long(waited, now)
        ill = self._late or self._breaks_off(now)
        if ill != self._ill:
            self._ill = ill
            breaks = ill and not self._late
            reason = self._broken if breaks else unread or self.last_error or self._failing(now)
            self._tell("down" if ill else "up", {"waited_s": waited, "reason": reason, "breaks": breaks})

    def _failing(self, now: float) -> str:
        """Why a camera's message was not taken lately, though others get through; "" where none was refused."""
        late_s = self._bounds.late_s
        return next((reason for due_s, reason in self._put_off.values() if now - due_s < late_s), "")

    def _breaks_off(self, now: float) -> bool:
        """Whether connections keep breaking off; over once one has stood for as long as is looked back."""
        if not self._breaks or now - self._breaks[-1] > _BREAKS_S:
            self._breaking = False
        elif len(self._breaks) == _BREAKS and now - self._breaks[0] < _BREAKS_S:
            self._breaking = True
        return self._breaking

    def _expire(self, now: float) -> outbox.Expired | None:
        """Let what waits grow older by the time that has passed, and give up on what is too old or too much."""
        utc_s, before = time.time(), self._tended
        try:
            with transaction(self.connection) as connection:
                outbox.advance(connection, self.sink, now - before)
                # While nobody else can write: who does, adds what has passed since.
                self._tended = now
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
        except _STORE_ERRORS as error:
            self._tended = before
            self._not_written(error)
            return None
        return gone

    def _waited_s(self, now: float) -> float | None:
        """How long the oldest message that is not done with has waited, stored or not, as of now; None where none waits."""
        stored = outbox.waiting_s(self.connection, self.sink, without=self._done)
        waits = [] if stored is None else [stored + now - self._tended]
        waits += [now - one.came_s for one in self._memory.held()]
        return max(waits, default=None)

    def draining(self) -> bool:
        """Whether no message has waited too long, as of now; nobody knows where the store cannot be read."""
        self.flush()
        now = time.monotonic()
        try:
            return not self._too_long(self._waited_s(now), now)
        except _STORE_ERRORS:
            return False

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
