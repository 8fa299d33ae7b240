"""What is called trouble and what is not: made-up frames, reports and clocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly.edge.capture import Report
from anomaly.edge.health import CameraHealth, ClockWatch, StandstillWatch, Steadily, Trouble

UTC = 1_790_000_000.0
S = 1_000_000_000
STEP_NS = S // 10
Image = NDArray[np.uint8]


def report(kind: str, at_s: float = 0.0, **detail: object) -> Report:
    return Report("line", kind, int(at_s * S), UTC + at_s, detail)


def kinds(told: list[Trouble]) -> list[tuple[str, bool]]:
    return [(one.kind, one.begins) for one in told]


def scene(level: int = 120) -> Image:
    image = np.full((360, 640, 3), level, np.uint8)
    image[100:200, 100:300] = level // 2
    return image


NOISE = np.random.default_rng(0).normal(0, 2, (8, 360, 640, 1)).astype(np.int16)


def noisy(random: np.random.Generator, image: Image) -> Image:
    return (image + np.roll(NOISE[random.integers(8)], int(random.integers(360)), axis=0)).astype(np.uint8)


def play(
    health: CameraHealth, picture: Callable[[int], Image], begin_s: float, seconds: float
) -> list[tuple[str, bool]]:
    """Ten frames a second; what was told."""
    told = []
    for number in range(int(seconds * 10)):
        at_ns = int(begin_s * S) + number * STEP_NS
        told += health.on_frame(picture(number), at_ns, UTC + at_ns / S)
    return kinds(told)


@pytest.fixture
def health() -> CameraHealth:
    made = CameraHealth("line", interval_s=0.1)
    made.on_report(report("connected"))
    return made


@pytest.mark.parametrize("kind", ["disconnected", "refused", "crashed"])
def test_a_camera_that_goes_is_disconnected_once_until_it_is_back(health: CameraHealth, kind: str):
    assert kinds(health.on_report(report(kind, 1.0))) == [("disconnected", True)]
    assert health.on_report(report(kind, 2.0)) == []
    assert health.present == ("disconnected",)
    assert kinds(health.on_report(report("connected", 3.0))) == [("disconnected", False)]
    assert health.present == ()


def test_a_camera_that_comes_and_goes_is_told_once_until_it_stays(health: CameraHealth):
    """One frame, then closed, five times a second for months: a pair of rows each, and messages to everybody."""
    steadily = Steadily()
    told = []
    for number in range(600):
        at_s = 1.0 + 0.2 * number
        for kind, moment_s in (("disconnected", at_s), ("connected", at_s + 0.1)):
            told += steadily.pass_on(health.on_report(report(kind, moment_s)), int(moment_s * S))
        told += steadily.tick(int(at_s * S))
        assert health.present == ()
    back_s = at_s + 0.1
    assert kinds(told) == [("disconnected", True), ("disconnected", False), ("disconnected", True)]
    assert steadily.tick(int((back_s + 59.0) * S)) == []
    (over,) = steadily.tick(int((back_s + 60.1) * S))
    assert (over.kind, over.begins, over.detail["times"]) == ("disconnected", False, 599)
    # It was over when it came back for good, not when that was told.
    assert over.utc_s == pytest.approx(UTC + back_s)
    # What happens once is told at once, then as before.
    later_s = back_s + 200.0
    assert steadily.pass_on(health.on_report(report("disconnected", later_s)), int(later_s * S))
    assert steadily.pass_on(health.on_report(report("connected", later_s + 1.0)), int((later_s + 1.0) * S))
    assert steadily.settle() == []


def test_what_comes_and_goes_is_over_where_nobody_looks_any_more(health: CameraHealth):
    steadily = Steadily()
    for at_s in (1.0, 2.0):
        steadily.pass_on(health.on_report(report("disconnected", at_s)), int(at_s * S))
        steadily.pass_on(health.on_report(report("connected", at_s + 0.5)), int((at_s + 0.5) * S))
    assert kinds(steadily.settle()) == [("disconnected", False)]
    # Of two kinds one says nothing of the other.
    black = [Trouble("black", True, UTC, {}), Trouble("black", False, UTC, {})]
    assert steadily.pass_on(black, 3 * S) == black
    assert steadily.pass_on([Trouble("changed", True, UTC, {})] * 3, 3 * S) != []


def test_a_camera_that_locks_us_out_is_held(health: CameraHealth):
    health.on_report(report("refused", 1.0, status=401))
    assert kinds(health.on_report(report("held", 2.0))) == [("held", True)]
    assert kinds(health.on_report(report("connected", 3.0))) == [("disconnected", False), ("held", False)]


def test_changes_are_told_once_and_recordings_stop_and_go_on(health: CameraHealth):
    assert kinds(health.on_report(report("changed", 1.0))) == [("changed", True), ("changed", False)]
    assert kinds(health.on_report(report("timing", 1.0))) == [("timing", True), ("timing", False)]
    assert kinds(health.on_report(report("recording_stopped", 1.0))) == [("recording", True)]
    assert kinds(health.on_report(report("recording_resumed", 2.0))) == [("recording", False)]
    # A disk that takes less than comes still gets segments now and then.
    health.on_report(report("recording_stopped", 3.0))
    assert health.on_report(report("segment", 4.0)) == []
    assert kinds(health.on_report(report("recording_resumed", 5.0))) == [("recording", False)]


def test_no_frames_of_a_connected_camera_is_a_stall_and_of_a_gone_one_is_not(health: CameraHealth):
    health.on_frame(scene(), S, UTC)
    assert health.tick(5 * S, UTC) == []
    assert kinds(health.tick(7 * S, UTC)) == [("stalled", True)]
    assert health.tick(8 * S, UTC) == []
    assert kinds(health.on_frame(scene(), 9 * S, UTC)) == [("stalled", False)]
    health.on_report(report("disconnected", 10.0))
    assert health.tick(100 * S, UTC) == []


def test_a_dark_picture_is_black_and_a_dim_one_with_a_light_is_not(health: CameraHealth):
    assert play(health, lambda _: np.full((360, 640, 3), 3, np.uint8), 0, 4) == [("black", True)]
    assert play(health, lambda _: scene(), 4, 1) == [("black", False)]
    lamp = np.zeros((360, 640, 3), np.uint8)
    lamp[:80, :80] = 200
    assert play(health, lambda _: lamp, 5, 5) == []


def test_a_camera_that_loses_its_noise_is_frozen_and_a_still_scene_is_not(health: CameraHealth):
    random = np.random.default_rng(0)
    assert play(health, lambda _: noisy(random, scene()), 0, 60) == []
    last = noisy(random, scene())
    assert play(health, lambda _: last, 60, 9.9) == []
    assert play(health, lambda _: last, 69.9, 5) == [("frozen", True)]
    assert play(health, lambda _: noisy(random, scene()), 75, 2) == [("frozen", False)]
    # A freeze is not learned as ordinary.
    assert play(health, lambda _: last, 77, 12) == [("frozen", True)]


def test_a_camera_that_comes_back_frozen_is_frozen_and_another_stream_has_noise_of_its_own(
    health: CameraHealth,
):
    random = np.random.default_rng(0)
    last = noisy(random, scene())
    play(health, lambda _: noisy(random, scene()), 0, 60)
    health.on_report(report("disconnected", 60.0))
    health.on_report(report("connected", 90.0))
    assert play(health, lambda _: last, 90, 9.9) == []
    assert play(health, lambda _: last, 99.9, 5) == [("frozen", True)]
    health.on_report(report("disconnected", 105.0))
    health.on_report(report("connected", 110.0))
    health.on_report(report("changed", 110.0))
    assert play(health, lambda _: last, 110, 60) == []


def test_without_noise_there_is_nothing_to_miss(health: CameraHealth):
    assert play(health, lambda _: scene(), 0, 60) == []

    def moving(number: int) -> Image:
        image = scene()
        image[300:320, 4 * number % 600 : 4 * number % 600 + 20] = 255
        return image

    assert play(health, moving, 60, 30) == []
    assert play(health, lambda _: scene(), 90, 60) == []


def test_a_codec_that_repeats_frames_up_to_the_next_keyframe_is_not_frozen(health: CameraHealth):
    random = np.random.default_rng(0)
    play(health, lambda _: noisy(random, scene()), 0, 20)
    pictures = [noisy(random, scene()) for _ in range(20)]
    assert play(health, lambda number: pictures[number // 90], 20, 170) == []


def test_frames_scored_too_far_apart_are_overload_until_it_is_well_again(health: CameraHealth):
    told, at_ns = [], 0
    for gaps, gap_s in ((20, 0.1), (4, 0.3), (1, 0.1), (8, 0.3), (10, 0.1), (1, 0.3), (25, 0.1)):
        for _ in range(gaps):
            at_ns += int(gap_s * S)
            told += [(kind, begins, at_ns) for kind, begins in kinds(health.on_scored(at_ns, UTC, at_ns))]
    assert [one[:2] for one in told] == [("overloaded", True), ("overloaded", False)]
    unknown = CameraHealth("line", interval_s=None)
    assert not any(unknown.on_scored(number * S, UTC, number * S) for number in range(20))


def test_a_pause_of_the_camera_is_no_overload(health: CameraHealth):
    assert not any(health.on_scored(number * 6 * S, UTC, number * 6 * S) for number in range(20))


def test_a_machine_that_takes_many_seconds_for_a_frame_is_overloaded(health: CameraHealth):
    told = [one for at in range(0, 60, 6) for one in health.on_scored(at * S, UTC, (at + 6) * S)]
    assert kinds(told) == [("overloaded", True)]


def test_looking_at_a_frame_takes_under_a_millisecond(health: CameraHealth):
    random = np.random.default_rng(0)
    images = [noisy(random, scene()) for _ in range(10)]
    took = []
    for number in range(200):
        began = time.perf_counter()
        health.on_frame(images[number % 10], number * STEP_NS, UTC)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 1e-3


@pytest.mark.parametrize("step_s", [86_400.0, -86_400.0, 1.5, -1.5])
def test_a_clock_that_is_set_is_told_once(step_s: float):
    clock = ClockWatch()
    assert clock.tick(0, UTC) is None
    assert clock.tick(S, UTC + 1.2) is None
    told = clock.tick(2 * S, UTC + 2.2 + step_s)
    assert told is not None
    assert told.kind == "clock"
    assert told.begins
    assert told.detail["step_s"] == pytest.approx(step_s)
    assert clock.tick(3 * S, UTC + 3.2 + step_s) is None


def standing(number: int, light: float = 1.0, *, right: int = 0, walls: bool = True) -> Image:
    """A room with a part that runs through it, under noise; `right` pixels are by how much the camera was turned."""
    random = np.random.default_rng(number)
    image = scene()
    if walls:
        for x, y, level in ((60, 20, 200), (300, 240, 60), (480, 60, 170), (200, 10, 30)):
            image[y : y + 90, x : x + 70] = level
    x = 25 * number % 560
    image[150:230, x : x + 80] = 250
    return noisy(random, (np.roll(image, right, axis=1) * light).astype(np.uint8))


@pytest.mark.parametrize(
    ("seconds", "after", "told"),
    [
        (16, {}, False),
        (16, {"light": 0.5}, False),
        (16, {"right": 24}, True),
        (16, {"walls": False}, True),
        # Not seen long enough to know how alike it is to itself.
        (6, {"right": 24}, False),
    ],
)
def test_a_camera_that_was_turned_while_it_was_away_is_told(
    health: CameraHealth, seconds: int, after: dict, told: bool
):
    assert play(health, standing, 0.0, seconds) == []
    health.on_report(report("disconnected", seconds))
    health.on_report(report("connected", seconds + 60))
    found = play(health, lambda number: standing(number + 7, **after), seconds + 60, 5.0)
    assert found == ([("changed", True), ("changed", False)] if told else [])
    # It is the new view from then on.
    health.on_report(report("disconnected", seconds + 90))
    health.on_report(report("connected", seconds + 91))
    assert play(health, lambda number: standing(number, **after), seconds + 91, 15.0) == []


def test_how_far_the_view_moved_is_told(health: CameraHealth):
    play(health, standing, 0.0, 16)
    health.on_report(report("disconnected", 17.0))
    health.on_report(report("connected", 18.0))
    troubles = [
        one
        for number in range(20)
        for one in health.on_frame(standing(number, right=-64), 20 * S + number * STEP_NS, UTC + 20)
    ]
    assert troubles[0].detail["view"]["right"] == pytest.approx(-0.1, abs=0.02)
    assert troubles[0].detail["view"]["down"] == 0.0


def test_a_program_that_was_held_up_says_so():
    watch = StandstillWatch()
    # The first look of a model takes its time.
    assert watch.tick(0, UTC, 0.0) == []
    assert watch.tick(9 * S, UTC + 9, 8.0) == []
    assert watch.tick(10 * S, UTC + 10, 8.5) == []
    began, over = watch.tick(58 * S, UTC + 58, 8.75)
    assert began == Trouble("standstill", True, UTC + 10, {"seconds": 48.0, "model_seconds": 0.2})
    assert over == Trouble("standstill", False, UTC + 58)
    assert watch.tick(59 * S, UTC + 59, 9.0) == []
    # A machine that is far too slow stands still without end: each word is a row, and messages.
    told = [watch.tick(at * S, UTC + at, at / 2.0) for at in range(65, 665, 6)]
    assert sum(map(bool, told)) == 10
