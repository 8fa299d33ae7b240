"""Merge, add, forget, and what is kept on disk."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from memory_bank import (
    MemoryBank,
    MemoryBankError,
    Origins,
    StreamingCoreset,
    add_rows,
    forget_source,
    load_checkpoint,
    merge_banks,
    save_checkpoint,
)

DIM = 12


def patches_of(source: str, frames: int = 40) -> np.ndarray:
    """(frames, 60, DIM): a scene that all sources share, and something of each one's own."""
    shared = np.random.default_rng(0).standard_normal((60, DIM)) * 5
    rng = np.random.default_rng(sum(source.encode()))
    made = shared + rng.standard_normal((frames, 60, DIM)) * 0.3
    made[:, :10] += rng.standard_normal(DIM) * 5
    return made.astype("f")


def coreset_of(sources: str, size: int = 120, **settings) -> StreamingCoreset:
    coreset = StreamingCoreset(dim=DIM, size=size, gather_mib=0.05, **settings)
    place = (np.arange(60) / 60).astype("f")
    for source in sources:
        for frame, rows in enumerate(patches_of(source)):
            coreset.add(rows, source, frame, frame / 10, place, place, np.arange(60), camera="cam " + source)
    return coreset


@pytest.mark.parametrize("place_weight", [0.0, 1.0])
def test_forgetting_that_drops_no_row_changes_no_answer(place_weight: float) -> None:
    """The same parts, which each source shows somewhere else: a row that came from one stands for them all."""
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((6, 3)).astype("f") * 5
    coreset = StreamingCoreset(dim=3, size=6, place_weight=place_weight, gather_mib=0)
    shown = []
    for source in "abcd":
        y, x = rng.random((2, 6)).astype("f")
        coreset.add(parts, source, 0, 0.0, y, x, np.arange(6))
        shown.append((y, x))
    bank = coreset.finish()
    came_from = {bank.sources[number] for number in bank.origins.source}
    found = [(source, *forget_source(bank, source)) for source in came_from]
    kept_all = [(source, left) for source, left, lost in found if not lost.rows]
    assert kept_all
    for source, left in kept_all:
        assert source not in left.sources
        for y, x in shown:
            where = {"y": y, "x": x} if place_weight else {}
            np.testing.assert_array_equal(left.search(parts, **where)[0], bank.search(parts, **where)[0])


def test_merged_bank_keeps_size_origins_and_bound() -> None:
    coresets = [coreset_of("a"), coreset_of("b"), coreset_of("cd")]
    banks = [coreset.finish() for coreset in coresets]
    radii = [coreset.coverage.largest_bound for coreset in coresets]
    merged, report = merge_banks(banks, 150, radii=radii)
    assert len(merged) == report.rows == 150
    assert report.rows_before == sum(map(len, banks))
    assert merged.sources == ("a", "b", "c", "d")
    assert merged.cameras == ("cam a", "cam b", "cam c", "cam d")
    everything = np.concatenate([patches_of(source).reshape(-1, DIM) for source in "abcd"])
    assert merged.search(everything)[0].max() <= report.bound * 1.0001
    rows = np.concatenate([bank.rows for bank in banks])
    assert report.largest == pytest.approx(cdist(rows, merged.rows).min(axis=1).max(), rel=1e-4)
    assert report.bound == pytest.approx(report.largest + max(radii), rel=1e-5)
    assert merged.counts.sum() == 4 * 40 * 60
    for row in range(0, 150, 11):
        origin = merged.origins.take(np.array([row]))
        clip = patches_of(merged.sources[origin.source[0]])
        np.testing.assert_array_equal(clip[origin.frame[0], origin.patch[0]], merged.rows[row])


def test_merge_keeps_the_random_part_random() -> None:
    """The smallest keys of all: the same patches that one fit of everything would draw."""
    parts = [coreset_of(source, random_share=0.5).finish() for source in "ab"]
    merged, _ = merge_banks(parts, 120, random_share=0.5)
    whole = coreset_of("ab", random_share=0.5).finish()
    assert np.isfinite(merged.keys).sum() == 60
    assert set(merged.keys[np.isfinite(merged.keys)]) == set(whole.keys[np.isfinite(whole.keys)])


