"""Coreset selection by greedy k-center: pick the patch farthest from everything picked so far.

Gonzalez (1985): the largest distance of any patch to its nearest pick is at most twice the best
that any choice of as many picks could reach. `kcenter_greedy` is that algorithm as written, one
pass over all patches a pick. `kcenter_select` makes the same picks far faster:

- *Lazily*: the distance to the nearest pick only ever falls, so a stale one is an upper bound.
  Only patches whose bound is among the largest are brought up to date; a patch covered early
  is never looked at again.
- *In blocks*: the patches with the largest bounds are brought up to date with one matrix product,
  and picks are made among them for as long as the farthest of them is at least as far as any
  bound outside. Each such pick is the one the plain algorithm would have made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.distance import exact_distances, squared_norms
from memory_bank.errors import MemoryBankError
from memory_bank.threads import side_by_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats
    from memory_bank.threads import Each

# Below this share of |x|² + |c|² a squared distance from a product is mostly rounding, and measured again.
_ROUNDING = 1e-4
# Rows brought up to date at a time: of few, each round makes few picks; of many, most are brought up to date for nothing.
_SMALLEST_BATCH, _LARGEST_BATCH = 1024, 2048
_REFRESH_ROWS, _REFRESH_PICKS = 256, 1024
# Rows among which the next few batches are looked for, in batches.
_POOL = 8
# Fewer pairs of rows and picks are met sooner than threads are told of them.
_PAIRS_WORTH_THREADS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a selection picked.

    Attributes:
        indices: (K,) int64 into the rows given, in the order picked. K is smaller than asked for
            where every patch is already covered (duplicates) or lies within the radius.
        radius: largest Euclidean distance of any row given to its nearest pick (or earlier centre).
        gaps: (K,) float32, how far each pick was from all before it; the first of a fresh
            selection is inf.
    """

    indices: NDArray[np.int64]
    radius: float
    gaps: Floats


def _check(rows: NDArray[Any], size: int | None, radius: float | None) -> Floats:
    if rows.ndim != 2 or not len(rows):
        raise MemoryBankError(f"selection needs rows of shape (N, D) with N >= 1, got {rows.shape}")
    if size is not None and size < 1:
        raise MemoryBankError(f"selection size must be at least 1, got {size}")
    if radius is not None and not radius >= 0:
        raise MemoryBankError(f"selection radius must be 0 or more, got {radius}")
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    # A sum over each row first: a million rows need no second array of their size.
    if not np.isfinite(rows.sum(axis=1, dtype=np.float64)).all():
        bad = int(np.flatnonzero(~np.isfinite(rows.sum(axis=1, dtype=np.float64)))[0])
        raise MemoryBankError(f"row {bad} of the selection's input holds NaN or infinity; leave it out")
    return rows


def kcenter_greedy(rows: Floats, size: int, seed: int = 0) -> Selection:
    """Exact greedy k-center as published: the reference that `kcenter_select` is tested against.

    Args:
        rows: (N, D) float32, finite.
        size: picks wanted; fewer are made where the rows left are all duplicates of picks.
        seed: chooses the first pick.

    Returns:
        The selection, its radius at most twice the optimum (Gonzalez 1985).
    """
    rows = _check(rows, size, None)
    first = int(np.random.default_rng(seed).integers(len(rows)))
    picks, gaps = [first], [np.inf]
    distances = exact_distances(rows, rows[first][None, :])
    while len(picks) < size:
        farthest = int(distances.argmax())
        if distances[farthest] <= 0:
            break
        picks.append(farthest)
        gaps.append(float(distances[farthest]))
        np.minimum(distances, exact_distances(rows, rows[farthest][None, :]), out=distances)
    return Selection(np.array(picks, np.int64), float(distances.max()), np.array(gaps, np.float32))


class _Farthest:
    """The rows with the largest bounds, looked for among few: a bound only falls, so what lay below a pool stays there."""

    def __init__(self, bounds: Floats) -> None:
        self.bounds = bounds
        self.pool = np.empty(0, np.int64)
        self.below = np.inf  # no bound outside the pool is larger

    def take(self, count: int) -> tuple[NDArray[np.int64], float]:
        """The `count` rows with the largest bounds, in no order, and the largest bound of all others; 0 if there are none."""
        if count >= len(self.bounds):
            return np.arange(len(self.bounds)), 0.0
        if count < len(self.pool):
            largest, outside = _largest(self.bounds[self.pool], count)
            if outside >= self.below:
                return self.pool[largest], outside
        self.pool, self.below = _largest(self.bounds, min(_POOL * count, len(self.bounds) - 1))
        if len(self.pool) == count:
            return self.pool, self.below
        largest, outside = _largest(self.bounds[self.pool], count)
        return self.pool[largest], outside


