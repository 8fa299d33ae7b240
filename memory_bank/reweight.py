"""PatchCore's neighbourhood re-weighting (Roth et al. 2022, equation 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memory_bank.distance import exact_distances, to_metric
from memory_bank.errors import MemoryBankError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    return _weighted(bank, bank.queries(patches, y, x), plain[:, 0], index[:, 0], neighbours)


def largest_reweighted(
    bank: MemoryBank,
    patches: Floats,
    distances: Floats,
    rows: NDArray[np.int64],
    top: int,
    neighbours: int,
    *,
    y: Floats | None = None,
    x: Floats | None = None,
) -> Floats:
    """The largest distances of one frame, each re-weighted as `reweighted` does.

    The largest are chosen by their plain distances, so that a search that knows only these exactly will do.

    Args:
        bank: the bank.
        patches: (N, D) float32, of the whole frame.
        distances, rows: (N,) of a search: float32, and int64 with -1 for a patch that is not finite.
        top: how many, 1..N.
        neighbours: rows around the nearest one, 2 or more; all of a bank that has fewer. In a bank of one
            row nothing can be rare, and the distances stay whole.
        y, x: (N,) float32, where the bank counts place.

    Returns:
        (top,) float32, by their plain distances, descending.
    """
    largest = np.argsort(-distances, kind="stable")[:top]
    if min(neighbours, len(bank)) < 2:
        return distances[largest]
    place = (None, None) if y is None or x is None else (y[largest], x[largest])
    queries = bank.queries(patches[largest], *place)
    return _weighted(bank, queries, distances[largest], rows[largest], min(neighbours, len(bank)))


def _weighted(
    bank: MemoryBank, queries: Floats, distances: Floats, rows: NDArray[np.int64], neighbours: int
) -> Floats:
    """Distances (N,) of queries in the working space to their nearest rows (N,), re-weighted."""
    result = distances.copy()
    finite = np.flatnonzero(rows >= 0)
    nearest_rows, back = np.unique(rows[finite], return_inverse=True)
    _, around = bank.search_working(bank.working[nearest_rows], neighbours)
    apart = to_metric(exact_distances(queries[finite], bank.working[around[back]]), bank.metric)
    # exp(d*) / sum exp(d); of a row so far away that its term is infinite the share is 0.
    with np.errstate(over="ignore"):
        share = 1.0 / np.exp(apart - result[finite, None]).sum(axis=1)
    result[finite] *= np.maximum(1.0 - share, 0.0).astype(np.float32)
    return result