def test_merge_of_one_bank_is_that_bank() -> None:
    bank = coreset_of("a").finish()
    merged, report = merge_banks([bank])
    assert report.largest == 0.0
    assert merged.digest() == bank.digest()


@pytest.mark.parametrize(
    ("other", "text"),
    [({"metric": "cosine"}, "metric"), ({"place_weight": 1.0}, "place_weight"), ({"dim": 5}, "dimensions")],
)
def test_banks_that_do_not_fit_are_not_merged_or_added(other: dict, text: str) -> None:
    bank = coreset_of("a").finish()
    rows = bank.rows[:, : other.pop("dim", DIM)]
    misfit = MemoryBank(
        rows, bank.origins, other.pop("metric", "euclidean"), bank.sources, bank.cameras, **other
    )
    with pytest.raises(MemoryBankError, match=f"{text} .* do not merge"):
        merge_banks([bank, misfit])
    with pytest.raises(MemoryBankError, match=f"{text} .* do not merge"):
        add_rows(bank, misfit)
    with pytest.raises(MemoryBankError, match="at least one bank"):
        merge_banks([])


def test_added_rows_are_covered_and_the_old_keep_their_numbers() -> None:
    bank, extra = coreset_of("a").finish(), coreset_of("b").finish()
    grown, furthest = add_rows(bank, extra, radius=2.0)
    np.testing.assert_array_equal(grown.rows[: len(bank)], bank.rows)
    assert furthest <= 2.0001
    assert furthest == pytest.approx(grown.search(extra.rows)[0].max(), rel=1e-5)
    assert len(grown) < len(bank) + len(extra)
    assert grown.counts.sum() == bank.counts.sum() + extra.counts.sum()


def test_a_bank_grows_to_a_size_by_the_rows_that_it_covers_worst() -> None:
    bank, extra = coreset_of("a", size=60).finish(), coreset_of("b", size=100).finish()
    queries = np.random.default_rng(5).standard_normal((500, DIM), dtype=np.float32) * 3
    grown, furthest = add_rows(bank, extra, size=80)
    assert len(grown) == 80
    np.testing.assert_array_equal(grown.rows[:60], bank.rows)
    assert (grown.search(queries)[0] <= bank.search(queries)[0] + 1e-5).all()
    # The first to be added is the one that the bank covers worst, and no other twenty cover the rest better by half.
    worst = bank.search(extra.rows)[0].argmax()
    assert (grown.rows[60:] == extra.rows[worst]).all(axis=1).any()
    assert furthest == pytest.approx(grown.search(extra.rows)[0].max(), rel=1e-5)
    assert furthest < bank.search(extra.rows)[0].max()
    same, left = add_rows(bank, extra, size=60)
    np.testing.assert_array_equal(same.rows, bank.rows)
    assert left == pytest.approx(bank.search(extra.rows)[0].max(), rel=1e-5)
    assert same.counts.sum() == bank.counts.sum() + extra.counts.sum()
    with pytest.raises(MemoryBankError, match="60 rows cannot grow to 59"):
        add_rows(bank, extra, size=59)


def test_forgotten_source_leaves_no_trace_and_takes_only_its_own_rows() -> None:
    bank = coreset_of("abc", size=200).finish()
    number = bank.sources.index("b")
    others = set(bank.members.row[bank.members.witness.source != number].tolist())
    left, lost = forget_source(bank, "b")
    assert len(left) == len(others) == len(bank) - lost.rows
    np.testing.assert_array_equal(left.rows, bank.rows[sorted(others)])
    assert lost.rows > 0
    assert lost.patches == 40 * 60
    assert lost.largest >= lost.mean > 0
    assert left.sources == ("a", "c")
    assert left.counts.sum() == 2 * 40 * 60
    with pytest.raises(MemoryBankError, match="no source 'b'"):
        forget_source(left, "b")
    # Its own patches are far now, the others' as near as they were.
    own = patches_of("b")[:, :10].reshape(-1, DIM)
    assert left.search(own)[0].mean() > 2 * bank.search(own)[0].mean()
    theirs = patches_of("a").reshape(-1, DIM)
    np.testing.assert_allclose(left.search(theirs)[0].max(), bank.search(theirs)[0].max(), rtol=0.2)


