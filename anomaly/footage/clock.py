"""From a stream's timestamps to seconds that never go back."""

from __future__ import annotations

# A step back of this much may be a new recording appended to the old one; a smaller one is a bad timestamp.
RESTART_S = 1.0
# Frames. Less than one: after a pause the frames behind it would come in pairs.
_KEPT_CREDIT = 0.9


class Clock:
    """Turns one stream's timestamps, in the order shown, into strictly increasing seconds from its start.

    A frame without a timestamp comes one period after the last. A timestamp that does not increase is a stray
    (damage does that) and is set just after the last one; when it falls back by a second or more and the
    next one goes on from there, the recorder restarted or files were joined: all that follow are
    shifted, so that durations stay true.
    """

    def __init__(self, origin_s: float | None, period_s: float) -> None:
        self._origin_s = origin_s
        self._period_s = period_s
        self._last_s: float | None = None
        # The last frame with a timestamp, and how many without one have followed: counted, so that
        # rounding does not add up.
        self._anchor_s = 0.0
        self._since_anchor = 0
        # A timestamp that fell back, and the time it has if the recorder restarted.
        self._fallen: tuple[float, float] | None = None

    def seconds(self, timestamp_s: float | None) -> float:
        """Time of the next frame, in seconds from the start of the stream."""
        if self._origin_s is None:
            self._origin_s = timestamp_s or 0.0
        if timestamp_s is None:
            self._since_anchor += self._last_s is not None
            time_s = self._anchor_s + self._since_anchor * self._period_s
        else:
            time_s = self._anchor_s = self._placed(timestamp_s, timestamp_s - self._origin_s)
            self._since_anchor = 0
        self._last_s = time_s
        return time_s

    def _placed(self, timestamp_s: float, time_s: float) -> float:
        last, fallen = self._last_s, self._fallen
        self._fallen = None
        if last is None:
            return max(time_s, 0.0)
        if time_s > last:
            return time_s
        if fallen is not None and 0 < timestamp_s - fallen[0] < RESTART_S:
            time_s = max(fallen[1] + timestamp_s - fallen[0], last + self._period_s / 10)
            self._origin_s = timestamp_s - time_s
            return time_s
        if time_s <= last - RESTART_S:
            self._fallen = (timestamp_s, last + self._period_s)
        return last + self._period_s / 10


class Sampler:
    """Takes `fps` frames a second of a stream, and of one that is no faster than that every frame.

    Time earns credit, `fps` a second; a frame that is taken costs one. Of a steady stream these are the frames that
    reach the instants start_s + k / fps. Timestamps are rounded to their container's clock (Matroska: 1 ms), so there is a first
    credit of 10 ms, at most a tenth of the interval. Cameras jitter: what a late frame has left over counts for
    the early one behind it. With a grid of instants one jittering about them would lose every other frame. Nearly
    one frame's credit is kept and no more, so a pause is followed by one frame extra at most.

    Args:
        fps: frames a second; None takes every frame.
        start_s: when the first credit is given.
    """

    def __init__(self, fps: float | None, start_s: float) -> None:
        self._fps = fps
        self._start_s = start_s
        self._early = 0.0 if fps is None else min(0.1, 0.01 * fps)
        # Counted from the start, so that rounding never adds up to a drift. The first frame costs nothing of it.
        self._spent = -1.0

    def takes(self, time_s: float) -> bool:
        """Whether to take the frame shown at `time_s`; times must increase."""
        if self._fps is None:
            return True
        credit = (time_s - self._start_s) * self._fps + self._early - self._spent
        if credit < 1.0:
            return False
        self._spent += max(1.0, credit - _KEPT_CREDIT)
        return True
