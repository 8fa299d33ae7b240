"""The first start of an exported graph on a device: its certificate is checked on the evidence, once."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from typing import TYPE_CHECKING

from anomaly.artifact import digest_of, write_file
from anomaly.evidence import has_evidence, load_evidence
from anomaly.reissue import rescore
from anomaly.scoring import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomaly.model import Model
    from anomaly.thresholds import Threshold


def checked_here(
    model: Model, threshold: Threshold, progress: Callable[[int], None] = lambda _: None
) -> Threshold:
    """The threshold, in doubt where the evidence comes out otherwise on this device.

    What was found is remembered in the user's cache by export, device, processor and versions, so that only the
    first start takes the time. A model run with torch, without a certificate, or without evidence is left as it is.

    Args:
        model: loaded.
        threshold: of the model under its runtime.
        progress: called with the number of frames scored since the last call.
    """
    export = model.choice.export
    if export is None or not threshold.certified or not has_evidence(model.folder):
        return threshold
    evidence = load_evidence(model.folder)
    if not evidence.stretches:
        return threshold
    facts = [
        export.document["digest"],
        model.device,
        platform.machine(),
        platform.processor(),
        platform.node(),
    ]
    path = cache_folder() / "checked" / f"{digest_of([*facts, export.installed_version()])}.json"
    try:
        doubt = str(json.loads(path.read_text(encoding="utf-8"))["doubt"])
    except (OSError, ValueError, KeyError):
        tolerance = max(export.document["tolerance"] or float("inf"), 0.01)
        # As much as the threshold was lowered when the certificate was issued for this runtime.
        lowered = 1.0 - threshold.document.get("recertified", {}).get("threshold_factor", 1.0) + 1e-4
        found = rescore(
            evidence, model.detector, export.name, tolerance=tolerance, lowering=lowered, progress=progress
        )
        doubt = ""
        if not found.recheck.holds:
            doubt = (
                f"on this device ({model.device}) {export.name} does not answer as where it was certified: "
                f"{found.recheck.why_not}; export again here"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({"doubt": doubt}).encode())
    return replace(threshold, doubt=doubt) if doubt else threshold
