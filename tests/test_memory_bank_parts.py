"""A fit in parts, part of a bank, and products on threads of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from memory_bank import (
    MemoryBank,
    MemoryBankError,
    Origins,
    PartMerger,
    StreamingCoreset,
    checkpoint_note,
    kcenter_select,
    load_checkpoint,
    merge_parts,
    part_of,
    save_checkpoint,
)
from memory_bank.threads import side_by_side, usable_threads

PATCHES = 60


def clip(number: int, frames: int = 40) -> np.ndarray:
    """(frames, PATCHES, 12): one scene, and something that differs from clip to clip."""
    scene = np.random.default_rng(0).standard_normal((PATCHES, 12)) * 4
    rng = np.random.default_rng(number)
    made = scene + 0.2 * rng.standard_normal((frames, PATCHES, 12))
    made[:, rng.integers(PATCHES, size=5)] += 5 * rng.standard_normal((5, 12))
    return made.astype("f")


def coreset_of(numbers: list[int], size: int = 200, share: float = 0.25) -> StreamingCoreset:
    coreset = StreamingCoreset(dim=12, size=size, random_share=share, gather_mib=0.05)
    place = np.zeros(PATCHES, "f")
    for number in numbers:
        for frame, rows in enumerate(clip(number)):
            coreset.add(rows, f"{number}.mp4", frame, frame / 10, place, place, np.arange(PATCHES))
    return coreset


@pytest.mark.parametrize("fan_in", [2, 8])
def test_merged_parts_cover_all_footage_within_the_bound(fan_in: int) -> None:
    parts = [part_of(coreset_of([number])) for number in range(5)]
    bank, coverage = merge_parts(parts, fan_in)
    everything = np.concatenate([clip(number).reshape(-1, 12) for number in range(5)])
    assert len(bank) <= 200
    assert bank.counts.sum() == coverage.patches == len(everything)
    assert set(bank.sources) == {f"{number}.mp4" for number in range(5)}
    found = bank.search(everything)[0]
    assert found.max() <= coverage.largest_bound * 1.0001
    assert coverage.mean == pytest.approx(float(found.mean()), rel=0.05)
    whole = coreset_of(list(range(5)))
    other = whole.finish()
    assert found.mean() < 1.2 * other.search(everything)[0].mean()
    assert merge_parts(parts, fan_in)[0].digest() == bank.digest()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_parts_of_a_radius_cover_within_twice_that_and_do_not_add_up(metric: str) -> None:
    """The same scene in one part and in twelve."""
    radius = {"euclidean": 2.0, "cosine": 0.02}[metric]
    place = np.zeros(PATCHES, "f")
    made = {}
    for count in (1, 12):
        merger = PartMerger()
        for number in range(count):
            coreset = StreamingCoreset(dim=12, radius=radius, metric=metric)
            for frame, rows in enumerate(clip(0)):
                if frame % count == number:
                    coreset.add(rows, "clip.mp4", frame, frame / 10, place, place, np.arange(PATCHES))
            merger.add(part_of(coreset))
        made[count] = merger.finish()
    for bank, coverage in made.values():
        assert bank.counts.sum() == coverage.patches == clip(0).size // 12
        found = bank.search(clip(0).reshape(-1, 12))[0].max()
        times = {"euclidean": 2, "cosine": 4}[metric]  # cosine grows with the square of the chord
        assert found <= coverage.largest_bound * 1.0001 <= times * radius * 1.001
    assert len(made[12][0]) < 1.5 * len(made[1][0])


def test_merged_random_rows_are_the_random_sample_of_everything() -> None:
    parts = [part_of(coreset_of([number], share=1.0)) for number in range(3)]
    bank, coverage = merge_parts(parts)
    whole = coreset_of([0, 1, 2], share=1.0)
    other = whole.finish()
    assert {row.tobytes() for row in bank.rows} == {row.tobytes() for row in other.rows}
    assert coverage.sampled == whole.coverage.sampled


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MemoryBankError, match="fan_in must be 2 or more, got 1"):
        PartMerger(fan_in=1)
    with pytest.raises(MemoryBankError, match="nothing to merge"):
        merge_parts([])
    with pytest.raises(MemoryBankError, match="different settings"):
        merge_parts([part_of(coreset_of([0])), part_of(coreset_of([1], size=100))])


def test_a_subset_is_searched_and_counts_what_its_rows_stood_for() -> None:
    bank = coreset_of([0, 1]).finish()
    kept = np.arange(0, len(bank), 3)
    part = bank.subset(kept)
    np.testing.assert_array_equal(part.rows, bank.rows[kept])
    np.testing.assert_array_equal(part.origins.frame, bank.origins.frame[kept])
    np.testing.assert_array_equal(part.counts, bank.counts[kept])
    patches = clip(7, 1)[0]
    apart = np.linalg.norm(patches[:, None].astype(np.float64) - part.rows[None], axis=2)
    np.testing.assert_allclose(part.search(patches)[0][:, 0], apart.min(axis=1), rtol=1e-5)
    mask = np.zeros(len(bank), bool)
    mask[kept] = True
    assert bank.subset(mask).digest() == part.digest()


def test_a_checkpoint_carries_a_note_that_goes_with_its_state(tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    save_checkpoint(path, coreset_of([0]), note={"frames": 40, "names": ["a", "é"]})
    assert checkpoint_note(path) == {"frames": 40, "names": ["a", "é"]}
    assert load_checkpoint(path).patches == 40 * PATCHES
    save_checkpoint(path, coreset_of([0, 1]))
    assert checkpoint_note(path) == {}
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MemoryBankError, match="cannot read the checkpoint"):
        checkpoint_note(path)


def blas_threads() -> set[int]:
    """Of numpy's own; SciPy and FAISS bring others."""
    return {one["num_threads"] for one in threadpool_info() if "numpy" in one["filepath"]}


