"""Kinds of search behind one interface: which rows to look at before the true distance is measured.

Every kind proposes rows and hands them to `remeasure`, so that distances given out are exact whatever
chose the rows; an approximate kind can only name a row that is a little further than the nearest. An index is
always built from the bank's rows and never read from a file.

Left out because flat search beat them on a CPU: a shortlist by the leading principal components (whitened
features have none that carry most of the distance) and FAISS's scan of 8-bit codes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from memory_bank.distance import Centred, nearest, remeasure
from memory_bank.errors import MemoryBankError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats


class Index(Protocol):
    """Finds rows near to queries in the working space."""

    def search(self, queries: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """Queries (N, W) float32, finite; distances (N, k) float32 ascending and indices (N, k) int64."""
        ...


class FlatIndex:
    """All rows, by blocked matrix products: exact."""

    def __init__(self, rows: Floats) -> None:
        self._rows = Centred(rows)

    def search(self, queries: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """See `Index`."""
        return nearest(queries, self._rows, k)


class ShortlistIndex:
    """A FAISS index proposes `shortlist` rows a query; the nearest of them by true distance are given out."""

    def __init__(self, rows: Floats, proposer: Any, shortlist: int) -> None:
        self._rows = rows
        self._proposer = proposer
        self._shortlist = shortlist

    def search(self, queries: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """See `Index`. Where cells hold fewer than k rows, the query is searched flat."""
        wanted = min(max(self._shortlist, k), len(self._rows))
        _, proposed = self._proposer.search(queries, wanted)
        missing = proposed < 0
        proposed[missing] = np.broadcast_to(proposed[:, :1], proposed.shape)[missing]
        short = np.flatnonzero(wanted - missing.sum(axis=1) < k)
        distances, indices = remeasure(queries, self._rows, np.maximum(proposed, 0))
        if missing.any() and k > 1:
            # Fillers repeat the first proposal: look only at what is left without them.
            distances[_repeats(indices)] = np.inf
            order = np.argsort(distances, axis=1, kind="stable")
            distances = np.take_along_axis(distances, order, axis=1)
            indices = np.take_along_axis(indices, order, axis=1)
        distances, indices = distances[:, :k], indices[:, :k]
        if len(short):
            distances[short], indices[short] = nearest(queries[short], self._rows, k)
        return distances, indices


def _repeats(indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which entries of each row have stood further left already; equal ones stand together."""
    same = np.zeros(indices.shape, bool)
    same[:, 1:] = indices[:, 1:] == indices[:, :-1]
    return same


def _load_faiss() -> Any:
    import faiss

    return faiss


def _where_it_is_fastest(faiss: Any, index: Any) -> Any:
    """An index on the GPUs that this build of FAISS sees; the same index where it sees none."""
    if getattr(faiss, "get_num_gpus", lambda: 0)() < 1:
        return index
    return faiss.index_cpu_to_all_gpus(index)


def _faiss(rows: Floats, shortlist: int) -> ShortlistIndex:
    faiss = _load_faiss()
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    return ShortlistIndex(rows, _where_it_is_fastest(faiss, index), shortlist)


def _ivf(rows: Floats, shortlist: int, cells: int, probes: int) -> ShortlistIndex:
    faiss = _load_faiss()
    # k-means wants some rows a cell; fewer cells where the bank is small.
    count = max(1, min(cells, len(rows) // 39))
    quantizer = faiss.IndexFlatL2(rows.shape[1])
    index = faiss.IndexIVFFlat(quantizer, rows.shape[1], count)
    index.cp.min_points_per_centroid = 1  # what it would print about small banks helps nobody
    index.train(rows)
    index.add(rows)
    index.nprobe = min(probes, count)
    return ShortlistIndex(rows, _where_it_is_fastest(faiss, index), shortlist)


def _fastscan(rows: Floats, shortlist: int, dims_per_code: int) -> ShortlistIndex:
    """Product quantization to 4 bits a code, scanned in registers (André et al. 2015, in FAISS)."""
    faiss = _load_faiss()
    codes = -(-rows.shape[1] // dims_per_code)
    padded = codes * dims_per_code
    transform = faiss.RemapDimensionsTransform(rows.shape[1], padded, False)
    scanned = faiss.IndexPQFastScan(padded, codes, 4)
    scanned.pq.cp.min_points_per_centroid = 1
    index = faiss.IndexPreTransform(transform, scanned)
    index.train(rows)
    index.add(rows)
    return ShortlistIndex(rows, index, shortlist)


KINDS: dict[str, dict[str, int]] = {
    "flat": {},
    "faiss": {"shortlist": 1},
    "ivf": {"shortlist": 4, "cells": 128, "probes": 8},
    "fastscan": {"shortlist": 32, "dims_per_code": 2},
}


#: Kinds that name the nearest row of every patch. The others may name one that is a little further.
EXACT = ("flat", "faiss")


def check_kind(kind: str) -> None:
    """Whether there is such a kind of index, and what it needs is installed; nothing heavy is imported.

    Raises:
        MemoryBankError: an unknown kind, or FAISS is not installed.
    """
    if kind not in KINDS:
        raise MemoryBankError(f"unknown index kind {kind!r}; use one of {', '.join(KINDS)}")
    if kind != "flat" and find_spec("faiss") is None:
        raise MemoryBankError(
            f"index kind {kind!r} needs FAISS; install the extra train or edge, or use index kind flat"
        )


def build_index(kind: str, rows: Floats, **settings: float) -> Index:
    """An index over rows of the working space.

    Args:
        kind: "flat" (blocked product), "faiss" (FAISS flat), "ivf" (cells by likeness) or "fastscan" (4-bit
            product codes, then exact). All but "flat" need FAISS; "faiss" and "ivf" propose rows on GPUs where the
            build of FAISS has any (its faiss-gpu packages).
        rows: (M, W) float32.
        settings: of the kind, positive whole numbers: `shortlist` rows measured exactly for each query; `cells`
            and `probes` of "ivf"; `dims_per_code` of "fastscan".

    Raises:
        MemoryBankError: an unknown kind or setting, or FAISS is not installed.
    """
    check_kind(kind)
    chosen = dict(KINDS[kind])
    for name, value in settings.items():
        if name not in chosen:
            known = ", ".join(chosen) or "no settings"
            raise MemoryBankError(f"index kind {kind!r} has no setting {name!r}; it has {known}")
        if value < 1 or value != int(value):
            raise MemoryBankError(f"index setting {name} must be a whole number from 1, got {value}")
        chosen[name] = int(value)
    if kind == "flat":
        return FlatIndex(rows)
    if kind == "fastscan" and len(rows) < 16:
        return FlatIndex(rows)  # 4-bit codes cannot be learned from fewer than 16 rows
    builders: dict[str, Callable[..., Index]] = {
        "faiss": _faiss,
        "ivf": _ivf,
        "fastscan": _fastscan,
    }
    return builders[kind](rows, **chosen)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of queries whose true nearest row was found first: both (N, k) int64, 0..1."""
    return float((found[:, 0] == truth[:, 0]).mean())
