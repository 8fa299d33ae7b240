"""How old things are on a machine whose clock jumps: by time that has really passed, as far as it is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

#: A clock that moved by more than this against the monotonic one was set, not slewed.
_STEP_S = 1.0
#: A machine that comes back with a clock that is further on than this may have lost the date.
LONG_OFF_S = 86_400.0
#: What was still written by a clock after the last look at it.
_SLACK_S = 60.0
#: Epochs that are kept; of more, as where two time services fight, the oldest two become one.
_MOST = 100


@dataclass(slots=True)
class _Epoch:
    """Time between two jumps: from what the clock showed to what it showed, and how much further on the present clock
    is than that one would be now. All in seconds.
    """

    first: float
    last: float
    ahead: float


class Epochs:
    """The stretches of time in which the clock went evenly, and what each of them means today.

    Everything is stamped by the clock as it went then. A stamp's age is the time that passed since that epoch's
    clock showed it, so a jump makes nothing older and nothing younger. A stamp that two epochs may have given is
    as young as the younger one says.

    Args:
        kept: as `kept` gave it in an earlier run; None = the first.
    """

    def __init__(self, kept: str | None = None) -> None:
        state: Any = {} if kept is None else json.loads(kept)
        if not isinstance(state, dict):
            # A store of before had the time of the last look only.
            state = {"seen": state}
        self._seen: float | None = state.get("seen")
        self._first = float(state.get("first", 0.0))
        self._over = [_Epoch(*one) for one in state.get("over", [])]

    @property
    def kept(self) -> str:
        """What is to be known after a restart."""
        over = [[one.first, one.last, one.ahead] for one in self._over]
        return json.dumps({"seen": self._seen, "first": self._first, "over": over})

    def look(self, now: float, passed_s: float | None) -> float:
        """Look at the clock; by how many seconds it jumped since the last look, 0 = it did not.

        Args:
            now: what it shows, POSIX seconds.
            passed_s: by the monotonic clock since the last look; None = the program was not running. Then up to a
                day is believed to have passed, and of anything else nothing.
        """
        seen, self._seen = self._seen, now
        if seen is None:
            return 0.0
        jump = now - seen - (passed_s or 0.0)
        if abs(jump) <= _STEP_S or (passed_s is None and 0 < jump < LONG_OFF_S):
            return 0.0
        for one in self._over:
            one.ahead += jump
        # It may have jumped at once after the last look, or only now.
        self._over.append(_Epoch(self._first, seen + (passed_s or 0.0) + _SLACK_S, jump))
        self._first = now - (passed_s or 0.0)
        if len(self._over) > _MOST:
            one, other, *rest = self._over
            last, ahead = max(one.last, other.last), max(one.ahead, other.ahead)
            self._over = [_Epoch(min(one.first, other.first), last, ahead), *rest]
        return jump

    def forget(self, now: float, longest_s: float) -> None:
        """Forget the epochs from which nothing is left, where nothing is kept for longer than this."""
        self._over = [one for one in self._over if one.last >= now - one.ahead - longest_s]

    def due(self, now: float, keep_s: float) -> list[tuple[float, float]]:
        """Stamps (from, before) of what is older than `keep_s`, in order; POSIX seconds."""
        reached = now + _SLACK_S
        young = [(max(self._first, now - keep_s), reached)]
        for one in sorted(self._over, key=lambda one: one.first):
            limit = now - one.ahead - keep_s
            if limit < one.last:
                young.append((max(one.first, limit), one.last))
            # What lies in the future, and no epoch that is known gave it, is left alone.
            if one.first > reached:
                young.append((reached, one.first))
            reached = max(reached, one.last)
        young.append((reached, float("inf")))
        found = []
        reached = float("-inf")
        for begin, end in sorted(young):
            if begin > reached:
                found.append((reached, begin))
            reached = max(reached, end)
        return found