@pytest.fixture
def two_blas_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threadpool_limits(2, "blas"):
        assert blas_threads() == {2}
        yield


@pytest.mark.usefixtures("two_blas_threads")
def test_products_take_one_thread_each_and_the_setting_comes_back() -> None:
    assert usable_threads() == 2
    with side_by_side() as each:
        assert blas_threads() == {1}
        done: list[int] = []
        each(done.append, ((number,) for number in range(20)))
        assert sorted(done) == list(range(20))
        with pytest.raises(ZeroDivisionError):
            each(lambda number: 1 // number, [(1,), (0,), (2,)])
    assert blas_threads() == {2}
    bank = coreset_of([0]).finish()
    with ThreadPoolExecutor(4) as pool:  # several cameras at a time
        found = list(pool.map(lambda _: bank.search(clip(3, 1)[0])[0].sum(), range(40)))
    assert len(set(found)) == 1
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_whichever_thread_comes_first_and_goes_last_products_take_one_thread_and_the_setting_comes_back() -> (
    None
):
    seen: list[set[int]] = []
    other_is_in, may_go = Event(), Event()

    def search() -> None:
        with side_by_side():
            seen.append(blas_threads())
            other_is_in.set()
            may_go.wait(10)

    # Of the setting made here first, this thread is taken for the owner.
    with side_by_side():
        pass
    other = Thread(target=search)
    other.start()
    assert other_is_in.wait(10)
    with side_by_side():
        seen.append(blas_threads())
    may_go.set()
    other.join(10)
    assert seen == [{1}, {1}]
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_after_an_error_nothing_more_is_begun() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.01)
        done.append(1 // number)

    with side_by_side() as each, pytest.raises(ZeroDivisionError):
        each(work, ((number,) for number in [0] + [1] * 100))
    assert len(done) < 50


_CAMERAS = """
import os, threading, time
import numpy as np
from threadpoolctl import threadpool_info
from memory_bank import MemoryBank, Origins

rows = np.random.default_rng(0).standard_normal((60_000, 24)).astype("f")
bank = MemoryBank(rows, Origins(*[np.zeros(60_000)] * 7), "euclidean", ("",))
before = [one["num_threads"] for one in threadpool_info()]
until = time.monotonic() + 0.5

def camera(number):
    while time.monotonic() < until:
        assert bank.search(rows[:20])[1][:, 0].tolist() == list(range(20))
    os.write(1, b"seen\\n")  # one line at a time, whoever else writes
"""


def run_cameras(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CAMERAS + code],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_cameras_are_searched_on_after_the_main_thread_has_ended() -> None:
    threads = "for number in range(3): threading.Thread(target=camera, args=(number,)).start()"
    assert run_cameras(threads).split() == ["seen"] * 3


def test_a_child_that_is_forked_while_cameras_are_searched_has_its_threads() -> None:
    told = run_cameras(
        """
threads = [threading.Thread(target=camera, args=(number,)) for number in range(3)]
for one in threads: one.start()
time.sleep(0.1)
for _ in range(5):
    child = os.fork()
    if not child:
        camera(0)
        os._exit([one["num_threads"] for one in threadpool_info()] != before)
    os.write(1, b"%d\\n" % os.waitpid(child, 0)[1])
for one in threads: one.join()
"""
    )
    assert sorted(told.split()) == ["0"] * 5 + ["seen"] * 8


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((6000, 24)).astype("f")
    bank = MemoryBank(rows[:2000], Origins(*[np.zeros(2000)] * 7), "euclidean", ("",))
    # Of a few patches among many rows the rows are shared between the threads.
    many = np.random.default_rng(1).standard_normal((60_000, 24)).astype("f")
    large = MemoryBank(many, Origins(*[np.zeros(60_000)] * 7), "euclidean", ("",))
    few = rows[:20]
    found = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        picked = kcenter_select(rows, 300)
        distances, index = bank.search(rows[2000:], 3)
        shared = large.search(few, 2)
        parts = (picked.indices, distances, index, *shared)
        found.append(tuple(part.tobytes() for part in parts))
    assert len({one[1:] for one in found[1:]}) == 1
    assert len({one[0] for one in found}) == 1
    apart = np.linalg.norm(few[:, None].astype(np.float64) - many[None], axis=2)
    np.testing.assert_array_equal(shared[1], np.argsort(apart, axis=1)[:, :2])


@pytest.mark.parametrize("radius", [0.5, 2.0, 50.0])
def test_parts_of_a_radius_stay_within_their_size_and_tell_what_they_cover(radius: float) -> None:
    rng = np.random.default_rng(0)
    parts, shown = [], []
    for number in range(30):
        coreset = StreamingCoreset(dim=4, size=40, radius=radius)
        for frame in range(4):
            rows = rng.standard_normal((25, 4)).astype("f") + number / 5
            place = np.zeros(25, np.float32)
            coreset.add(rows, f"clip{number}", frame, frame / 10, place, place, np.arange(25))
            shown.append(rows)
        parts.append(part_of(coreset))
    bank, coverage = merge_parts(parts)
    assert len(bank) <= 40
    furthest = float(bank.search(np.concatenate(shown))[0].max())
    assert furthest <= coverage.largest_bound * 1.0001
    assert coverage.largest_bound < 12 * furthest
    assert bank.counts.sum() == 30 * 4 * 25
    if radius == 50.0:
        assert len(bank) < 5
        assert coverage.largest_bound <= 2 * radius
