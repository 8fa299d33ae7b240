"""Flood control: who gets a message for each of a hundred events reads none of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A stretch of time in which people get a bounded number of messages.

    Attributes:
        start_utc_s: when it began, POSIX seconds.
        told: messages sent in it.
    """

    start_utc_s: float
    told: int


@dataclass(frozen=True)
class Plan:
    """What to send now.

    Attributes:
        window: the window that holds now.
        singles: so many messages, each by itself.
        summary: all that waits, in one message.
        wait_s: where neither: seconds until the next window.
    """

    window: Window
    singles: int = 0
    summary: bool = False
    wait_s: float = 0.0


def plan(waiting: int, window: Window, now_utc_s: float, *, most: int, window_s: float) -> Plan:
    """How `waiting` messages (1 or more) go out, of which at most `most` may in `window_s` seconds.

    While there is room for all, each goes by itself. More than that become one summary, which takes the last place
    or, where none is left, waits for the next window.
    """
    # A window that lies in the future was begun before the clock was set back.
    if not window.start_utc_s <= now_utc_s < window.start_utc_s + window_s:
        window = Window(now_utc_s, 0)
    room = most - window.told
    if waiting <= room:
        return Plan(window, singles=waiting)
    if room > 0:
        return Plan(window, summary=True)
    return Plan(window, wait_s=window.start_utc_s + window_s - now_utc_s)
