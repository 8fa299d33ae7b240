"""Time that was not looked at: what of it is told, and what it takes from the certified recall."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from anomaly.errors import UsageError

#: A gap is told when it is longer than so many sampling intervals.
_SLACK = 1.5
#: A gap up to so many intervals is the calibrated one, with a network's jitter.
_JITTER = 1.1
#: Sampling interval where none is known.
_UNKNOWN_INTERVAL_S = 1.0
#: A gap that goes on is told in parts of at least this length, so that a crash loses little of it.
_PART_S = 60.0
#: The share is that of the day so far and of the day before.
_DAY_NS = 86_400 * 1_000_000_000
#: Lengths of gaps are counted in classes that grow by this factor from the shortest on: months in little memory.
_SHORTEST_S, _GROWTH = 0.001, 1.002


@dataclass(frozen=True, slots=True)
class Gap:
    """Time in which nothing could be scored ("blind") or was to be announced ("state"), POSIX seconds."""

    start_utc_s: float
    end_utc_s: float
    reason: str


@dataclass(slots=True)
class _Day:
    """A day of a camera, counted from when it began: how long it is, and what of that was to be looked at (ns).

    Attributes:
        classes: of finished gaps, by class of length: how many, and seconds in all.
    """

    since_utc_s: float
    passed_ns: int = 0
    monitored_ns: int = 0
    classes: dict[int, tuple[int, float]] = field(default_factory=dict)


class Coverage:
    """What of a camera's time was looked at, over one to two days.

    Lengths are measured by the monotonic clock; a gap's end is its start plus its length, so that a clock that is
    set makes no gap longer or shorter.

    Args:
        interval_s: the calibrated sampling interval; None = unknown, a second is taken. May be set anew.
        kept: as `kept` gave it in an earlier run, or None. The time since then, a day at most, was not looked at; it
            was to be, unless the camera is not to be looked at both then and now.
    """

    def __init__(self, interval_s: float | None, kept: str | None = None) -> None:
        self.interval_s = interval_s
        self._monitored = True
        self._before = None if kept is None else json.loads(kept)
        self._days: list[_Day] = []
        self._now_ns: int | None = None
        # When it began to be monitored, or ceased to be.
        self._turned_ns = 0
        # Of what goes on now: the time since the last scored frame, or since the state was left.
        self._since_ns = 0
        self._since_utc_s = 0.0
        self._told_ns: int | None = None
        self._done: list[Gap] = []

    @property
    def since_utc_s(self) -> float | None:
        """Since when the share is counted, POSIX seconds; None = nothing is yet."""
        return self._days[0].since_utc_s if self._days else None

    def kept(self, utc_s: float) -> str:
        """What an instance of a later run goes on from."""
        if self._now_ns is None:
            return json.dumps(self._before)
        # Up to the interval nothing is hidden: these are the most, and not needed.
        least = _class_of(self._interval_s())
        days = [
            [
                one.since_utc_s,
                one.passed_ns,
                one.monitored_ns,
                [[index, *counted] for index, counted in one.classes.items() if index >= least],
            ]
            for one in self._days
        ]
        gap_ns = self._now_ns - self._since_ns if self._monitored else 0
        return json.dumps({"utc_s": utc_s, "monitored": self._monitored, "gap_ns": gap_ns, "days": days})

    def scored(self, utc_s: float, monotonic_ns: int) -> None:
        """A frame that arrived then was scored."""
        self._advance(utc_s, monotonic_ns)
        if self._monitored:
            self._close(monotonic_ns)
            self._open(utc_s, monotonic_ns)

    def mistrusted(self, since_ns: int, utc_s: float, monotonic_ns: int) -> None:
        """A frame that arrived then was scored, and shows nothing: so did all since `since_ns` (frozen, black).

        That time is blind, as if nothing had been scored in it. It is found out late, so it may begin before frames
        that counted as scored.
        """
        self._advance(utc_s, monotonic_ns)
        since_ns = max(since_ns, self._turned_ns)
        if self._monitored and since_ns < self._since_ns:
            self._since_utc_s -= (self._since_ns - since_ns) / 1e9
            self._since_ns = since_ns

    def state(self, monitored: bool, utc_s: float, monotonic_ns: int) -> None:
        """Whether the camera is to be looked at (its state is running) from now on."""
        self._advance(utc_s, monotonic_ns, monitored=monitored)
        if monitored != self._monitored:
            self._close(monotonic_ns)
            self._monitored, self._turned_ns = monitored, monotonic_ns
            self._open(utc_s, monotonic_ns)

    def tick(self, monotonic_ns: int, utc_s: float) -> None:
        """Called about once a second: a gap that goes on is told in parts."""
        self._advance(utc_s, monotonic_ns)
        begun = self._since_ns if self._told_ns is None else self._told_ns
        if (monotonic_ns - begun) / 1e9 > _PART_S:
            self._tell(monotonic_ns)

    def gaps_done(self) -> list[Gap]:
        """Gaps, and parts of one that goes on, since the last call."""
        done, self._done = self._done, []
        return done

    def blind_share(self, event_s: float) -> float:
        """Share of possible event starts for which an event falls wholly into a gap, in the monitored time of the day
        so far and the day before (`since_utc_s`).

        In a gap of g seconds between two scored frames an event of d seconds falls wholly in if it starts in the
        first g - d seconds of it. Of gaps longer than the calibrated interval I all of that counts: the sum of g - d over
        the gaps that are longer than I and d, the one that goes on included, over the monitored seconds. What a gap of
        I hides of events shorter than I is in the calibrated recall, so for those the share begins with a step of I - d
        at I. A network's jitter lets half of all gaps pass I by a little; up to 1.1 I only what they are longer by
        counts, g - I, so that it does not take that step. Gaps are counted in classes of length 0.2 % wide, rounded so
        that the share is never too low.

        Args:
            event_s: length of the shortest event that counts, d.

        Returns:
            0..1; 1 where no time was monitored.
        """
        days = tuple(self._days)
        monitored_ns = sum(one.monitored_ns for one in days)
        if monitored_ns <= 0:
            return 1.0
        hidden_s = 0.0
        # Copies, made at once: whoever asks how a camera stands does so from another thread.
        copies = [one.classes.copy() for one in days]
        for index, (count, seconds) in [counted for classes in copies for counted in classes.items()]:
            low_s = _SHORTEST_S * _GROWTH**index
            high_s = low_s * _GROWTH
            least_s = self._seen_s(high_s, event_s)
            if low_s >= least_s:
                hidden_s += seconds - count * least_s
            elif high_s > least_s:
                hidden_s += min(count * (high_s - least_s), max(0.0, seconds - count * low_s))
        if self._monitored and self._now_ns is not None:
            length_s = (self._now_ns - self._since_ns) / 1e9
            hidden_s += max(0.0, length_s - self._seen_s(length_s, event_s))
        return min(1.0, max(0.0, hidden_s / (monitored_ns / 1e9)))

    def blind_share_upper(self, event_s: float, confidence: float = 0.95) -> float:
        """Upper bound b on the blind share of the monitored time since `since_utc_s`.

        The gaps of that time are all known, not sampled, so the share itself is the bound at every confidence, as
        long as anomalies start independently of the gaps. It claims nothing about time to come. Without monitored
        time it is 1.

        Raises:
            UsageError: `confidence` is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise UsageError(f"confidence={confidence} is not between 0 and 1; give for example 0.95")
        return self.blind_share(event_s)

    def _seen_s(self, gap_s: float, event_s: float) -> float:
        """What of a gap hides no start of an event of this length."""
        interval_s = self._interval_s()
        return event_s if gap_s > _JITTER * interval_s else max(event_s, interval_s)

    def _interval_s(self) -> float:
        return self.interval_s or _UNKNOWN_INTERVAL_S

    def _advance(self, utc_s: float, now_ns: int, *, monitored: bool = True) -> None:
        if self._now_ns is None:
            self._now_ns = self._turned_ns = now_ns
            self._open(utc_s, now_ns)
            self._go_on(utc_s, now_ns, monitored=monitored)
        elif now_ns > self._now_ns:
            # A frame's arrival may lie before the last tick.
            self._pass(now_ns - self._now_ns, monitored=self._monitored)
            self._now_ns = now_ns
        if self._days[-1].passed_ns >= _DAY_NS:
            self._days = [self._days[-1], _Day(utc_s)]

    def _go_on(self, utc_s: float, now_ns: int, *, monitored: bool) -> None:
        """Take up what an earlier run left, with the time since then as part of a gap."""
        before = self._before
        if not before:
            self._days = [_Day(utc_s)]
            return
        off_ns = min(max(round((utc_s - before["utc_s"]) * 1e9), 0), _DAY_NS)
        if off_ns < _DAY_NS:
            self._days = [
                _Day(since, passed, seen, {index: (count, length) for index, count, length in classes})
                for since, passed, seen, classes in before["days"]
            ]
        else:
            self._days = [_Day(utc_s - off_ns / 1e9)]
        was_monitored = bool(before["monitored"])
        self._pass(off_ns, monitored=was_monitored or monitored)
        if was_monitored or monitored:
            # Whoever stores gaps knows of the time off already: only what follows is told.
            gap_ns = off_ns + (before["gap_ns"] if off_ns < _DAY_NS else 0)
            self._since_ns, self._since_utc_s = now_ns - gap_ns, utc_s - gap_ns / 1e9
            self._told_ns = now_ns

    def _pass(self, passed_ns: int, *, monitored: bool) -> None:
        day = self._days[-1]
        day.passed_ns += passed_ns
        if monitored:
            day.monitored_ns += passed_ns

    def _open(self, utc_s: float, now_ns: int) -> None:
        self._since_ns, self._since_utc_s, self._told_ns = now_ns, utc_s, None

    def _close(self, now_ns: int) -> None:
        """What went on until now is over."""
        length_s = (now_ns - self._since_ns) / 1e9
        if length_s <= 0:
            return
        if self._monitored:
            classes, index = self._days[-1].classes, _class_of(length_s)
            count, seconds = classes.get(index, (0, 0.0))
            classes[index] = count + 1, seconds + length_s
        if self._told_ns is not None or not self._monitored or length_s > _SLACK * self._interval_s():
            self._tell(now_ns)

    def _tell(self, until_ns: int) -> None:
        begun = self._since_ns if self._told_ns is None else self._told_ns
        if until_ns > begun:
            reason = "blind" if self._monitored else "state"
            self._done.append(Gap(self._utc(begun), self._utc(until_ns), reason))
            self._told_ns = until_ns

    def _utc(self, at_ns: int) -> float:
        return self._since_utc_s + (at_ns - self._since_ns) / 1e9


def _class_of(length_s: float) -> int:
    return math.floor(math.log(max(length_s, _SHORTEST_S) / _SHORTEST_S) / math.log(_GROWTH))


def operational_recall(recall: float, blind_share: float) -> float:
    """Recall that is left where a share of the events starts unseen: recall * (1 - blind_share)."""
    return recall * (1.0 - blind_share)
