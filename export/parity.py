"""Whether two runtimes answer alike, and if not, at which step they part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

#: Allowed difference of a score, relative to the reference's.
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 1e-2}
#: A single patch or pixel of a heatmap may differ by so many times as much, relative to the frame's largest one. It is
#: looked at, while the score, a mean over the largest patches, decides; and the largest of a thousand differences of
#: rounding is several times their mean. An upside-down or shifted heatmap is off by about 1.
MAP_FACTOR = 5.0


@dataclass(frozen=True)
class Parity:
    """How far a runtime is from the reference.

    Attributes:
        frames: compared.
        score: largest difference of a score, relative to the reference's.
        heatmap: largest difference of a patch distance, relative to the largest one of its frame; of a graph with
            the search inside, also of a heatmap's pixel and of the distance to a row that it calls nearest.
        flipped: frames further than the margin from the threshold whose label changed.
        tolerance: that the score's difference may not exceed, and the heatmap's not `MAP_FACTOR` times.
        worst: which frame has the largest difference of the score.
        margin: distance from the threshold, relative to the score, within which a label may change; where it is
            less than the tolerance, flipped labels are told and do not count against it.
    """

    frames: int
    score: float
    heatmap: float
    flipped: int
    tolerance: float
    worst: int
    margin: float

    @property
    def holds(self) -> bool:
        """Whether both differences are allowed and no label flipped."""
        alike = self.score <= self.tolerance and self.heatmap <= MAP_FACTOR * self.tolerance
        return alike and (self.flipped == 0 or self.margin < self.tolerance)

    def text(self) -> str:
        """One line for a person."""
        allowed = (
            f" (allowed {self.tolerance:g} and {MAP_FACTOR * self.tolerance:g})"
            if np.isfinite(self.tolerance)
            else ""
        )
        return (
            f"{self.frames} frames: score within {self.score:.2g}, heatmap within {self.heatmap:.2g}{allowed}, "
            f"{self.flipped} labels flipped"
        )


def compare(
    reference: Sequence[float] | Floats,
    found: Sequence[float] | Floats,
    reference_distances: Floats,
    found_distances: Floats,
    *,
    tolerance: float,
    threshold: float | Floats | None = None,
    margin: float | None = None,
) -> Parity:
    """Compare scores (n,) and patch distances (n, P) of the same frames.

    Anything that is not a number is infinitely far from the reference. `threshold`: of all, or (n,) of each frame.
    `margin`: as in `Parity`, None = the tolerance.
    """
    ours, theirs = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    floor = np.finfo(np.float32).tiny
    scores = _far(np.abs(theirs - ours) / np.maximum(np.abs(ours), floor))
    maps = map_difference(reference_distances, found_distances)
    margin = tolerance if margin is None else margin
    flipped = 0
    if threshold is not None:
        clear = np.abs(ours - threshold) > margin * np.abs(ours)
        flipped = int(((ours >= threshold) != (theirs >= threshold))[clear].sum())
    return Parity(len(ours), float(scores.max()), maps, flipped, tolerance, int(scores.argmax()), margin)


def map_difference(reference: Floats, found: Floats) -> float:
    """Largest difference of maps (n, P), relative to the largest value of its frame's reference."""
    largest = np.maximum(np.abs(reference).max(axis=1), np.finfo(np.float32).tiny)
    return float(_far(np.abs(found - reference).max(axis=1) / largest).max())


def parting(
    reference: Mapping[str, Floats], found: Mapping[str, Floats], tolerance: float
) -> tuple[str, float] | None:
    """The first step whose result differs by more than the tolerance.

    Args:
        reference, found: results by name of step, in the order in which they are computed.
        tolerance: allowed size of the difference, relative to that of the result (Euclidean norms).

    Returns:
        (name, relative difference), or None where no step parts.
    """
    for name, wanted in reference.items():
        size = float(np.linalg.norm(np.asarray(wanted, np.float64).ravel()))
        gap = float(np.linalg.norm((np.asarray(found[name], np.float64) - wanted).ravel()))
        relative = gap / max(size, float(np.finfo(np.float32).tiny))
        if not relative <= tolerance:
            return name, relative
    return None


def _far(differences: Floats) -> Floats:
    return np.nan_to_num(differences, nan=np.inf, posinf=np.inf)
