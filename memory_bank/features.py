"""What a patch feature must be before it may become part of a bank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.errors import MemoryBankError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats, Metric


#: Squares of what lies beyond do not fit in float32 any more.
_LARGEST, _SHORTEST = 1e15, 1e-15


def refuse_unusable(rows: Floats, metric: Metric, source: str, frames: NDArray[np.integer[Any]]) -> None:
    """Raise MemoryBankError, naming source and frame, for features that no distance can be measured from.

    Args:
        rows: (N, D) float32.
        metric: "euclidean" or "cosine"; under "cosine" a feature of zeros, or nearly, has no direction.
        source: name of the source.
        frames: (N,) frame number of each patch.
    """
    # One sum first: it is finite exactly where all is, except on overflow, which the second look settles.
    if not np.isfinite(rows.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise MemoryBankError(
                f"{source} frame {int(frames[bad[0]])}: {len(bad)} patch features are NaN or infinite; "
                "leave the frame out, or run the backbone in float32"
            )
    if rows.size and max(rows.max(), -rows.min()) > _LARGEST:
        large = np.flatnonzero(np.abs(rows).max(axis=1) > _LARGEST)
        raise MemoryBankError(
            f"{source} frame {int(frames[large[0]])}: {len(large)} patch features are beyond {_LARGEST:g}, where no distance "
            "can be measured in float32; leave the frame out, or look at what the backbone is given"
        )
    if metric == "cosine":
        zero = np.flatnonzero(np.abs(rows).max(axis=1) < _SHORTEST)
        if len(zero):
            raise MemoryBankError(
                f"{source} frame {int(frames[zero[0]])}: {len(zero)} patch features are all zero, which has "
                "no direction; use the euclidean metric or leave the frame out"
            )
