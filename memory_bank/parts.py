"""A fit in parts: each part of the footage makes its own coreset, and the parts merge.

Coresets compose: a coreset of coresets covers what each of them covered (Indyk et al. 2014), with radii
that add up. Parts merge in a tree of fixed shape, in the order of the footage, so that the bank hangs on how the
footage was cut and not on who worked on which part, or when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.bank import MemoryBank
from memory_bank.coreset import StreamingCoreset
from memory_bank.coverage import MEASURED, Coverage, measure_coverage
from memory_bank.errors import MemoryBankError
from memory_bank.merge import merge_banks
from memory_bank.settings import CoresetConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one part of the footage came to.

    Attributes:
        bank: of that part.
        bound: no patch of the part is further than this from a row (the metric's units).
        patches: fitted.
        keys, sampled: (n,) and (n, W), the part's sample to measure coverage on.
        config: what all parts of one fit share.
    """

    bank: MemoryBank
    bound: float
    patches: int
    keys: NDArray[np.float64]
    sampled: Floats
    config: CoresetConfig

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All that `from_state` needs: named arrays, and a JSON-able dict."""
        arrays = {f"bank.{name}": array for name, array in self.bank.to_tensors().items()}
        about = {
            "config": asdict(self.config),
            "bound": self.bound,
            "patches": self.patches,
            "sources": list(self.bank.sources),
            "cameras": list(self.bank.cameras),
        }
        return arrays | {"keys": self.keys, "sampled": self.sampled}, about

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> Part:
        """Back from `state`, bit for bit; raises MemoryBankError or KeyError where something is missing."""
        config = CoresetConfig(**about["config"])
        tensors = {
            name.removeprefix("bank."): array for name, array in arrays.items() if name.startswith("bank.")
        }
        bank = MemoryBank.from_tensors(
            tensors, config.metric, about["sources"], about["cameras"], config.place_weight
        )
        return cls(bank, about["bound"], about["patches"], arrays["keys"], arrays["sampled"], config)


def part_of(coreset: StreamingCoreset) -> Part:
    """Finish a coreset as one part of a larger fit."""
    bank = coreset.finish()
    keys, sampled = coreset.sampled
    return Part(
        bank, coreset.coverage.largest_bound, coreset.patches, keys.copy(), sampled.copy(), coreset.config
    )


def merge_parts(parts: Sequence[Part], fan_in: int = 8) -> tuple[MemoryBank, Coverage]:
    """One bank of all parts, of the size that each of them was given.

    Args:
        parts: in the order of the footage, of one configuration.
        fan_in: how many neighbours merge at a time; part of what the result hangs on.

    Returns:
        The bank, and how well it covers the patches of all parts.

    Raises:
        MemoryBankError: no parts, or parts of different configurations.
    """
    if not parts:
        raise MemoryBankError("nothing to merge; give at least one part")
    config = parts[0].config
    if any(part.config != config for part in parts):
        raise MemoryBankError("parts of different settings do not merge; fit all with one configuration")
    keys = np.concatenate([part.keys for part in parts])
    sampled = np.concatenate([part.sampled for part in parts])
    # As one stream would have kept them: as many, those with the smallest keys.
    kept = np.argsort(keys, kind="stable")[:MEASURED]
    level = [(part.bank, part.bound) for part in parts]
    while len(level) > 1:
        level = [_merged(level[i : i + fan_in], config) for i in range(0, len(level), fan_in)]
    bank, bound = level[0]
    return bank, measure_coverage(bank, sampled[kept], bound, sum(part.patches for part in parts))


def _merged(group: Sequence[tuple[MemoryBank, float]], config: CoresetConfig) -> tuple[MemoryBank, float]:
    if len(group) == 1:
        return group[0]
    bank, merged = merge_banks(
        [bank for bank, _ in group],
        config.size,
        radii=[bound for _, bound in group],
        random_share=config.random_share,
        seed=config.seed,
        slack=config.slack,
    )
    return bank, merged.bound
