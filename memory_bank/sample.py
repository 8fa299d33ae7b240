"""A uniform random sample of a stream's patches that does not hang on how the stream is cut.

Every patch gets a random key from the seed and its own identity (source, frame, position), and the patches
with the smallest keys are kept (bottom-k sampling, Cohen and Kaplan 2007). So the sample is the same
whatever the chunk size, after a resume, and after merging samples of several workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.origins import Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats


def patch_keys(
    seed: int, camera: str, source: str, frame: int, first_patch: int, count: int
) -> NDArray[np.float64]:
    """(count,) float64 in [0, 1), the keys of one frame's patches."""
    name = f"{seed}\0{camera}\0{source}\0{frame}\0{first_patch}"
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(count)


class Sample:
    """The `size` patches with the smallest keys so far; memory for at most twice as many."""

    def __init__(self, size: int, dim: int) -> None:
        self.size = size
        self.dim = dim
        self._keys: list[NDArray[np.float64]] = []
        self._rows: list[Floats] = []
        self._origins: list[Origins] = []
        self._count = 0
        self.limit = np.inf  # keys at or above it cannot enter

    def offer(self, keys: NDArray[np.float64], rows: Floats, origins: Origins) -> None:
        """Consider patches: keys (N,), rows (N, D) float32, origins (N,)."""
        if not self.size:
            return
        index = np.flatnonzero(keys < self.limit)
        if not len(index):
            return
        self._keys.append(keys[index])
        self._rows.append(rows[index])
        self._origins.append(origins.take(index))
        self._count += len(index)
        if self._count > 2 * self.size:
            self._prune()

    def _prune(self) -> None:
        keys, rows, origins = (
            np.concatenate(self._keys),
            np.concatenate(self._rows),
            Origins.concat(self._origins),
        )
        # By key alone: the order in which patches came must not show.
        order = np.argsort(keys, kind="stable")[: self.size]
        self._keys, self._rows, self._origins = [keys[order]], [rows[order]], [origins.take(order)]
        self._count = len(order)
        if self._count == self.size:
            self.limit = float(keys[order[-1]])

    def drawn(self) -> tuple[NDArray[np.float64], Floats, Origins]:
        """The sample in order of its keys: keys (n,), rows (n, D), origins (n,), n <= size."""
        if not self._keys:
            return np.zeros(0), np.zeros((0, self.dim), np.float32), Origins.empty()
        self._prune()
        return self._keys[0], self._rows[0], self._origins[0]

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The sample as named arrays."""
        keys, rows, origins = self.drawn()
        tensors: dict[str, NDArray[Any]] = {prefix + "keys": keys, prefix + "rows": rows}
        return tensors | origins.to_tensors(prefix)

    def restore(self, tensors: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Take over what `to_tensors` gave."""
        keys, rows, origins = (
            tensors[prefix + "keys"],
            tensors[prefix + "rows"],
            Origins.from_tensors(tensors, prefix),
        )
        self.limit = np.inf
        self._keys, self._rows, self._origins, self._count = [], [], [], 0
        self.offer(keys, np.asarray(rows, np.float32), origins)
        if self._keys:
            self._prune()
