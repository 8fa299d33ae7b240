"""What new footage has that a bank does not cover, gathered frame by frame, and put to it in the end.

Patches that the bank covers never become rows, however many there are, but the rows that cover them stand for them
from then on: a clip that is forgotten later leaves the rows that another one needs. The rest is gathered in a coreset
of its own, so that a long day that looks like the one before takes no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.distance import sum_of
from memory_bank.errors import MemoryBankError
from memory_bank.features import refuse_unusable
from memory_bank.ledger import Ledger
from memory_bank.merge import add_rows, merge_banks
from memory_bank.origins import Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.bank import MemoryBank
    from memory_bank.coreset import StreamingCoreset
    from memory_bank.distance import Floats
    from memory_bank.merge import Merged


@dataclass(frozen=True, slots=True)
class Grown:
    """What adding footage to a bank came to; distances in the metric's units.

    Attributes:
        patches: of the new footage.
        covered: of these, patches that lay within the radius of a row already.
        added: rows of the new footage that the bank has now.
        needed: rows with which all that was gathered lies within the radius, with none of those before dropped.
        mean_before, largest_before: how far a patch of the new footage was from its nearest row, measured on each.
        largest: none is further from a row than this now.
        merged: what choosing anew cost, over the rows before and the new ones; None where rows were only added.
    """

    patches: int
    covered: int
    added: int
    needed: int
    mean_before: float
    largest_before: float
    largest: float
    merged: Merged | None


class Additions:
    """Takes patches as `StreamingCoreset` does.

    Args:
        bank: stays as it is; searched flat, whatever its index.
        radius: a patch within this distance of a row (the metric's units) is covered: the row stands for it, too.
        coreset: empty, of the bank's kind; gathers the patches that are not covered.

    Raises:
        MemoryBankError: a negative radius.
    """

    def __init__(self, bank: MemoryBank, radius: float, coreset: StreamingCoreset) -> None:
        if not radius >= 0:
            raise MemoryBankError(f"radius must be 0 or more, got {radius}")
        self._bank, self._radius, self._coreset = bank.replace(), radius, coreset
        self._sources = {name: number for number, name in enumerate(bank.sources)}
        self._cameras = {name: number for number, name in enumerate(bank.cameras)}
        self._ledger = Ledger()
        self._ledger.enter(bank.members)
        for name in bank.sources:
            self._ledger.know(name)
        self._patches = self._covered = 0
        self._sum = self._largest = self._largest_covered = 0.0

    def add(
        self,
        rows: Floats,
        source: str,
        frame: int,
        time_s: float,
        y: Floats,
        x: Floats,
        patch: NDArray[np.integer[Any]],
        camera: str = "default",
    ) -> None:
        """Take in the patches of one frame; arguments and errors as of `StreamingCoreset.add`."""
        refuse_unusable(rows, self._bank.metric, source, np.full(len(rows), frame))
        found, nearest_row = self._bank.search(rows, y=y, x=x)
        distances, row = found[:, 0], nearest_row[:, 0]
        covered = distances <= self._radius
        uncovered = ~covered
        if uncovered.any():
            self._coreset.add(
                rows[uncovered], source, frame, time_s, y[uncovered], x[uncovered], patch[uncovered], camera
            )
        if source not in self._sources:
            self._sources[source] = len(self._sources)
            self._ledger.know(source)
        count = int(covered.sum())
        self._patches += len(rows)
        self._covered += count
        self._sum += float(distances.sum(dtype=np.float64))
        self._largest = max(self._largest, float(distances.max(initial=0.0)))
        self._largest_covered = max(self._largest_covered, float(distances[covered].max(initial=0.0)))
        origins = Origins(
            source=np.full(count, self._sources[source], np.int32),
            frame=np.full(count, frame, np.int64),
            time_s=np.full(count, time_s, np.float64),
            patch=np.asarray(patch[covered], np.int32),
            y=y[covered],
            x=x[covered],
            camera=np.full(count, self._cameras.setdefault(camera, len(self._cameras)), np.int32),
        )
        self._ledger.note(row[covered], origins)

    def finish(
        self, size: int | None, radius: float, enough: float, *, anew: bool = False
    ) -> tuple[MemoryBank, Grown]:
        """The bank with the rows that it lacked.

        Rows are only added, those furthest from all others first, for as long as there is room.

        Args:
            size: most rows of the result, at least the bank's; None = all that are needed.
            radius: gathered rows within this distance of a row that is there, or was added, are only counted.
            enough: how far a patch of the new footage may stay from its nearest row where the bank is full.
            anew: where one would stay further, choose all rows anew (`merge_banks`), unless none of the new ones were
                among them: rows that are further from each other than the new ones are from them win.

        Raises:
            MemoryBankError: nothing was added, or a size below the bank's.
        """
        if not self._patches:
            raise MemoryBankError("no patches to add to the bank; give footage with at least one frame")
        config = self._coreset.config
        bank = self._bank.replace(
            sources=list(self._sources),
            cameras=list(self._cameras),
            members=self._ledger.members(len(self._bank)),
        )
        grown, merged = bank, None
        needed, largest = len(bank), self._largest_covered
        if self._covered < self._patches:
            extra = self._coreset.finish()
            beyond = self._coreset.coverage.largest_bound
            grown, furthest = add_rows(bank, extra, radius)
            needed = len(grown)
            if size is not None and needed > size:
                grown, furthest = add_rows(bank, extra, radius, size)
            largest = max(largest, sum_of(furthest, beyond, bank.metric))
            if anew and size is not None and needed > size and largest > enough:
                chosen, cost = merge_banks(
                    [bank, extra],
                    size,
                    radii=[self._largest_covered, beyond],
                    random_share=config.random_share,
                    seed=config.seed,
                    slack=config.slack,
                )
                if self._new_rows(chosen):
                    grown, merged, largest = chosen, cost, cost.bound
        return grown, Grown(
            patches=self._patches,
            covered=self._covered,
            added=self._new_rows(grown),
            needed=needed,
            mean_before=self._sum / self._patches,
            largest_before=self._largest,
            largest=largest,
            merged=merged,
        )

    def _new_rows(self, bank: MemoryBank) -> int:
        return int((bank.origins.source >= len(self._bank.sources)).sum())
