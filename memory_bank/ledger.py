"""What each row of a growing coreset stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.bank import Members
from memory_bank.origins import Origins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_PENDING = 1 << 16  # entries gathered before they are sorted into the table


class Ledger:
    """Counts of covered patches by row and source, each with the first patch as witness.

    Its memory is bounded by rows x sources, not by frames: entries of one row and source fall together.
    """

    def __init__(self) -> None:
        self._table = Members(np.zeros(0, np.int32), np.zeros(0, np.int64), Origins.empty())
        self._pending: list[Members] = []
        self._pending_count = 0

    def note(self, rows: NDArray[np.int64], origins: Origins) -> None:
        """Patches with `origins` (n,), all of one source, are covered by `rows` (n,)."""
        unique, first, counts = np.unique(rows, return_index=True, return_counts=True)
        self._pending.append(Members(unique.astype(np.int32), counts, origins.take(first)))
        self._pending_count += len(unique)
        if self._pending_count > _PENDING:
            self.members()

    def enter(self, members: Members) -> None:
        """Take a whole table into an empty ledger."""
        self._table, self._pending, self._pending_count = members, [], 0

    def members(self) -> Members:
        """The table, one entry for each row and source, ascending by row, then source."""
        if self._pending:
            parts = [self._table, *self._pending]
            self._table = fall_together(
                np.concatenate([part.row for part in parts]),
                np.concatenate([part.count for part in parts]),
                Origins.concat([part.witness for part in parts]),
            )
            self._pending, self._pending_count = [], 0
        return self._table

    def remap(self, new_row: NDArray[np.int64]) -> None:
        """Row i is now row `new_row[i]`."""
        table = self.members()
        self._table = fall_together(new_row[table.row], table.count, table.witness)

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The table as named arrays."""
        table = self.members()
        tensors: dict[str, NDArray[Any]] = {prefix + "row": table.row, prefix + "count": table.count}
        return tensors | table.witness.to_tensors(prefix)

    def restore(self, tensors: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Take over what `to_tensors` gave."""
        witness = Origins.from_tensors(tensors, prefix)
        self._table = Members(tensors[prefix + "row"], tensors[prefix + "count"], witness)
        self._pending, self._pending_count = [], 0


def fall_together(row: NDArray[Any], count: NDArray[np.int64], witness: Origins) -> Members:
    """Entries of the same row and source made one: counts added, the first in order is the witness."""
    order = np.lexsort((witness.source, row))  # stable
    row, source = row[order], witness.source[order]
    if not len(row):
        return Members(row, count, witness)
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (source[1:] != source[:-1])])
    return Members(row[starts], np.add.reduceat(count[order], starts), witness.take(order[starts]))
