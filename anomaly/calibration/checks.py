"""What calibration refuses, withholds, or tells the user besides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration.certificate import CHOSE, at_least, at_most, nothing_proven, percent
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.certificate import Certificate
    from anomaly.calibration.events import Event, EventOutcome
    from anomaly.calibration.false_alarms import FalseAlarms, NormalWindows
    from anomaly.calibration.series import Decided
    from anomaly.decider import DeciderConfig

NO_EVENT = (
    "the labels name no anomaly (what is labelled normal, good or ok is none); "
    "label at least one stretch in which something is wrong"
)
COUNTED_EACH = (
    "Events of the same clip were counted each (labels.count=event): the certificate takes for granted that they have "
    "nothing else in common."
)
#: Events that more than this share of normal stretches outscore look normal to the detector.
_LOOKS_NORMAL = 0.5


def refuse_constant(decided: Sequence[Decided]) -> None:
    """CalibrationError where every frame has the same score."""
    low = min(float(one.series.scores.min()) for one in decided)
    high = max(float(one.series.scores.max()) for one in decided)
    if low == high:
        raise CalibrationError(
            f"every frame scores {low:g}: the detector tells nothing apart; check the regions and the bank"
        )


def refuse_unseen(events: Sequence[Event], scores: NDArray[np.float64], normal: Sequence[Decided]) -> None:
    """CalibrationError where every anomaly is below every normal frame: the detector does not see them."""
    decisions = [one.decision[np.isfinite(one.decision)] for one in normal]
    lowest = min((float(one.min()) for one in decisions if len(one)), default=-np.inf)
    seen = np.flatnonzero(np.isfinite(scores)).tolist()
    if seen and float(scores[seen].max()) < lowest:
        listed = some([f"{events[i]} ({scores[i]:.4g})" for i in seen])
        raise CalibrationError(
            f"this detector does not see these anomalies, all score below every normal frame ({lowest:.4g} "
            f"and more): {listed}; look at their heatmaps, then at regions, input size and backbone"
        )


def refuse_never_caught(
    events: Sequence[Event], scores: NDArray[np.float64], score: float, config: DeciderConfig
) -> None:
    """CalibrationError where the score that sets the threshold is that of an event no threshold catches."""
    if score > -np.inf:
        return
    never = some([str(events[i]) for i in np.flatnonzero(np.isneginf(scores)).tolist()])
    raise CalibrationError(
        f"no threshold catches these events, their footage holds no {config.min_duration_s:g} s of frames "
        f"that an alarm needs: {never}; "
        "lower decider.min_duration_s, or give longer clips or more frames a second"
    )


def independence_verdict(events: Sequence[Event]) -> str:
    """Why no event may prove anything, by how they were found; "" if one may."""
    if any(event.certifies for event in events):
        return ""
    chose = sum(event.found == CHOSE for event in events)
    found = "every event was found by the detector itself (alarm, proposed)"
    if chose == len(events):
        return "every event was used to choose the settings; label others, which took no part in the choice."
    if chose:
        found = (
            f"{chose} of {len(events)} events were used to choose the settings, and the detector itself found the "
            "others (alarm, proposed)"
        )
    return (
        f"{found}, which says nothing of those it missed; label some found by inspection, by an audit of random "
        "time, or planted."
    )


def nothing_verdict(certificate: Certificate) -> str:
    """That a threshold, for a budget or by hand, which misses all that counts is certified for nothing; "" if it catches one."""
    return "" if certificate.recall > 0 else nothing_proven(certificate.n_events, certificate.unit)


def chance_verdict(
    price: FalseAlarms,
    windows: NormalWindows,
    certificate: Certificate,
    threshold: float,
    max_chance_hit: float,
) -> str:
    """Why the chance-hit rate, or that it cannot be measured, forbids a certificate; "" if it does not.

    Events for which the normal footage has too little room count as if chance caught every one of them.
    """
    rate = price.chance_hit_rate
    proven = (
        f" With it, {certificate.n_events} {certificate.unit}{'s' * (certificate.n_events != 1)} would prove a recall "
        f"of at most {at_least(certificate.recall)} at {percent(certificate.confidence)}."
    )
    if rate is None:
        return (
            "no normal footage was held out to show that this threshold does not simply always alarm."
            + proven
        )
    if rate > max_chance_hit:
        return (
            f"{at_most(rate)} of normal stretches as long as the events reach this threshold too (limit "
            f"{percent(max_chance_hit)}): events would be caught by chance."
        )
    short = windows.crowded(least_room(max_chance_hit))
    at_worst = np.where(short, 1.0, windows.shares(np.full(len(short), threshold)))
    if at_worst.mean() > max_chance_hit:
        needed = least_room(max_chance_hit)
        # Of the events that were not measured, the shortest that has to be.
        spared = int(max_chance_hit * len(short) + 1e-9)
        decisive = sorted(range(len(short)), key=lambda i: windows.lengths_s[i])[len(short) - 1 - spared]
        length_s = windows.lengths_s[decisive]
        room = math.floor(windows.rooms[decisive])
        stretches = (
            f"{room} normal picture{'s' * (room != 1)}"
            if length_s == 0
            else f"{room} stretch{'es' * (room != 1)} of {length_s:.0f} s, as long as an event"
        )
        # The rest of a clip that is too short for another stretch is no room: more is counted, not all.
        more = (
            f"{needed - room} more picture{'s' * (needed - room != 1)}"
            if length_s == 0
            else f"{math.ceil((needed - room) * length_s)} s more of normal footage, in clips of {length_s:.0f} s or longer"
        )
        return (
            f"the normal footage held out has room for {stretches}: too little to see whether the events were "
            f"caught by chance. Hold out {more} (longer normal footage or fit.holdout for `fit`, or "
            f"further videos labelled normal)." + proven
        )
    return ""


def least_room(max_chance_hit: float) -> int:
    """Normal stretches that it takes to see a rate as small as the limit."""
    return math.ceil(1 / max_chance_hit - 1e-9)


def measurable(windows: NormalWindows, max_chance_hit: float) -> bool:
    """Whether the normal footage is enough to tell a chance-hit rate at the limit from none."""
    crowded = windows.crowded(least_room(max_chance_hit))
    return bool(len(crowded)) and float(crowded.mean()) <= max_chance_hit


def notes_on(outcomes: Sequence[EventOutcome], windows: NormalWindows) -> list[str]:
    """What to say of events that are blind, unseen, caught by a running alarm, or prove nothing."""
    notes = []
    blind = [str(one.event) for one in outcomes if one.outcome == "blind"]
    if blind:
        notes.append(f"Not counted, because the footage has nothing of their time: {some(blind)}.")
    never = [str(one.event) for one in outcomes if math.isinf(one.score)]
    if never:
        notes.append(
            "Missed at every threshold, because too few frames show them for an alarm (decider.min_duration_s), or none does: "
            f"{some(never)}."
        )
    chose = sum(one.event.found == CHOSE for one in outcomes)
    if chose:
        notes.append(
            f"Used to choose the settings, so listed but no proof: {chose} of {len(outcomes)} events."
        )
    own = sum(not one.event.certifies for one in outcomes) - chose
    if own:
        notes.append(
            f"Found by the detector itself, so listed but no proof: {own} of {len(outcomes)} events."
        )
    # After another labelled event one is scored without that one's trace: it is caught by itself.
    ended_s: dict[str, float] = {}
    for one in outcomes:
        video = one.event.video
        ended_s[video] = min(one.event.end_s, ended_s.get(video, math.inf))
    running = [
        one.event
        for one in outcomes
        if one.outcome == "running" and ended_s[one.event.video] > one.event.start_s
    ]
    if running:
        kinds = Counter(label for event in running for label in event.labels)
        notes.append(
            f"Caught only by an alarm that was on already, of nothing that is labelled: {len(running)} of {len(outcomes)} "
            f"events ({some([f'{n} {label}' for label, n in kinds.most_common()])}). That such ones are caught where nothing goes "
            "before them is not shown."
        )
    normal = [
        f"{one.event} ({percent(one.normal_share)} of normal stretches score as high)"
        for one in outcomes
        if one.normal_share is not None and one.normal_share > _LOOKS_NORMAL and math.isfinite(one.score)
    ]
    if normal:
        notes.append(f"These look normal to the detector: {some(normal)}.")
    if windows.truncated:
        notes.append(
            f"{windows.truncated} {'event is' if windows.truncated == 1 else 'events are'} longer than any normal stretch held out: "
            "their chance hits were added up over parts, which tells too many rather than too few."
        )
    return notes


def some(names: Sequence[str]) -> str:
    """Up to five names, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
