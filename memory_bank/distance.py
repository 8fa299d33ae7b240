"""Distances between patches and rows, as blocked matrix products.

Both metrics are worked as a Euclidean distance in one *working space*, where the triangle
inequality holds: "euclidean" is the space itself, "cosine" is the unit sphere, on which the
squared chord is 2 - 2 cos. Place, where it counts, is two more dimensions of that space.
Products only *choose* the nearest row; the distance given out is measured again as a sum of
squared differences, because |x|² + |c|² - 2 x·c loses its digits where x and c are close. It loses them, too, where
both are far from zero: products are made of what is left without the mean of the rows. Where their digits still do not
tell which row is nearest, all rows that may be are measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from memory_bank.errors import MemoryBankError
from memory_bank.threads import side_by_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.threads import Each

    Floats: TypeAlias = NDArray[np.float32]

Metric: TypeAlias = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine")

# A product block of 2^22 float32 is 16 MiB: it stays in the last-level cache while its minimum is taken.
_BLOCK_ELEMENTS = 1 << 22
# Queries whose product with all rows is made by one thread. Where there are no more than that, threads share the rows, in
_BLOCK_QUERIES = 128
# pieces of so many multiplications (a quarter of a millisecond): smaller ones cost more to hand over than sharing them gains.
_PIECE_PRODUCTS = 1 << 24
# A squared distance out of products is off by less than this, in units of float32's rounding times |x|² + |c|².
_ROUNDINGS = 4 * np.finfo(np.float32).eps
# Where that is more than this part of a squared distance (a thousandth of the distance), products do not choose.
_TOLERANCE = 2e-3


def check_metric(metric: str) -> Metric:
    """The metric's name, or MemoryBankError."""
    for known in METRICS:
        if metric == known:
            return known
    raise MemoryBankError(f"unknown metric {metric!r}; use one of {', '.join(METRICS)}")


def working_rows(
    features: Floats,
    metric: Metric,
    place_weight: float = 0.0,
    y: Floats | None = None,
    x: Floats | None = None,
) -> Floats:
    """Features in the working space.

    Args:
        features: (N, D) float32. All-zero rows stay zero under "cosine".
        metric: "euclidean" or "cosine".
        place_weight: distance that one whole picture height (or width) counts for; 0 leaves place out.
        y, x: (N,) float32 in 0..1; needed where place_weight > 0.

    Returns:
        (N, D) or, with place, (N, D + 2) float32, C-contiguous.
    """
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if metric == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
        rows = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    if place_weight > 0:
        if y is None or x is None:
            raise MemoryBankError("this bank counts place in its metric; give y and x of every patch")
        place = np.stack([y, x], axis=1) * np.float32(place_weight)
        rows = np.concatenate([rows, place.astype(np.float32)], axis=1)
    return np.ascontiguousarray(rows, dtype=np.float32)


def to_metric(distances: Floats, metric: Metric) -> Floats:
    """Working-space distances as distances of the metric (cosine distance = chord² / 2)."""
    if metric == "cosine":
        return distances * distances * np.float32(0.5)
    return distances


def from_metric(distance: float, metric: Metric) -> float:
    """A distance of the metric in the working space."""
    return float(np.sqrt(2.0 * distance)) if metric == "cosine" else float(distance)


def sum_of(one: float, other: float, metric: Metric) -> float:
    """How far a patch is at most that lies `one` from what is `other` from a row (distances of the metric)."""
    together = from_metric(one, metric) + from_metric(other, metric)
    return float(to_metric(np.array(together, np.float32), metric))


def squared_norms(rows: Floats) -> Floats:
    """(N,) float32, the squared length of each row."""
    norms: Floats = np.einsum("ij,ij->i", rows, rows)
    return norms


