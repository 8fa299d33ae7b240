"""Which numbers a configuration key takes: said beside the key, checked once before a command runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from anomaly.errors import UsageError

_KEY = "bounds"


@dataclass(frozen=True)
class Bounds:
    """What a number, or each number of a list, must be. All numbers must be finite.

    Attributes:
        least, most: inclusive.
        above, below: exclusive.
        fewest: entries that a list has at least.
        entries: that it has exactly; None = any number of them.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    fewest: int = 0
    entries: int | None = None

    def admits(self, number: float) -> bool:
        """Whether it is finite and within."""
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def admits_count(self, count: int) -> bool:
        """Whether a list may have so many entries."""
        return count >= self.fewest and self.entries in (None, count)

    def __str__(self) -> str:
        told = (
            (self.least, "{:g} or more"),
            (self.above, "above {:g}"),
            (self.most, "{:g} at most"),
            (self.below, "below {:g}"),
        )
        return " and ".join(words.format(one) for one, words in told if one is not None) or "finite"


def within(default: Any, **bounds: Any) -> Any:
    """A field of a configuration, with `Bounds` of the value. What is None is not looked at."""
    return field(default=default, metadata={_KEY: Bounds(**bounds)})


def added_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Keys of a composed configuration that its typed groups do not have, so that nothing reads them."""
    from omegaconf import OmegaConf

    kind = OmegaConf.get_type(config)
    known = {one.name for one in fields(kind)} if kind is not None and is_dataclass(kind) else None
    for name in config:
        key = prefix + str(name)
        if known is not None and name not in known:
            yield key
            continue
        if not OmegaConf.is_missing(config, name) and OmegaConf.is_dict(config[name]):
            yield from added_keys(config[name], f"{key}.")


def check_bounds(config: Any, prefix: str = "") -> None:
    """Look at every number of a configuration and of its groups.

    Raises:
        UsageError: one is not finite or out of its bounds, or a list has too few or too many.
    """
    for one in fields(config):
        value, key = getattr(config, one.name), prefix + one.name
        if is_dataclass(value):
            check_bounds(value, f"{key}.")
            continue
        bounds = one.metadata.get(_KEY, Bounds())
        if isinstance(value, list) and not bounds.admits_count(len(value)):
            wanted = f"{bounds.entries}" if bounds.entries is not None else f"{bounds.fewest} or more"
            raise UsageError(f"{key}={value} has {len(value)} entries; give {wanted}, in brackets")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not bounds.admits(number):
                what = "numbers" if isinstance(value, list) else "a number"
                raise UsageError(f"{key}={value} cannot be used; give {what} {bounds}")


def key_names(schema: type) -> list[str]:
    """All keys of a configuration's class, those of its groups as `group.key`."""
    keys = []
    for one in fields(schema):
        group: Any = one.default_factory
        if isinstance(group, type) and is_dataclass(group):
            keys += [f"{one.name}.{key}" for key in key_names(group)]
        else:
            keys.append(one.name)
    return keys
