"""How well scores and heatmaps tell normal from anomalous.

Everywhere: higher score = more anomalous, label 1 = anomalous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Positive float32 numbers sort like their bits; the upper 19 of the 31 keep 11 bits of mantissa.
_SHIFT = 12
_BINS = 1 << (31 - _SHIFT)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomalous frame scores above a normal one, ties half.

    Args:
        labels: (n,) bool or 0/1, 1 = anomalous.
        scores: (n,) higher = more anomalous; -inf (no decision yet) is below everything.

    Returns:
        0 ... 1; 0.5 is chance.

    Raises:
        AnomalyError: only one class, NaN, or unequal lengths.
    """
    from sklearn.metrics import roc_auc_score

    truth, values = _checked(labels, scores)
    return float(roc_auc_score(truth, values))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: the precision at each anomalous frame's own score, averaged (no interpolation).

    Arguments and errors as for `auroc`. Chance is the share of anomalous frames.
    """
    from sklearn.metrics import average_precision_score

    truth, values = _checked(labels, scores)
    return float(average_precision_score(truth, values))


def bootstrap_interval(
    metric: Callable[[NDArray[np.bool_], NDArray[np.float64]], float],
    clips: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over frames pooled from clips, whole clips drawn again.

    Frames of a clip are alike; drawing frames one by one would make the interval far too narrow.

    Args:
        metric: (labels, scores) to a number, for instance `auroc`.
        clips: (labels, scores) of each clip.
        confidence: of the two-sided interval.
        samples: draws; those that hold one class only are drawn again.
        seed: of the draws.

    Raises:
        AnomalyError: fewer than two clips, or one class only in nearly every draw.
    """
    if len(clips) < 2:
        raise AnomalyError(f"{len(clips)} clip gives no interval; two or more are needed")
    arrays = [(np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)) for labels, scores in clips]
    chance = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(10 * samples):
        drawn = [arrays[i] for i in chance.integers(len(arrays), size=len(arrays))]
        labels = np.concatenate([one[0] for one in drawn])
        if labels.any() and not labels.all():
            values.append(metric(labels, np.concatenate([one[1] for one in drawn])))
            if len(values) == samples:
                low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
                return low, high
    raise AnomalyError("nearly every draw of clips holds one class only; give more clips that hold both")


class PixelMetrics:
    """Pixel AUROC and AUPRO over any number of heatmaps, in 12 MB.

    Scores are counted in bins of 0.05 % relative width (upper bits of a float32), so no range has to be
    known beforehand and pictures may come one by one; scores within a bin are treated as ties.
    """

    def __init__(self) -> None:
        self._normal = np.zeros(_BINS, dtype=np.int64)
        self._anomalous = np.zeros(_BINS, dtype=np.int64)
        self._overlap = np.zeros(_BINS)
        self.n_regions = 0

    def update(self, heatmap: NDArray[np.floating[Any]], mask: NDArray[Any]) -> None:
        """Count one picture.

        Args:
            heatmap: (H, W) scores, finite and 0 or more, higher = more anomalous.
            mask: (H, W) bool or integer, anything but 0 = anomalous; all 0 for a normal picture.

        Raises:
            AnomalyError: shapes that differ, or scores out of range.
        """
        truth = np.asarray(mask) != 0
        if heatmap.ndim != 2 or heatmap.shape != truth.shape:
            raise AnomalyError(
                f"heatmap {heatmap.shape} and mask {truth.shape} differ; resize one to the other"
            )
        if not np.isfinite(heatmap).all() or (heatmap < 0).any():
            raise AnomalyError("a heatmap holds scores that are negative or not finite; check the model")
        # Adding 0 turns -0.0 into 0.0, whose sign bit would sort it above everything.
        bins = (heatmap.astype(np.float32) + np.float32(0)).view(np.uint32) >> _SHIFT
        self._normal += np.bincount(bins[~truth], minlength=_BINS)
        if not truth.any():
            return
        self._anomalous += np.bincount(bins[truth], minlength=_BINS)
        regions, n_regions = ndimage.label(truth, structure=np.ones((3, 3)))
        area = np.bincount(regions[truth], minlength=n_regions + 1)
        self._overlap += np.bincount(bins[truth], weights=1 / area[regions[truth]], minlength=_BINS)
        self.n_regions += n_regions

    def auroc(self) -> float:
        """Area under the ROC curve over all pixels.

        Raises:
            AnomalyError: only one class of pixels so far.
        """
        return _area(self._false_positive_rate(), _rising(self._anomalous) / self._anomalous.sum(), 1.0)

    def aupro(self, limit: float = 0.3) -> float:
        """Area under the per-region overlap (Bergmann et al. 2021, IJCV 129), up to a false positive rate.

        The overlap of a threshold is the share of each connected anomalous region (8 neighbours) at or above
        it, averaged over the regions: small ones weigh as much as large ones.

        Args:
            limit: false positive rate up to which to integrate, in (0, 1]; the area is divided by it.

        Returns:
            0 ... 1; limit / 2 is chance.

        Raises:
            AnomalyError: only one class of pixels so far, or a limit out of range.
        """
        if not 0 < limit <= 1:
            raise AnomalyError(f"AUPRO limit {limit} is outside (0, 1]; 0.3 is usual")
        return _area(self._false_positive_rate(), _rising(self._overlap) / self.n_regions, limit) / limit

    def _false_positive_rate(self) -> NDArray[np.float64]:
        if not (self._normal.any() and self._anomalous.any()):
            seen = "no anomalous" if self._normal.any() else "no normal"
            raise AnomalyError(f"pixel metrics need both classes; {seen} pixel was given")
        rate: NDArray[np.float64] = _rising(self._normal) / self._normal.sum()
        return rate


def _rising(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Counts at or above each threshold, from above the highest (0) down to the lowest (all)."""
    return np.append(0.0, np.cumsum(counts[::-1])).astype(np.float64)


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Area under straight lines between points, up to x = limit."""
    inside = np.flatnonzero(x < limit)[-1] + 1
    share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
    end = y[inside - 1] + share * (y[inside] - y[inside - 1])
    return float(np.trapezoid(np.append(y[:inside], end), np.append(x[:inside], limit)))


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise AnomalyError(f"labels {truth.shape} and scores {values.shape} must be two rows of equal length")
    if not (truth.any() and not truth.all()):
        only = "anomalous" if truth.any() else "normal"
        raise AnomalyError(
            f"all {len(truth)} frames are {only}; this metric compares normal with anomalous ones"
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise AnomalyError("scores hold NaN or infinity; score the footage again")
    finite = values[np.isfinite(values)]
    return truth, np.where(np.isfinite(values), values, (finite.min() if len(finite) else 0.0) - 1.0)
