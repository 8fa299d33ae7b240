"""The principal directions of patch features, learned on a first sample and frozen before the bank starts.

Distances between patches keep what the first directions hold of them. Layers of a network that stand side by side are
first brought nearer to one variance in all: a wide, deep layer must not drown a narrow one that sees finer things.

The directions may be whitened: then a small change in a quiet direction counts as much as a large one in a noisy
direction, and distances become (truncated) Mahalanobis distances. Shrinkage towards a sphere (Ledoit & Wolf 2004, with
a fixed weight) keeps directions that hold only noise from being blown up; the whole of it leaves plain directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


#: Rows taken to double precision at once.
_BLOCK = 65_536
#: Variation below this share of the features' size is none.
_LEAST_SIZE = 0.01


@dataclass(frozen=True, eq=False)
class Projection:
    """A frozen affine map from backbone features to the space the bank lives in.

    Attributes:
        mean: (D,) float32, subtracted first.
        components: (D, d) float32, multiplied second.
        explained: share of the sample's variance that the d directions hold, 0..1.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    explained: float

    @property
    def dim(self) -> int:
        """Dimensions of the projected space."""
        return int(self.components.shape[1])

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """What a file keeps of it, besides `explained`."""
        return {
            "mean": np.ascontiguousarray(self.mean),
            "components": np.ascontiguousarray(self.components),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float32]], explained: float) -> Projection:
        """The projection that `to_tensors` gave."""
        return cls(tensors["mean"], tensors["components"], explained)

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project features.

        Args:
            features: (..., D) float32.

        Returns:
            (..., d) float32.
        """
        flat = np.asarray(features.reshape(-1, features.shape[-1]) - self.mean, np.float32)
        projected = flat @ self.components
        return projected.reshape(*features.shape[:-1], self.dim)


def fit_projection(
    sample: NDArray[np.float32],
    dims: int,
    shrinkage: float,
    widths: Sequence[int] | None = None,
    level: float = 1.0,
) -> Projection:
    """Learn the projection from a sample of patch features.

    Args:
        sample: (N, D) float32, N >= 2, finite.
        dims: directions kept; more than D or N - 1 are not to be had and are cut.
        shrinkage: 0..1, how far the covariance is pulled towards a sphere before whitening; 1 = no whitening.
        widths: channels of the layers that stand side by side, D in all. None = there is one.
        level: 0..1, how far the layers' total variances are brought together: 0 = not at all, 1 = to the same.

    Returns:
        The projection; its directions are ordered from the largest variance to the smallest.
    """
    count, width = sample.shape
    mean = sample.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((width, width))
    for begin in range(0, count, _BLOCK):
        centred = sample[begin : begin + _BLOCK] - mean
        covariance += centred.T @ centred
    covariance /= max(count - 1, 1)
    gains = _layer_gains(np.diag(covariance), widths or [width]) ** level
    covariance *= np.outer(gains, gains)
    total = float(np.trace(covariance))
    # A sample without any variation (one flat picture) still needs a map that is not infinite: of it a hundredth of
    # the features' own size is a unit.
    sphere = max(total / width, _LEAST_SIZE**2 * float(np.mean(mean**2)), 1e-12)
    variances, directions = np.linalg.eigh(covariance)
    keep = np.argsort(-variances, kind="stable")[: max(1, min(dims, width, count - 1))]
    shrunk = (1.0 - shrinkage) * variances[keep] + shrinkage * sphere
    basis = directions[:, keep]
    # The sign of an eigenvector is arbitrary; fixing it keeps the bank the same byte for byte.
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
    basis = basis * np.where(signs == 0, 1.0, signs)
    held = float(np.einsum("ij,jk,ki->", basis.T, covariance, basis))
    return Projection(
        mean=mean.astype(np.float32),
        components=(gains[:, None] * basis / np.sqrt(np.maximum(shrunk, 1e-12))).astype(np.float32),
        explained=held / total if total > 0 else 1.0,
    )


def _layer_gains(variances: NDArray[np.float64], widths: Sequence[int]) -> NDArray[np.float64]:
    """(D,) factors that give every layer the mean of the layers' total variances; their powers go part of the way."""
    ends = np.cumsum(widths)
    totals = np.array([variances[end - width : end].sum() for end, width in zip(ends, widths, strict=True)])
    # A layer without any variation stays as it is: there is nothing in it to bring out.
    gains = np.where(totals > 0, np.sqrt(totals.mean() / np.where(totals > 0, totals, 1.0)), 1.0)
    return np.repeat(gains, widths)
