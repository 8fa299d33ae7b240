"""Search for footage: do not search again what the frame before has settled.

A frame's score is the mean of its largest patch distances, so only those must be known exactly. For each
place the rows that were nearest there lately give an upper bound on the patch's distance, at the cost of a
few distances. Patches are searched in the order of their bounds, and the search ends when no bound left exceeds
the smallest of the largest distances found: the largest ones are then exactly those of a search of every
patch, and every other patch carries a bound that is no smaller than its distance and no larger than theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memory_bank.distance import exact_distances, to_metric
from memory_bank.errors import MemoryBankError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.bank import MemoryBank
    from memory_bank.distance import Floats

_SMALLEST_BLOCK = 16
_ROUNDING = np.float32(1 - 1e-4)


class TemporalSearch:
    """Search of one camera's frames, one after another.

    Args:
        bank: the bank; its present index does the searching, so the result is exact where that is.
        places: patches in a frame, N.
        top: how many of the largest distances must be exact, 1..N.
        remembered: rows kept for each place.
    """

    def __init__(self, bank: MemoryBank, places: int, top: int, remembered: int = 8) -> None:
        if not 1 <= top <= places:
            raise MemoryBankError(f"top must be between 1 and the {places} patches of a frame, got {top}")
        if remembered < 1:
            raise MemoryBankError(f"remembered must be at least 1, got {remembered}")
        self._bank = bank
        self._top = top
        self._rows = np.zeros((places, remembered), np.int64)
        self._next = np.zeros(places, np.int64)
        self.searched = 0  # patches searched in the last frame

    def search(
        self, patches: Floats, *, y: Floats | None = None, x: Floats | None = None
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
        """Distances of one frame's patches.

        Args:
            patches: (N, D) float32, the same places in the same order every frame.
            y, x: (N,) float32, where the bank counts place.

        Returns:
            distances (N,) float32: exact where the third says so, else an upper bound; the `top`
            largest are exact. indices (N,) int64, the row at that distance (-1 for a patch that is not
            finite, whose distance is inf). exact (N,) bool.
        """
        queries = self._bank.queries(patches, y, x)
        if len(queries) != len(self._rows):
            raise MemoryBankError(f"expected {len(self._rows)} patches a frame, got {len(queries)}")
        finite = np.isfinite(queries).all(axis=1)
        distances = np.full(len(queries), np.inf, np.float32)
        indices = np.full(len(queries), -1, np.int64)
        exact: NDArray[np.bool_] = np.logical_not(finite)
        alive = np.flatnonzero(finite)
        indices[alive] = self._remembered(queries[alive], self._rows[alive])
        distances[alive] = exact_distances(queries[alive], self._bank.working[indices[alive]])
        order = alive[np.argsort(-distances[alive], kind="stable")]
        need = max(self._top - int(exact.sum()), 0)
        done, block = 0, max(_SMALLEST_BLOCK, 2 * need)
        while done < len(order):
            settled = distances[order[:done]]
            if need == 0 or (
                done >= need and np.partition(settled, done - need)[done - need] >= distances[order[done]]
            ):
                break
            here = order[done : done + block]
            found, row = self._bank.search_working(queries[here], 1)
            self._learn(here, row[:, 0], indices[here])
            # An approximate index may miss what is remembered; a flat one, no more than the rounding of its products.
            missed = distances[here] < found[:, 0] * _ROUNDING
            distances[here] = np.where(missed, distances[here], found[:, 0])
            indices[here] = np.where(missed, indices[here], row[:, 0])
            exact[here] = True
            done += len(here)
        self.searched = done
        return to_metric(distances, self._bank.metric), indices, exact

    def _remembered(self, queries: Floats, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the rows (n, k) remembered for each of some patches (n, W) the one that its product says is nearest, (n,).

        Half the time of measuring them all. Where products cannot tell, it is one of those nearly as near: any row gives a bound.
        """
        known = self._bank.working.take(rows.ravel(), axis=0).reshape(*rows.shape, -1)
        product = np.matmul(known, queries[:, :, None])[..., 0]
        best = (self._bank.half_norms[rows] - product).argmin(axis=1)
        return np.take_along_axis(rows, best[:, None], axis=1)[:, 0]

    def _learn(self, places: NDArray[np.int64], rows: NDArray[np.int64], known: NDArray[np.int64]) -> None:
        new = rows != known
        places, rows = places[new], rows[new]
        self._rows[places, self._next[places] % self._rows.shape[1]] = rows
        self._next[places] += 1
