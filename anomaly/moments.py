"""Which rows of a bank come from the same moment: no footage is explained by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomaly.splits import CLIPS_FOR_WHOLE_HOLDOUT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank import MemoryBank

#: In footage of few clips, what lies within this time of a moment belongs to it.
GUARD_S = 15.0
#: Of one short clip it is this share of the clip, or nothing of it would lie outside, but never less than a second.
_GUARD_SHARE, _GUARD_LEAST_S = 0.25, 1.0


def guard_of(bank: MemoryBank) -> float:
    """Seconds around a moment that belong to it; infinite in footage of many clips, where a clip is a moment."""
    if len(bank.sources) >= CLIPS_FOR_WHOLE_HOLDOUT:
        return float("inf")
    if len(bank.sources) > 1:
        return GUARD_S
    return float(np.clip(np.ptp(bank.origins.time_s) * _GUARD_SHARE, _GUARD_LEAST_S, GUARD_S))


def same_moment(
    bank: MemoryBank, source: NDArray[np.integer] | int, time_s: NDArray[np.floating] | float, guard_s: float
) -> NDArray[np.bool_]:
    """Whether rows come from the moment of something.

    Args:
        bank: the bank, of M rows.
        source: numbers of sources in the bank's names, any shape that broadcasts against (M,).
        time_s: seconds in those sources, of the same shape.
        guard_s: see `guard_of`.

    Returns:
        The broadcast of `source` and (M,): True where a row is of the same source and at most `guard_s` away.
    """
    origins = bank.origins
    same: NDArray[np.bool_] = np.equal(source, origins.source)
    if np.isfinite(guard_s):
        same &= np.abs(time_s - origins.time_s) <= guard_s
    return same
