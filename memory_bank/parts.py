"""A fit in parts: each part of the footage makes its own coreset, and the parts merge.

Coresets compose: a coreset of coresets covers what each of them covered (Indyk et al. 2014), with radii
that add up. Parts merge in a tree of fixed shape, in the order of the footage, so that the bank hangs on how the
footage was cut and not on who worked on which part, or when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from memory_bank.bank import MemoryBank
from memory_bank.coreset import StreamingCoreset
from memory_bank.coverage import MEASURED, Coverage, measure_coverage
from memory_bank.distance import sum_of
from memory_bank.errors import MemoryBankError
from memory_bank.merge import add_rows, merge_banks
from memory_bank.settings import CoresetConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats

#: A bank, and how far a fitted patch is from its rows at most (the metric's units).
_Bounded: TypeAlias = tuple[MemoryBank, float]


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
    """One bank of all parts; see `PartMerger`, which takes them one by one.

    Raises:
        MemoryBankError: no parts, parts of different configurations, or a fan_in below 2.
    """
    merger = PartMerger(fan_in)
    for part in parts:
        merger.add(part)
    return merger.finish()


class PartMerger:
    """One bank of parts that come one after another, in memory that does not grow with their number.

    Parts of a size merge in a tree, as soon as `fan_in` neighbours are there, into banks of that size. Parts that
    have a radius are put to those before them: a row that lies within the radius of one that is there
    is counted and no more. So a patch is within twice that radius of a row, and no number of parts adds to that. Where
    they have a size as well and need more rows, these are reduced to it, and the radius becomes what they cover then.

    Args:
        fan_in: how many neighbours merge at a time, 2 or more; part of what the result hangs on.
    """

    def __init__(self, fan_in: int = 8) -> None:
        if fan_in < 2:
            raise MemoryBankError(
                f"fan_in must be 2 or more, got {fan_in}; one part does not merge with itself"
            )
        self._fan_in = fan_in
        self._config: CoresetConfig | None = None
        self._levels: list[list[_Bounded]] = []
        self._radius = 0.0
        self._patches = 0
        self._keys = np.zeros(0, np.float64)
        self._sampled: Floats | None = None

    def add(self, part: Part) -> None:
        """Take in the next part, in the order of the footage.

        Raises:
            MemoryBankError: it is of another configuration than those before it.
        """
        if self._config is None:
            self._config, self._radius = part.config, part.config.radius or 0.0
        elif part.config != self._config:
            raise MemoryBankError("parts of different settings do not merge; fit all with one configuration")
        self._patches += part.patches
        self._keep_sample(part)
        if self._config.radius is None:
            self._enter(0, (part.bank, part.bound))
        elif not self._levels:
            self._levels = [[(part.bank, part.bound)]]
        else:
            held = _covering(self._levels[0][0], part, self._radius)
            size = self._config.size
            if size is not None and len(held[0]) > self._config.headroom * size:
                held = self._reduced(held)
            self._levels = [[held]]

    def finish(self) -> tuple[MemoryBank, Coverage]:
        """The bank, and how well it covers the patches of all parts.

        Raises:
            MemoryBankError: there was no part.
        """
        if self._config is None or self._sampled is None:
            raise MemoryBankError("nothing to merge; give at least one part")
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            waiting, self._levels[level] = self._levels[level], []
            if waiting:
                alone = len(waiting) == 1
                self._enter(level + 1, waiting[0] if alone else _merged(waiting, self._config))
            level += 1
        bank, bound = self._levels[level][0]
        if self._config.size is not None and len(bank) > self._config.size:
            bank, bound = self._reduced((bank, bound))
        return bank, measure_coverage(bank, self._sampled, bound, self._patches)

    def _reduced(self, held: _Bounded) -> _Bounded:
        """What is held in no more rows than asked for; what is put to it from now on is within what these cover."""
        assert self._config is not None
        bank, bound = _merged([held], self._config)
        self._radius = max(self._radius, bound)
        return bank, bound

    def _enter(self, level: int, bounded: _Bounded) -> None:
        assert self._config is not None
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(bounded)
        if len(self._levels[level]) == self._fan_in:
            whole, self._levels[level] = self._levels[level], []
            self._enter(level + 1, _merged(whole, self._config))

    def _keep_sample(self, part: Part) -> None:
        """As one stream would have kept it: as many, those with the smallest keys."""
        keys = np.concatenate([self._keys, part.keys])
        sampled = part.sampled if self._sampled is None else np.concatenate([self._sampled, part.sampled])
        kept = np.argsort(keys, kind="stable")[:MEASURED]
        self._keys, self._sampled = keys[kept], sampled[kept]


def _merged(group: Sequence[_Bounded], config: CoresetConfig) -> _Bounded:
    """One bank of a group, of the configured size; of a group of one too."""
    bank, merged = merge_banks(
        [bank for bank, _ in group],
        config.size,
        radii=[bound for _, bound in group],
        random_share=config.random_share,
        seed=config.seed,
        slack=config.slack,
    )
    return bank, merged.bound


def _covering(held: _Bounded, part: Part, radius: float) -> _Bounded:
    """The rows held so far, with those of a part that they do not cover to within a radius."""
    bank, moved = add_rows(held[0], part.bank, radius)
    return bank, max(held[1], sum_of(moved, part.bound, bank.metric))
