"""The first start of a model on a device: its certificate is checked on the evidence, once."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import replace
from typing import TYPE_CHECKING

from anomaly.artifact import digest_of, file_digest, write_file
from anomaly.evidence import FOLDER, has_evidence, load_evidence
from anomaly.exported import TORCH
from anomaly.model import software
from anomaly.reissue import rescore
from anomaly.scoring import cache_folder
from export import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomaly.evidence import Evidence
    from anomaly.model import Model
    from anomaly.reissue import Rescored
    from anomaly.thresholds import Threshold

_LOG = logging.getLogger(__name__)
#: Scores may differ by so much, at least; 1 = the score of an ordinary normal frame.
_TOLERANCE = 0.01
#: As in `recertification`: scores that differ by the order of a sum must not lose the lowest event.
_NOISE = 1e-4


def checked_here(
    model: Model, threshold: Threshold, progress: Callable[[int], None] = lambda _: None
) -> Threshold:
    """The threshold, in doubt where the evidence comes out otherwise on this device.

    Where an event that lay on it scores a trace lower here, the threshold is lowered by as much, so that it is still caught. What was found is remembered in the user's cache by export or scoring digest, thresholds, evidence, device,
    processor and versions, so that only the first start takes the time, and where a model was calibrated not even that;
    where that cache cannot be written, each start checks again. A model without a certificate is checked like any; one
    without evidence, or already in doubt, is left as it is.

    Args:
        model: loaded.
        threshold: of the model under its runtime.
        progress: called with the number of frames scored since the last call.
    """
    if threshold.value is None or threshold.doubt or not has_evidence(model.folder):
        return threshold
    evidence = load_evidence(model.folder)
    if not evidence.stretches:
        return threshold
    path = _remembered(model)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        doubt, factor = str(told["doubt"]), float(told["factor"])
    except (OSError, ValueError, KeyError):
        wrong, factor = _wrong_here(model, threshold, evidence, progress)
        doubt = f"on this device ({model.device}) {model.runtime} does not answer as where it was {'certified' if threshold.certifies else 'calibrated'}: {wrong}"
        doubt = doubt if wrong else ""
        _remember(path, doubt, factor)
    lowered = threshold.lowered(factor)
    return replace(lowered, doubt=doubt) if doubt else lowered


def calibrated_here(model: Model) -> None:
    """Remember that the model answers on this device as where it was certified: it was certified here."""
    _remember(_remembered(model), "", 1.0)


def rescored_here(
    model: Model,
    threshold: Threshold,
    evidence: Evidence,
    tolerance: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Rescored:
    """The evidence scored on this device, and what the model's threshold is lowered by for it.

    Args:
        model, threshold, progress: as for `checked_here`.
        evidence: of the model.
        tolerance: allowed difference of a score; 1 = the score of an ordinary normal frame.
    """
    # As much as the threshold was lowered when the certificate was issued for this runtime.
    issued = threshold.document.get("recertified", {}).get("threshold_factor", 1.0)
    lowering = 1.0 - issued + _NOISE
    found = rescore(
        evidence, model.detector, model.runtime, tolerance=tolerance, lowering=lowering, progress=progress
    )
    return replace(found, factor=min(1.0, found.factor / issued))


def _wrong_here(
    model: Model, threshold: Threshold, evidence: Evidence, progress: Callable[[int], None]
) -> tuple[str, float]:
    """What is wrong with the model on this device, "" if nothing; and the factor of its threshold here."""
    export = model.choice.export
    tolerance = _TOLERANCE
    if export is not None:
        # Not what the export was allowed, which may be more than a certificate takes.
        usual = TOLERANCE.get(export.precision, float("inf"))
        tolerance = max(min(export.document["tolerance"] or usual, usual), _TOLERANCE)
    here = rescored_here(model, threshold, evidence, tolerance, progress)
    found = here.recheck
    # Events without pictures were certified by torch itself: there nothing speaks against them.
    holds = found.holds if export is not None and threshold.certifies else not found.differs
    again = "calibrate" if export is None else "export"
    return "" if holds else f"{found.why_not}; {again} again here", here.factor


def _remembered(model: Model) -> Path:
    export = model.choice.export
    what = (
        [model.scoring_digest, model.runtime, software()]
        if export is None
        else [export.document["digest"], export.installed_version()]
    )
    # A folder that was calibrated again elsewhere, with the same bank, holds another certificate.
    place = model.folder / "thresholds"
    issued = [
        file_digest(path)
        for path in (
            place / f"{model.runtime}.json",
            place / f"{TORCH}.json",
            model.folder / FOLDER / "index.json",
        )
        if path.is_file()
    ]
    facts = [*what, *issued, model.device, platform.machine(), platform.processor(), platform.node()]
    return cache_folder() / "checked" / f"{digest_of(facts)}.json"


def _remember(path: Path, doubt: str, factor: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({"doubt": doubt, "factor": factor}).encode())
    except OSError as error:
        # What was found is as good without: a read-only or full disk keeps no camera unwatched.
        _LOG.warning(
            "%s cannot be written (%s): the next start checks the evidence again; let ANOMALY_CACHE name a folder that can",
            path.parent,
            error.strerror,
        )
