"""The first start of a model on a device: its certificate is checked on the evidence, once."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomaly.artifact import digest_of, file_digest, write_file
from anomaly.evidence import has_evidence, load_evidence
from anomaly.model import software
from anomaly.reissue import MOST_LOWERED, rescore
from anomaly.scoring import cache_folder
from anomaly.thresholds import calibration_path
from export import TOLERANCE, nvidia_facts, parting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomaly.evidence import Evidence
    from anomaly.model import Model
    from anomaly.reissue import Rescored
    from anomaly.thresholds import Threshold

_LOG = logging.getLogger(__name__)
#: How torch and ONNX Runtime call the processor; OpenVINO tells the name of what it runs on.
_PROCESSORS = ("cpu", "CPUExecutionProvider")
#: Scores may differ by so much, at least; 1 = the score of an ordinary normal frame.
_TOLERANCE = 0.01
#: Relative difference of patch features that is none: they are kept in half precision.
_FEATURES = 0.01
#: As in `recertification`: scores that differ by the order of a sum must not lose the lowest event.
_NOISE = 1e-4


def checked_here(
    model: Model, threshold: Threshold, progress: Callable[[int], None] = lambda _: None
) -> Threshold:
    """The threshold, in doubt where the evidence comes out otherwise on this device, or nothing tells how it comes out.

    Where an event that lay on it scores a trace lower here, the threshold is lowered by as much, so that it is still
    caught. What was found is remembered in the user's cache by export or scoring digest, thresholds, evidence, device,
    processor and versions, so that only the first start takes the time, and where a model was calibrated not even that;
    where that cache cannot be written, each start checks again. A model without a certificate, or already in doubt, is
    checked like any: it alarms all the same, and must see what it saw. Without evidence, a certificate holds only
    where it was issued, or where this model was checked before its evidence was removed.

    Args:
        model: loaded.
        threshold: of the model under its runtime.
        progress: called with the number of frames scored since the last call.
    """
    if threshold.value is None:
        return threshold
    evidence, lacking = _evidence_of(model)
    remembered = _remembered(model, evidence)
    found = _known(remembered)
    if found is None and evidence is not None:
        wrong, factor = _wrong_here(model, threshold, evidence, progress)
        doubt = f"on this device ({model.device}) {model.runtime} does not answer as where it was {'certified' if threshold.certifies else 'calibrated'}: {wrong}"
        found = (doubt if wrong else "", factor)
        _remember(remembered, found)
    if found is None:
        doubt = (
            f"{model.runtime} was not certified on this device ({model.device}), and {lacking}; copy the model with its "
            "evidence, or calibrate here"
        )
        return replace(threshold, doubt=doubt) if threshold.certifies else threshold
    doubt, factor = found
    return replace(threshold.lowered(factor), doubt="; ".join(filter(None, (threshold.doubt, doubt))))


def calibrated_here(model: Model) -> None:
    """Remember that the model answers on this device as where it was certified: it was certified here."""
    _remember(_remembered(model, _evidence_of(model)[0]), ("", 1.0))


@contextlib.contextmanager
def decided_anew(model: Model) -> Iterator[None]:
    """Carry what was found on this device over to the threshold that is worked out meanwhile from the same scores."""
    found = _known(_remembered(model, _evidence_of(model)[0]))
    yield
    if found is not None:
        _remember(_remembered(model, _evidence_of(model)[0]), found)


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
    if threshold.document["runtime"] != model.runtime:
        # None was issued: the threshold is the calibration's, and as far from this runtime as an export may be.
        lowering = min(tolerance, MOST_LOWERED)
    found = rescore(
        evidence, model.detector, model.runtime, tolerance=tolerance, lowering=lowering, progress=progress
    )
    return replace(found, factor=min(1.0, found.factor / issued))


def allowed_here(model: Model, least: float = _TOLERANCE) -> float:
    """Difference of a score that speaks against no certificate of the model under its runtime; 1 = the score of an ordinary frame.

    Infinite for int8 and fp8 that were exported without a tolerance: they are judged by the events that they catch, and by
    what they alarm on.

    Args:
        model: loaded.
        least: that of torch, and the least of any.
    """
    export = model.choice.export
    if export is None:
        return least
    # Not what the export was allowed, which may be more than a certificate takes.
    usual = TOLERANCE.get(export.precision, float("inf"))
    return max(min(export.document["tolerance"] or usual, usual), least)


def _wrong_here(
    model: Model, threshold: Threshold, evidence: Evidence, progress: Callable[[int], None]
) -> tuple[str, float]:
    """What is wrong with the model on this device, "" if nothing; and the factor of its threshold here."""
    export = model.choice.export
    here = rescored_here(model, threshold, evidence, allowed_here(model), progress)
    found = here.recheck
    # Events without pictures were certified by torch itself: there nothing speaks against them.
    holds = found.holds if export is not None and threshold.certifies else not found.differs
    if holds:
        return "", here.factor
    again = "calibrate" if export is None else "export"
    return f"{found.why_not}{_where_they_part(model, evidence)}; {again} again here", here.factor


def _where_they_part(model: Model, evidence: Evidence) -> str:
    """Whether the network or the search answers otherwise, by the patch features that the evidence keeps, in words."""
    if not len(evidence.features):
        return ""
    branch, normal = model.detector.branches[0], evidence.normal[: len(evidence.features)]
    found = np.stack([branch.patches([evidence.image(one.files[0])])[0] for one in normal])
    parted = parting({"features": evidence.features}, {"features": found}, _FEATURES)
    if parted is None:
        return "; they part in the search of the bank, patch features are as they were"
    return f"; they part in the network, patch features are off by {parted[1]:.2g}"


def _evidence_of(model: Model) -> tuple[Evidence | None, str]:
    """The evidence that a model can be compared with, or None and why there is none."""
    if not has_evidence(model.folder):
        return None, "the model holds no evidence to compare it on"
    evidence = load_evidence(model.folder)
    if not evidence.stretches:
        return None, "its evidence holds no frame to compare it on"
    if evidence.scoring_digest != model.scoring_digest:
        return None, "its evidence is of another model"
    return evidence, ""


def _remembered(model: Model, evidence: Evidence | None) -> tuple[Path, ...]:
    """Where what was found is kept: with the evidence, and as what holds once that is removed."""
    export = model.choice.export
    what = (
        [model.scoring_digest, model.runtime, software()]
        if export is None
        else [export.document["digest"], export.installed_version()]
    )
    # A folder that was calibrated again elsewhere, with the same bank, holds another certificate.
    decide = (model.folder / "thresholds" / f"{model.runtime}.json", calibration_path(model.folder))
    issued = [file_digest(path) for path in dict.fromkeys(decide) if path is not None and path.is_file()]
    compared = [] if evidence is None else [file_digest(evidence.folder / "index.json")]
    here = [model.device, platform.machine(), _processor(), platform.node()]
    if model.device not in _PROCESSORS and not model.runtime.startswith("openvino"):
        here += nvidia_facts()
    place = cache_folder() / "checked"
    return tuple(
        place / f"{digest_of([*what, *facts, *here])}.json"
        for facts in dict.fromkeys((tuple(issued + compared), tuple(issued)))
    )


def _processor() -> str:
    """The processor's name, which `platform.processor` does not know on most Linux systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _known(remembered: Sequence[Path]) -> tuple[str, float] | None:
    """(doubt, factor) that were remembered in the first place; None = nothing was."""
    try:
        told = json.loads(remembered[0].read_text(encoding="utf-8"))
        return str(told["doubt"]), float(told["factor"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(remembered: Sequence[Path], found: tuple[str, float]) -> None:
    for path in remembered:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps({"doubt": found[0], "factor": found[1]}).encode())
        except OSError as error:
            # What was found is as good without: a read-only or full disk keeps no camera unwatched.
            _LOG.warning(
                "%s cannot be written (%s): the next start checks the evidence again; let ANOMALY_CACHE name a folder that can",
                path.parent,
                error.strerror,
            )
            return
