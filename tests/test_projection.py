"""The projection: principal directions of leveled layers, whitened as far as asked."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly.projection import fit_projection


def sample(count: int = 4000, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(1)
    scales = np.logspace(1, -1, width)
    mixing = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return (rng.normal(size=(count, width)) * scales @ mixing + 5.0).astype(np.float32)


def test_without_shrinkage_every_direction_has_unit_variance():
    data = sample()
    projection = fit_projection(data, 12, 0.0)
    projected = projection.apply(data)
    np.testing.assert_allclose(projected.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(np.cov(projected.T), np.eye(12), atol=1e-2)
    assert projection.explained == pytest.approx(1.0, abs=1e-6)


def test_directions_go_from_the_largest_variance_to_the_smallest():
    data = sample()
    few, all_ = fit_projection(data, 3, 0.1), fit_projection(data, 12, 0.1)
    np.testing.assert_array_equal(few.components, all_.components[:, :3])
    assert few.dim == 3
    assert 0.7 < few.explained < all_.explained == pytest.approx(1.0, abs=1e-6)
    spread = fit_projection(data, 12, 0.5).apply(data).std(axis=0)
    assert (np.diff(spread) < 1e-6).all()


def test_shrinkage_keeps_quiet_directions_quiet():
    data = sample()
    loud = fit_projection(data, 12, 0.0).apply(data)[:, -1].std()
    quiet = fit_projection(data, 12, 0.3).apply(data)[:, -1].std()
    assert quiet < 0.2 * loud


def test_the_order_of_the_sample_does_not_matter_and_twice_gives_the_same_bytes():
    data = sample()
    first, again = fit_projection(data, 6, 0.1), fit_projection(data.copy(), 6, 0.1)
    assert first.components.tobytes() == again.components.tobytes()
    shuffled = fit_projection(np.random.default_rng(2).permutation(data), 6, 0.1)
    np.testing.assert_allclose(first.components, shuffled.components, atol=1e-3)


def test_any_leading_shape_is_projected():
    projection = fit_projection(sample(), 4, 0.1)
    features = np.random.default_rng(3).normal(size=(2, 5, 12)).astype(np.float32)
    projected = projection.apply(features)
    assert projected.shape == (2, 5, 4)
    assert projected.dtype == np.float32
    np.testing.assert_allclose(projected[1, 2], projection.apply(features[1, 2][None])[0], atol=1e-6)


def test_more_directions_than_the_sample_has_are_cut():
    assert fit_projection(sample(5), 100, 0.1).dim == 4
    assert fit_projection(sample(100), 100, 0.1).dim == 12
    assert fit_projection(sample(2), 100, 0.1).dim == 1


def test_a_sample_without_variation_gives_a_finite_map():
    projection = fit_projection(np.full((50, 6), 3.0, np.float32), 6, 0.1)
    assert np.isfinite(projection.apply(np.full((1, 6), 3.1, np.float32))).all()
    assert projection.explained == 1.0


def test_layers_side_by_side_get_one_variance_in_all_whatever_their_width_and_units():
    rng = np.random.default_rng(4)
    narrow, wide = rng.normal(size=(3000, 4)), rng.normal(size=(3000, 8))
    alike = np.hstack([narrow, wide]).astype(np.float32)
    loud = np.hstack([narrow, 50.0 * wide]).astype(np.float32)
    first, second = fit_projection(alike, 12, 0.9, (4, 8)), fit_projection(loud, 12, 0.9, (4, 8))
    a, b = between(first.apply(alike[:40])), between(second.apply(loud[:40]))
    # Whatever unit a layer has, the distances differ by one factor for all; taken as they are, they do not.
    assert np.ptp(a / b) < 1e-2 * (a / b).mean()
    as_they_are = between(fit_projection(loud, 12, 0.9).apply(loud[:40]))
    assert np.ptp(as_they_are / b) > 0.1 * (as_they_are / b).mean()


def between(points: np.ndarray) -> np.ndarray:
    """Distances of the first half from the second half."""
    half = len(points) // 2
    return np.linalg.norm(points[:half] - points[half:], axis=1)


def test_a_layer_without_variation_stays_finite():
    sample_ = np.hstack([np.full((50, 3), 2.0), np.random.default_rng(5).normal(size=(50, 4))])
    projection = fit_projection(sample_.astype(np.float32), 7, 0.5, (3, 4))
    assert np.isfinite(projection.apply(sample_.astype(np.float32))).all()


def test_full_shrinkage_keeps_the_distances_of_the_features():
    data = sample()
    near = between(fit_projection(data, 12, 1.0).apply(data[:40])) / between(data[:40])
    np.testing.assert_allclose(near, near[0], rtol=1e-4)  # but for their unit
    first = fit_projection(data, 3, 1.0).apply(data)
    assert np.ptp(first.std(axis=0)) > 0.5 * first.std()  # nothing is whitened


def test_layers_are_brought_together_as_far_as_asked():
    rng = np.random.default_rng(6)
    layers = np.hstack([rng.normal(size=(3000, 4)), 9.0 * rng.normal(size=(3000, 4))]).astype(np.float32)

    def share_of_the_quiet_layer(level: float) -> float:
        weights = fit_projection(layers, 8, 1.0, (4, 4), level).components
        variances = np.square(weights).sum(axis=1) * layers.var(axis=0)
        return float(variances[:4].sum() / variances.sum())

    not_at_all, half, all_the_way = map(share_of_the_quiet_layer, (0.0, 0.5, 1.0))
    assert not_at_all == pytest.approx(1 / 82, rel=0.1)
    assert half == pytest.approx(1 / 10, rel=0.1)
    assert all_the_way == pytest.approx(1 / 2, rel=0.01)
