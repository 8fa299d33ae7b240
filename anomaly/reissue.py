"""A certificate under an exported graph: the evidence scored again, and the threshold that goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.artifact import read_signed, write_json
from anomaly.calibration import just_below
from anomaly.evidence import SETTLED
from anomaly.exported import FOLDER, INDEX
from anomaly.recertification import judge, look_again, looking
from anomaly.thresholds import calibration_path, evidence_is_of_another, of_this_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomaly.detector import Detector
    from anomaly.evidence import Evidence
    from anomaly.model import Model
    from anomaly.recertification import Recheck

#: Share of the threshold that it may be lowered by, so that an event on the threshold is still caught.
MOST_LOWERED = 0.02


@dataclass(frozen=True)
class Rescored:
    """The evidence under an exported graph.

    Attributes:
        recheck: scores and events held against the reference.
        factor: of the calibration's thresholds: 1, or a little lower, so that the events which lie on a threshold
            are still caught; never higher.
        calibration: the one that the evidence is of (`Evidence`).
    """

    recheck: Recheck
    factor: float
    calibration: str | None


def rescore(
    evidence: Evidence,
    detector: Detector,
    name: str,
    *,
    tolerance: float,
    lowering: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Rescored:
    """Score all evidence with a detector.

    Args:
        evidence: of the model.
        detector: with the graphs in it.
        name: "<runtime>-<precision>".
        tolerance: allowed difference of a score; 1 = the score of an ordinary normal frame.
        lowering: share of the threshold that it may be lowered by.
        progress: called with the number of frames done since the last call.
    """
    answers = look_again(evidence, looking(detector), progress)
    reached = [
        one.decision_score(evidence.decider, np.maximum(found, 0)) / one.threshold
        for one, (found, _) in zip(evidence.stretches, answers, strict=True)
        # One of 0 is reached by whatever is seen; what is no number is judged below, as lost.
        if one.caught(evidence.decider) and one.threshold > 0 and np.isfinite(found).all()
    ]
    lower = max(0.0, 1.0 - min(reached, default=1.0))
    # What went before the frames kept is not scored again, and has so much of the weight.
    factor = 1.0 - lower / (1.0 - math.exp(-SETTLED)) if lower <= lowering else 1.0
    found = judge(evidence, answers, runtime=name, tolerance=tolerance, factor=factor)
    return Rescored(found, factor, evidence.calibration)


def withdraw(folder: Path, name: str) -> None:
    """Take back what was issued for an earlier export; what the model was calibrated with stays, in doubt for another export."""
    path = folder / "thresholds" / f"{name}.json"
    if path != calibration_path(folder):
        path.unlink(missing_ok=True)


def reissue(model: Model, name: str, found: Rescored | None) -> str:
    """Write `thresholds/<name>.json` if the evidence bears it out.

    Args:
        model: the model.
        name: "<runtime>-<precision>".
        found: the evidence scored again; None = there is none.

    Returns:
        What became of the certificate, in words.
    """
    path = model.folder / "thresholds" / f"{name}.json"
    withdraw(model.folder, name)
    source = calibration_path(model.folder)
    if source is None:
        return (
            "NOT CALIBRATED: the model has no threshold, so there is no certificate to re-issue; run "
            f"`python -m anomaly calibrate --model {model.folder} --labeled LABELS`, then export again"
        )
    document = read_signed(source)
    if not of_this_version(document):
        return "UNCERTIFIED: the model was calibrated by another version of this program; calibrate again, then export again"
    if document["hangs_on"]["scoring"] != model.scoring_digest:
        return "UNCERTIFIED: the model is not what it was calibrated with; calibrate again, then export again"
    if evidence_is_of_another(model.folder, document):
        return "UNCERTIFIED: the model's evidence is of another calibration than its threshold; calibrate again, then export again"
    if found is None:
        return (
            "UNCERTIFIED: the model holds no evidence of its own to certify it on; calibrate with evidence.max_mb above 0, "
            "then export again"
        )
    if found.calibration != document.get("calibration"):
        return "UNCERTIFIED: the model was calibrated anew while it was exported; export again"
    checked = found.recheck
    if checked.differs:
        return (
            f"UNCERTIFIED: {checked.why_not}; use another precision or runtime, or prove this one by itself with "
            f"`python -m anomaly calibrate --model {model.folder} --labeled LABELS runtime={name}`"
        )
    if not checked.holds:
        return f"UNCERTIFIED: {checked.why_not}; export again once that is mended"
    # An export that was calibrated itself is issued its own threshold again, which may be lowered already.
    before = document.get("recertified", {}).get("threshold_factor", 1.0)
    recertified = {
        "reference": checked.reference,
        "frames": checked.n_frames,
        "events": checked.n_events,
        "largest_difference": checked.largest_difference,
        "threshold_factor": min(before, found.factor),
    }
    for one in (document, *document.get("cameras", {}).values()):
        if found.factor < before:
            one["threshold"] = just_below(one["threshold"] * found.factor / before)
    export = read_signed(model.folder / FOLDER / name / INDEX)["digest"]
    write_json(path, {**document, "runtime": name, "export": export, "recertified": recertified})
    still = (
        f"all {checked.n_events} events are still caught on {checked.n_frames} frames of evidence, at threshold "
        f"{document['threshold']:.6g}"
    )
    if not any(one["certificate"] for one in (document, *document.get("cameras", {}).values())):
        return f"UNCERTIFIED with {checked.reference}, too, so there is no certificate to re-issue for {name}; {still}."
    return f"The certificate holds for {name}: {still}."
