"""State of a camera: running, stopped, changeover or maintenance, by schedule or by hand.

Outside `running` events are stored and not announced, and the time counts as not monitored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from anomaly.errors import UsageError

STATES = ("running", "stopped", "changeover", "maintenance")
_RUNNING = STATES[0]
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_S = 86_400
_MINUTE_S = 60
#: What a schedule does in so long, it does for ever: a week, and a day for clocks that change.
_WHOLE_SCHEDULE_S = 8 * _DAY_S
_CLOCK = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_KEYS = ("state", "days", "from", "to", "timezone")


@dataclass(frozen=True)
class Rule:
    """A state at certain hours.

    Attributes:
        state: one of STATES.
        days: 0 = Monday; of a time over midnight, the day on which it begins.
        begin_s, end_s: by the local clock, seconds of the day, half-open; begin > end = over midnight.
    """

    state: str
    days: frozenset[int]
    begin_s: int
    end_s: int

    def holds(self, day: int, clock_s: float) -> bool:
        """Whether it holds on a day of the week (0 = Monday), so many seconds of it by the local clock."""
        if self.begin_s < self.end_s:
            return day in self.days and self.begin_s <= clock_s < self.end_s
        return (day in self.days and clock_s >= self.begin_s) or (
            (day - 1) % 7 in self.days and clock_s < self.end_s
        )


@dataclass(frozen=True)
class Schedule:
    """Rules, of which the first that holds counts; none = running.

    Attributes:
        rules: in order.
        timezone: name of the zone whose clock the rules mean ("Europe/Berlin"); None = this machine's.
    """

    rules: tuple[Rule, ...] = ()
    timezone: str | None = None

    def state_at(self, utc_s: float) -> str:
        """The state at a POSIX time. What the local clock shows counts, on days of 23 and 25 hours too."""
        if not self.rules:
            return _RUNNING
        moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=utc_s)
        local = moment.astimezone(None if self.timezone is None else ZoneInfo(self.timezone))
        clock_s = local.hour * 3600 + local.minute * 60 + local.second + local.microsecond / 1e6
        for rule in self.rules:
            if rule.holds(local.weekday(), clock_s):
                return rule.state
        return _RUNNING

    def changes(self, since_utc_s: float, until_utc_s: float) -> bool:
        """Whether the state is another at any time after `since`, up to `until`, than it is at `since`."""
        if not self.rules:
            return False
        before = self.state_at(since_utc_s)
        # Rules begin and end on whole minutes.
        first = (since_utc_s // _MINUTE_S + 1) * _MINUTE_S
        last = min(until_utc_s, since_utc_s + _WHOLE_SCHEDULE_S)
        minutes = int((last - first) // _MINUTE_S) + 1
        return any(self.state_at(first + number * _MINUTE_S) != before for number in range(minutes))


@dataclass(frozen=True)
class _Kept:
    """Whether something was set by hand at a time, and the schedule that could overrule it from then on."""

    utc_s: float
    by_hand: bool
    schedule: Schedule

    @classmethod
    def from_json(cls, text: str) -> _Kept:
        told = json.loads(text)
        rules = tuple(
            Rule(state, frozenset(days), begin_s, end_s) for state, days, begin_s, end_s in told["rules"]
        )
        return cls(told["utc_s"], told["by_hand"], Schedule(rules, told["timezone"]))

    def to_json(self) -> str:
        rules = [(one.state, sorted(one.days), one.begin_s, one.end_s) for one in self.schedule.rules]
        return json.dumps(
            {
                "utc_s": self.utc_s,
                "by_hand": self.by_hand,
                "rules": rules,
                "timezone": self.schedule.timezone,
            }
        )


class StateKeeper:
    """The state of one camera: what was set by hand, until the schedule next changes its mind."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._by_hand: str | None = None
        self._planned = _RUNNING

    def set(self, state: str, utc_s: float) -> None:
        """Set by hand.

        Raises:
            UsageError: no such state.
        """
        self._by_hand = known_state(state)
        self._planned = self._schedule.state_at(utc_s)

    def restore(self, state: str, since_utc_s: float, utc_s: float, kept: str | None = None) -> None:
        """Set what was set by hand in an earlier run, unless the schedule of then has changed its mind since.

        Another schedule counts from now on, as after `plan`: what the one before had overruled stays overruled.

        Args:
            state, since_utc_s: what was set last, and when.
            utc_s: now.
            kept: what `kept` gave last; None = not known, the schedule was this one.

        Raises:
            UsageError: no such state.
        """
        before = _Kept(utc_s=float("-inf"), by_hand=True, schedule=self._schedule)
        if kept is not None:
            before = _Kept.from_json(kept)
        if since_utc_s <= before.utc_s and not before.by_hand:
            return
        if not before.schedule.changes(max(since_utc_s, before.utc_s), utc_s):
            self.set(state, utc_s)

    def kept(self, utc_s: float) -> str:
        """What a later run must know besides what was set by hand; anew after each `plan` and `restore`."""
        self.now(utc_s)
        return _Kept(utc_s, self._by_hand is not None, self._schedule).to_json()

    def plan(self, schedule: Schedule, utc_s: float) -> None:
        """Follow another schedule; what is set by hand holds until that one changes its mind."""
        self.now(utc_s)
        self._schedule, self._planned = schedule, schedule.state_at(utc_s)

    def now(self, utc_s: float) -> str:
        """The state at a POSIX time; times are asked for in order."""
        planned = self._schedule.state_at(utc_s)
        if self._by_hand is not None:
            if planned == self._planned:
                return self._by_hand
            self._by_hand = None
        return planned


