"""The nearest normal patch, its true distance, and where it came from."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.spatial.distance import cdist

from memory_bank import MemoryBank, MemoryBankError, Origins


def origins(count: int, sources: int = 3) -> Origins:
    index = np.arange(count)
    return Origins(
        source=index % sources,
        frame=index // 10,
        time_s=index / 100,
        patch=index % 50,
        y=(index % 7) / 7,
        x=(index % 11) / 11,
        camera=np.zeros(count),
    )


def made(count: int = 800, dim: int = 24, metric: str = "euclidean", **settings) -> MemoryBank:
    rows = np.random.default_rng(0).standard_normal((count, dim)).astype("f") * 3 + 1
    return MemoryBank(rows, origins(count), metric, ("a", "b", "c"), **settings)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 800])
def test_distances_and_indices_are_those_of_scipy(metric: str, k: int) -> None:
    bank = made(metric=metric)
    patches = np.random.default_rng(1).standard_normal((137, 24)).astype("f") * 3
    distances, indices = bank.search(patches, k=k)
    truth = cdist(patches, bank.rows, metric)
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :k], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(truth, indices, axis=1), distances, rtol=1e-4, atol=1e-5)
    assert distances.dtype == np.float32
    assert indices.dtype == np.int64


def test_row_finds_itself_at_distance_zero_far_from_the_origin() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 8)).astype("f") + 500
    bank = MemoryBank(rows, origins(500), "euclidean", ("a", "b", "c"))
    distances, _ = bank.search(rows)
    assert distances.max() < 0.05  # the nearest other row is some 0.5 away


@pytest.mark.parametrize("offset", [0, 100, 1000])
def test_the_nearest_row_is_found_however_far_from_zero_all_of_them_are(offset: float) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((500, 64)) * 0.1 + offset).astype("f")
    patches = (rng.standard_normal((100, 64)) * 0.1 + offset).astype("f")
    truth = cdist(patches.astype(np.float64), rows.astype(np.float64))
    distances, indices = MemoryBank(rows, origins(500), "euclidean", ("a", "b", "c")).search(patches)
    np.testing.assert_array_equal(indices[:, 0], truth.argmin(axis=1))
    np.testing.assert_allclose(distances[:, 0], truth.min(axis=1), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize(
    ("spread", "near", "outlier"), [(1.0, 1e-3, 0.0), (1.0, 1e-4, 0.0), (1e3, 1.0, 0.0), (1.0, 0.1, 1e5)]
)
def test_rows_that_products_cannot_tell_apart_are_measured(
    spread: float, near: float, outlier: float, k: int
) -> None:
    """Ten rows a place, much nearer to each other than places are; or one row far from everything."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((60, 64)) * spread
    rows = (places.repeat(10, axis=0) + rng.standard_normal((600, 64)) * near).astype("f")
    if outlier:
        rows[0] = outlier
    patches = (places + rng.standard_normal((60, 64)) * near).astype("f")
    truth = cdist(patches.astype(np.float64), rows.astype(np.float64))
    distances, indices = MemoryBank(rows, origins(600), "euclidean", ("a", "b", "c")).search(patches, k=k)
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :k], rtol=1e-3)
    assert (indices[:, 0] == truth.argmin(axis=1)).mean() > 0.95


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_a_direction_is_that_of_features_of_any_length(scale: float) -> None:
    bank = made(metric="cosine")
    distances, indices = bank.search((bank.rows[:50] * np.float32(scale)).astype("f"))
    np.testing.assert_array_equal(indices[:, 0], np.arange(50))
    assert distances.max() < 1e-5


def test_place_counts_where_it_is_weighted() -> None:
    bank = made(place_weight=5.0)
    patches = np.random.default_rng(1).standard_normal((60, 24)).astype("f")
    y, x = np.full(60, 0.25, "f"), np.full(60, 0.5, "f")
    here = np.stack([bank.origins.y, bank.origins.x], axis=1) * 5
    truth = np.sqrt(cdist(patches, bank.rows) ** 2 + cdist(np.stack([y, x], axis=1) * 5, here) ** 2)
    distances, _ = bank.search(patches, y=y, x=x)
    np.testing.assert_allclose(distances[:, 0], truth.min(axis=1), rtol=1e-5)
    with pytest.raises(MemoryBankError, match="give y and x"):
        bank.search(patches)


def test_unusable_query_is_infinitely_far_and_the_others_are_searched() -> None:
    bank = made()
    patches = bank.rows[:3].copy()
    patches[1, 4] = np.nan
    distances, indices = bank.search(patches)
    assert distances[1, 0] == np.inf
    assert indices[:, 0].tolist() == [0, -1, 2]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_bank_read_back_is_the_bank_written(metric: str) -> None:
    bank = made(metric=metric, place_weight=0.5)
    tensors = load(save(bank.to_tensors()))
    again = MemoryBank.from_tensors(tensors, metric, bank.sources, bank.cameras, 0.5)
    assert again.digest() == bank.digest()
    tensors["rows"][0, 0] += 1
    other = MemoryBank.from_tensors(tensors, metric, bank.sources, bank.cameras, 0.5)
    assert other.digest() != bank.digest()
    del tensors["origins.frame"]
    with pytest.raises(MemoryBankError, match=r"origins\.frame"):
        MemoryBank.from_tensors(tensors, metric, bank.sources)


def test_origins_take_and_concat() -> None:
    all_of_it = origins(10)
    halves = [all_of_it.take(np.arange(5)), all_of_it.take(np.arange(5, 10))]
    joined = Origins.concat(halves)
    assert joined.frame.dtype == np.int64
    np.testing.assert_array_equal(joined.time_s, all_of_it.time_s)
    assert len(Origins.concat([])) == 0


def test_misfits_are_refused() -> None:
    bank = made()
    with pytest.raises(MemoryBankError, match="24 dimensions"):
        bank.search(np.zeros((3, 20), "f"))
    with pytest.raises(MemoryBankError, match="k must be"):
        bank.search(bank.rows, k=801)
    with pytest.raises(MemoryBankError, match="unknown metric 'manhattan'"):
        made(metric="manhattan")
    with pytest.raises(MemoryBankError, match="as many origins"):
        MemoryBank(bank.rows, origins(5), "euclidean", ("a", "b", "c"))
    with pytest.raises(MemoryBankError, match="but there are 1 names"):
        MemoryBank(bank.rows, origins(800), "euclidean", ("a",))
    with pytest.raises(MemoryBankError, match="row 0 holds NaN"):
        MemoryBank(bank.rows * np.float32(np.nan), origins(800), "euclidean", ("a", "b", "c"))
