"""The detector: branches that turn frames into scores, and a decider that turns scores into events.

A branch extracts patch features, projects them, and measures each patch against its memory bank.
`Detector.look` does this for several frames at once and keeps no state; `Detector.step` adds the
decision and carries the state of one camera.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.decider import Decider, DeciderConfig, DeciderState, Decision
from anomaly.heatmap import Box, anomaly_box, anomaly_map, frame_score
from anomaly.regions import Regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly.backbone import Backbone
    from anomaly.projection import Projection
    from anomaly.types import Frame, ImageArray
    from memory_bank import MemoryBank


@dataclass(frozen=True, eq=False)
class Branch:
    """One way of looking at frames, with the memory of what is normal to it.

    Attributes:
        name: "appearance"; a motion branch may follow.
        backbone: frames to patch features.
        projection: patch features to the space of the bank.
        bank: the normal patches.
        scale: the score of an ordinary normal frame, in units of distance; scores are divided
            by it, so that 1 is ordinary on every camera.
        top_share: share of the patches whose mean is the score.
    """

    name: str
    backbone: Backbone
    projection: Projection
    bank: MemoryBank
    scale: float
    top_share: float

    def patches(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Projected patch features of frames of any size, (N, gh * gw, d) float32."""
        return self.projection.apply(self.backbone.extract(images))


@dataclass(frozen=True, eq=False)
class Look:
    """What a branch saw in one frame.

    Attributes:
        distances: (gh * gw,) float32, distance of each patch to its nearest normal patch,
            divided by the branch's scale.
        nearest: (gh * gw,) int64, the row of the bank that was nearest.
        counts: (gh * gw,) bool, patches inside the regions.
        grid: (gh, gw).
        score: mean of the largest distances that count; 1 = an ordinary normal frame.
    """

    distances: NDArray[np.float32]
    nearest: NDArray[np.int64]
    counts: NDArray[np.bool_]
    grid: tuple[int, int]
    score: float

    def heatmap(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """(H, W) float32 for a frame of that size."""
        return anomaly_map(self.distances, self.grid, size, self.counts)

    def box(self, size: tuple[int, int]) -> Box:
        """The box around the worst region, in pixels of a frame of that size."""
        return anomaly_box(self.distances, self.grid, size, self.counts)


@dataclass(frozen=True)
class Result:
    """A frame's look and the decision on it."""

    look: Look
    decision: Decision


class Detector:
    """Frames in, looks and decisions out.

    Args:
        branches: at least one; their scores are comparable (divided by their scales), the
            largest is the frame's.
        regions: what of the picture counts.
        decider: how scores become events.
        threshold: alarm where the decision score reaches it; None = not calibrated, no alarms.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        regions: Regions,
        decider: DeciderConfig,
        threshold: float | None = None,
    ) -> None:
        if not branches:
            raise ValueError("a detector needs at least one branch")
        self.branches = tuple(branches)
        self.regions = regions
        self.decider = Decider(decider, threshold)
        self._counts = {
            branch.name: regions.patch_mask(*branch.backbone.grid).ravel() for branch in self.branches
        }

    def with_decider(self, decider: DeciderConfig, threshold: float | None) -> Detector:
        """The same branches under another decision."""
        return Detector(self.branches, self.regions, decider, threshold)

    def look(self, images: Sequence[ImageArray]) -> list[Look]:
        """Measure frames, without a decision.

        Args:
            images: each (H, W, 3) uint8 RGB.

        Returns:
            For each frame the look of the branch that scored highest.
        """
        best: list[Look] | None = None
        for branch in self.branches:
            looks = self.compare(branch, branch.patches(images))
            best = (
                looks
                if best is None
                else [max(pair, key=lambda look: look.score) for pair in zip(best, looks, strict=True)]
            )
        return best or []

    def compare(self, branch: Branch, patches: NDArray[np.float32]) -> list[Look]:
        """Measure projected patches (N, gh * gw, d) of frames against the branch's bank."""
        count, per_frame, dim = patches.shape
        distances, nearest = branch.bank.search(patches.reshape(count * per_frame, dim))
        scaled = (distances[:, 0] / np.float32(branch.scale)).reshape(count, per_frame)
        rows = nearest[:, 0].reshape(count, per_frame)
        return [self.looks_like(branch, scaled[i], rows[i]) for i in range(count)]

    def looks_like(
        self, branch: Branch, distances: NDArray[np.float32], nearest: NDArray[np.int64] | None = None
    ) -> Look:
        """The look that goes with (gh * gw,) scaled distances; without `nearest` rows are -1."""
        counts = self._counts[branch.name]
        rows = np.full(len(distances), -1, np.int64) if nearest is None else nearest
        return Look(
            distances, rows, counts, branch.backbone.grid, frame_score(distances, branch.top_share, counts)
        )

    def start(self) -> DeciderState:
        """The state of a camera before its first frame."""
        return self.decider.start()

    def step(self, frame: Frame, state: DeciderState) -> tuple[Result, DeciderState]:
        """Look at one frame and decide; the state is the camera's, from `start` or the step before."""
        look = self.look([frame.image])[0]
        decision, state = self.decider.step(state, frame.pts_s, look.score)
        return Result(look, decision), state


def rescaled(branch: Branch, scale: float) -> Branch:
    """The branch with another scale, kept above zero."""
    return replace(branch, scale=max(scale, 1e-6))
