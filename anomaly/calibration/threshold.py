"""Labelled events and normal footage to a threshold, its certificate and its price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from anomaly.calibration import checks
from anomaly.calibration.budget import Spent, spent_on, split_holdout, threshold_for_budget
from anomaly.calibration.certificate import CERTIFYING, certify, just_below, threshold_rank
from anomaly.calibration.events import (
    Count,
    Event,
    EventOutcome,
    counting_units,
    event_outcomes,
    event_scores,
    frame_recall,
    searched_s,
    shortest_of_units,
    unit_name,
)
from anomaly.calibration.false_alarms import MINIMUM_S, false_alarms, normal_windows
from anomaly.calibration.result import Calibration, KindOutcome, OperatingPoint
from anomaly.calibration.series import Decided, Series, by_source, decide, ordinary_score
from anomaly.decider.machine import check_threshold
from anomaly.errors import CalibrationError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.decider import DeciderConfig


def calibrate(
    labeled: Sequence[Series],
    events: Sequence[Event],
    holdout: Sequence[Series],
    config: DeciderConfig,
    *,
    target_recall: float = 0.95,
    confidence: float = 0.95,
    budget_per_hour: float | None = None,
    prefer: Literal["recall", "budget"] = "recall",
    count: Count = "clip",
    tolerance_s: float = 1.0,
    settings_tried: int = 1,
    next_tried: int | None = None,
    threshold: float | None = None,
    max_chance_hit: float = 0.10,
    guard_s: float = 10.0,
) -> Calibration:
    """Set the threshold from labelled events and say what it is worth.

    The threshold is the k-th smallest score of what counts as one event, k being the largest rank that
    proves the target (`threshold_rank`). Where the events are too few for the target, it is their lowest
    score, or lower still where the budget allows. A budget that this threshold breaks makes a conflict: both
    ends are told, and `prefer` decides. The budget is spent on one half of the hold-out and reported on the
    other. Both ends keep the bound: a rank was fixed beforehand, or a budget that never saw the events; and
    taking the higher or the lower of the two does too, as the bound falls with the misses in either.

    Args:
        labeled: scored series in which the events lie.
        events: labelled incidents (`join_events`).
        holdout: scored series of normal footage that nothing was learned from.
        config: the decider; single pictures are decided with `config.for_images()`.
        target_recall: in (0, 1]; 1 is answered with the most that can be proven.
        confidence: in (0, 1).
        budget_per_hour: false alarms an hour that are acceptable; None = no limit.
        prefer: which end wins where target and budget exclude each other.
        count: what is independent (`counting_units`).
        tolerance_s: how far outside its label an event may be noticed.
        settings_tried: settings compared on these same events before this one was chosen.
        next_tried: what that will be when further events are calibrated together with these (`certify`).
        threshold: set by hand, in place of the one worked out. Above that one it may have been chosen by a
            look at the scores, so every rank counts as tried; below it, it catches no less.
        max_chance_hit: no certificate where normal stretches as long as the events reach the
            threshold more often than this: catching by always alarming proves nothing.
        guard_s: seconds between the halves where the hold-out is one series.

    Raises:
        UsageError: an argument out of range.
        LabelsError: an event of a video that is not in `labeled`.
        CalibrationError: no event, constant scores, events that no threshold can catch, or a detector
            to which every anomaly is more normal than anything normal.
    """
    _check(target_recall, confidence, budget_per_hour, tolerance_s, settings_tried)
    check_threshold(threshold)
    if not events:
        raise CalibrationError(checks.NO_EVENT)
    decided = {name: decide(one, config) for name, one in by_source(labeled).items()}
    normal = [decide(one, config) for one in holdout]
    checks.refuse_constant([*decided.values(), *normal])
    ordinary = ordinary_score(holdout)
    scores = event_scores(events, decided, tolerance_s, ordinary)
    checks.refuse_unseen(events, scores, normal)
    certifying = _certifying(events)
    units = counting_units(certifying, scores, count)
    if not len(units):
        raise CalibrationError(
            f"no frame lies in any event that counts ({checks.some([str(event) for event in certifying])}); "
            "check the labels' times against the footage"
        )
    # Only what the certificate counts may speak for it, each unit once: short labels of the detector's own, or many
    # short ones in one clip, must not thin out the chance hits of long ones.
    counted = [i for i, event in enumerate(certifying) if event.certifies and not np.isnan(scores[i])]
    unit = unit_name([certifying[i] for i in counted], count)
    rank = threshold_rank(len(units), target_recall, confidence, settings_tried)
    lowest = float(np.sort(units)[max(rank, 1) - 1])
    checks.refuse_never_caught(events, scores, lowest, config)
    for_recall = just_below(lowest)

    spend: list[Decided] = []
    spent: tuple[Spent, ...] = ()
    lengths = [searched_s(event, decided[event.video].series, tolerance_s) for event in events]
    windows = normal_windows(normal, lengths)
    some = shortest_of_units([certifying[i] for i in counted], [lengths[i] for i in counted], count)
    chance = [counted[i] for i in some]
    if budget_per_hour is not None and sum(one.series.seconds.sum() for one in normal) >= 2 * MINIMUM_S:
        parts = [[decide(one, config) for one in part] for part in split_holdout(holdout, guard_s)]
        reported = normal_windows(parts[1], lengths)
        # A budget is worth less than a certificate: what is left to report on must still bear one.
        if checks.measurable(reported.of(chance), max_chance_hit) or not checks.measurable(
            windows.of(chance), max_chance_hit
        ):
            (spend, normal), windows = parts, reported
            spent = spent_on(holdout, [one.series for one in normal])
    for_budget = None
    if budget_per_hour is not None:
        for_budget = threshold_for_budget(
            spend,
            budget_per_hour,
            windows=normal_windows(spend, lengths).of(chance),
            max_chance_hit=max_chance_hit,
        )

    dependent = checks.independence_verdict(events)

    def point(serves: Literal["recall", "budget", "hand"], threshold: float) -> OperatingPoint:
        raised = threshold > for_recall
        certificate = certify(
            len(units),
            target_recall,
            confidence,
            n_missed=int((units < threshold).sum()) if raised else None,
            settings_tried=settings_tried,
            next_tried=next_tried,
            by_hand=raised and serves == "hand",
            unit=unit,
        )
        certificate = replace(certificate, covers=_covers(certifying, scores, decided, unit, len(units)))
        mine = windows.of(chance)
        price = false_alarms(
            normal, threshold, confidence=confidence, settings_tried=settings_tried, windows=mine
        )
        price = replace(price, by_hand=serves == "hand")
        withheld = dependent or checks.nothing_verdict(certificate)
        withheld = withheld or checks.chance_verdict(price, mine, certificate, threshold, max_chance_hit)
        return OperatingPoint(serves, threshold, None if withheld else certificate, withheld, price)

    chosen = point("recall", for_recall)
    conflict: tuple[OperatingPoint, ...] = ()
    if for_budget is not None and for_budget > for_recall:
        conflict = (chosen, point("budget", for_budget))
        chosen = conflict[prefer == "budget"]
    elif for_budget is not None and rank == 0:
        chosen = point("recall", for_budget)
    if threshold is not None:
        worked_out, chosen, conflict = chosen.threshold, point("hand", threshold), ()

    shares = windows.shares(scores)
    outcomes = event_outcomes(
        events,
        decided,
        chosen.threshold,
        tolerance_s,
        None if np.isnan(shares).any() else shares.tolist(),
        ordinary,
    )
    notes = checks.notes_on(outcomes, windows)
    if threshold is not None:
        notes.insert(0, f"The threshold was set by hand; calibration would have set {worked_out:.6g}.")
    if count == "event" and len({certifying[i].video for i in counted}) < len(counted):
        notes.append(checks.COUNTED_EACH)
    if threshold is None and budget_per_hour is not None and for_budget is None:
        why = "too little normal footage was held out to spend it on one part and check it on another"
        if holdout and all(one.is_picture for one in holdout):
            why = "single pictures were held out, which have no hours"
        notes.append(f"The budget of {budget_per_hour:g} false alarms an hour was not used: {why}.")
    return Calibration(
        threshold=chosen.threshold,
        certificate=chosen.certificate,
        withheld=chosen.withheld,
        false_alarms=chosen.false_alarms,
        conflict=conflict,
        events=outcomes,
        kinds=kind_outcomes(outcomes),
        notes=tuple(notes),
        config=config,
        tolerance_s=tolerance_s,
        count=count,
        settings_tried=settings_tried,
        by_hand=threshold is not None,
        frame_recall=frame_recall(events, decided, chosen.threshold),
        spent=spent,
        ordinary=ordinary,
    )


def kind_outcomes(outcomes: Sequence[EventOutcome]) -> tuple[KindOutcome, ...]:
    """How each kind of anomaly fares, the worst first; an event of two kinds is in both."""
    kinds: dict[str, list[EventOutcome]] = {}
    for one in outcomes:
        for label in one.event.labels if one.outcome != "blind" else ():
            kinds.setdefault(label, []).append(one)
    rows = [
        KindOutcome(label, len(ones), sum(one.caught for one in ones), min(one.score for one in ones))
        for label, ones in kinds.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.n_caught / row.n_events, row.lowest_score, row.label)))


def _check(
    target_recall: float,
    confidence: float,
    budget_per_hour: float | None,
    tolerance_s: float,
    settings_tried: int,
) -> None:
    threshold_rank(1, target_recall, confidence, settings_tried)
    if budget_per_hour is not None and not budget_per_hour >= 0:
        raise UsageError(
            f"calibration.false_alarms_per_hour={budget_per_hour} is negative; give false alarms an hour"
        )
    if not tolerance_s >= 0:
        raise UsageError(f"labels.slack_s={tolerance_s} is negative; give seconds, 0 or more")


def _certifying(events: Sequence[Event]) -> list[Event]:
    """The events as they count: where none certifies, all do, to set a threshold without a certificate."""
    if any(event.certifies for event in events):
        return list(events)
    return [replace(event, found=CERTIFYING[0]) for event in events]


def _covers(
    events: Sequence[Event],
    scores: NDArray[np.float64],
    decided: Mapping[str, Decided],
    unit: str,
    n_units: int,
) -> str:
    """Which anomalies the certificate speaks of, and what it takes for granted."""
    counted = [e for e, score in zip(events, scores, strict=True) if e.certifies and not np.isnan(score)]
    kinds = Counter(label for event in counted for label in event.labels)
    listed = checks.some([f"{n} {label}" for label, n in kinds.most_common()])
    these = "the one" if len(counted) == 1 else f"these {len(counted)}"
    pictures = sum(decided[event.video].series.is_picture for event in counted)
    still = ""
    if pictures:
        which = "All" if pictures == len(counted) else f"{pictures}"
        still = f" {which} were single pictures: of video, where scores are smoothed, they prove nothing."
    granted = ""
    if n_units > 1:
        several = unit == "event" and len({event.video for event in counted}) < len(counted)
        alone = "pictures" if pictures == len(counted) else "clips"
        things = "groups" if unit == "incident" else "events" if several else alone
        granted = (
            f" It takes for granted that these {n_units} {things} show {n_units} different incidents; say which do "
            "not by the labels' column `group` or by labels.group."
        )
    return (
        f"for anomalies drawn like {these} labelled ({listed}); other kinds are not covered.{still}{granted}"
    )
