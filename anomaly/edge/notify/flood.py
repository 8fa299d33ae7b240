"""Flood control: who gets a message for each of a hundred events reads none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True)
class Told:
    """A message that people got.

    Attributes:
        utc_s: when, POSIX seconds.
        cameras: whose news it was; "" is the site.
    """

    utc_s: float
    cameras: Collection[str]


@dataclass(frozen=True)
class Plan:
    """What to send now.

    Attributes:
        singles: so many messages, each by itself.
        summary: all that waits, in one message.
        wait_s: where neither: seconds until there is room again.
    """

    singles: int = 0
    summary: bool = False
    wait_s: float = 0.0


def plan(
    waiting: Sequence[str], told: Sequence[Told], now_utc_s: float, *, most: int, window_s: float
) -> Plan:
    """How messages go out, of which at most `most` may in any `window_s` seconds.

    While there is room for all, each goes by itself. More than that become one summary, which takes the last place
    or, where none is left, waits for one. Only a camera that nothing was told of in that time waits for none: what
    is wrong there must not wait for what is well known elsewhere.

    Args:
        waiting: the camera of each message that waits (1 or more).
        told: what people got lately.
        now_utc_s: POSIX seconds.
        most, window_s: the bound.
    """
    # What lies in the future was told before the clock was set back.
    recent = [one for one in told if now_utc_s - window_s < one.utc_s <= now_utc_s]
    room = most - len(recent)
    if len(waiting) <= room:
        return Plan(singles=len(waiting))
    heard = {camera for one in recent for camera in one.cameras}
    if room > 0 or not heard.issuperset(waiting):
        return Plan(summary=True) if len(waiting) > 1 else Plan(singles=1)
    return Plan(wait_s=sorted(one.utc_s for one in recent)[-most] + window_s - now_utc_s)