def _largest(values: Floats, count: int) -> tuple[NDArray[np.int64], float]:
    """Where the `count` largest of more values are, in no order, and the largest of the others."""
    order = np.argpartition(values, len(values) - count - 1)
    return order[len(values) - count :], float(values[order[len(values) - count - 1]])


class _Greedy:
    """Upper bounds on every row's squared distance to the picks, brought up to date on demand."""

    def __init__(self, rows: Floats, bounds: Floats, size: int, each: Each) -> None:
        self.each = each
        # [x, 1] · [-2c, |c|²] = |x - c|² - |x|²: one product, no second pass over it. Centred, because
        # shorter rows lose fewer digits in products; on a median, which one absurd patch does not draw away.
        self.extended = np.empty((len(rows), rows.shape[1] + 1), np.float32)
        self.rows: Floats = self.extended[:, :-1]
        np.subtract(rows, np.median(rows[:: max(1, len(rows) // 1024)], axis=0), out=self.rows)
        self.extended[:, -1] = 1.0
        self.norms = squared_norms(self.rows)
        self.bounds = bounds
        self.stamps = np.zeros(len(rows), np.int64)  # how many picks each bound has seen
        self.picks: list[int] = []
        self.gaps: list[float] = []
        self.centres = np.empty((min(size, 1024), rows.shape[1] + 1), np.float32)

    def pick(self, index: int, squared_gap: float) -> None:
        count = len(self.picks)
        if count == len(self.centres):
            self.centres = np.concatenate([self.centres, np.empty_like(self.centres)])
        self.centres[count, :-1] = -2 * self.rows[index]
        self.centres[count, -1] = self.norms[index]
        self.picks.append(index)
        self.gaps.append(float(np.sqrt(squared_gap)))
        self.bounds[index] = 0.0

    def refresh(self, chosen: NDArray[np.int64], floor: float) -> None:
        """Bring the bounds of `chosen` up to date with all picks, or at least below `floor`."""
        count = len(self.picks)
        while len(chosen):
            chosen = chosen[(self.stamps[chosen] < count) & (self.bounds[chosen] >= floor)]
            chosen = chosen[np.argsort(self.stamps[chosen], kind="stable")]
            calls, pairs = [], 0
            for start in range(0, len(chosen), _REFRESH_ROWS):
                block = chosen[start : start + _REFRESH_ROWS]
                since = int(self.stamps[block[0]])
                until = min(since + _REFRESH_PICKS, count)
                calls.append((block, since, until))
                pairs += len(block) * (until - since)
            if len(calls) > 1 and pairs > _PAIRS_WORTH_THREADS:
                self.each(self._meet, calls)
            else:
                for call in calls:
                    self._meet(*call)

    def _meet(self, block: NDArray[np.int64], since: int, until: int) -> None:
        centres = self.centres[since:until]
        norms = self.norms[block]
        products = self.extended[block] @ centres.T
        squared = products.min(axis=1) + norms
        doubtful = np.flatnonzero(squared <= _ROUNDING * (norms + centres[:, -1].max()))
        if len(doubtful):
            # It is the nearest pick whose length rounds: of one that is far longer, every row would be in doubt.
            own = centres[products[doubtful].argmin(axis=1), -1]
            doubtful = doubtful[squared[doubtful] <= _ROUNDING * (norms[doubtful] + own)]
        for i in doubtful:
            picked = self.rows[self.picks[since:until]]
            squared[i] = (exact_distances(picked, self.rows[block[i]][None, :]) ** 2).min()
        self.bounds[block] = np.minimum(self.bounds[block], squared)
        self.stamps[block] = np.maximum(self.stamps[block], until)

    def pick_among(self, chosen: NDArray[np.int64], floor: float, size: int) -> int:
        """Greedy picks among up-to-date rows for as long as the farthest is above `floor`; how many."""
        rows, norms = self.rows[chosen], self.norms[chosen]
        squared = self.bounds[chosen].copy()
        pairs = rows @ rows.T
        before = len(self.picks)
        while len(self.picks) < size:
            best = int(squared.argmax())
            gap = float(squared[best])
            if gap < floor or gap <= 0.0:
                break
            self.pick(int(chosen[best]), gap)
            to_pick = norms + norms[best] - 2 * pairs[best]
            to_pick[best] = 0.0
            doubtful = np.flatnonzero(to_pick <= _ROUNDING * (norms + norms[best]))
            if len(doubtful) > 1:  # more than the pick itself
                to_pick[doubtful] = exact_distances(rows[doubtful], rows[best][None, :]) ** 2
            np.minimum(squared, to_pick, out=squared)
        self.bounds[chosen] = squared
        self.stamps[chosen] = len(self.picks)
        return len(self.picks) - before


def kcenter_select(
    rows: Floats,
    size: int | None = None,
    radius: float | None = None,
    *,
    seed: int = 0,
    slack: float = 0.0,
    distances: Floats | None = None,
    progress: Callable[[int], None] | None = None,
) -> Selection:
    """Greedy k-center, lazily and in blocked products.

    With slack 0 it makes the picks of `kcenter_greedy` (up to float32 rounding between equally far
    patches). With slack e every pick is at least (1 - e) times as far out as the farthest patch,
    so the radius is at most 2 / (1 - e) times the optimum.

    Args:
        rows: (N, D) float32, finite. Columns are centred inside.
        size: most picks to make; None for no limit (then `radius` is needed).
        radius: stop once every row is within this distance; None to stop by size only.
        seed: chooses the first pick, unless `distances` is given.
        slack: in [0, 1).
        distances: (N,) float32, distance of each row to the nearest of centres already there. They
            count as picked before the first; the selection's radius then includes them.
        progress: called with the number of picks made since its last call.

    Returns:
        The selection. `radius` is the true largest distance, not a bound.
    """
    rows = _check(rows, size, radius)
    with side_by_side() as each:
        return _select(rows, size, radius, seed, slack, distances, progress, each)


def _select(
    rows: Floats,
    size: int | None,
    radius: float | None,
    seed: int,
    slack: float,
    distances: Floats | None,
    progress: Callable[[int], None] | None,
    each: Each,
) -> Selection:
    if size is None and radius is None:
        raise MemoryBankError("give a selection a size, a radius or both")
    if not 0 <= slack < 1:
        raise MemoryBankError(f"selection slack must be in [0, 1), got {slack}")
    limit = len(rows) if size is None else min(size, len(rows))
    if distances is None:
        greedy = _Greedy(rows, np.full(len(rows), np.inf, np.float32), limit, each)
        greedy.pick(int(np.random.default_rng(seed).integers(len(rows))), np.inf)
        greedy.refresh(np.flatnonzero(np.isinf(greedy.bounds)), 0.0)
    else:
        greedy = _Greedy(rows, np.asarray(distances, np.float32) ** 2, limit, each)
    squared_radius = 0.0 if radius is None else float(radius) ** 2
    batch, told, farthest = _SMALLEST_BATCH, 0, _Farthest(greedy.bounds)
    while True:
        chosen, outside = farthest.take(batch)
        # Lower indices first, so that of equally far patches the reference's choice is made.
        chosen = np.sort(chosen[greedy.bounds[chosen] > squared_radius])
        floor = max(outside * (1 - slack) ** 2, np.nextafter(squared_radius, np.inf))
        greedy.refresh(chosen, floor)
        largest = float(greedy.bounds[chosen].max(initial=0.0))
        if len(greedy.picks) >= limit or max(largest, outside) <= squared_radius:
            break
        if largest <= squared_radius:
            continue
        contenders = chosen[greedy.bounds[chosen] >= floor]
        picked = greedy.pick_among(contenders, floor, limit) if len(contenders) else 0
        batch = int(np.clip(8 * picked, _SMALLEST_BATCH, _LARGEST_BATCH))
        if progress is not None:
            progress(len(greedy.picks) - told)
            told = len(greedy.picks)
    final = _largest_distance(greedy, farthest, batch)
    return Selection(np.array(greedy.picks, np.int64), final, np.array(greedy.gaps, np.float32))


def _largest_distance(greedy: _Greedy, farthest: _Farthest, batch: int) -> float:
    """How far the farthest row is from its nearest pick: the largest bound that is no bound any more."""
    while True:
        chosen, outside = farthest.take(batch)
        greedy.refresh(chosen, outside)
        largest = float(greedy.bounds[chosen].max())
        if largest >= outside:
            return float(np.sqrt(max(largest, 0.0)))
