"""What each row of a growing coreset stands for.

A row that covers an ordinary place of a scene covers it in every clip. Told apart clip by clip, the table would grow
with the footage: cameras are recorded in pieces of ten seconds. So a row tells apart `ORIGINS` sources that are drawn,
and the latest one, and counts the patches of all others together. Which are drawn is decided by a hash of their names
(bottom-k sampling, Cohen and Kaplan 2007): a uniform sample of a row's sources, whatever the order in which they come
and however tables are put together. The latest is there for those who forget all footage up to a day. The count of
a source that is told apart is whole, as long as tables that are put together know their sources in one order: each that
held patches of it told it apart, too.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.bank import Members
from memory_bank.origins import Origins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Sources drawn for a row. If a tenth of the sources is forgotten, whichever, all that are drawn are among them once in
#: 10^8; rows that stand for the same sources have the same ones drawn.
ORIGINS = 8
_PENDING = 1 << 18  # entries gathered before they are sorted into the table


def priorities(names: Sequence[str]) -> NDArray[np.uint64]:
    """(S,) uint64 for source names: the sources with the smallest are told apart."""
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


class Ledger:
    """Counts of covered patches by row and source, each with the first patch as witness.

    Its memory is bounded by the number of rows: not by frames, and not by sources.
    """

    def __init__(self) -> None:
        self._table = Members.empty(0)
        self._pending: list[Members] = []
        self._pending_count = 0
        self._priorities = np.zeros(0, np.uint64)

    def know(self, name: str) -> None:
        """The next source, by its number, is called so. Before any patch of it is noted."""
        self._priorities = np.append(self._priorities, priorities([name]))

    def note(self, rows: NDArray[np.int64], origins: Origins) -> None:
        """Patches with `origins` (n,), all of one source, are covered by `rows` (n,)."""
        unique, first, counts = np.unique(rows, return_index=True, return_counts=True)
        self._pending.append(
            Members(unique.astype(np.int32), counts, origins.take(first), np.zeros(0, np.int64))
        )
        self._pending_count += len(unique)
        if self._pending_count > _PENDING:
            self._settle()

    def enter(self, members: Members) -> None:
        """Take a whole table into an empty ledger."""
        self._table, self._pending, self._pending_count = members, [], 0

    def members(self, rows: int) -> Members:
        """The table of the `rows` rows that there are, entries ascending by row, then source."""
        self._settle()
        return self._table.widened(rows)

    def _settle(self) -> None:
        if self._pending:
            parts = [self._table, *self._pending]
            self._table = fall_together(
                np.concatenate([part.row for part in parts]),
                np.concatenate([part.count for part in parts]),
                Origins.concat([part.witness for part in parts]),
                self._table.others,
                self._priorities,
            )
            self._pending, self._pending_count = [], 0

    def remap(self, new_row: NDArray[np.int64]) -> None:
        """Row i is now row `new_row[i]`."""
        table = self.members(len(new_row))
        others = np.zeros(int(new_row.max()) + 1, np.int64)
        np.add.at(others, new_row, table.others)
        self._table = fall_together(new_row[table.row], table.count, table.witness, others, self._priorities)

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The table as named arrays."""
        self._settle()
        return self._table.to_tensors(prefix)

    def restore(self, tensors: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Take over what `to_tensors` gave."""
        self.enter(Members.from_tensors(tensors, prefix))


def fall_together(
    row: NDArray[Any],
    count: NDArray[np.int64],
    witness: Origins,
    others: NDArray[np.int64],
    priority: NDArray[np.uint64],
) -> Members:
    """Entries of the same row and source made one, and of each row those drawn and that of the latest source kept.

    Counts are added; of equal entries the first in order is the witness. The latest source is the one of the highest
    number.

    Args:
        row, count, witness: (L,) entries, in any order.
        others: (at most M,) patches of each row that are in no entry.
        priority: (S,) of the sources (see `priorities`).
    """
    order = np.lexsort((witness.source, row))  # stable
    row, source = row[order], witness.source[order]
    others = _lengthened(others, int(row[-1]) + 1 if len(row) else 0)
    if not len(row):
        return Members(row, count, witness, others)
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (source[1:] != source[:-1])])
    row, source, count, order = (
        row[starts],
        source[starts],
        np.add.reduceat(count[order], starts),
        order[starts],
    )
    ranked = np.lexsort((priority[source], row))
    first = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    after = np.r_[first[1:], len(row)]
    rank = np.arange(len(row)) - np.repeat(first, after - first)
    told = np.zeros(len(row), bool)
    told[ranked[rank < ORIGINS]] = True
    told[after - 1] = True  # of a row, ascending by source, the last
    kept, left = np.flatnonzero(told), np.flatnonzero(~told)
    np.add.at(others, row[left], count[left])
    return Members(row[kept], count[kept], witness.take(order[kept]), others)


def _lengthened(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """A copy, with zeros up to a length."""
    return np.concatenate([values, np.zeros(max(length - len(values), 0), np.int64)])
