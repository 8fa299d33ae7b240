"""Greedy k-center: the fast method makes the reference's picks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from memory_bank import MemoryBankError, kcenter_greedy, kcenter_select


def clusters(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, dim)) * 5
    return (centres[rng.integers(30, size=count)] + rng.standard_normal((count, dim)) + 3).astype("f")


@pytest.mark.parametrize(("count", "dim", "size"), [(3000, 20, 300), (5000, 64, 1500), (700, 3, 600)])
def test_fast_selection_makes_the_picks_of_the_reference(count: int, dim: int, size: int) -> None:
    rows = clusters(count, dim)
    reference, fast = kcenter_greedy(rows, size, seed=3), kcenter_select(rows, size, seed=3)
    # Two patches equally far to the last digit may change places, nothing else.
    assert len(set(fast.indices) & set(reference.indices)) >= 0.98 * size
    np.testing.assert_allclose(fast.gaps, reference.gaps, rtol=1e-4)
    assert fast.radius == pytest.approx(reference.radius, rel=1e-4)
    distances = cdist(rows, rows[fast.indices])
    for pick in range(1, size, 7):
        uncovered = distances[:, :pick].min(axis=1)
        assert uncovered[fast.indices[pick]] >= uncovered.max() * (1 - 1e-5)
    assert fast.radius == pytest.approx(cdist(rows, rows[fast.indices]).min(axis=1).max(), rel=1e-4)


def test_picks_of_a_greedy_selection_are_further_apart_than_its_radius() -> None:
    """What the guarantee rests on (Gonzalez 1985): any size picks leave two of these in one ball."""
    rows = clusters(4000, 16)
    for slack in (0.0, 0.1):
        selection = kcenter_select(rows, 400, slack=slack)
        apart = cdist(rows[selection.indices], rows[selection.indices])
        assert apart[np.triu_indices(400, 1)].min() >= (1 - slack) * selection.radius * 0.9999


def test_radius_stops_selection_as_soon_as_all_is_covered() -> None:
    rows = clusters(3000, 8)
    selection = kcenter_select(rows, radius=2.0)
    assert selection.radius <= 2.0
    assert selection.gaps[-1] > 2.0
    assert cdist(rows, rows[selection.indices]).min(axis=1).max() <= 2.0001


def test_earlier_centres_count_as_picked() -> None:
    rows = clusters(2000, 8)
    first = kcenter_greedy(rows, 40)
    distances = cdist(rows, rows[first.indices]).min(axis=1).astype("f")
    both = kcenter_select(rows, 60, distances=distances)
    np.testing.assert_array_equal(np.r_[first.indices, both.indices], kcenter_greedy(rows, 100).indices)


@pytest.mark.parametrize("rows", [np.ones((500, 6), "f"), np.repeat(clusters(9, 6), 80, axis=0)])
def test_duplicates_are_picked_once(rows: np.ndarray) -> None:
    distinct = len(np.unique(rows, axis=0))
    selection = kcenter_select(rows, 50)
    assert len(selection.indices) == distinct == len(kcenter_greedy(rows, 50).indices)
    assert selection.radius == 0.0


def test_near_duplicates_far_from_the_origin_are_told_apart() -> None:
    """Squared distances from products would lose 1e-2 here: rows of length 1,000."""
    rows = np.full((200, 8), 350.0, "f")
    rows[:, 0] += np.arange(200) * 1e-2
    rows = np.concatenate([rows, -rows])
    selection = kcenter_select(rows, 400)
    assert len(selection.indices) == 400


@pytest.mark.parametrize(
    ("rows", "settings", "text"),
    [
        (np.zeros((0, 4), "f"), {"size": 3}, "N >= 1"),
        (np.full((4, 4), np.nan, "f"), {"size": 3}, "row 0"),
        (np.ones((4, 4), "f"), {}, "size, a radius"),
        (np.ones((4, 4), "f"), {"size": 0}, "at least 1"),
        (np.ones((4, 4), "f"), {"size": 3, "slack": 1.0}, "slack"),
        (np.ones((4, 4), "f"), {"radius": float("nan")}, "radius"),
    ],
)
def test_unusable_input_is_refused(rows: np.ndarray, settings: dict, text: str) -> None:
    with pytest.raises(MemoryBankError, match=text):
        kcenter_select(rows, **settings)


@pytest.mark.parametrize("count", [140, 3000])
def test_a_selection_that_stops_at_a_radius_tells_the_true_largest_distance(count: int):
    """Which is less than asked for, and was 0 of few rows, and a bound of many."""
    rows = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    found = kcenter_select(rows, radius=1.5)
    apart = np.linalg.norm(rows[:, None, :] - rows[None, found.indices, :], axis=2).min(axis=1)
    assert found.radius == pytest.approx(float(apart.max()), rel=1e-5)
    assert 1.0 < found.radius <= 1.5


@pytest.mark.parametrize("factor", [1e3, 1e9, 1e13])
def test_one_absurd_patch_changes_neither_the_picks_nor_the_radius_of_the_others(factor: float):
    rows = np.random.default_rng(0).standard_normal((2000, 20)).astype("f")
    rows[7] *= factor
    fast, reference = kcenter_select(rows, 200), kcenter_greedy(rows, 200)
    assert 7 in fast.indices
    apart = cdist(rows, rows[fast.indices]).min(axis=1).max()
    assert fast.radius == pytest.approx(apart, rel=1e-3)
    assert fast.radius <= 1.02 * reference.radius
    assert len(fast.indices) == 200
