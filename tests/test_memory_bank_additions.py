"""Patches of new footage put to a bank: what it covers is counted, what it lacks becomes rows."""

from __future__ import annotations

import numpy as np
import pytest

from memory_bank import Additions, Grown, MemoryBank, MemoryBankError, StreamingCoreset, forget_source

GRID = 10


def coreset(
    size: int | None = 200, radius: float | None = None, place_weight: float = 0.0
) -> StreamingCoreset:
    return StreamingCoreset(dim=6, size=size, radius=radius, place_weight=place_weight)


def frames(seed: int, count: int, shift: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(GRID, 6)) + shift).astype(np.float32) for _ in range(count)]


def put(taker: StreamingCoreset | Additions, source: str, patches: list[np.ndarray]) -> None:
    place = np.linspace(0, 1, GRID, dtype=np.float32)
    for number, rows in enumerate(patches):
        taker.add(rows, source, number, number / 5, y=place, x=place, patch=np.arange(GRID))


@pytest.fixture
def bank() -> MemoryBank:
    filled = coreset()
    put(filled, "day1", frames(0, 20))
    return filled.finish()


def grown(
    bank: MemoryBank,
    radius: float,
    size: int | None,
    enough: float,
    *,
    shift: float = 3.0,
    anew: bool = False,
) -> tuple[MemoryBank, Grown]:
    additions = Additions(bank, radius, coreset())
    put(additions, "same", frames(0, 20))
    put(additions, "day2", frames(1, 20, shift))
    return additions.finish(size, radius, enough, anew=anew)


def test_all_new_footage_is_covered_and_no_row_goes(bank: MemoryBank):
    after, told = grown(bank, 1.0, None, 1.0)
    np.testing.assert_array_equal(after.rows[: len(bank)], bank.rows)
    new = np.concatenate(frames(1, 20, 3.0))
    before = bank.search(new)[0]
    now = after.search(new)[0]
    assert now.max() <= told.largest <= 1.0 < before.max()
    assert told.largest_before == pytest.approx(before.max())
    assert told.mean_before == pytest.approx(before.mean() / 2)  # half of the patches are those of the bank
    assert told.covered == 200 + (before <= 1.0).sum()
    assert told.added == len(after) - len(bank) == told.needed - len(bank)
    assert after.counts.sum() == bank.counts.sum() + told.patches == 600


def test_a_row_stays_for_footage_that_it_covered_later(bank: MemoryBank):
    after, _ = grown(bank, 1.0, None, 1.0)
    left, _ = forget_source(after, "day1")
    assert left.search(np.concatenate(frames(0, 20)))[0].max() == 0
    assert set(left.sources) == {"same", "day2"}


def test_a_full_bank_keeps_its_rows_until_they_are_to_be_chosen_anew(bank: MemoryBank):
    size = len(bank) + 5
    for enough, anew in ((100.0, True), (1.0, False)):
        after, told = grown(bank, 1.0, size, enough, anew=anew)
        assert (len(after), told.added, told.merged) == (size, 5, None)
        assert told.needed > size
        np.testing.assert_array_equal(after.rows[: len(bank)], bank.rows)
        assert 1.0 < after.search(np.concatenate(frames(1, 20, 3.0)))[0].max() <= told.largest
    after, told = grown(bank, 1.0, size, 1.0, anew=True)
    assert len(after) == size
    assert told.merged is not None
    assert told.added > 5
    assert after.search(np.concatenate(frames(1, 20, 3.0)))[0].max() <= told.largest == told.merged.bound
    assert after.counts.sum() == bank.counts.sum() + told.patches


def test_a_bank_that_covers_everything_keeps_its_rows(bank: MemoryBank):
    after, told = grown(bank, 100.0, len(bank), 1.0)
    assert (told.added, told.covered, told.patches, told.merged) == (0, 400, 400, None)
    np.testing.assert_array_equal(after.rows, bank.rows)


def test_rows_chosen_anew_that_hold_no_new_one_are_not_taken():
    apart = coreset(6)
    put(apart, "day1", [np.eye(6, dtype=np.float32)[np.arange(GRID) % 6] * 100])
    bank = apart.finish()
    additions = Additions(bank, 1.0, coreset())
    # Strange, and still nearer to a row than the rows are to each other.
    put(additions, "day2", [np.tile(bank.rows[0] * 0.9, (GRID, 1))])
    after, told = additions.finish(6, 1.0, 1.0, anew=True)
    assert (told.added, told.needed, told.merged) == (0, 7, None)
    np.testing.assert_array_equal(after.rows, bank.rows)


def test_what_is_told_of_coverage_holds_for_angles_too():
    place = np.linspace(0, 1, GRID, dtype=np.float32)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        known = StreamingCoreset(dim=2, size=3, metric="cosine")
        new = StreamingCoreset(dim=2, size=3, metric="cosine")
        rows = rng.uniform(0.1, 1, (2, GRID, 2)).astype(np.float32)
        known.add(rows[0], "day1", 0, 0.0, y=place, x=place, patch=np.arange(GRID))
        additions = Additions(known.finish(), 0.001, new)
        additions.add(rows[1], "day2", 0, 0.0, y=place, x=place, patch=np.arange(GRID))
        after, told = additions.finish(4, 0.001, 1.0)
        assert after.search(rows[1])[0].max() <= told.largest + 1e-6


def test_place_counts_and_what_is_gathered_by_radius_stays_within(bank: MemoryBank):
    filled = coreset(place_weight=5.0)
    put(filled, "day1", frames(0, 1))
    placed = filled.finish()
    additions = Additions(placed, 1.0, coreset(None, 0.5, 5.0))
    additions.add(
        frames(0, 1)[0], "moved", 0, 0.0, y=np.ones(GRID, np.float32), x=np.zeros(GRID, np.float32),
        patch=np.arange(GRID),
    )  # fmt: skip
    after, told = additions.finish(None, 0.5, 1.0)
    assert told.covered == 0  # alike, and elsewhere
    assert told.added > 0
    assert told.largest <= 1.0
    assert after.place_weight == 5.0


def test_what_cannot_be_added_is_refused(bank: MemoryBank):
    with pytest.raises(MemoryBankError, match="no patches to add"):
        Additions(bank, 1.0, coreset()).finish(None, 1.0, 1.0)
    with pytest.raises(MemoryBankError, match="radius must be 0 or more"):
        Additions(bank, -1.0, coreset())
    broken = frames(1, 1)
    broken[0][3, 2] = np.nan
    with pytest.raises(MemoryBankError, match="day2"):
        put(Additions(bank, 1.0, coreset()), "day2", broken)
    angles = StreamingCoreset(dim=6, size=9, metric="cosine")
    put(angles, "day1", frames(0, 1))
    with pytest.raises(MemoryBankError, match="no direction"):
        put(Additions(angles.finish(), 1.0, angles), "day2", [np.zeros((GRID, 6), np.float32)])
