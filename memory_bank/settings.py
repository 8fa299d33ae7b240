"""What a streaming fit is told, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memory_bank.distance import check_metric
from memory_bank.errors import MemoryBankError

#: 335,000 patches of 100 dimensions; with the copies that a selection makes, less than half a GiB.
GATHER_MIB = 128.0


@dataclass(frozen=True, slots=True)
class CoresetConfig:
    """What a fit hangs on besides the stream itself.

    Attributes:
        dim: length D of a patch feature.
        size: most rows of the finished bank; None for no limit (then radius is needed).
        radius: distance within which every fitted patch must have a row, in the metric's units; with a
            size as well, it is where rejection starts.
        metric: "euclidean" or "cosine".
        seed: of the random part and of selection.
        random_share: share of `size` that is a uniform random sample; unused without a size.
        place_weight: distance that one picture height (or width) counts for; 0 leaves place out.
        slack: in [0, 1); how much a pick may fall short of the farthest patch (see `kcenter_select`).
        headroom: rows held while streaming, as a multiple of `size`, before they are reduced to it; > 1.
        gather_mib: the first patches are held as they are, up to so many MiB of rows, and chosen from at
            once; footage that fits gets the bank that greedy k-center picks from all of it. 0: none are.
        features: the caller's name for what makes the features (backbone, projection); a checkpoint of
            other features is refused.
    """

    dim: int
    size: int | None = None
    radius: float | None = None
    metric: str = "euclidean"
    seed: int = 0
    random_share: float = 0.0
    place_weight: float = 0.0
    slack: float = 0.0
    headroom: float = 2.0
    gather_mib: float = GATHER_MIB
    features: str = ""

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.size is None and self.radius is None:
            raise MemoryBankError("a coreset needs a size, a radius or both")
        for name, value, fits in (
            ("dim", self.dim, self.dim >= 1),
            ("size", self.size, self.size is None or self.size >= 1),
            ("radius", self.radius, self.radius is None or 0 < self.radius < np.inf),
            ("random_share", self.random_share, 0 <= self.random_share <= 1),
            ("place_weight", self.place_weight, 0 <= self.place_weight < np.inf),
            ("slack", self.slack, 0 <= self.slack < 1),
            ("headroom", self.headroom, 1 < self.headroom < np.inf),
            ("gather_mib", self.gather_mib, 0 <= self.gather_mib < np.inf),
        ):
            if not fits:
                raise MemoryBankError(f"a coreset cannot be kept with {name} = {value}")