def block_length(columns: int) -> int:
    """How many rows of a product with `columns` columns make one block."""
    return max(64, _BLOCK_ELEMENTS // max(columns, 1))


def exact_distances(rows: Floats, others: Floats) -> Floats:
    """Distances of paired rows, by differences: (N, D) and (N, D), or (N, D) and (N, k, D)."""
    if others.ndim == 3:
        difference = rows[:, None, :] - others
        distances: Floats = np.sqrt(np.einsum("ikj,ikj->ik", difference, difference))
        return distances
    difference = rows - others
    paired: Floats = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return paired


class Centred:
    """Rows made ready to be searched: without their mean, which is what is common to all distances.

    Attributes:
        rows: (M, D) float32, as they are.
        mean: (D,) float32.
        moved: (M, D) float32, rows - mean; its columns are contiguous, as a product with a few queries reads them.
        half: (M,) float32, half of the squared lengths of `moved`.
        rounding: (M,) float32, how far half a squared distance to a row is off, without the query's part.
    """

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self.mean: Floats = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.moved: Floats = np.asfortranarray(rows - self.mean)
        self.half: Floats = squared_norms(self.moved) * np.float32(0.5)
        self.rounding: Floats = self.half * np.float32(_ROUNDINGS)


def nearest(queries: Floats, rows: Floats | Centred, k: int = 1) -> tuple[Floats, NDArray[np.int64]]:
    """The k nearest rows of each query in the working space.

    Args:
        queries: (N, D) float32.
        rows: (M, D) float32, M >= k; `Centred` where the caller searches them again and again.
        k: how many.

    Returns:
        distances (N, k) float32 measured by differences, ascending, none more than a thousandth larger than the
        k-th smallest; indices (N, k) int64. Of equally near rows the lower index comes first.
    """
    ready = rows if isinstance(rows, Centred) else Centred(rows)
    count = len(ready.rows)
    distances = np.empty((len(queries), k), dtype=np.float32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    # Of one length whatever the number of threads, so that the same bits come out.
    step = min(block_length(count), _BLOCK_QUERIES)
    piece = max(1, _PIECE_PRODUCTS // max(queries.size, 1)) if len(queries) <= step else count

    def choose(start: int, each: Each) -> None:
        block = queries[start : start + step] - ready.mean
        product = _half_squared(block, ready, piece, each)
        if k == 1:
            chosen = product.argmin(axis=1)[:, None]
        elif k < count:
            chosen = np.argpartition(product, k - 1, axis=1)[:, :k]
        else:
            chosen = np.broadcast_to(np.arange(count), (len(block), count))
        here = slice(start, start + len(block))
        distances[here], indices[here] = remeasure(queries[here], ready.rows, chosen)
        lengths = squared_norms(block) * np.float32(_ROUNDINGS / 2)
        error = lengths + ready.rounding[indices[here]].max(axis=1)
        furthest = distances[here, -1]
        unsure = np.flatnonzero((error > furthest * furthest * np.float32(_TOLERANCE / 2)) & (furthest > 0))
        for at in unsure if k < count else ():
            # The true k-th is no further than the k-th measured: look at all rows that may be as near.
            limit = np.take(product[at], chosen[at]).max() + 2 * error[at]
            able = np.flatnonzero(product[at] - 2 * ready.rounding <= limit)
            query = queries[start + at][None]
            found, row = remeasure(query, ready.rows, able[None])
            distances[start + at], indices[start + at] = found[0, :k], row[0, :k]

    with side_by_side() as each:
        each(choose, ((start, each) for start in range(0, len(queries), step)))
    return distances, indices


def _half_squared(block: Floats, rows: Centred, piece: int, each: Each) -> Floats:
    """(n, M) float32, |x - c|² / 2 of centred queries (n, D) without the part that is the same for every row.

    Each piece of so many rows is a product of its own, side by side.
    """
    product = np.empty((len(block), len(rows.half)), np.float32)

    def multiply(begin: int) -> None:
        part = product[:, begin : begin + piece]
        np.matmul(block, rows.moved[begin : begin + piece].T, out=part)
        np.subtract(rows.half[begin : begin + piece], part, out=part)

    each(multiply, ((begin,) for begin in range(0, len(rows.half), piece)))
    return product


def remeasure(queries: Floats, rows: Floats, indices: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Measure chosen rows again by differences, and order each query's choice.

    Args:
        queries: (N, D) float32.
        rows: (M, D) float32.
        indices: (N, k) int64 into rows.

    Returns:
        distances (N, k) float32 ascending, and the indices in that order (ties: lower index first).
    """
    count, k = indices.shape
    distances = np.empty((count, k), dtype=np.float32)
    step = block_length(k * rows.shape[1])
    for start in range(0, count, step):
        chosen = indices[start : start + step]
        distances[start : start + step] = exact_distances(queries[start : start + step], rows[chosen])
    if k > 1:
        order = np.lexsort((indices, distances), axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return distances, indices
