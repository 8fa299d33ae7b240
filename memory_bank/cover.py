"""The rows that cover a stream so far, and the radius within which a patch counts as covered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.bank import Members
from memory_bank.distance import exact_distances, nearest
from memory_bank.kcenter import kcenter_select
from memory_bank.ledger import Ledger
from memory_bank.origins import Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats


class Cover:
    """Rows, all in the working space; whatever was taken in lies within `reach` of the row that stands for it.

    Args:
        width: dimensions of the working space.
        radius: distance within which a patch is rejected as covered, from the start.
        kept: rows left after a reduction; None: never reduce.
        capacity: rows that may be there before a reduction.
        gathered: patches held unsearched, each a row, before the first reduction; not above `capacity`, or
            with a radius or without a limit to start with: none.
        seed, slack: of `kcenter_select`.
    """

    def __init__(
        self,
        width: int,
        radius: float,
        kept: int | None,
        capacity: int | None,
        gathered: int,
        seed: int,
        slack: float,
    ) -> None:
        self.radius = radius
        self.count = 0
        self.reductions = 0
        self.ledger = Ledger()
        self._kept, self._capacity = kept, capacity
        self._gathered = gathered if radius == 0 and capacity is not None and gathered > capacity else 0
        self._seed, self._slack = seed, slack
        self._rows = np.empty((0, width), np.float32)
        self._reach = np.empty(0, np.float32)
        self._origins: list[Origins] = []
        self._last: dict[int, NDArray[np.int32]] = {}  # camera -> the row that last covered each place

    @property
    def rows(self) -> Floats:
        """(count, width) float32."""
        return self._rows[: self.count]

    @property
    def reach(self) -> Floats:
        """(count,) float32, a bound on the distance from each row to any patch it stands for."""
        return self._reach[: self.count]

    @property
    def origins(self) -> Origins:
        """(count,) where the rows came from."""
        if len(self._origins) != 1:
            self._origins = [Origins.concat(self._origins)]
        return self._origins[0]

    @property
    def gathering(self) -> bool:
        """Whether patches are still held as they are: the rows are all of them, and nothing was covered yet."""
        return self.reductions == 0 and self._gathered > 0

    def members(self) -> Members:
        """What each row stands for."""
        return Members.of_rows(self.origins) if self.gathering else self.ledger.members(self.count)

    def reject_unchanged(self, rows: Floats, origins: Origins) -> NDArray[np.int64]:
        """Note the patches of one frame that the row which last covered their place still covers.

        This costs one distance a patch. Returns the positions of the other patches, ascending.
        """
        everything = np.arange(len(rows))
        last = self._last.get(int(origins.camera[0]))
        if last is None or self.radius <= 0:
            return everything
        known = origins.patch < len(last)
        row = np.where(known, last[np.where(known, origins.patch, 0)], -1)
        candidates = np.flatnonzero(row >= 0)
        distances = exact_distances(rows[candidates], self._rows[row[candidates]])
        covered = distances <= self.radius
        index = candidates[covered]
        self._note(row[index], distances[covered], origins.take(index))
        return np.setdiff1d(everything, index, assume_unique=True)

    def _note(self, row: NDArray[Any], distances: Floats, origins: Origins) -> None:
        if len(row):
            np.maximum.at(self._reach, row, distances)
            self.ledger.note(row.astype(np.int64), origins)

    def take_in(self, parts: list[tuple[Floats, Origins]]) -> None:
        """Search patches against all rows; what is not covered becomes rows. While gathering, all do.

        Args:
            parts: patches (n, width) float32 and their origins (n,), one entry a frame.
        """
        rows = np.concatenate([part for part, _ in parts])
        if self.gathering:
            self.append(rows, Origins.concat([origins for _, origins in parts]))
            if self.count >= self._gathered:
                self._reduce()
            return
        distances, row = np.full(len(rows), np.inf, np.float32), np.zeros(len(rows), np.int64)
        if self.count:
            found, index = nearest(rows, self.rows)
            distances, row = found[:, 0], index[:, 0]
        far = np.flatnonzero(distances > self.radius)
        if len(far):
            new = far[self._choose(rows[far], distances[far])]
            first = self.append(rows[new], Origins.concat([origins for _, origins in parts]).take(new))
            found, index = nearest(rows[far], rows[new])
            closer = found[:, 0] < distances[far]
            distances[far] = np.where(closer, found[:, 0], distances[far])
            row[far] = np.where(closer, index[:, 0] + first, row[far])
        start = 0
        for part, origins in parts:
            here = slice(start, start + len(part))
            self._note(row[here], distances[here], origins)
            self._remember(row[here], origins)
            start += len(part)
        if self._capacity is not None and self.count > self._capacity:
            self._reduce()

    def _choose(self, rows: Floats, distances: Floats) -> NDArray[np.int64]:
        """Which of these uncovered patches become rows, ascending: enough that all are covered."""
        if self.radius == 0:
            # Nothing is covered but by its equal: all distinct patches.
            return np.sort(np.unique(rows, axis=0, return_index=True)[1])
        before = distances if self.count else None
        picked = kcenter_select(rows, radius=self.radius, seed=self._seed, distances=before)
        return np.sort(picked.indices)

    def append(self, rows: Floats, origins: Origins) -> int:
        """Add rows that stand for nothing yet; the number of the first."""
        first, total = self.count, self.count + len(rows)
        if total > len(self._rows):
            more = np.empty((max(total, 2 * len(self._rows)) - len(self._rows), rows.shape[1]), np.float32)
            self._rows = np.concatenate([self._rows, more])
            self._reach = np.concatenate([self._reach, more[:, 0]])
        self._rows[first:total] = rows
        self._reach[first:total] = 0.0
        self._origins.append(origins)
        self.count = total
        return first

    def _remember(self, row: NDArray[np.int64], origins: Origins) -> None:
        camera, length = int(origins.camera[0]), int(origins.patch.max()) + 1
        last = self._last.get(camera, np.zeros(0, np.int32))
        if length > len(last):
            last = np.concatenate([last, np.full(length - len(last), -1, np.int32)])
            self._last[camera] = last
        last[origins.patch] = row

    def _reduce(self) -> None:
        """Keep the rows that greedy k-center picks; the others' patches go to the nearest of them."""
        if self.gathering:
            self.ledger.enter(self.members())
        self.reductions += 1
        picked = kcenter_select(self.rows, self._kept, seed=self._seed + self.reductions, slack=self._slack)
        kept = np.sort(picked.indices)
        chosen = self.rows[kept]
        found, index = nearest(self.rows, chosen)
        self.radius = max(self.radius, picked.radius)
        reach = np.zeros(len(kept), np.float32)
        np.maximum.at(reach, index[:, 0], self.reach + found[:, 0])
        self._origins = [self.origins.take(kept)]
        self.ledger.remap(index[:, 0])
        for last in self._last.values():
            last[last >= 0] = index[last[last >= 0], 0]
        self.count = len(kept)
        self._rows, self._reach = chosen, reach  # not in place: what was gathered takes far more room

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """All arrays, for `restore`."""
        arrays: dict[str, NDArray[Any]] = {"rows": self.rows.copy(), "reach": self.reach.copy()}
        arrays |= self.origins.to_tensors("origins.") | self.ledger.to_tensors("members.")
        return arrays | {f"last.{camera}": last.copy() for camera, last in self._last.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]], radius: float, reductions: int) -> None:
        """Take over what `to_tensors` gave."""
        self.append(np.asarray(arrays["rows"], np.float32), Origins.from_tensors(arrays, "origins."))
        self._reach[: self.count] = arrays["reach"]
        self.ledger.restore(arrays, "members.")
        for name, last in arrays.items():
            if name.startswith("last."):
                self._last[int(name.removeprefix("last."))] = np.array(last, np.int32)
        self.radius, self.reductions = radius, reductions
