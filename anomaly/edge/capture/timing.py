"""From a camera's timestamps to one time that only grows.

Ticks are counted at 90 kHz from the moment the capture started. Each connection is placed where its first packet
arrived, so that durations hold over pauses; within one, the camera's own steps are kept. Counters of 32 and 33 bits
run over in half a day and a day; a jump that is no such overflow is bridged by the time that really passed. Where a
stream's time stands still, as of a camera that gives all frames one timestamp, frames are placed where they arrive.
One that runs at another rate than the real one is kept, and told.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

RATE = 90_000
TIME_BASE = Fraction(1, RATE)
# Packets of frames shown later come before; no camera reorders over more than this.
_REORDERED = 2 * RATE
# A step may be ahead of the arrival by what a camera or a network had held back.
_AHEAD = 10 * RATE
# A time that gains less than this part of what passes, over so long, stands still. Of a silence only so much counts:
# what a network holds back comes with times that lie close together.
_LEAST_GAIN = 0.1
_STANDS_AFTER = 4 * RATE
_OF_A_SILENCE = RATE // 2
# A time that gains over a tenth more or less than what passes, minute after minute, runs wrong, and so do all durations.
# One such minute is a network that held something back; then this is told so often.
_WRONG_BY = 0.1
_MINUTE = 60 * RATE
_WRONG_MINUTES = 3
_TOLD_EVERY_MINUTES = 60
_WRAP_BITS = (32, 33)


#: Told once a connection, when its frames are placed by arrival from then on.
STANDS_STILL = "the stream's time stands still; it goes on by the time of arrival"


@dataclass(frozen=True, slots=True)
class Placed:
    """Times of one packet, in ticks.

    Attributes:
        pts: when it is shown.
        dts: when it is decoded; None where the stream did not say.
        note: what was odd, in one line.
    """

    pts: int
    dts: int | None
    note: str | None = None


class _Rate:
    """Notices where a stream's time runs faster or slower than what passes, for minutes on end."""

    def __init__(self) -> None:
        self._from: tuple[int, int] | None = None
        # Minutes in a row in which it ran too fast (above 0) or too slow (below).
        self._wrong = 0

    def begin_anew(self) -> None:
        """The time was set: what it gained until now says nothing."""
        self._from = None

    def watch(self, at: int, arrival: int) -> str | None:
        """Look at a packet's time and that of its arrival; a line where it is time to say something."""
        if self._from is None:
            self._from = at, arrival
        passed = arrival - self._from[1]
        if passed < _MINUTE:
            return None
        rate = (at - self._from[0]) / passed
        self._from = at, arrival
        if abs(rate - 1.0) <= _WRONG_BY:
            self._wrong = 0
            return None
        way = 1 if rate > 1.0 else -1
        self._wrong = self._wrong + way if self._wrong * way > 0 else way
        if abs(self._wrong) % _TOLD_EVERY_MINUTES != _WRONG_MINUTES:
            return None
        return f"the stream's time runs at {rate:.2f} of the real one, and so does every duration"


class StreamTime:
    """Places the packets of one connection.

    Args:
        base: seconds to one unit of the stream's timestamps.
        period: ticks from frame to frame, where a packet has no timestamp.
        after: the first packet comes later than this tick.
        from_zero: a first packet without a timestamp has time 0 (libav's RTP), not one unknown.
    """

    def __init__(self, base: Fraction, period: int, after: int = 0, *, from_zero: bool = False) -> None:
        self._scale = base * RATE
        self._wraps = [round((1 << bits) * self._scale) for bits in _WRAP_BITS]
        self._period = period
        self._after = after
        self._from_zero = from_zero
        self._offset = 0
        self._last: int | None = None
        self._last_arrival = 0
        # Since when it is watched whether time goes on: where it stood, and what has passed.
        self._watched_from = 0
        self._watched = 0
        self._rate = _Rate()
        # From arrival to the stream's time, where that stands still.
        self._ahead: int | None = None

    def place(self, dts: int | None, pts: int | None, arrival: int) -> Placed:
        """Times of the next packet.

        Args:
            dts, pts: the packet's own, in the stream's units.
            arrival: ticks from the start of the capture to now.
        """
        if self._ahead is not None and self._last is not None:
            self._last = max(self._last + 1, arrival + self._ahead)
            return Placed(self._last, None)
        raw_pts = None if pts is None else round(pts * self._scale)
        raw = raw_pts if dts is None else round(dts * self._scale)
        note = None
        if self._last is None:
            raw = (raw or 0) if self._from_zero or raw is not None else 0
            self._offset = max(arrival, self._after + 1) - raw
        elif raw is None:
            raw = self._last + self._period - self._offset
        else:
            note = self._continue(raw, arrival, self._last)
        at = raw + self._offset
        if note is not None:
            self._rate.begin_anew()
        note = self._watch(at, arrival) or note or self._rate.watch(at, arrival)
        self._last = at if self._last is None else max(self._last, at)
        self._last_arrival = arrival
        return Placed(at if raw_pts is None else self._shown(raw_pts, at), None if dts is None else at, note)

    def _watch(self, at: int, arrival: int) -> str | None:
        """Notice where the stream's time stands still while frames come."""
        if self._last is None:
            self._watched_from = at
            return None
        self._watched += min(max(arrival - self._last_arrival, 0), _OF_A_SILENCE)
        if self._watched < _STANDS_AFTER:
            return None
        gained, passed = max(self._last, at) - self._watched_from, self._watched
        self._watched_from, self._watched = max(self._last, at), 0
        if gained >= _LEAST_GAIN * passed:
            return None
        self._ahead = self._last - arrival
        return STANDS_STILL

    def _continue(self, raw: int, arrival: int, last: int) -> str | None:
        """Set the offset so that `raw` goes on from the packet before."""
        step = raw + self._offset - last
        passed = max(arrival - self._last_arrival, 0)
        if -_REORDERED <= step <= passed + _AHEAD:
            return None
        for wrap in self._wraps:
            for turn in (wrap, -wrap):
                if -_REORDERED <= step + turn <= passed + _AHEAD:
                    self._offset += turn
                    return None
        self._offset += max(passed, self._period) - step
        return f"the stream's time jumped by {step / RATE:+.3f} s; it goes on by the time of arrival"

    def _shown(self, raw_pts: int, at: int) -> int:
        """When a packet is shown that is decoded at `at`; never far from it."""
        pts = raw_pts + self._offset
        for turn in (0, *self._wraps, *(-wrap for wrap in self._wraps)):
            if -RATE // 2 <= pts + turn - at <= 2 * _AHEAD:
                return pts + turn
        return at
