"""What is held out: whole clips, or blocks with a guard; and which stretches are dropped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from anomaly.errors import UsageError
from anomaly.footage.source import Source
from anomaly.splits import Span, is_excluded, parse_drops, plan_holdout


def clips(count: int, kind: str = "video") -> list[Source]:
    return [Source(Path(f"{i}.mp4"), f"{i}.mp4", kind) for i in range(count)]  # type: ignore[arg-type]


def test_many_clips_are_held_out_whole_and_never_both():
    sources = clips(20)
    learned, held = plan_holdout(sources, dict.fromkeys((s.name for s in sources), 60.0), 0.2, 2.0, 0)
    assert len(held) == 4
    assert {span.source.name for span in learned} | {span.source.name for span in held} == {
        s.name for s in sources
    }
    assert not {span.source.name for span in learned} & {span.source.name for span in held}
    assert all((span.start_s, span.end_s) == (0.0, math.inf) for span in [*learned, *held])


def test_the_share_counts_seconds_not_clips():
    sources = clips(10)
    durations = {source.name: 1000.0 if source.name == "3.mp4" else 10.0 for source in sources}
    for seed in range(10):
        _, held = plan_holdout(sources, durations, 0.2, 2.0, seed)
        assert held
        assert sum(durations[span.source.name] for span in held) < 0.5 * 1090


def test_another_seed_holds_out_other_clips_and_the_same_seed_the_same():
    sources = clips(20)
    durations: dict[str, float | None] = dict.fromkeys((s.name for s in sources), 60.0)
    picks = {seed: plan_holdout(sources, durations, 0.2, 2.0, seed) for seed in range(5)}
    assert len({tuple(span.source.name for span in held) for _, held in picks.values()}) > 1
    assert picks[3] == plan_holdout(sources, durations, 0.2, 2.0, 3)


def of_cameras(**counts: int) -> list[Source]:
    return [
        Source(Path(f"{camera}/{i}.mp4"), f"{camera}/{i}.mp4", "video")
        for camera, count in counts.items()
        for i in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_camera_has_a_hold_out_of_its_own(seed: int):
    """However unlike in number: one with many clips must not be all that is held out."""
    sources = of_cameras(front=40, rear=6, top=1)
    durations: dict[str, float | None] = dict.fromkeys((s.name for s in sources), 60.0)
    learned, held = plan_holdout(sources, durations, 0.2, 2.0, seed)
    for camera, clips_held in (("front", 8), ("rear", 1), ("top", 1)):
        own = [span.source.name for span in held if span.source.name.startswith(camera)]
        assert len(own) == clips_held
        assert any(span.source.name.startswith(camera) for span in learned)
    assert all(span.start_s == 0.0 for span in held if not span.source.name.startswith("top"))
    (block,) = [span for span in held if span.source.name == "top/0.mp4"]
    assert block.start_s > 40  # of its only clip, so that the camera is learned too


def test_another_camera_changes_nothing_in_what_is_held_out_of_this_one():
    one, two = of_cameras(front=12), of_cameras(front=12, rear=9)
    durations: dict[str, float | None] = dict.fromkeys((s.name for s in two), 60.0)
    alone, together = plan_holdout(one, durations, 0.2, 2.0, 3), plan_holdout(two, durations, 0.2, 2.0, 3)
    for part, parts in zip(alone, together, strict=True):
        assert part == [span for span in parts if span.source.name.startswith("front")]
    # A folder that holds all of it makes no other choice than none.
    bare = [Source(source.path, Path(source.name).name, "video") for source in one]
    held = plan_holdout(bare, {source.name: 60.0 for source in bare}, 0.2, 2.0, 3)[1]
    assert [Path(span.source.name).name for span in alone[1]] == [span.source.name for span in held]


def test_few_clips_are_held_out_in_blocks_with_a_guard():
    (source,) = clips(1)
    learned, held = plan_holdout([source], {source.name: 600.0}, 0.2, 2.0, 0)
    assert len(held) == 5
    kept = sum(min(span.end_s, 600.0) - span.start_s for span in held)
    assert kept == pytest.approx(120.0)
    for one in learned:
        for other in held:
            gap = max(other.start_s - one.end_s, one.start_s - other.end_s)
            assert gap >= 2.0 - 1e-9
    assert held[-1].end_s == math.inf


def test_the_guard_of_a_short_clip_leaves_something_to_learn():
    (source,) = clips(1)
    learned, held = plan_holdout([source], {source.name: 1.0}, 0.5, 60.0, 0)
    assert learned[0].end_s > 0.3
    assert held[0].start_s == pytest.approx(0.5)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_images_are_held_out_one_by_one_and_one_is_always_left(count: int):
    learned, held = plan_holdout(clips(count, "image"), {}, 0.2, 2.0, 0)
    assert len(learned) + len(held) == count
    assert learned
    assert len(held) == min(max(1, round(0.2 * count)), count - 1)


def test_with_share_0_and_without_a_length_nothing_is_held_out():
    for share, duration in ((0.0, 60.0), (0.2, None)):
        learned, held = plan_holdout(clips(2), {"0.mp4": duration, "1.mp4": duration}, share, 2.0, 0)
        assert (len(learned), held) == (2, [])
    assert plan_holdout(clips(9), {}, 0.0, 2.0, 0)[1] == []


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_an_impossible_share_is_refused(share: float):
    with pytest.raises(UsageError, match=r"fit\.holdout"):
        plan_holdout(clips(2), {}, share, 2.0, 0)


def test_drops_are_read_by_name_and_by_the_end_of_a_name():
    names = ["a.mp4", "day/b.mp4", "night/c@2.mp4"]
    drops = parse_drops(["a.mp4@1-2.5", "b.mp4@0-end", "night/c@2.mp4@3-4", "a.mp4@7-8"], names)
    assert drops == {
        "a.mp4": [(1.0, 2.5), (7.0, 8.0)],
        "day/b.mp4": [(0.0, math.inf)],
        "night/c@2.mp4": [(3.0, 4.0)],
    }


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        ("a.mp4", "clip@start-end"), ("a.mp4@1", "clip@start-end"), ("a.mp4@x-y", "clip@start-end"),
        ("z.mp4@1-2", "no source"), ("b.mp4@1-2", "several sources"), ("a.mp4@2-1", "ends before"),
        ("a.mp4@1.2.3-4", "clip@start-end"), ("a.mp4@.-4", "clip@start-end"),
    ],
)  # fmt: skip
def test_a_drop_that_cannot_be_meant_is_refused(drop: str, told: str):
    with pytest.raises(UsageError, match=told) as raised:
        parse_drops([drop], ["a.mp4", "x/b.mp4", "y/b.mp4"])
    assert "\n" not in str(raised.value)


def test_dropped_stretches_are_half_open():
    assert [is_excluded([(1.0, 2.0)], t) for t in (0.99, 1.0, 1.99, 2.0)] == [False, True, True, False]


def seconds_left(span: Span, duration: float, excluded: list[tuple[float, float]]) -> float:
    """How much of a span is read, counted in hundredths."""
    moments = [i / 100 for i in range(round(duration * 100))]
    return sum(span.start_s <= at < span.end_s and not is_excluded(excluded, at) for at in moments) / 100


@pytest.mark.parametrize("excluded", [[(80.0, 100.0)], [(78.0, math.inf)], [(10.0, 20.0), (75.0, 90.0)]])
def test_what_is_left_out_is_no_footage_to_hold_out(excluded: list[tuple[float, float]]):
    """A fifth of what is read is held out, wherever it lies: none of it may be what is not read at all."""
    (source,) = clips(1)
    learned, held = plan_holdout([source], {source.name: 100.0}, 0.2, 2.0, 0, {source.name: excluded})
    left = seconds_left(Span(source, 0.0, math.inf), 100.0, excluded)
    assert sum(seconds_left(span, 100.0, excluded) for span in held) == pytest.approx(0.2 * left, abs=0.05)
    assert sum(seconds_left(span, 100.0, excluded) for span in learned) == pytest.approx(
        0.8 * left - 2.0, abs=0.05
    )
    assert max(span.end_s for span in learned) < min(span.start_s for span in held)


def test_a_clip_that_is_left_out_whole_is_not_the_one_held_out():
    sources = clips(6)
    durations: dict[str, float | None] = dict.fromkeys((s.name for s in sources), 60.0)
    for source in sources[:3]:
        for seed in range(6):
            _, held = plan_holdout(sources, durations, 0.2, 2.0, seed, {source.name: [(-1.0, 61.0)]})
            assert held
            assert source.name not in {span.source.name for span in held}
    pictures = clips(4, "image")
    for seed in range(6):
        _, held = plan_holdout(pictures, {}, 0.2, 2.0, seed, {"1.mp4": [(-1.0, 1.0)]})
        assert [span.source.name for span in held] not in ([], ["1.mp4"])