def test_sources_forgotten_together_are_measured_against_what_is_left() -> None:
    place = np.zeros(10, np.float32)
    origins = Origins(
        np.arange(10), *(np.zeros(10, int) for _ in range(2)), np.arange(10), place, place, np.zeros(10, int)
    )
    rows = np.arange(10, dtype=np.float32)[:, None] * np.array([[1, 0]], np.float32)
    bank = MemoryBank(rows, origins, "euclidean", [f"c{number}" for number in range(10)])
    left, lost = forget_source(bank, *(f"c{number}" for number in range(9)))
    assert (len(left), left.sources, lost.rows, lost.patches) == (1, ("c9",), 9, 9)
    assert (lost.largest, lost.mean) == (9.0, 5.0)
    # In any order, and as one after another leaves them.
    again, _ = forget_source(bank, *(f"c{number}" for number in reversed(range(9))))
    for number in range(9):
        bank, _ = forget_source(bank, f"c{number}")
    assert left.digest() == again.digest() == bank.digest()


def test_a_row_of_many_sources_stays_until_all_that_it_tells_apart_are_forgotten() -> None:
    place = np.zeros(1, np.float32)
    coreset = StreamingCoreset(dim=2, size=10, gather_mib=0.0)
    names = [f"{number}.mp4" for number in range(30)]
    for number, name in enumerate(names):
        for patch in (np.array([[0.0, 0.0]]), np.array([[9.0, number]])):  # one that all show, one of its own
            coreset.add(patch.astype("f"), name, 0, 0.0, place, place, np.zeros(1, int))
    bank = coreset.finish()
    shared = int(np.flatnonzero((bank.rows == 0).all(axis=1))[0])
    row, source = bank.stands_for()
    told_apart = [bank.sources[number] for number in source[row == shared]]
    assert 8 <= len(told_apart) <= 10  # eight that are drawn, the latest, and where the row came from
    assert {names[0], names[-1]} <= {*told_apart}
    for count in (1, len(told_apart) - 1):
        left, lost = forget_source(bank, *told_apart[:count])
        at = np.flatnonzero((left.rows == 0).all(axis=1))
        assert len(at) == 1
        assert left.sources[left.origins.source[at[0]]] not in told_apart[:count]
        assert lost.uncertain == 0
    left, lost = forget_source(bank, *told_apart)
    assert not (left.rows == 0).all(axis=1).any()
    assert lost.uncertain == 1
    assert lost.rows > 1
    # What was put together from two banks tells a sample apart as well, and counts what both counted.
    merged, _ = merge_banks([bank, left], 10)
    assert merged.counts.sum() == bank.counts.sum() + left.counts.sum()
    assert np.bincount(merged.members.row).max() <= 9


@pytest.mark.parametrize("stays", [1, 10])
def test_all_footage_up_to_a_day_can_be_forgotten(stays: int) -> None:
    """A still scene in a hundred clips: its rows stand for the last of them, whichever are drawn."""
    frames = np.random.default_rng(0).standard_normal((1, 9, 4)).astype("f").repeat(100, axis=0)
    coreset = StreamingCoreset(dim=4, size=20, gather_mib=0.0)
    place = np.zeros(9, np.float32)
    for number, frame in enumerate(frames):
        coreset.add(frame, f"{number:03d}.mp4", 0, 0.0, place, place, np.arange(9))
    bank = coreset.finish()
    left, lost = forget_source(bank, *bank.sources[:-stays])
    assert len(left) == len(bank) == 9
    assert (lost.rows, lost.uncertain) == (0, 0)
    assert {left.sources[number] for number in left.origins.source} <= {*bank.sources[-stays:]}


