"""PatchCore's neighbourhood re-weighting (Roth et al. 2022, equation 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memory_bank.distance import exact_distances, to_metric
from memory_bank.errors import MemoryBankError

if TYPE_CHECKING:
    from memory_bank.bank import MemoryBank
    from memory_bank.distance import Floats


def reweighted(
    bank: MemoryBank,
    patches: Floats,
    neighbours: int = 9,
    *,
    y: Floats | None = None,
    x: Floats | None = None,
) -> Floats:
    """Distances to the nearest normal patch, raised where that patch is itself rare.

    With m* the nearest row of a patch p and N the `neighbours` rows nearest to m* (m* among them), the distance
    is multiplied by 1 - exp(d(p, m*)) / sum over m in N of exp(d(p, m)). A lone row has far
    neighbours, the share of m* in the sum is small, and the distance stays nearly whole.

    Args:
        bank: the bank.
        patches: (N, D) float32; the most anomalous patches of a frame are enough.
        neighbours: rows around m*, 2..M.
        y, x: (N,) float32, where the bank counts place.

    Returns:
        (N,) float32, never above the plain distance; inf for a patch that is not finite.
    """
    if not 2 <= neighbours <= len(bank):
        raise MemoryBankError(
            f"neighbours must be between 2 and the bank's {len(bank)} rows, got {neighbours}"
        )
    plain, index = bank.search(patches, 1, y=y, x=x)
    queries = bank.queries(patches, y, x)
    result = plain[:, 0].copy()
    finite = np.flatnonzero(index[:, 0] >= 0)
    nearest_rows, back = np.unique(index[finite, 0], return_inverse=True)
    _, around = bank.search_working(bank.working[nearest_rows], neighbours)
    apart = to_metric(exact_distances(queries[finite], bank.working[around[back]]), bank.metric)
    # exp(d*) / sum exp(d) without overflow.
    share = 1.0 / np.exp(apart - result[finite, None]).sum(axis=1)
    result[finite] *= np.maximum(1.0 - share, 0.0).astype(np.float32)
    return result
