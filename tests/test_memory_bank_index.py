"""Other kinds of search find what flat search finds, and never report a distance that is not true."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from memory_bank import KINDS, MemoryBank, MemoryBankError, Origins, TemporalSearch, recall, reweighted


def origins(count: int) -> Origins:
    zero = np.zeros(count)
    return Origins(zero, np.arange(count), zero, zero, zero, zero, zero)


def bank_and_patches(
    count: int = 2000, dim: int = 24, metric: str = "euclidean"
) -> tuple[MemoryBank, np.ndarray]:
    """Rows in clumps, and patches near rows, as features of footage are."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, dim))[rng.integers(40, size=count)] * 4
    rows = (rows + rng.standard_normal((count, dim))).astype("f")
    patches = rows[rng.integers(count, size=300)] + rng.standard_normal((300, dim)).astype("f") * 0.3
    return MemoryBank(rows, origins(count), metric, ("a",)), patches.astype("f")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_reports_true_distances_and_nearly_all_nearest_rows(kind: str, metric: str) -> None:
    bank, patches = bank_and_patches(metric=metric)
    _, truth = bank.search(patches)
    distances, found = bank.use_index(kind).search(patches, k=3)
    measured = np.take_along_axis(cdist(patches, bank.rows, metric), found, axis=1)
    np.testing.assert_allclose(distances, measured, rtol=1e-3, atol=1e-5)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(len(set(row)) == 3 for row in found)
    assert recall(found, truth) >= (1.0 if kind in {"flat", "faiss"} else 0.97)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("count", [1, 5, 17])
def test_every_kind_works_on_a_handful_of_rows(kind: str, count: int) -> None:
    bank, patches = bank_and_patches()
    small = MemoryBank(bank.rows[:count], origins(count), "euclidean", ("a",))
    expected, _ = small.search(patches, k=count)
    distances, found = small.use_index(kind).search(patches, k=count)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    assert (np.sort(found, axis=1) == np.arange(count)).all()


def test_a_probed_cell_with_too_few_rows_is_made_up_for() -> None:
    bank, patches = bank_and_patches()
    expected, _ = bank.search(patches, k=500)
    distances, found = bank.use_index("ivf", cells=50, probes=1).search(patches, k=500)
    assert all(len(set(row)) == 500 for row in found)
    assert np.isfinite(distances).all()
    assert (distances >= expected * 0.9999).all()


def test_unknown_kinds_and_settings_are_refused() -> None:
    bank, _ = bank_and_patches()
    with pytest.raises(MemoryBankError, match="unknown index kind 'hnsw'"):
        bank.use_index("hnsw")
    with pytest.raises(MemoryBankError, match="no setting 'probes'"):
        bank.use_index("flat", probes=3)
    with pytest.raises(MemoryBankError, match="whole number"):
        bank.use_index("ivf", probes=0)


def footage(bank: MemoryBank, frames: int) -> np.ndarray:
    """(frames, 200, D): still, but for noise and one thing that moves and is unlike any row."""
    rng = np.random.default_rng(1)
    still = bank.rows[rng.integers(len(bank), size=200)]
    made = still + rng.standard_normal((frames, 200, bank.dim)) * 0.2
    for frame in range(frames):
        made[frame, (3 * frame) % 190 : (3 * frame) % 190 + 8] += 6
    return made.astype("f")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_largest_distances_are_exact_though_few_patches_are_searched(metric: str) -> None:
    bank, _ = bank_and_patches(metric=metric)
    search = TemporalSearch(bank, places=200, top=5)
    searched = []
    for patches in footage(bank, 20):
        truth, rows = bank.search(patches)
        distances, index, exact = search.search(patches)
        np.testing.assert_allclose(np.sort(distances)[-5:], np.sort(truth[:, 0])[-5:], rtol=1e-5)
        np.testing.assert_array_equal(index[exact], rows[exact, 0])
        assert (distances >= truth[:, 0] * 0.9999).all()
        assert distances[~exact].max(initial=0) <= np.sort(truth[:, 0])[-5] * 1.0001
        searched.append(search.searched)
    assert searched[0] > 0
    assert max(searched[1:]) < 150


def test_no_distance_is_above_one_that_is_known_though_the_index_misses_rows() -> None:
    """Cells of likeness, one probed: where it misses the row that is remembered, that one stands."""
    bank, _ = bank_and_patches()
    search = TemporalSearch(bank, places=200, top=5)
    last = np.zeros(200, int)
    for patches in footage(bank, 6):
        _, last, _ = search.search(patches)
    bank.use_index("ivf", cells=20, probes=1, shortlist=1)
    missed = 0
    for patches in footage(bank, 10):
        known = np.linalg.norm(patches - bank.rows[last], axis=1)
        found = bank.search(patches)[0][:, 0]
        missed += int((known < found * 0.999).sum())
        distances, last, _ = search.search(patches)
        assert (distances <= known * 1.001).all()
    assert missed > 0


def test_unusable_patch_counts_among_the_largest() -> None:
    bank, _ = bank_and_patches()
    patches = footage(bank, 1)[0]
    patches[7] = np.nan
    distances, index, exact = TemporalSearch(bank, places=200, top=5).search(patches)
    assert distances[7] == np.inf
    assert index[7] == -1
    assert exact[7]
    with pytest.raises(MemoryBankError, match="expected 200 patches"):
        TemporalSearch(bank, places=200, top=5).search(patches[:50])
    with pytest.raises(MemoryBankError, match="top must be"):
        TemporalSearch(bank, places=200, top=0)


def test_reweighting_follows_the_paper() -> None:
    bank, patches = bank_and_patches()
    weighted = reweighted(bank, patches, neighbours=9)
    apart = cdist(bank.rows, bank.rows)
    far = cdist(patches, bank.rows)
    for i in range(0, 300, 41):
        star = far[i].argmin()
        around = np.argsort(apart[star])[:9]
        expected = far[i, star] * (1 - np.exp(far[i, star]) / np.exp(far[i, around]).sum())
        assert weighted[i] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(MemoryBankError, match="neighbours"):
        reweighted(bank, patches, neighbours=1)


@pytest.mark.filterwarnings("error")
def test_a_row_among_others_that_are_far_away_keeps_its_distance_whole() -> None:
    bank, patches = bank_and_patches()
    far = bank.replace(rows=bank.rows * 1e4)
    whole = far.search(patches * 1e4)[0][:, 0]
    np.testing.assert_allclose(reweighted(far, patches * 1e4, neighbours=9).max(), whole.max(), rtol=1e-6)
