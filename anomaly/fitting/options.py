"""What a fit is told, and what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomaly.errors import UsageError
from memory_bank import MemoryBankError, check_kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from memory_bank import Coverage

#: Seconds of footage in a shard where nothing else is said.
SHARD_S = 600.0


@dataclass(frozen=True)
class FitOptions:
    """Settings of a fit; see `configs/fit.yaml` for what each does."""

    fps: float | None = 5.0
    score_fps: float | None = 10.0
    holdout: float = 0.2
    learn_holdout: bool = True
    guard_s: float = 2.0
    dims: int = 100
    level: float = 0.5
    shrinkage: float = 1.0
    sample_frames: int = 200
    bank_size: int = 20_000
    radius: float | None = None
    gather_mib: float = 128.0
    half: bool = False
    place_weight: float = 0.0
    index: str = "flat"
    reweight: int = 0
    top_share: float = 0.01
    seed: int = 0
    refuse_damage: bool = False
    checkpoint_s: float = 60.0
    compute: str = "local"
    shard_s: float | None = None

    @property
    def shard_length_s(self) -> float | None:
        """Seconds of footage that are learned apart and merged; None = one stream of all."""
        return SHARD_S if self.shard_s is None and self.compute == "ray" else self.shard_s

    @property
    def part_radius(self) -> float | None:
        """`radius` for a part of what is learned, which is put to other parts within as much again."""
        return None if self.radius is None else self.radius / 2

    def __post_init__(self) -> None:
        for key, value in (
            ("bank.size", self.bank_size),
            ("projection.dims", self.dims),
            ("projection.sample_frames", self.sample_frames),
        ):
            if value < 1:
                raise UsageError(f"{key}={value} is too small; give 1 or more")
        if self.radius is not None and not self.radius > 0:
            raise UsageError(f"bank.radius={self.radius} is no distance; give one above 0, or use bank.size")
        if not 0 <= self.gather_mib < math.inf:
            raise UsageError(
                f"bank.gather_mib={self.gather_mib} is no room; give MiB, such as 128, or 0 to gather nothing"
            )
        if not 0 <= self.place_weight < math.inf:
            raise UsageError(
                f"bank.place_weight={self.place_weight} is no distance; give 0 to leave place out, or the distance "
                "that the whole height of the picture counts for"
            )
        try:
            check_kind(self.index)
        except MemoryBankError as error:
            raise UsageError(f"bank.index={self.index}: {error}") from error
        if self.reweight < 0 or self.reweight == 1:
            raise UsageError(
                f"bank.reweight={self.reweight} is no neighbourhood; give 0 for none, or 2 rows or more, such as 9"
            )
        for key, share in (("level", self.level), ("shrinkage", self.shrinkage)):
            if not 0 <= share <= 1:
                raise UsageError(f"projection.{key}={share} is outside 0..1; give for instance 0.5")
        if not self.checkpoint_s > 0:
            raise UsageError(f"fit.checkpoint_s={self.checkpoint_s} is no interval; give seconds, such as 60")
        if self.compute not in {"local", "ray"}:
            raise UsageError(f"fit.compute={self.compute!r} is not known; choose local or ray")
        if self.shard_s is not None and not self.shard_s > 0:
            raise UsageError(f"fit.shard_s={self.shard_s} is no length; give seconds, such as 600")
        if not self.guard_s >= 0:
            raise UsageError(f"fit.guard_s={self.guard_s} is negative; give seconds, 0 or more")


@dataclass
class FitReport:
    """What a fit did, for the person who started it.

    Attributes:
        sources: name, frames learned, seconds and codec of each source used.
        frames, patches: learned from.
        coverage: how far fitted patches are from their nearest row, in distance before scaling; measured on what was
            learned before the hold-out, which brings rows nearer and never further.
        scale: distance that a score of 1 stands for.
        scale_measured: False where normal frames did not differ from what was learned, or there was only one.
        holdout: per source: times (n,) and scores (n,) of held-out frames.
        holdout_rows: the first rows of the bank, those that the hold-out was scored with.
        holdout_mean_distance, holdout_largest_distance: of held-out patches to their nearest row,
            divided by the scale.
        gain_of_second_half: by what share the second half of the learned footage lowered the
            hold-out scores; near 0 = more footage would add little.
        damaged: messages about files that could not be read, or not to the end.
        relearned: held-out frames that were learned after they had been scored.
        notes: what else the person should know, a line each.
        seconds: wall time.
    """

    sources: dict[str, dict[str, float | int | str]] = field(default_factory=dict)
    frames: int = 0
    patches: int = 0
    coverage: Coverage | None = None
    scale: float = 1.0
    scale_measured: bool = True
    holdout: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    holdout_rows: int = 0
    holdout_mean_distance: float = math.nan
    holdout_largest_distance: float = math.nan
    gain_of_second_half: float = math.nan
    relearned: int = 0
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
