"""What looking costs in a study: which events choose and which certify, and what was looked at before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anomaly.calibration import split_events
from anomaly.calibration.budget import split_holdout
from anomaly.calibration.certificate import CHOSE
from anomaly.calibration.false_alarms import MINIMUM_S
from anomaly.commands import console
from anomaly.commands.calibrate import setting_of
from anomaly.commands.labeled import looks_before, seen_in
from anomaly.errors import CalibrationError
from anomaly.looks import Look, settings_tried

if TYPE_CHECKING:
    from anomaly.calibration import Event, Series
    from anomaly.config import StudyConfig
    from anomaly.decider import DeciderConfig
    from anomaly.model import Model

#: Seconds between the two halves of a hold-out that is one video.
_GUARD_S = 10.0


def protected(
    config: StudyConfig, events: list[Event], holdout: list[Series], n_settings: int
) -> tuple[list[Event], list[Event], list[Series], list[Series], str]:
    """(events that choose, all events with those that may certify, hold-out to choose and to report on, in words)."""
    if n_settings == 1:
        return events, events, holdout, holdout, "One setting: nothing was chosen by a look at the events."
    spend, report = holdout, holdout
    same = " The same normal footage chose and is reported on, as there are under two minutes of it: expect more false alarms."
    if all(one.is_picture for one in holdout):
        same = " The same normal pictures chose and are reported on: expect more false alarms."
    if sum(float(one.seconds.sum()) for one in holdout) >= 2 * MINIMUM_S:
        halves = split_holdout(holdout, _GUARD_S)
        if all(halves):
            (spend, report), same = halves, ""
    if config.study.protect == "correct":
        how = f"Chosen and certified on the same events; the bound is lowered for the {n_settings} settings tried."
        return events, events, spend, report, how + same
    choose, prove = split_events(events, share=config.study.share, seed=config.study.seed)
    if not choose or not prove:
        raise CalibrationError(
            f"{len({event.clip for event in events})} clips cannot be split into those that choose and those that "
            "certify; label more, or use study.protect=correct"
        )
    how = (
        f"Chosen on the events of {console.counted(len({event.video for event in choose if event.certifies}), 'clip')}, certified on "
        f"{len({event.video for event in prove if event.certifies})} that played no part in the choice."
    )
    marked = [
        replace(event, found=CHOSE) if event.certifies and event in choose else event for event in events
    ]
    return choose, marked, spend, report, how + same


def count_looks(
    config: StudyConfig,
    model: Model,
    document: Mapping[str, Any],
    settings: Sequence[DeciderConfig],
    best: DeciderConfig,
    choose: Sequence[Event],
    prove: Sequence[Event],
) -> tuple[list[Look], int, int, str]:
    """What a study costs.

    The calibration that it starts from is counted where it met the clips that certify: what it gave on them was seen,
    and whoever takes the study's best has preferred that.

    Returns:
        (the looks of this study; how many settings its certificate pays for; how many one will pay for that counts
        further clips together with all of these; identity of the chosen setting).
    """
    normal = document["clips"].keys() - {event.video for event in prove}

    def digest(decider: DeciderConfig, *more: Any) -> str:
        return setting_of(config, model, document["fps"], decider, *more)

    def seen(some: Sequence[Event]) -> dict[str, str]:
        return seen_in(some, document["clips"], normal)

    def proving(some: Sequence[Event]) -> frozenset[str]:
        return frozenset(document["clips"][event.video] for event in some if event.certifies)

    looks, tried = looks_before(model, document["fps"]), [digest(one) for one in settings]
    if len(settings) == 1 or config.study.protect == "correct":
        new = [Look(one, seen(prove)) for one in tried]
        others = config.also_tried * len(settings)
        paid = others + settings_tried(looks, new, proving(prove))
        return new, paid, paid + 1, digest(best)
    chosen = digest(best, "split", config.study.seed, config.study.share, sorted(tried))
    certifying = [event for event in prove if event.certifies]
    final = Look(chosen, seen(certifying))
    # No certificate was to be had on the part that chooses: a setting that was looked at with all is no other one.
    partly = (Look(one, seen(choose)) for one in tried)
    new = [*(one for one in partly if not any(one.within(other) for other in looks)), final]
    paid = config.also_tried + settings_tried(looks, [final], proving(prove))
    # All clips certify then, those that chose as well: what was seen on any of them is paid for.
    after = config.also_tried + settings_tried(looks, new, proving([*choose, *prove])) + 1
    return new, paid, after, chosen
