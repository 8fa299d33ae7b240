"""What n labelled events prove about recall: the exact binomial bound, and the words for it.

Each event is caught or missed, independently and with the same unknown chance (the recall). With
m of n missed, the largest recall r for which so few misses are still improbable is the one-sided
Clopper-Pearson bound (Clopper & Pearson 1934, Biometrika 26). A threshold that is the k-th smallest
event score misses at most k - 1 of the n, and its recall lies under the bound for k - 1 misses in at
most 1 - confidence of all calibrations, whatever the distribution of the scores (Wilks 1941, Annals of
Mathematical Statistics 12), provided k was fixed before the scores were seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy import special, stats

from anomaly.errors import SchemaError, UsageError

#: How an anomaly may have been found for its event to count: never by the detector itself.
CERTIFYING = ("independent", "audit")
#: In place of the above, for events that a setting was chosen with: they prove nothing of it any more.
CHOSE = "chose"


def recall_bound(n_events: int, n_missed: int, confidence: float, settings_tried: int = 1) -> float:
    """Exact lower bound of the recall when `n_missed` of `n_events` were missed.

    Args:
        n_events: independent events, 1 or more.
        n_missed: 0 ... n_events.
        confidence: in (0, 1).
        settings_tried: how many settings were compared on these same events before this one was
            chosen; the allowed error is divided by it (Bonferroni).

    Returns:
        Clopper-Pearson lower bound in [0, 1).
    """
    error = _error(confidence, settings_tried)
    if n_missed >= n_events:
        return 0.0
    if n_missed == 0:
        return float(error ** (1 / n_events))
    return float(stats.beta.ppf(error, n_events - n_missed, n_missed + 1))


def threshold_rank(n_events: int, target_recall: float, confidence: float, settings_tried: int = 1) -> int:
    """Which event score, counted from the smallest, is the highest threshold that proves the target.

    Returns:
        The largest k with P(Bin(n, 1 - target) <= k - 1) <= 1 - confidence; 0 where `n_events` are too few.
    """
    _check_target(target_recall)
    error = _error(confidence, settings_tried)
    rank, too_many = 0, n_events + 1
    while too_many - rank > 1:
        middle = (rank + too_many) // 2
        if _proves(n_events, middle - 1, target_recall, error):
            rank = middle
        else:
            too_many = middle
    return rank


def events_needed(target_recall: float, confidence: float, settings_tried: int = 1) -> int | None:
    """Fewest events that prove the target when none is missed; None for a target of 1, which none can."""
    _check_target(target_recall)
    error = _error(confidence, settings_tried)
    if target_recall == 1:
        return None
    return _fewest(lambda n: _proves(n, 0, target_recall, error))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A recall that was proven, and what stands behind it.

    Attributes:
        recall: lower bound of the share of anomalies caught.
        confidence: how sure: at most 1 - confidence of such calibrations promise too much.
        n_events: independent events (or clips, see `unit`) it rests on.
        n_missed_allowed: how many of them the threshold was free to miss (k - 1).
        target_recall: what was asked for.
        more_events_needed: further events, all caught, that would prove the target when they are calibrated together
            with these, and pay for this look at these; 0 if proven, None if no number would (a target of 1).
        covers: which anomalies it speaks of, and which not.
        unit: "event"; "clip" where each clip counted once, by its hardest event; "incident" where clips or
            pictures of one group did.
        settings_tried: settings compared on the same events; the bound is corrected for them.
    """

    recall: float
    confidence: float
    n_events: int
    n_missed_allowed: int
    target_recall: float
    more_events_needed: int | None
    covers: str
    unit: str = "event"
    settings_tried: int = 1

    @property
    def reaches_target(self) -> bool:
        """Whether the recall asked for is proven."""
        return self.more_events_needed == 0

    def text(self) -> str:
        """The certificate for someone who never heard of a confidence bound; of none, one sentence."""
        if self.recall == 0:
            return nothing_proven(self.n_events, self.unit)
        per_repeat = 100 * (1 - self.confidence)
        things = "one labelled anomaly" if self.n_events == 1 else f"{self.n_events} labelled anomalies"
        recall = at_least(self.recall)
        sentence = f"At least {recall} of anomalies like the {things} will be caught."
        if self.unit == "clip":
            clips = "one labelled clip" if self.n_events == 1 else f"{self.n_events} labelled clips"
            sentence = f"In at least {recall} of clips like the {clips}, every anomaly will be caught."
        elif self.unit == "incident":
            things = "one labelled incident" if self.n_events == 1 else f"{self.n_events} labelled incidents"
            sentence = (
                f"At least {recall} of incidents like the {things} will be caught, wherever they are seen."
            )
        lines = [
            sentence,
            f"How sure: by bad luck in the choice of examples this is wrong in at most {per_repeat:.3g} of 100 such "
            "calibrations.",
        ]
        if self.unit == "clip":
            lines.append("Some clips hold several anomalies: each clip counts once, by its hardest one.")
        elif self.unit == "incident":
            lines.append(
                "Clips or pictures of one group show one incident: each group counts once, by its hardest."
            )
        if self.settings_tried > 1:
            lines.append(
                f"Up to {self.settings_tried} settings or thresholds were compared on the same anomalies; "
                "the figure is lowered for that."
            )
        lines.append(
            "Other models tried on these anomalies, copies of this one included, are not counted unless you say how many "
            "(also_tried=N)."
        )
        if self.reaches_target:
            lines.append(f"You asked for {percent(self.target_recall)}: that is proven.")
        elif self.more_events_needed is None:
            lines.append(
                "You asked for 100 %: no number of examples can prove that. "
                + (
                    f"This threshold misses {self.n_missed_allowed} of the labelled {self.unit}s."
                    if self.n_missed_allowed
                    else "The threshold is set to catch every labelled one; each further one raises the figure."
                )
            )
        else:
            lines.append(
                f"You asked for {percent(self.target_recall)}: not proven. "
                f"{self.more_events_needed} more labelled {self.unit}{'s' * (self.more_events_needed != 1)}, all caught, would prove it "
                f"({self.n_events + self.more_events_needed} in all; calibrating again is another look at these, and counted)."
            )
        lines.append(f"It speaks {self.covers}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Certificate:
        """The certificate that `to_json` wrote.

        Raises:
            SchemaError: a field is missing, unknown or out of range.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            differing = ", ".join(sorted(known.symmetric_difference(values)))
            raise SchemaError(f"certificate fields differ from this version's ({differing}); calibrate again")
        recall, confidence, n = values["recall"], values["confidence"], values["n_events"]
        numbers = all(isinstance(one, int | float) for one in (recall, confidence, n))
        if not (numbers and 0 <= recall < 1 and 0 < confidence < 1 and n >= 1):
            raise SchemaError(
                f"certificate of recall {recall} at confidence {confidence} from {n} events is out of range; "
                "calibrate again"
            )
        return cls(**values)


def certify(
    n_events: int,
    target_recall: float,
    confidence: float,
    *,
    n_missed: int | None = None,
    settings_tried: int = 1,
    next_tried: int | None = None,
    by_hand: bool = False,
    unit: str = "event",
) -> Certificate:
    """The certificate for a rank fixed beforehand, or for a threshold set without looking at the events.

    Args:
        n_events: events (or clips) that certify, 1 or more.
        n_missed: None for the threshold at `threshold_rank` (or the smallest score where that is 0);
            else the events that a threshold misses which was fixed without their scores.
        settings_tried: as for `recall_bound`.
        next_tried: what settings tried will be once further events are calibrated together with these; None = one
            more, as that is another look at these.
        by_hand: whether the threshold was moved after a look at the scores. It counts as `n_events` settings for
            each: it could have been any of their ranks.
        unit: "event", "clip" or "incident".
    """
    next_tried = settings_tried + 1 if next_tried is None else next_tried
    settings_tried *= n_events if by_hand else 1
    rank = threshold_rank(n_events, target_recall, confidence, settings_tried)
    allowed = max(rank, 1) - 1 if n_missed is None else n_missed
    recall = recall_bound(n_events, allowed, confidence, settings_tried)
    more: int | None = 0
    if rank == 0 or allowed > rank - 1:
        more = _more_events(n_events, allowed, target_recall, confidence, next_tried, by_hand)
    these = f"the one {unit}" if n_events == 1 else f"these {n_events} {unit}s"
    return Certificate(
        recall=recall,
        confidence=confidence,
        n_events=n_events,
        n_missed_allowed=allowed,
        target_recall=target_recall,
        more_events_needed=more,
        covers=f"for anomalies drawn like {these}; other kinds are not covered.",
        unit=unit,
        settings_tried=settings_tried,
    )


def just_below(score: float) -> float:
    """The float32 next below the one nearest to `score` (0 stays 0), as a float.

    A threshold must never be rounded upward, or it loses the very event it was taken from: this one lies
    3e-8 to 2e-7 of the score below it, and survives float32, JSON, and another order of rounding in float64.
    """
    return max(0.0, float(np.nextafter(np.float32(score), np.float32(-np.inf))))


def nothing_proven(n_events: int, unit: str) -> str:
    """What is to be said where each of the events, clips or incidents that count is missed: a recall of 0 is no promise."""
    if unit == "clip":
        # Others of the clip may be caught.
        where = "the one labelled clip" if n_events == 1 else f"each of the {n_events} labelled clips"
        return f"Nothing is proven: in {where} an anomaly is missed."
    things = "anomaly" if unit == "event" else "incident"
    if n_events == 1:
        return f"Nothing is proven: the one labelled {things} is missed."
    plural = "anomalies" if unit == "event" else "incidents"
    return f"Nothing is proven: not one of the {n_events} labelled {plural} is caught."


def at_least(share: float) -> str:
    """A lower bound, never told above itself: 0.60696 as "60.69 %", 0.00004 as "0.004 %"."""
    digits = _digits(share)
    return _percents(math.floor(100 * share * 10**digits + 1e-6) / 10**digits, digits)


def at_most(share: float) -> str:
    """An upper bound, never told below itself: 0.05816 as "5.82 %"."""
    digits = _digits(share)
    return _percents(math.ceil(100 * share * 10**digits - 1e-6) / 10**digits, digits)


def percent(share: float) -> str:
    """What was measured or set: 0.607 as "60.7 %", 0.95 as "95 %"; never a whole percent that is not reached: 0.9496 as "94.96 %"."""
    exact, digits = 100 * share, 1
    if 0 < exact < 0.05:
        return "under 0.1 %"
    while digits < 6 and round(exact, digits) - exact > 1e-9 and round(exact, digits) == round(exact):
        digits += 1
    return f"{exact:.{digits}f}".removesuffix(".0") + " %"


def _digits(share: float) -> int:
    """Decimals of a percentage: two, and where it is next to 0 or 100 as many as show by how much."""
    least = min(100 * share, 100 - 100 * share)
    return max(2, 1 - math.floor(math.log10(least))) if least > 0 else 2


def _percents(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") + " %"


def _more_events(
    n: int, missed: int, target: float, confidence: float, tried: int, by_hand: bool
) -> int | None:
    """Further events, all caught, until `missed` misses prove the target at what the next look will cost."""
    if target == 1:
        return None

    def enough(more: int) -> bool:
        error = _error(confidence, tried * (n + more if by_hand else 1))
        return _proves(n + more, missed, target, error)

    return _fewest(enough)


def _proves(n_events: int, n_missed: int, target: float, error: float) -> bool:
    """Whether P(Bin(n, 1 - target) <= missed) is at most the error, by the incomplete beta function."""
    if n_missed >= n_events:
        return False
    return bool(special.betainc(n_events - n_missed, n_missed + 1, target) <= error)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The smallest number from 1 on that is enough, where all above it are, too."""
    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def _error(confidence: float, settings_tried: int) -> float:
    if not 0 < confidence < 1:
        raise UsageError(
            f"calibration.confidence={confidence} is outside (0, 1): no number of examples makes certain; "
            "give for instance 0.95"
        )
    if settings_tried < 1:
        raise UsageError(f"settings tried {settings_tried} is under 1; the setting in use counts as one")
    return (1 - confidence) / settings_tried


def _check_target(target_recall: float) -> None:
    if not 0 < target_recall <= 1:
        raise UsageError(
            f"calibration.target_recall={target_recall} is outside (0, 1]; give a share, for instance 0.95"
        )
