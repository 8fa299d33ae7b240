"""Messages that an MQTT broker could not take for now: when those of their camera go out again, and which are given up on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomaly.edge.notify.mqtt_session import MqttSession
    from anomaly.edge.notify.queue import SinkQueue
    from anomaly.edge.notify.settings import Backoff
    from anomaly.edge.outbox import Row

#: A message that the broker could not take for now and then again so often, though it took one that went out later
#: meanwhile, is set aside.
_MOST_STRIKES = 8
#: Where a broker takes none of a camera's first messages for now, each try goes so much further, up to so far: those
#: behind them may be taken.
_FURTHER = 20
_FURTHEST = 200
#: Of so many messages of a camera it is known how often they were not taken.
_MOST_TRIED = 1000


@dataclass
class _Tries:
    """Of a message that the broker could not take for now.

    Attributes:
        row_id: of it.
        sent_s: when it went out last, monotonic.
        tries: so far.
        strikes: how many of them came after the broker had taken one that went out later than the try before; anew
            where one was taken that its camera had before it, for then the queue moves on, if slowly.
    """

    row_id: int
    sent_s: float
    tries: int = 0
    strikes: int = 0


@dataclass
class _Trial:
    """One try of a camera's messages, of which the broker did not take some for now.

    Attributes:
        since_s: when the first of them went out, monotonic.
        number: of tries of the one that was tried most.
        last: the last of them, and why.
        rows: ids of those that it did not take.
    """

    since_s: float
    number: int
    last: tuple[Row, str]
    rows: set[int] = field(default_factory=set)


class MqttTries:
    """What one broker could not take, over all connections to it.

    Args:
        backoff: how long a camera's messages wait until their next try.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        #: Of cameras of which the broker did not take a message for now: this try.
        self._trials: dict[str, _Trial] = {}
        #: Messages that it could not take for now, by camera and id; and when the last one that it took went out, monotonic.
        self._tries: dict[str, dict[str, _Tries]] = {}
        self._took_s = 0.0

    def begin(self) -> None:
        """A new connection: nothing is on its way."""
        self._trials.clear()

    def taken(self, row: Row, since_s: float) -> None:
        """The broker took a message that went out then (monotonic)."""
        self._took_s = max(self._took_s, since_s)
        failing = self._tries.get(row.camera, {})
        failing.pop(row.message_id, None)
        for tried in failing.values():
            # Those of messages in memory count downwards.
            if abs(tried.row_id) > abs(row.id):
                tried.strikes = 0

    def not_taken(self, queue: SinkQueue, row: Row, since_s: float, reason: str) -> None:
        """The broker could not take a message for now: its camera waits, for those behind it are not to pass it.

        Where that never changes it must not block them. Where none is taken, it may be the broker.
        """
        failing = self._tries.setdefault(row.camera, {})
        tried = failing.pop(row.message_id, None) or _Tries(row.id, since_s)
        tried.tries += 1
        tried.strikes += self._took_s > tried.sent_s
        tried.sent_s = since_s
        if tried.strikes >= _MOST_STRIKES:
            queue.refused(row, f"{reason}, again and again, though it took others")
            return
        failing[row.message_id] = tried
        if len(failing) > _MOST_TRIED:
            del failing[next(iter(failing))]
        trial = self._trials.setdefault(row.camera, _Trial(since_s, tried.tries, (row, reason)))
        trial.number = max(trial.number, tried.tries)
        trial.last = row, reason
        trial.rows.add(row.id)

    def take(self, queue: SinkQueue, session: MqttSession, room: int) -> list[Row]:
        """What goes out now; behind what the broker did not take of a camera, too, where it took nothing since."""
        flying = session.cameras
        for camera, trial in self._trials.items():
            if camera not in flying and self._goes_further(trial):
                queue.failed(*trial.last, 0.0)
            else:
                # Also where the wait would be over before the last answer: with one on its way at any time, no try would end.
                self._put_off(queue, trial)
        without = session.rows.union(*(trial.rows for trial in self._trials.values()))
        return queue.take(limit=room, without=without)

    def end(self, queue: SinkQueue, session: MqttSession) -> None:
        """Cameras of which nothing more went out wait for their next try."""
        flying = session.cameras
        for camera in self._trials.keys() - flying:
            self._put_off(queue, self._trials.pop(camera))

    def _put_off(self, queue: SinkQueue, trial: _Trial) -> None:
        # By what was tried most: with each new message that is not taken either, the wait would begin anew.
        queue.failed(*trial.last, self._backoff.delay_s(trial.number))

    def _goes_further(self, trial: _Trial) -> bool:
        return self._took_s < trial.since_s and len(trial.rows) < min(_FURTHER * trial.number, _FURTHEST)
