"""Whether a certificate holds where it is used: the evidence, scored again by whatever runs there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.errors import CorruptModelError
from anomaly.model import software
from export import MAP_FACTOR, map_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.detector import Detector
    from anomaly.evidence import Evidence
    from anomaly.types import ImageArray

    #: Raw scores (n,) float64 and scaled patch distances (n, gh * gw) float32, 0 where a patch does not count.
    Answer = tuple[NDArray[np.float64], NDArray[np.float32]]
    #: (H, W, 3) uint8 RGB pictures to what is seen in them.
    LookAt = Callable[[Sequence[ImageArray]], Answer]

#: The lowest event defines the threshold; scores that differ by the order of a sum must not lose it.
_NOISE = 1e-4


@dataclass(frozen=True)
class Recheck:
    """What became of a certificate under another runtime, precision or version.

    Attributes:
        runtime, reference: what scored now, and at calibration.
        n_frames, n_events: looked at.
        largest_difference: of a raw score from the reference; 1 = the score of an ordinary normal frame.
        at: the frame of the largest difference.
        heatmap: largest difference of a place of a heatmap, relative to its frame's highest.
        tolerance: difference of a score that is allowed; of a heatmap `export.MAP_FACTOR` times as much is.
        lost: events that were caught at calibration and are not any more.
        left_out: events of which no pictures are kept.
        new_alarms: normal frames that reach the threshold and did not at calibration.
        n_normal, alarmed: normal frames that were looked at, and those of them that reached the threshold at calibration.
        versions: software that differs, in words.
    """

    runtime: str
    reference: str
    n_frames: int
    n_events: int
    largest_difference: float
    at: str
    heatmap: float
    tolerance: float
    lost: tuple[str, ...]
    left_out: int
    new_alarms: int
    n_normal: int
    alarmed: int
    versions: tuple[str, ...]

    @property
    def why_not(self) -> str:
        """Why the certificate does not hold, or cannot be told to; "" if it holds."""
        if self.lost or not self.largest_difference <= self.tolerance:
            lost = (
                f"{len(self.lost)} of {self.n_events} events are not caught any more, " if self.lost else ""
            )
            allowed = f" (allowed {self.tolerance:g})" if math.isfinite(self.tolerance) else ""
            return f"{lost}scores differ by up to {self.largest_difference:.2g}{allowed}"
        if not self.heatmap <= MAP_FACTOR * self.tolerance:
            return (
                f"heatmaps differ by up to {self.heatmap:.2g} of their highest place (allowed "
                f"{MAP_FACTOR * self.tolerance:g})"
            )
        if self.left_out:
            return f"{self.left_out} events have no pictures in the evidence; calibrate with a larger evidence.max_mb"
        if not self.n_events:
            return "the evidence holds no event that was caught at calibration"
        if self.new_alarms:
            return (
                f"{self.new_alarms} of {self.n_normal} normal frames of the evidence reach the threshold now that did not "
                f"before, when {self.alarmed} did: false alarms and chance hits were not measured so"
            )
        return ""

    @property
    def incomplete(self) -> bool:
        """Whether nothing speaks against the certificate, but not every event has pictures to look at."""
        return bool(self.left_out) and not replace(self, left_out=0).why_not

    @property
    def differs(self) -> bool:
        """Whether what was looked at comes out otherwise than at calibration."""
        return bool(replace(self, left_out=0, n_events=max(self.n_events, 1)).why_not)

    @property
    def holds(self) -> bool:
        """Whether every event was looked at and is still caught, nothing new alarms, and scores and heatmaps are within the tolerance."""
        return not self.why_not

    def text(self, certified: bool = True, doubt: str = "") -> str:
        """In plain words; `certified`: whether there is a certificate; `doubt`: why it does not hold, whatever the evidence shows."""
        kept = self.n_events - len(self.lost)
        of_scores, of_heatmaps = (
            f"allowed {self.tolerance:g}; ",
            f" (allowed {MAP_FACTOR * self.tolerance:g})",
        )
        if math.isinf(self.tolerance):
            of_scores, of_heatmaps = (
                "",
                ", which is told and not judged: what counts are the events, and normal frames that alarm",
            )
        lines = [
            f"Scored {self.n_frames} frames of the evidence again with {self.runtime}; the reference is {self.reference}.",
            f"Scores differ by {self.largest_difference:.2g} at most ({of_scores}an ordinary "
            f"frame scores 1), at {self.at}; heatmaps by {self.heatmap:.2g} of their highest place{of_heatmaps}.",
            f"{kept} of {self.n_events} labelled events that were caught are still caught.",
        ]
        lines += [f"Not caught any more: {name}." for name in self.lost]
        lines += [f"Changed since: {version}." for version in self.versions]
        holds = (
            "The certificate holds"
            if certified
            else "There is no certificate; the threshold decides as it did"
        )
        lines.append(
            f"The certificate does NOT hold here. {self.why_not[0].upper()}{self.why_not[1:]}."
            if not self.holds and not self.incomplete
            else f"UNCERTIFIED here, whatever these events show: {doubt}."
            if doubt
            else f"{holds} here."
            if self.holds
            else f"{holds} here for these {self.n_events} events; {self.why_not}, to check the others too."
        )
        return "\n".join(lines)


def looking(detector: Detector) -> LookAt:
    """What a detector sees, for `recheck`; frame by frame, as beside the line."""

    def look_at(images: Sequence[ImageArray]) -> Answer:
        looks = [look for image in images for look in detector.look([image])]
        return np.array([look.score for look in looks], np.float64), np.stack(
            [look.distances for look in looks]
        )

    return look_at


def recheck(
    evidence: Evidence,
    look_at: LookAt,
    *,
    runtime: str,
    tolerance: float = 0.01,
    progress: Callable[[int], None] | None = None,
) -> Recheck:
    """Score the evidence again and hold it against the reference: `look_again`, then `judge`."""
    return judge(evidence, look_again(evidence, look_at, progress), runtime=runtime, tolerance=tolerance)


def look_again(
    evidence: Evidence, look_at: LookAt, progress: Callable[[int], None] | None = None
) -> list[Answer]:
    """What is seen in every stretch of the evidence, in order.

    Args:
        evidence: as `load_evidence` gives it.
        look_at: what pictures show under the runtime in question.
        progress: called with the number of frames done since the last call.

    Raises:
        CorruptModelError: a picture missing or changed, or evidence without a frame.
    """
    if not evidence.stretches:
        raise CorruptModelError(
            f"{str(evidence.folder)!r} holds no frame; calibrate again with a larger evidence.max_mb"
        )
    found = []
    for one in evidence.stretches:
        found.append(look_at([evidence.image(file) for file in one.files]))
        if progress is not None:
            progress(len(one.files))
    return found


def judge(
    evidence: Evidence,
    found: Sequence[Answer],
    *,
    runtime: str,
    tolerance: float = 0.01,
    factor: float = 1.0,
) -> Recheck:
    """Hold what is seen in the evidence against the reference.

    Args:
        evidence: as `load_evidence` gives it.
        found: of `look_again`.
        runtime: what scored, such as "openvino-bf16".
        tolerance: allowed difference of a raw score from the reference.
        factor: of the calibration's thresholds, 1 or lower, under this runtime.
    """
    largest, at, lost, caught, frames, new, normal, alarmed = -1.0, "", [], 0, 0, 0, 0, 0
    heatmap = 0.0
    for one, (scores, distances) in zip(evidence.stretches, found, strict=True):
        heatmap = max(heatmap, map_difference(one.distances, distances))
        differences = np.abs(scores - one.scores)
        worst = int(np.nan_to_num(differences, nan=np.inf).argmax())
        if not differences[worst] <= largest:
            largest, at = float(differences[worst]), f"{one.source} at {one.times[worst]:.2f} s"
        frames += len(scores)
        finite = bool(np.isfinite(scores).all())
        if one.caught(evidence.decider):
            caught += 1
            threshold = one.threshold * factor
            reached = one.decision_score(evidence.decider, np.maximum(scores, 0)) if finite else -np.inf
            if not reached >= threshold * (1 - _NOISE):
                lost.append(f"{one.event} ({reached:.4g}, the threshold is {threshold:.4g})")
        if one.event is None:
            before, now_on = one.on_scale(one.scores).max(), one.on_scale(scores).max()
            normal += 1
            alarmed += bool(before >= one.threshold)
            new += bool(before < one.threshold and now_on >= one.threshold * factor)
    now = software()
    versions = tuple(
        f"{name} {version}, now {now.get(name, 'not installed')}"
        for name, version in evidence.software.items()
        if now.get(name) != version
    )
    return Recheck(
        runtime,
        evidence.runtime,
        frames,
        caught,
        largest,
        at,
        heatmap,
        tolerance,
        tuple(lost),
        evidence.left_out,
        new,
        normal,
        alarmed,
        versions,
    )
