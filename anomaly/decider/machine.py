"""From scores to alarms: smoothing, enter and leave thresholds, lengths and gaps.

One causal state machine, the same in calibrate, evaluate, score and run. All its settings are
times in seconds, none a number of frames, so a dropped frame or another sampling rate shifts nothing.
Between two frames the last score is taken to hold.

- *Smoothed score*: exponential moving average with time constant `smoothing_s`, aware of the time
  between frames; it starts at the first raw score, and fades what lies before a hole in the footage.
- *Decision score*: the smallest smoothed score since `min_duration_s` ago, so the score has been at or
  above it for that long. Before `min_duration_s` of footage there is none: minus infinity.
- An alarm *starts* at the first frame whose decision score is at or above the threshold.
- It *goes on* while the smoothed score is at or above `leave_ratio * threshold`, and ends at the first
  frame below it that lies `join_gap_s` or more after the last one at or above; shorter dips are bridged.
- It is *split* at the first frame at or above the leave threshold that comes `max_duration_s` or more
  after its start: it ends, and a new one, marked `continued`, starts at that frame.

The streaming `Decider` and the functions over whole series agree bit for bit (tests hold them to it): the
threshold is often exactly the score of an event, and one unit in the last place would lose that event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anomaly.errors import AnomalyError, UsageError

#: Times closer than this are the same moment: frame times are sums of 1/fps and carry rounding.
TIME_RESOLUTION_S = 1e-6


@dataclass(frozen=True, slots=True)
class DeciderConfig:
    """How scores become alarms.

    Attributes:
        smoothing_s: time constant of the exponential moving average, seconds; 0 = no smoothing.
        min_duration_s: how long the smoothed score must hold before an alarm starts; 0 = one frame is enough.
        max_duration_s: an alarm that lasts this long is split; above 0 and finite, so that a
            detector which always alarms is counted as many false alarms and not as one.
        leave_ratio: leave threshold as a share of the (enter) threshold, above 0 and at most 1.
        join_gap_s: dips below the leave threshold shorter than this do not end an alarm.
    """

    smoothing_s: float = 0.5
    min_duration_s: float = 0.0
    max_duration_s: float = 60.0
    leave_ratio: float = 0.9
    join_gap_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("smoothing_s", "min_duration_s", "join_gap_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"decider.{name}={value} is not a length of time; give seconds, 0 or more")
        if not (math.isfinite(self.max_duration_s) and self.max_duration_s > 0):
            raise UsageError(
                f"decider.max_duration_s={self.max_duration_s} is not above 0 and finite; give s"
            )
        if not 0 < self.leave_ratio <= 1:
            raise UsageError(
                f"decider.leave_ratio={self.leave_ratio} is outside (0, 1]; "
                "give the share of the threshold at which an alarm ends"
            )

    def for_images(self) -> DeciderConfig:
        """The same decider for single pictures, which have no duration: no smoothing, no minimum length."""
        return replace(self, smoothing_s=0.0, min_duration_s=0.0)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm of the decider.

    Attributes:
        start_s: time of the frame at which it started.
        end_s: time of the last frame at or above the leave threshold (so far, while it runs).
        peak_s, peak_score: where the smoothed score was highest from start to end, and how high.
        continued: it started because the one before was split, not by crossing the threshold.
    """

    start_s: float
    end_s: float
    peak_s: float
    peak_score: float
    continued: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the decider says of one frame.

    Attributes:
        score: smoothed score.
        decision_score: what is compared with the threshold; -inf while less than `min_duration_s` was seen.
        alarm: whether an alarm is on after this frame (dips that are being bridged included).
        started: the alarm that started at this frame, if one did.
        ended: the alarms that this frame ended (at most one, kept a tuple for the caller's loop).
    """

    score: float
    decision_score: float
    alarm: bool
    started: Alarm | None
    ended: tuple[Alarm, ...]


@dataclass(frozen=True, slots=True)
class DeciderState:
    """All that the decider remembers of one camera; never changed, replaced by each step.

    Attributes:
        time_s: time of the last frame; None before the first.
        smoothed: smoothed score at that time.
        held: (since_s, score) pairs, both increasing: the smoothed score has been at or above `score`
            since `since_s`. Only what the next decision score can need.
        alarm: the running alarm, if one is on.
    """

    time_s: float | None = None
    smoothed: float = 0.0
    held: tuple[tuple[float, float], ...] = ()
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True)
class Decider:
    """The state machine of this module, frame by frame.

    Args:
        config: its settings.
        threshold: enter threshold, 0 or more; None = not calibrated: scores are smoothed, nothing alarms.
    """

    config: DeciderConfig
    threshold: float | None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def start(self) -> DeciderState:
        """State of a camera of which nothing was seen yet."""
        return DeciderState()

    def step(self, state: DeciderState, time_s: float, score: float) -> tuple[Decision, DeciderState]:
        """Decide one frame.

        Args:
            state: what the step before returned, or `start()`.
            time_s: time of the frame in seconds, later than the frame before.
            score: raw score of the frame, finite, 0 or more, higher = more anomalous.

        Raises:
            AnomalyError: a time that does not increase, or a score that is negative or not finite.
        """
        time_s, score = float(time_s), float(score)
        if not (math.isfinite(score) and score >= 0):
            raise AnomalyError(bad_score(score, time_s))
        if not math.isfinite(time_s) or (state.time_s is not None and time_s <= state.time_s):
            raise AnomalyError(
                f"frame time {time_s} s does not come after {state.time_s} s; give each source its own state"
            )
        config = self.config
        smoothed = score
        if state.time_s is not None and config.smoothing_s > 0:
            weight = ema_weight(time_s - state.time_s, config.smoothing_s)
            smoothed = state.smoothed + (score - state.smoothed) * weight
        limit = time_s - config.min_duration_s + TIME_RESOLUTION_S
        held = _hold(state.held, time_s, smoothed, limit)
        since, lowest = held[0]
        decision_score = lowest if since <= limit else -math.inf
        alarm, started, ended = self._alarm(state.alarm, time_s, smoothed, decision_score)
        decision = Decision(smoothed, decision_score, alarm is not None, started, ended)
        return decision, DeciderState(time_s, smoothed, held, alarm)

    def finish(self, state: DeciderState) -> tuple[Alarm, ...]:
        """End of the source: the alarm that was still on, if one was."""
        return () if state.alarm is None else (state.alarm,)

    def split(self, state: DeciderState) -> tuple[Alarm | None, DeciderState]:
        """End the alarm that is on and start its rest, `continued`, at the last frame, as at `max_duration_s`.

        Returns:
            The alarm that ended, and the state with the new one. None, and the state as it was, where no alarm is on, or
            the last frame lies in a dip that is being bridged.
        """
        alarm, time_s = state.alarm, state.time_s
        if alarm is None or time_s is None or alarm.end_s != time_s:
            return None, state
        return alarm, replace(state, alarm=Alarm(time_s, time_s, time_s, state.smoothed, continued=True))

    def _alarm(
        self, alarm: Alarm | None, time_s: float, smoothed: float, decision_score: float
    ) -> tuple[Alarm | None, Alarm | None, tuple[Alarm, ...]]:
        """(running, started, ended) after a frame."""
        if self.threshold is None:
            return None, None, ()
        fresh = Alarm(time_s, time_s, time_s, smoothed)
        if alarm is None:
            return (fresh, fresh, ()) if decision_score >= self.threshold else (None, None, ())
        if smoothed < self.config.leave_ratio * self.threshold:
            over = time_s >= alarm.end_s + self.config.join_gap_s - TIME_RESOLUTION_S
            return (None, None, (alarm,)) if over else (alarm, None, ())
        if time_s >= alarm.start_s + self.config.max_duration_s - TIME_RESOLUTION_S:
            fresh = replace(fresh, continued=True)
            return fresh, fresh, (alarm,)
        if smoothed > alarm.peak_score:
            return replace(alarm, end_s=time_s, peak_s=time_s, peak_score=smoothed), None, ()
        return replace(alarm, end_s=time_s), None, ()


def ema_weight(step_s: float, smoothing_s: float) -> float:
    """Weight of a new score after `step_s` seconds: 1 - exp(-step_s / smoothing_s)."""
    return -math.expm1(-step_s / smoothing_s)


def _hold(
    held: tuple[tuple[float, float], ...], time_s: float, smoothed: float, limit: float
) -> tuple[tuple[float, float], ...]:
    """The held levels after one more smoothed score; of those held since `limit` only the highest."""
    keep, since = len(held), time_s
    while keep and held[keep - 1][1] >= smoothed:
        keep -= 1
        since = held[keep][0]
    levels = (*held[:keep], (since, smoothed))
    drop = 0
    while drop + 1 < len(levels) and levels[drop + 1][0] <= limit:
        drop += 1
    return levels[drop:]


def check_threshold(threshold: float | None) -> None:
    """Refuse (UsageError) a threshold that is neither None nor a finite number of 0 or more."""
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise UsageError(f"threshold {threshold} is not a finite number of 0 or more; calibrate, or give one")


def bad_score(score: float, time_s: float) -> str:
    """One line for a score that cannot be decided on."""
    return (
        f"score {score} at {time_s:.3f} s is not a finite number of 0 or more; check the frame and the model"
    )
