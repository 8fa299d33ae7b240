"""What a score of 1 stands for: the patch distances of an ordinary normal frame that the bank has not learned.

Where footage was held out, that is measured on it. Else every learned frame is measured against the rows of other
moments only, because to the rows that it gave itself it has no distance. Where there is no other moment (one picture),
the nearest other patch of the same picture has to do. And where frames do not differ at all (a frozen stream, an empty
picture), 1 stands for a small part of the spread among the patches: less than that is noise of the storage, and to
divide by it would turn every later frame into millions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.moments import guard_of, same_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomaly.detector import Branch, Detector
    from anomaly.fitting.options import FitOptions
    from anomaly.fitting.reading import Reader
    from anomaly.splits import Span
    from memory_bank import MemoryBank

#: Learned frames that give the scale where nothing was held out.
_FRAMES = 200
#: A scale below this share of the spread among the bank's rows is none. Half precision moves a row by 0.0003 of its length.
_LEAST_SHARE = 0.01
#: Rows whose distances tell the spread.
_SPREAD_ROWS = 512


def scale_of_scores(bank: MemoryBank, scores: Sequence[float]) -> tuple[float, bool]:
    """The scale by which ordinary frames score 1.

    Args:
        bank: the bank, its rows in the metric that the scores are of.
        scores: unscaled scores of normal frames.

    Returns:
        (scale, whether it was measured: False where the frames did not differ enough from the bank).
    """
    rows = bank.rows[:: max(1, len(bank) // _SPREAD_ROWS)].astype(np.float32)
    middle = np.zeros(len(rows), np.float32)
    distances, _ = bank.subset(np.array([0])).search(rows, y=middle, x=middle)
    spread = float(np.median(distances))
    # Rows that are all alike have no spread; a unit of the projected space is a hundredth of the features' size then.
    least = _LEAST_SHARE * spread if spread > 0 else 1.0
    ordinary = float(np.median(scores)) if len(scores) else 0.0
    return (ordinary, True) if ordinary > least else (least, False)


def scores_of_learned(
    detector: Detector,
    learned: Sequence[Span],
    reader: Reader,
    options: FitOptions,
    tell: Callable[[str, float, float | None], None],
) -> tuple[list[float], bool]:
    """Unscaled scores of learned frames, each against rows of other moments.

    Args:
        detector: with the bank filled, its scale 1.
        learned: spans to take frames from, spread evenly.
        reader: reads them.
        options: of the fit.
        tell: progress.

    Returns:
        (the scores, whether there were other moments: False where patches had to be measured against the picture that
        they are of).
    """
    branch = detector.branches[0]
    guard_s = guard_of(branch.bank)
    numbers = {name: number for number, name in enumerate(branch.bank.sources)}
    scores: list[float] = []
    elsewhere = True
    for frame in reader.sample(learned, _FRAMES, options.fps, options.seed):
        tell("scoring", len(scores), None)
        patches = branch.patches([frame.image])
        own = same_moment(branch.bank, numbers.get(frame.source, -1), frame.pts_s, guard_s)
        if len(own) - int(own.sum()) > options.reweight:
            (look,) = detector.compare(replace(branch, bank=branch.bank.subset(~own)), patches)
        elif len(branch.bank) > 1:
            elsewhere = False
            look = detector.looks_like(branch, _to_another_row(branch, patches[0]))
        else:
            continue
        scores.append(look.score)
    return scores, elsewhere


def _to_another_row(branch: Branch, patches: np.ndarray) -> np.ndarray:
    """(gh * gw,) distances of one frame's patches to their second nearest row: the nearest one may be themselves."""
    distances, _ = branch.bank.search(patches, 2, **branch.places(np.arange(len(patches))))
    return distances[:, 1]
