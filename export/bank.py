"""A bank as a graph with the search inside takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bank_inputs(rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Inputs of a whole graph other than the frames.

    Args:
        rows: (M, d) float32 in the working space.

    Returns:
        center (d,), the rows' mean; bank (M, d), the rows without it; half_norms (M,), half of their squared lengths.
        Far from zero the products that choose a row would lose their digits, and leave half precision's range.
    """
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    bank = rows - center
    half_norms = np.einsum("ij,ij->i", bank, bank) * np.float32(0.5)
    return {"center": center, "bank": bank, "half_norms": half_norms}
