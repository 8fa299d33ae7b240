"""Moments of the "normal" footage that the rest of it explains worst.

Real normal footage is never clean. An anomaly that slipped in is far from everything else: the
coreset keeps rows for it (that is what covering means), and those rows have no neighbour from
another moment. So the bank itself ranks the moments, without reading the footage again; only
the few worst are looked at once more, for their pictures and times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.errors import FootageError
from anomaly.footage.source import read_frame_at
from anomaly.heatmap import laid_over
from anomaly.moments import guard_of, same_moment
from anomaly.report.page import jpeg, page, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly.detector import Branch, Detector
    from anomaly.footage.source import Source
    from memory_bank import MemoryBank

#: A moment lasts this long; what happens within one is one thing to look at.
MOMENT_S = 1.0
#: What is said where no moment can be ranked.
NOTHING_TO_COMPARE = (
    "There is no other moment to compare with: the footage is one picture, or a clip of a few seconds. That no moment "
    "stands here does not mean that the footage is clean; look through it yourself, or give more of it."
)
#: A moment is judged by the mean of this many of its least explained rows.
WORST_ROWS = 5
#: Rows compared with all others at a time: their distances are a few arrays of this many times the bank.
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Moment:
    """A stretch of learned footage that the rest explains badly.

    Attributes:
        source: name of the source.
        start_s, end_s: seconds.
        peak_s: the time of the frame to look at.
        score: distance of its least explained patches to the nearest row from elsewhere; 1 = the
            score of an ordinary frame.
    """

    source: str
    start_s: float
    end_s: float
    peak_s: float
    score: float


def isolation(bank: MemoryBank) -> NDArray[np.float32]:
    """How far every row is from the nearest row that another moment gave.

    With several clips, "another moment" is another clip; with few, another time of the same clip counts too
    (`anomaly.moments`).

    Args:
        bank: the bank.

    Returns:
        (M,) float32, in the bank's metric; 0 where the bank knows one moment only.
    """
    rows = bank.working
    norms = np.einsum("ij,ij->i", rows, rows)
    source, time_s = bank.origins.source[:, None], bank.origins.time_s[:, None]
    guard_s = guard_of(bank)
    nearest = np.zeros(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        squared = norms[part, None] + norms[None, :] - 2.0 * (rows[part] @ rows.T)
        squared[same_moment(bank, source[part], time_s[part], guard_s)] = np.inf
        best = squared.min(axis=1)
        nearest[part] = np.sqrt(np.clip(np.where(np.isfinite(best), best, 0.0), 0.0, None))
    return nearest


def rank_moments(detector: Detector, sources: Sequence[Source], most: int) -> list[Moment]:
    """The learned moments that the rest explains worst, worst first.

    Args:
        detector: as fitted.
        sources: what it was fitted on.
        most: how many moments at most.
    """
    branch = detector.branches[0]
    origins = branch.bank.origins
    alone = isolation(branch.bank) / branch.scale
    known = {source.name for source in sources}
    cells = (origins.time_s // MOMENT_S).astype(np.int64)
    order = np.lexsort((cells, origins.source))
    keys = np.stack([origins.source[order].astype(np.int64), cells[order]], axis=1)
    starts = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(axis=1)])
    moments: list[Moment] = []
    for first, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        rows = order[first:stop]
        worst = rows[np.argsort(-alone[rows], kind="stable")[:WORST_ROWS]]
        name = branch.bank.sources[int(origins.source[rows[0]])]
        # A lone odd row is weaker evidence than several: missing ones count as nothing.
        score = float(alone[worst].sum()) / WORST_ROWS
        if name in known and score > 0:
            begin = float(cells[rows[0]]) * MOMENT_S
            moments.append(Moment(name, begin, begin + MOMENT_S, float(origins.time_s[worst[0]]), score))
    moments.sort(key=lambda moment: -moment.score)
    return _merged(moments)[:most]


def _merged(moments: Sequence[Moment]) -> list[Moment]:
    """Neighbouring moments of one source as one, where both are nearer to the worst than to the usual."""
    merged: list[Moment] = []
    usual = float(np.median([moment.score for moment in moments])) if moments else 0.0
    for moment in moments[:500]:
        for index, other in enumerate(merged):
            near = moment.start_s <= other.end_s + MOMENT_S and other.start_s <= moment.end_s + MOMENT_S
            if other.source != moment.source or not near:
                continue
            if other.start_s <= moment.start_s and moment.end_s <= other.end_s:
                break  # between two that were joined: it is shown, and left out, with them
            if moment.score > (usual + other.score) / 2:
                start, end = min(other.start_s, moment.start_s), max(other.end_s, moment.end_s)
                merged[index] = Moment(other.source, start, end, other.peak_s, other.score)
                break
        else:
            merged.append(moment)
    return merged


def write_review(
    path: Path,
    detector: Detector,
    moments: Sequence[Moment],
    sources: Sequence[Source],
    name: str,
    leave_out: Callable[[Moment], str],
) -> None:
    """Write `fit_review.html`: a picture, its heatmap, and the override that leaves the moment out.

    The heatmap shows distances to rows from elsewhere only, so that a moment cannot explain itself.

    Args:
        path: of the page.
        detector: as fitted.
        moments: what to show, in order.
        sources: what it was fitted on.
        name: of the model.
        leave_out: the override for a moment, as it is typed.
    """
    branch = detector.branches[0]
    by_name = {source.name: source for source in sources}
    parts = []
    for moment in moments:
        source = by_name[moment.source]
        still = source.kind == "image"
        try:
            frame = read_frame_at(source, 0.0 if still else moment.peak_s)
        except FootageError:
            continue
        distances = _distances_elsewhere(branch, branch.patches([frame.image])[0], moment)
        look = detector.looks_like(branch, distances)
        hot = laid_over(frame.image, look.heatmap(frame.image.shape[:2]), None)
        where = moment.source if still else f"{moment.source}, {moment.start_s:.1f} s to {moment.end_s:.1f} s"
        parts.append(
            picture(
                [jpeg(frame.image), jpeg(hot)],
                title=where,
                facts=[("unexplained", f"{moment.score:.2f}"), ("leave it out with", leave_out(moment))],
            )
        )
    introduction = (
        "These moments of the footage you called normal are the ones that the rest of it explains worst, worst first. "
        "Look at each: an anomaly here would be learned as normal, and missed later. To leave a moment out, fit again "
        "with the setting written beside it; several go into one list, separated by commas."
        if parts
        else NOTHING_TO_COMPARE
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(f"Fit review of {name}", introduction, parts), encoding="utf-8")


def _distances_elsewhere(branch: Branch, patches: NDArray[np.float32], moment: Moment) -> NDArray[np.float32]:
    bank = branch.bank
    same = same_moment(bank, bank.sources.index(moment.source), moment.peak_s, guard_of(bank))
    if same.all():
        return np.zeros(len(patches), np.float32)
    distances, _ = bank.subset(~same).search(patches, **branch.places(np.arange(len(patches))))
    return distances[:, 0] / np.float32(branch.scale)
