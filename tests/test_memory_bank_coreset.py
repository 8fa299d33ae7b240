"""A bank kept while frames arrive: bounded, repeatable, resumable, and honest about its coverage."""

from __future__ import annotations

import numpy as np
import pytest

from memory_bank import MemoryBankError, StreamingCoreset, kcenter_greedy

GRID = 12
PATCHES = GRID * GRID
#: Nothing is gathered; the gathering ends within the footage; all of it is gathered.
gathered = pytest.mark.parametrize("room", [0.0, 0.3, 128.0])


def places() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.divmod(np.arange(PATCHES), GRID)
    return ((y + 0.5) / GRID).astype("f"), ((x + 0.5) / GRID).astype("f"), np.arange(PATCHES)


def footage(frames: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """(frames, PATCHES, dim): a still background with noise, and something that walks through it."""
    rng = np.random.default_rng(seed)
    background = rng.standard_normal((PATCHES, dim)) * 4
    made = background + rng.standard_normal((frames, PATCHES, dim)) * 0.2
    for frame in range(frames):
        made[frame, rng.integers(PATCHES, size=10)] = rng.standard_normal((10, dim)) * 4
    return made.astype("f")


def feed(
    coreset: StreamingCoreset, frames: np.ndarray, start: int = 0, source: str = "clip.mp4", step: int = 1
):
    y, x, patch = places()
    for first in range(0, len(frames), step):
        batch = frames[first : first + step]
        n = len(batch)
        number = np.repeat(np.arange(start + first, start + first + n), PATCHES)
        coreset.add(
            batch.reshape(n * PATCHES, -1),
            source,
            number,
            number / 10,
            np.tile(y, n),
            np.tile(x, n),
            np.tile(patch, n),
        )
    return coreset


def largest_gap(frames: np.ndarray, bank) -> float:
    return float(bank.search(frames.reshape(-1, frames.shape[-1]))[0].max())


@gathered
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_size_is_kept_and_the_bound_on_coverage_holds(share: float, room: float) -> None:
    frames = footage(150)
    coreset = feed(StreamingCoreset(dim=16, size=300, random_share=share, gather_mib=room), frames)
    bank = coreset.finish()
    assert len(bank) <= 300
    assert len(bank) >= 290
    gap = largest_gap(frames, bank)
    assert coreset.coverage.mean <= coreset.coverage.largest <= gap * 1.0001
    assert gap <= coreset.coverage.largest_bound * 1.0001
    assert coreset.coverage.patches == frames.shape[0] * PATCHES
    assert int(bank.counts.sum()) == coreset.coverage.patches


def test_radius_alone_leaves_nothing_outside_it() -> None:
    frames = footage(60)
    coreset = feed(StreamingCoreset(dim=16, radius=3.0), frames)
    bank = coreset.finish()
    assert largest_gap(frames, bank) <= 3.0001
    assert coreset.coverage.largest_bound <= 3.0001
    assert len(bank) < 60 * PATCHES / 4


def test_footage_that_is_gathered_whole_gets_the_rows_that_greedy_picks_from_all_of_it() -> None:
    frames = footage(60)
    coreset = feed(StreamingCoreset(dim=16, size=200), frames)
    bank = coreset.finish()
    patches = frames.reshape(-1, 16)
    greedy = kcenter_greedy(patches, 200, seed=0)
    np.testing.assert_array_equal(bank.rows, patches[np.sort(greedy.indices)])
    assert coreset.coverage.largest_bound == pytest.approx(greedy.radius, rel=1e-5)
    streamed = feed(StreamingCoreset(dim=16, size=200, gather_mib=0.0), frames).finish()
    assert largest_gap(frames, bank) < largest_gap(frames, streamed)


@gathered
def test_result_hangs_on_the_frames_and_not_on_how_many_come_at_once(room: float) -> None:
    frames = footage(90)
    one = feed(StreamingCoreset(dim=16, size=200, gather_mib=room), frames).finish()
    seven = feed(StreamingCoreset(dim=16, size=200, gather_mib=room), frames, step=7).finish()
    assert one.digest() == seven.digest()


@gathered
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("cut", [3, 31, 77])
def test_resumed_fit_equals_an_uninterrupted_one(metric: str, cut: int, room: float) -> None:
    frames = footage(90)
    settings = {"dim": 16, "size": 200, "metric": metric, "place_weight": 0.5, "gather_mib": room}
    whole = feed(StreamingCoreset(**settings), frames)
    first = feed(StreamingCoreset(**settings), frames[:cut])
    arrays, about = first.state()
    rest = feed(StreamingCoreset.from_state(arrays, about), frames[cut:], start=cut)
    assert rest.finish().digest() == whole.finish().digest()
    assert rest.coverage == whole.coverage


def test_seed_changes_the_rows() -> None:
    frames = footage(60)
    digests = {
        feed(StreamingCoreset(dim=16, size=100, seed=seed), frames).finish().digest() for seed in (0, 1)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("piece", [800, 10])
@pytest.mark.parametrize("room", [0.0, 0.3])
def test_state_does_not_grow_with_the_footage(room: float, piece: int) -> None:
    """As one clip, and as the many pieces that a camera is recorded in."""
    frames = footage(800)
    coreset = StreamingCoreset(dim=16, size=200, gather_mib=room)
    sizes = []
    for first in range(0, 800, 10):
        feed(coreset, frames[first : first + 10], start=first, source=f"{first // piece}.mp4")
        if first % 50 == 40:
            sizes.append(sum(array.nbytes for array in coreset.state()[0].values()))
    assert max(sizes[4:]) < max(sizes[:4]) * 1.2
    bank = coreset.finish()
    assert bank.counts.sum() == 800 * PATCHES
    assert len(bank.sources) == 800 // piece
    assert np.bincount(bank.members.row).max() <= 9


def test_the_sources_that_a_row_tells_apart_are_a_sample_that_hangs_on_no_order_and_the_latest() -> None:
    """One still row, forty clips: which of them are told apart, and with how many patches each."""
    told = []
    for order in ([*range(40)], [*reversed(range(40))]):
        coreset = StreamingCoreset(dim=16, size=20, gather_mib=0.01)
        still = np.ones((1, PATCHES, 16), "f")
        for number in order:
            for frame in range(number + 1):
                feed(coreset, still, start=frame, source=f"{number}.mp4")
        bank = coreset.finish()
        members = bank.members
        told.append(
            {
                bank.sources[source]: int(count)
                for source, count in zip(members.witness.source, members.count, strict=True)
            }
        )
        assert bank.counts.tolist() == [sum(range(1, 41)) * PATCHES]
        assert f"{order[-1]}.mp4" in told[-1]
        assert len(told[-1]) in (8, 9)
    drawn = {*told[0]} & {*told[1]}
    assert len(drawn) >= 8
    assert {*told[0]} | {*told[1]} == drawn | {"0.mp4", "39.mp4"}
    for counts in told:
        assert all(count == (int(name.removesuffix(".mp4")) + 1) * PATCHES for name, count in counts.items())


@pytest.mark.parametrize("still", [0, 1, 200])
def test_a_fit_that_stops_between_any_two_frames_goes_on(still: int) -> None:
    """Also where no patch waits to be searched: before the first, after a block of them, in a still scene."""
    frames = np.concatenate([footage(80), np.repeat(footage(1), still, axis=0)])
    whole = StreamingCoreset(dim=16, size=60, gather_mib=0.05)
    again = StreamingCoreset.from_state(*StreamingCoreset(dim=16, size=60, gather_mib=0.05).state())
    for number, frame in enumerate(frames):
        feed(whole, frame[None], start=number)
        feed(again, frame[None], start=number)
        again = StreamingCoreset.from_state(*again.state())
    assert again.finish().digest() == whole.finish().digest()
    assert again.coverage == whole.coverage


@gathered
def test_rows_know_where_they_came_from(room: float) -> None:
    frames = footage(50)
    coreset = feed(StreamingCoreset(dim=16, size=300, gather_mib=room), frames, source="a.mp4")
    bank = feed(coreset, footage(50, seed=1), source="b.mp4").finish()
    own = {"a.mp4": frames, "b.mp4": footage(50, seed=1)}
    for row in range(0, len(bank), 17):
        origin = bank.origins.take(np.array([row]))
        clip = own[bank.sources[origin.source[0]]]
        np.testing.assert_array_equal(clip[origin.frame[0], origin.patch[0]], bank.rows[row])
        assert origin.time_s[0] == pytest.approx(origin.frame[0] / 10)
    assert set(np.unique(bank.members.witness.source)) == {0, 1}


def test_fewer_patches_than_rows_keeps_them_all() -> None:
    frames = footage(1)
    bank = feed(StreamingCoreset(dim=16, size=5000), frames).finish()
    assert len(bank) == PATCHES
    assert largest_gap(frames, bank) == 0.0


@gathered
@pytest.mark.parametrize("size", [50, 50 * PATCHES])
def test_equal_patches_become_one_row(size: int, room: float) -> None:
    coreset = StreamingCoreset(dim=16, size=size, gather_mib=room)
    bank = feed(coreset, np.full((40, PATCHES, 16), 3.0, "f")).finish()
    assert len(bank) == 1
    assert bank.counts[0] == 40 * PATCHES


def test_empty_stream_is_refused() -> None:
    with pytest.raises(MemoryBankError, match="no patches"):
        StreamingCoreset(dim=16, size=50).finish()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unusable_features_are_named_by_source_and_frame(value: float) -> None:
    frames = footage(5)
    frames[3, 7, 2] = value
    with pytest.raises(MemoryBankError, match=r"clip\.mp4 frame 3: 1 patch"):
        feed(StreamingCoreset(dim=16, size=50), frames, step=5)


@pytest.mark.parametrize(
    ("metric", "scale", "text"), [("euclidean", 1e18, "beyond 1e"), ("cosine", 1e-25, "all zero")]
)
def test_features_too_large_or_small_for_a_distance_are_named(metric: str, scale: float, text: str) -> None:
    frames = footage(3)
    frames[2, 5] *= scale
    with pytest.raises(MemoryBankError, match=rf"clip\.mp4 frame 2: 1 patch features are {text}"):
        feed(StreamingCoreset(dim=16, size=50, metric=metric), frames)


def test_another_dimension_is_refused() -> None:
    with pytest.raises(MemoryBankError, match="16 dimensions"):
        feed(StreamingCoreset(dim=16, size=50), footage(1, dim=8))


def test_checkpoint_of_other_features_is_refused() -> None:
    arrays, about = feed(StreamingCoreset(dim=16, size=50, features="lite0"), footage(2)).state()
    with pytest.raises(MemoryBankError, match="lite0"):
        StreamingCoreset.from_state(arrays, about, features="dinov2")


def test_patch_covered_only_from_elsewhere_in_the_picture_is_not_dropped() -> None:
    frames = np.ones((30, PATCHES, 16), "f")
    without = feed(StreamingCoreset(dim=16, radius=0.5), frames).finish()
    with_place = feed(StreamingCoreset(dim=16, radius=0.5, place_weight=2.0), frames).finish()
    y, x, _ = places()
    distances, _ = with_place.search(frames[0], y=y, x=x)
    assert len(without) == 1
    assert len(with_place) > 4
    assert distances.max() <= 0.5
    assert with_place.rows.shape[1] == 16
