"""Frame and pixel metrics against plain references and anomalib."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anomaly.errors import AnomalyError
from anomaly.metrics import PixelMetrics, auroc, average_precision, bootstrap_interval


def pictures(n=6, size=(40, 56), seed=0):
    chance = np.random.default_rng(seed)
    for index in range(n):
        mask = np.zeros(size, dtype=np.uint8)
        if index % 3:
            mask[5:9, 4:12] = mask[20:35, 30:50] = 255
            mask[9, 12] = 255  # touches the first region by a corner only: the same region
        heatmap = chance.gamma(2, 0.5, size) + (mask > 0) * chance.gamma(1.5, 1, size)
        yield heatmap.astype(np.float32), mask


def plain_aupro(heatmaps, masks, limit):
    """Threshold by threshold, as the paper words it."""
    regions = []
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        labels, n = ndimage.label(mask > 0, structure=np.ones((3, 3)))
        regions += [heatmap[labels == i] for i in range(1, n + 1)]
    normal = np.concatenate([h[m == 0] for h, m in zip(heatmaps, masks, strict=True)])
    levels = np.r_[np.inf, np.sort(np.concatenate([h.ravel() for h in heatmaps]))[::-1]]
    fpr = np.array([(normal >= level).mean() for level in levels])
    pro = np.array([np.mean([(region >= level).mean() for region in regions]) for level in levels])
    keep = fpr <= limit
    x, y = np.append(fpr[keep], limit), np.append(pro[keep], np.interp(limit, fpr, pro))
    return np.trapezoid(y, x) / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_that_of_the_paper(limit):
    heatmaps, masks = zip(*pictures(), strict=True)
    metrics = PixelMetrics()
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        metrics.update(heatmap, mask)
    assert metrics.n_regions == 8
    assert metrics.aupro(limit) == pytest.approx(plain_aupro(heatmaps, masks, limit), abs=3e-4)


def test_pixel_auroc_is_that_of_all_pixels():
    metrics = PixelMetrics()
    heatmaps, masks = zip(*pictures(), strict=True)
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        metrics.update(heatmap, mask)
    pooled = auroc(np.ravel(masks) > 0, np.ravel(heatmaps))
    assert metrics.auroc() == pytest.approx(pooled, abs=1e-4)


def test_a_perfect_heatmap_has_area_one_and_an_inverted_one_none():
    perfect, inverted = PixelMetrics(), PixelMetrics()
    for _, mask in pictures():
        perfect.update((mask > 0).astype(float), mask)
        inverted.update((mask == 0).astype(float), mask)
    assert [perfect.aupro(), perfect.auroc()] == pytest.approx([1.0, 1.0])
    assert [inverted.aupro(), inverted.auroc()] == pytest.approx([0.0, 0.0])


def test_a_constant_heatmap_is_chance():
    metrics = PixelMetrics()
    for heatmap, mask in pictures():
        metrics.update(np.ones_like(heatmap), mask)
    assert metrics.auroc() == pytest.approx(0.5)
    assert metrics.aupro(0.3) == pytest.approx(0.15)


@pytest.mark.parametrize("masks", ["normal", "anomalous"])
def test_pixel_metrics_of_one_class_are_refused(masks):
    metrics = PixelMetrics()
    metrics.update(np.ones((4, 4)), np.full((4, 4), masks == "anomalous"))
    with pytest.raises(AnomalyError, match=r"no (anomalous|normal) pixel"):
        metrics.aupro()
    with pytest.raises(AnomalyError, match=r"no (anomalous|normal) pixel"):
        metrics.auroc()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_bad_heatmaps_are_refused(value):
    with pytest.raises(AnomalyError, match="heatmap"):
        PixelMetrics().update(np.full((2, 2), value), np.zeros((2, 2)))


@pytest.mark.slow
def test_aupro_agrees_with_anomalib():
    torch = pytest.importorskip("torch")
    anomalib_metrics = pytest.importorskip("anomalib.metrics.aupro")
    heatmaps, masks = zip(*pictures(), strict=True)
    metrics = PixelMetrics()
    theirs = anomalib_metrics._AUPRO(fpr_limit=0.3)
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        metrics.update(heatmap, mask)
        theirs.update(torch.from_numpy(heatmap)[None], torch.from_numpy((mask > 0).astype(int))[None])
    assert metrics.aupro(0.3) == pytest.approx(float(theirs.compute()), abs=2e-3)


def test_auroc_counts_pairs_and_average_precision_ranks():
    labels, scores = [0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]
    assert auroc(labels, scores) == pytest.approx(3.5 / 4)
    assert average_precision([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]) == pytest.approx((1 + 2 / 3) / 2)


def test_frames_without_a_decision_yet_rank_lowest():
    assert auroc([0, 1, 1], [-np.inf, 0.0, 0.1]) == 1.0


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_frame_metrics_of_one_class_or_nan_are_refused(metric):
    with pytest.raises(AnomalyError, match="all 3 frames are normal"):
        metric([0, 0, 0], [1, 2, 3])
    with pytest.raises(AnomalyError, match="all 2 frames are anomalous"):
        metric([1, 1], [1, 2])
    with pytest.raises(AnomalyError, match="NaN"):
        metric([0, 1], [np.nan, 1])


def test_the_bootstrap_draws_clips_and_not_frames():
    chance = np.random.default_rng(1)
    clips = []
    for _ in range(8):
        labels = np.arange(100) >= 50
        clips.append((labels, labels * chance.normal(1, 1) + chance.normal(0, 0.3, 100)))
    low, high = bootstrap_interval(auroc, clips, samples=200)
    pooled = auroc(np.concatenate([c[0] for c in clips]), np.concatenate([c[1] for c in clips]))
    assert low < pooled < high
    by_frame = bootstrap_interval(
        auroc, [([label], [score]) for clip in clips for label, score in zip(*clip, strict=True)], samples=200
    )
    assert high - low > 2 * (by_frame[1] - by_frame[0])
    assert (low, high) == bootstrap_interval(auroc, clips, samples=200)


def test_the_bootstrap_needs_clips_that_hold_both_classes():
    with pytest.raises(AnomalyError, match="1 clip"):
        bootstrap_interval(auroc, [([0, 1], [0, 1])])
    with pytest.raises(AnomalyError, match="one class"):
        bootstrap_interval(auroc, [([0, 0], [0, 1]), ([0, 0], [0, 1])], samples=10)