def parse_schedule(entries: Sequence[Mapping[str, Any]], timezone: str | None = None) -> Schedule:
    """A schedule as a site file writes it.

        - {state: stopped, days: [sat, sun]}
        - {state: maintenance, days: mon-fri, from: "22:00", to: "06:00"}

    Args:
        entries: `days` is a day, a span, or a list of both, every day if left out; `from` and `to` are the local
            clock, the whole day if left out; an entry `{timezone: Europe/Berlin}` names the zone.
        timezone: the zone where no entry names one; None = this machine's.

    Raises:
        UsageError: anything that cannot be read.
    """
    given: object = entries  # out of a file, it may be anything
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UsageError(
            f"schedule={entries!r} is no list; give entries such as {{state: stopped, days: sat}}"
        )
    rules = []
    for position, entry in enumerate(entries):
        where = f"schedule[{position}]"
        if not isinstance(entry, Mapping):
            raise UsageError(
                f"{where}={entry!r} is no mapping; give one such as {{state: stopped, days: sat}}"
            )
        unknown = [str(key) for key in entry if key not in _KEYS]
        if unknown:
            raise UsageError(f"{where}.{unknown[0]} is not known; give {', '.join(_KEYS)}")
        if set(entry) == {"timezone"}:
            timezone = entry["timezone"]
            continue
        if "state" not in entry or "timezone" in entry:
            raise UsageError(
                f"{where} needs a state, and timezone in an entry of its own; states: {', '.join(STATES)}"
            )
        begin_s, end_s = _clock(entry.get("from", "00:00"), where), _clock(entry.get("to", "24:00"), where)
        if begin_s in (end_s, _DAY_S):
            raise UsageError(f"{where} has no length; leave out from and to for the whole day")
        rules.append(
            Rule(
                known_state(entry["state"], where), _days(entry.get("days", "mon-sun"), where), begin_s, end_s
            )
        )
    if timezone is not None:
        try:
            ZoneInfo(str(timezone))
        except (KeyError, ValueError, OSError):
            raise UsageError(
                f"timezone={timezone!r} is not known here; give a name such as Europe/Berlin"
            ) from None
        timezone = str(timezone)
    return Schedule(tuple(rules), timezone)


def known_state(state: object, where: str = "") -> str:
    """The state, if it is one of STATES; else UsageError, which says where it was given."""
    if state not in STATES:
        raise UsageError(
            f"{where + '.' if where else ''}state={state!r} is not known; give {', '.join(STATES)}"
        )
    return str(state)


def _clock(value: object, where: str) -> int:
    # YAML 1.1 reads 22:00 without quotes as the number 1320; 06:00 stays a text.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        return value * 60
    found = _CLOCK.fullmatch(str(value))
    seconds = int(found[1]) * 3600 + int(found[2]) * 60 if found else _DAY_S + 1
    if seconds > _DAY_S:
        raise UsageError(f'{where}: {value!r} is no time of day; give one such as "22:00"')
    return seconds


def _days(value: object, where: str) -> frozenset[int]:
    parts = value if isinstance(value, list | tuple) else [value]
    days: set[int] = set()
    for part in parts:
        first, dash, last = str(part).strip().lower().partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise UsageError(
                f"{where}.days={part!r} is not known; give {', '.join(_DAYS)} or a span such as mon-fri"
            )
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days |= {(begin + offset) % 7 for offset in range((end - begin) % 7 + 1)}
    if not days:
        raise UsageError(f"{where}.days is empty; give days, or leave it out for every day")
    return frozenset(days)
