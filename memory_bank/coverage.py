"""How well a bank covers what was fitted, measured on a sample of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memory_bank.distance import to_metric

if TYPE_CHECKING:
    from memory_bank.bank import MemoryBank
    from memory_bank.distance import Floats

MEASURED = 4096  # patches kept aside to measure coverage on


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far fitted patches are from their nearest row, in the metric's units.

    Attributes:
        largest_bound: no fitted patch is further than this: proven by the triangle inequality, not tight.
        largest, mean: measured on a uniform random sample of the fitted patches (rarer ones may be further).
        sampled: patches in that sample.
        patches: patches fitted.
    """

    largest_bound: float
    largest: float
    mean: float
    sampled: int
    patches: int


def measure_coverage(bank: MemoryBank, sampled: Floats, largest_bound: float, patches: int) -> Coverage:
    """Coverage of `patches` fitted patches by a bank, measured on a sample of them.

    Args:
        bank: the bank.
        sampled: (n, W) float32, in the bank's working space (`MemoryBank.queries`).
        largest_bound, patches: as in `Coverage`.
    """
    distances = to_metric(bank.search_working(sampled)[0][:, 0], bank.metric)
    return Coverage(
        largest_bound=largest_bound,
        largest=float(distances.max()),
        mean=float(distances.mean()),
        sampled=len(sampled),
        patches=patches,
    )
