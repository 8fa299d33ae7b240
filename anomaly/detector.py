"""The detector: branches that turn frames into scores, and a decider that turns scores into events.

A branch extracts patch features, projects them, and measures each patch against its memory bank.
`Detector.look` does this for several frames at once; `Detector.step` adds the decision and carries
the state of one camera. Of consecutive frames only those patches are searched that may be among the
largest distances, on which the score hangs; see `memory_bank.TemporalSearch`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np

from anomaly.decider import Decider, DeciderConfig, DeciderState, Decision
from anomaly.errors import UsageError
from anomaly.extractor import patch_places
from anomaly.heatmap import Box, anomaly_box, anomaly_map, frame_score, top_count
from anomaly.regions import Regions
from memory_bank import TemporalSearch, largest_reweighted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from anomaly.extractor import Extractor
    from anomaly.projection import Projection
    from anomaly.types import Frame, ImageArray
    from memory_bank import MemoryBank

    Measured: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]


class Places(TypedDict):
    """Where patches lie, as `memory_bank` takes it: y and x of each, (n,) float32 in 0..1."""

    y: NDArray[np.float32]
    x: NDArray[np.float32]


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
        reweight: rows around the nearest one by which the distances that enter the score are re-weighted (see
            `memory_bank.reweighted`); 0 = they are not. The heatmap shows plain distances.
        index: kind of index that searches the bank (see `memory_bank.index`).
    """

    name: str
    backbone: Extractor
    projection: Projection
    bank: MemoryBank
    scale: float
    top_share: float
    reweight: int = 0
    index: str = "flat"

    def __post_init__(self) -> None:
        if self.bank.index != self.index:
            self.bank.use_index(self.index)

    def patches(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Projected patch features of frames of any size, (N, gh * gw, d) float32."""
        features = self.backbone.extract(images)
        return features if self.backbone.projected else self.projection.apply(features)

    def places(self, which: NDArray[Any]) -> Places:
        """Where some patches of the grid lie; `which` picks them, by number or as a mask."""
        y, x = patch_places(self.backbone.grid)
        return Places(y=y[which], x=x[which])


@dataclass(frozen=True, eq=False)
class Look:
    """What a branch saw in one frame.

    Footage needs its scores frame after frame, and its heatmaps seldom. So a look may know only the largest
    distances exactly, and measures the others when they are first asked for.

    Attributes:
        bounds: (gh * gw,) float32, no patch is further from its nearest normal patch; those that
            the score is the mean of, and so the largest, are exact. Divided by the branch's scale;
            0 where a patch does not count.
        counts: (gh * gw,) bool, patches inside the regions.
        grid: (gh, gw).
        score: mean of the largest distances that count, re-weighted where the branch says so; 1 = an ordinary
            normal frame.
        measure: measures every patch, for `distances` and `nearest`.
    """

    bounds: NDArray[np.float32]
    counts: NDArray[np.bool_]
    grid: tuple[int, int]
    score: float
    measure: Callable[[], Measured]

    @property
    def distances(self) -> NDArray[np.float32]:
        """(gh * gw,) float32, exact distance of each patch to its nearest normal patch, as `bounds`."""
        return self._measured[0]

    @property
    def nearest(self) -> NDArray[np.int64]:
        """(gh * gw,) int64, the row of the bank that was nearest; -1 where a patch does not count."""
        return self._measured[1]

    @cached_property
    def _measured(self) -> Measured:
        return self.measure()

    def heatmap(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """(H, W) float32 for a frame of that size, from exact distances."""
        return anomaly_map(self.distances, self.grid, size, self.counts)

    def box(self, size: tuple[int, int]) -> Box:
        """The box around the worst region, in pixels of a frame of that size."""
        return anomaly_box(self.distances, self.grid, size, self.counts)


@dataclass(frozen=True)
class Result:
    """A frame's look and the decision on it."""

    look: Look
    decision: Decision


class Recent:
    """The rows that were nearest lately, for each place of one camera's picture.

    They make the next frame's search short and never change a score: what they cannot settle is searched.
    """

    def __init__(self) -> None:
        self._searches: dict[str, TemporalSearch] = {}

    def search_of(self, branch: Branch, places: int) -> TemporalSearch:
        """The search of a branch's `places` patches that count, kept from frame to frame."""
        if branch.name not in self._searches:
            top = top_count(places, branch.top_share)
            self._searches[branch.name] = TemporalSearch(branch.bank, places, top)
        return self._searches[branch.name]


@dataclass(frozen=True, eq=False)
class CameraState:
    """What the detector carries from frame to frame of one camera.

    Attributes:
        decided: of the decider.
        recent: of the search; kept up to date in place.
    """

    decided: DeciderState
    recent: Recent


class Detector:
    """Frames in, looks and decisions out.

    Args:
        branches: at least one; their scores are comparable (divided by their scales), the
            largest is the frame's.
        regions: what of the picture counts.
        decider: how scores become events.
        threshold: alarm where the decision score reaches it; None = not calibrated, no alarms.
        within: of those regions, what counts for one camera; None = all of them.

    Raises:
        UsageError: no patch is left that counts.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        regions: Regions,
        decider: DeciderConfig,
        threshold: float | None = None,
        within: Regions | None = None,
    ) -> None:
        if not branches:
            raise ValueError("a detector needs at least one branch")
        self.branches = tuple(branches)
        self.regions = regions
        self.decider = Decider(decider, threshold)
        self._within = within
        self._counts = {branch.name: self._counting(branch) for branch in self.branches}

    def _counting(self, branch: Branch) -> NDArray[np.bool_]:
        counts = self.regions.patch_mask(*branch.backbone.grid).ravel()
        if self._within is not None:
            counts = counts & self._within.patch_mask(*branch.backbone.grid).ravel()
        if not counts.any():
            raise UsageError(
                "regions leave nothing of what the model looks at; make them overlap with its own"
            )
        return counts

    @property
    def places(self) -> int:
        """Patches that count, of all branches."""
        return sum(int(counts.sum()) for counts in self._counts.values())

    def with_decider(self, decider: DeciderConfig, threshold: float | None) -> Detector:
        """The same branches under another decision."""
        return Detector(self.branches, self.regions, decider, threshold, self._within)

    def with_branches(self, branches: Sequence[Branch]) -> Detector:
        """The same regions and decider looking through other branches."""
        return Detector(branches, self.regions, self.decider.config, self.decider.threshold, self._within)

    def within(self, regions: Regions) -> Detector:
        """The same branches, looking only where `regions` count too.

        Raises:
            UsageError: no patch is left that counts.
        """
        return Detector(self.branches, self.regions, self.decider.config, self.decider.threshold, regions)

    def look(self, images: Sequence[ImageArray], recent: Recent | None = None) -> list[Look]:
        """Measure frames, without a decision.

        Args:
            images: each (H, W, 3) uint8 RGB.
            recent: where they are consecutive frames of one camera, what its earlier frames left; then only
                the patches that may be among the largest are searched.

        Returns:
            For each frame the look of the branch that scored highest.
        """
        return _highest([self.compare(branch, branch.patches(images), recent) for branch in self.branches])

    def look_each(
        self,
        images: Sequence[ImageArray],
        recents: Sequence[Recent],
        detectors: Sequence[Detector] | None = None,
    ) -> list[Look]:
        """Measure one frame each of several cameras: through the backbone together, each with its own search.

        Args:
            images: each (H, W, 3) uint8 RGB; sizes may differ.
            recents: what each camera's earlier frames left.
            detectors: of each camera, from `within`; None = this one for all.

        Returns:
            For each frame the look of the branch that scored highest.
        """
        looks = []
        if detectors is None:
            detectors = [self] * len(images)
        for branch in self.branches:
            size = branch.backbone.batch
            patches = [
                one
                for start in range(0, len(images), size)
                for one in branch.patches(images[start : start + size])
            ]
            looks.append(
                [
                    detector.compare(branch, frame[None], recent)[0]
                    for detector, frame, recent in zip(detectors, patches, recents, strict=True)
                ]
            )
        return _highest(looks)

    def compare(
        self, branch: Branch, patches: NDArray[np.float32], recent: Recent | None = None
    ) -> list[Look]:
        """Measure projected patches (N, gh * gw, d) of frames against the branch's bank; `recent` as in `look`."""
        counts = self._counts[branch.name]
        places = int(counts.sum())
        if not places:
            return [self.looks_like(branch, np.zeros(len(counts), np.float32)) for _ in patches]
        if recent is not None:
            search = recent.search_of(branch, places)
            return [self._follow(branch, search, frame[counts]) for frame in patches]
        kept = patches[:, counts]
        where = branch.places(np.tile(np.flatnonzero(counts), len(kept)))
        distances, nearest = branch.bank.search(kept.reshape(-1, kept.shape[-1]), **where)
        looks = []
        for frame, found, rows in zip(
            kept, distances.reshape(-1, places), nearest.reshape(-1, places), strict=True
        ):
            scaled = self._scaled(branch, found, rows)
            score = self._score(branch, frame, found, rows, scaled[0])
            looks.append(self._known(branch, scaled, score))
        return looks

    def _follow(self, branch: Branch, search: TemporalSearch, patches: NDArray[np.float32]) -> Look:
        """The look of one frame whose patches that count are searched only as far as the score needs."""
        counts = self._counts[branch.name]
        found, rows, exact = search.search(patches, **branch.places(counts))
        bounds, _ = self._scaled(branch, found, rows)

        def measure() -> Measured:
            distances, nearest = found.copy(), rows.copy()
            if not exact.all():
                rest = branch.bank.search(patches[~exact], **branch.places(np.flatnonzero(counts)[~exact]))
                distances[~exact], nearest[~exact] = rest[0][:, 0], rest[1][:, 0]
            return self._scaled(branch, distances, nearest)

        known = np.where(exact, found, np.float32(-np.inf))
        score = self._score(branch, patches, known, rows, bounds)
        return Look(bounds, counts, branch.backbone.grid, score, measure)

    def _score(
        self,
        branch: Branch,
        patches: NDArray[np.float32],
        distances: NDArray[np.float32],
        rows: NDArray[np.int64],
        scaled: NDArray[np.float32],
    ) -> float:
        """The score of one frame.

        Args:
            branch: whose.
            patches: (n, d) those that count.
            distances, rows: (n,) of their search, the largest exact.
            scaled: (gh * gw,) the same distances as `_scaled` lays them out.
        """
        counts = self._counts[branch.name]
        if not branch.reweight:
            return frame_score(scaled, branch.top_share, counts)
        top = top_count(len(patches), branch.top_share)
        largest = largest_reweighted(
            branch.bank, patches, distances, rows, top, branch.reweight, **branch.places(counts)
        )
        return frame_score(largest / np.float32(branch.scale), 1.0)

    def _scaled(self, branch: Branch, distances: NDArray[np.float32], rows: NDArray[np.int64]) -> Measured:
        """Distances and rows of the patches that count, laid out over the whole grid."""
        counts = self._counts[branch.name]
        everywhere, nearest = np.zeros(len(counts), np.float32), np.full(len(counts), -1, np.int64)
        everywhere[counts] = distances / np.float32(branch.scale)
        nearest[counts] = rows
        return everywhere, nearest

    def looks_like(
        self, branch: Branch, distances: NDArray[np.float32], nearest: NDArray[np.int64] | None = None
    ) -> Look:
        """The look that goes with (gh * gw,) scaled distances, not re-weighted; without `nearest` rows are -1."""
        rows = np.full(len(distances), -1, np.int64) if nearest is None else nearest
        score = frame_score(distances, branch.top_share, self._counts[branch.name])
        return self._known(branch, (distances, rows), score)

    def _known(self, branch: Branch, measured: Measured, score: float) -> Look:
        """The look of a frame whose every patch is measured."""
        return Look(measured[0], self._counts[branch.name], branch.backbone.grid, score, lambda: measured)

    def start(self) -> CameraState:
        """The state of a camera before its first frame."""
        return CameraState(self.decider.start(), Recent())

    def step(self, frame: Frame, state: CameraState) -> tuple[Result, CameraState]:
        """Look at one frame and decide; the state is the camera's, from `start` or the step before."""
        look = self.look([frame.image], state.recent)[0]
        decision, decided = self.decider.step(state.decided, frame.pts_s, look.score)
        return Result(look, decision), replace(state, decided=decided)


def _highest(looks: Sequence[Sequence[Look]]) -> list[Look]:
    """Of each frame's looks, one a branch, the one that scored highest."""
    return [max(of_frame, key=lambda look: look.score) for of_frame in zip(*looks, strict=True)]


def rescaled(branch: Branch, scale: float) -> Branch:
    """The branch with another scale, kept above zero."""
    return replace(branch, scale=max(scale, 1e-6))