def test_what_cannot_be_forgotten_says_how_far_the_bank_knows() -> None:
    frames = np.zeros((1, 1, 4), np.float32)
    coreset = StreamingCoreset(dim=4, size=20, gather_mib=0.0)
    for number in range(30):
        coreset.add(frames[0], f"{number}.mp4", 0, 0.0, *np.zeros((2, 1), np.float32), np.zeros(1, int))
    bank = coreset.finish()
    _, source = bank.stands_for()
    with pytest.raises(
        MemoryBankError, match=r"as far as they tell \(1 stood for more sources than they name\)"
    ):
        forget_source(bank, *(bank.sources[number] for number in np.unique(source)))


def test_last_source_cannot_be_forgotten() -> None:
    with pytest.raises(MemoryBankError, match="alone"):
        forget_source(coreset_of("a").finish(), "a")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_half_precision_moves_distances_by_less_than_a_thousandth(metric: str) -> None:
    bank = coreset_of("ab", metric=metric).finish()
    half = bank.as_float16()
    tensors = half.to_tensors()
    assert tensors["rows"].dtype == np.float16
    again = MemoryBank.from_tensors(tensors, metric, half.sources, half.cameras)
    assert again.digest() == half.digest()
    patches = np.random.default_rng(5).standard_normal((500, DIM)).astype("f") * 5
    np.testing.assert_allclose(again.search(patches)[0], bank.search(patches)[0], rtol=1e-3)


def test_half_precision_tells_how_far_off_a_distance_may_be() -> None:
    """Of patches that are far from the origin and near each other, as in a still scene, it is much of a distance."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal(DIM) * 20 + rng.standard_normal((300, DIM)) * 0.05).astype("f")
    coreset = StreamingCoreset(dim=DIM, size=100)
    place = np.zeros(300, np.float32)
    coreset.add(rows, "still", 0, 0.0, place, place, np.arange(300))
    bank = coreset.finish()
    assert bank.rounding == 0
    half = bank.as_float16()
    off = float(np.abs(half.search(rows)[0] - bank.search(rows)[0]).max())
    moved = float(np.linalg.norm(half.rows - bank.rows, axis=1).max())
    assert half.rounding == pytest.approx(moved)
    assert 0.1 * moved < off <= moved * 1.001


def test_half_precision_is_refused_where_it_overflows() -> None:
    bank = coreset_of("a").finish()
    with pytest.raises(MemoryBankError, match="float16"):
        bank.replace(rows=bank.rows * np.float32(1e5)).as_float16()
    with pytest.raises(MemoryBankError, match="lose their digits in float16"):
        bank.replace(rows=bank.rows * np.float32(1e-7)).as_float16()


def test_checkpoint_on_disk_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    coreset = coreset_of("ab")
    save_checkpoint(path, coreset)
    again = load_checkpoint(path, features="")
    assert again.finish().digest() == coreset.finish().digest()
    assert [file.name for file in tmp_path.iterdir()] == ["fit.safetensors"]
    with pytest.raises(MemoryBankError, match="same backbone"):
        load_checkpoint(path, features="another backbone")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MemoryBankError, match="delete it"):
        load_checkpoint(path)
    with pytest.raises(MemoryBankError, match="cannot read"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    save_checkpoint(path, coreset_of("a", size=20))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(MemoryBankError, match="cannot write the checkpoint"):
            save_checkpoint(path, coreset_of("ab"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["fit.safetensors"]


def test_negative_radius_is_refused() -> None:
    bank = coreset_of("a").finish()
    with pytest.raises(MemoryBankError, match="radius"):
        add_rows(bank, bank, radius=-1)
    with pytest.raises(MemoryBankError, match="as many radii"):
        merge_banks([bank, bank], radii=[1.0])
