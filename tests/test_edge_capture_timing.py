from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly.edge.capture.retry import REFUSED_TRIES, Retry
from anomaly.edge.capture.timing import RATE, StreamTime

STEP = 9_000


def shown(
    ticks: list[int | None], *, base: Fraction = Fraction(1, RATE), dts: list[int | None] | None = None
):
    """Times in steps of a tenth of a second, placed as if each packet arrived a step after the one before."""
    times = StreamTime(base, STEP)
    placed = [
        times.place(None if dts is None else dts[i], tick, 5 * RATE + i * STEP)
        for i, tick in enumerate(ticks)
    ]
    return [round((one.pts - 5 * RATE) / STEP, 6) for one in placed], [one.note for one in placed]


@pytest.mark.parametrize("bits", [32, 33])
def test_a_counter_that_runs_over_goes_on(bits: int):
    first = (1 << bits) - 3 * STEP
    steps, notes = shown([(first + i * STEP) % (1 << bits) for i in range(8)])
    assert steps == list(range(8))
    assert set(notes) == {None}


@pytest.mark.parametrize("bits", [32, 33])
def test_a_counter_runs_over_between_reordered_frames(bits: int):
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    first = (1 << bits) - 2 * STEP
    steps, notes = shown(
        [(first + n * STEP) % (1 << bits) for n in order],
        dts=[(first + (i - 2) * STEP) % (1 << bits) for i in range(len(order))],
    )
    assert [step - steps[0] for step in steps] == order
    assert set(notes) == {None}


def test_a_jump_back_is_bridged_by_the_time_that_passed_and_told():
    steps, notes = shown([0, STEP, 2 * STEP, -50 * RATE, -50 * RATE + STEP])
    assert steps == [0, 1, 2, 3, 4]
    assert [note is not None for note in notes] == [False, False, False, True, False]
    assert "jumped by -50.2" in str(notes[3])


def test_a_jump_ahead_is_bridged_too_and_a_pause_is_kept():
    steps, notes = shown([0, STEP, 3600 * RATE, 3600 * RATE + STEP])
    assert steps == [0, 1, 2, 3]
    assert notes[2] is not None
    times = StreamTime(Fraction(1, RATE), STEP)
    times.place(None, 0, 0)
    assert times.place(None, 60 * RATE, 60 * RATE).pts == 60 * RATE + 1


@pytest.mark.parametrize("stands", [lambda i: 7 * RATE, lambda i: 7 * RATE - i % 3, lambda i: 7 * RATE + i])
def test_a_time_that_stands_still_is_replaced_by_that_of_arrival_and_told_once(stands: Callable[[int], int]):
    steps, notes = shown(
        [i * STEP + 7 * RATE - 9 * STEP for i in range(10)] + [stands(i) for i in range(150)]
    )
    assert np.diff(steps)[90:] == pytest.approx(1.0)
    assert steps[-1] >= 159 - 81
    assert sum(note is not None for note in notes) == 1


def test_what_the_network_held_back_is_no_time_that_stands_still():
    times = StreamTime(Fraction(1, RATE), STEP)
    # Every third second comes at once, after a silence.
    arrivals = [i * STEP if i // 10 % 3 == 0 else (i // 10 + 1) * 10 * STEP for i in range(300)]
    placed = [times.place(i * STEP, i * STEP, arrival) for i, arrival in enumerate(arrivals)]
    assert [one.pts - placed[0].pts for one in placed] == [i * STEP for i in range(300)]
    assert {one.note for one in placed} == {None}


@pytest.mark.parametrize("rate", [2.0, 0.5, 1.15])
def test_a_time_that_runs_at_another_rate_is_told_by_the_hour_and_kept(rate: float):
    times = StreamTime(Fraction(1, RATE), STEP)
    placed = [times.place(None, round(i * STEP * rate), i * STEP) for i in range(70 * 600)]
    told = {i // 600: one.note for i, one in enumerate(placed) if one.note is not None}
    assert sorted(told) == [3, 63]
    assert f"runs at {rate:.2f} of" in str(told[3])
    assert placed[-1].pts - placed[0].pts == round((len(placed) - 1) * STEP * rate)


def test_a_time_that_only_wavers_is_no_wrong_rate():
    times = StreamTime(Fraction(1, RATE), STEP)
    notes = set()
    arrival = 0
    for i in range(30 * 600):
        # A minute in which the network falls behind by nine seconds, then one in which it catches up; a clock that is 5 % off.
        arrival += round(STEP * (1.15 if i // 600 % 2 else 0.85))
        notes.add(times.place(None, round(i * STEP * 1.05), arrival).note)
    assert notes == {None}


def test_other_units_and_packets_without_times():
    assert shown([0, 100, None, 300], base=Fraction(1, 1000))[0] == [0, 1, 2, 3]
    assert shown([None, STEP, 2 * STEP])[0][2] == 2


def test_a_connection_is_placed_after_all_before_it():
    times = StreamTime(Fraction(1, RATE), STEP, after=100 * RATE)
    assert times.place(0, 0, 50 * RATE).pts == 100 * RATE + 1


@given(st.lists(st.one_of(st.none(), st.integers(-(1 << 62), 1 << 62)), min_size=2, max_size=50))
def test_whatever_a_camera_says_time_stays_near_the_time_of_arrival(ticks: list[int | None]):
    times = StreamTime(Fraction(1, RATE), STEP)
    placed = [times.place(tick, tick, i * STEP).pts for i, tick in enumerate(ticks)]
    assert all(later - earlier >= -2 * RATE for earlier, later in pairwise(placed))
    assert all(later - earlier <= 12 * RATE for earlier, later in pairwise(placed))


def test_tries_are_jittered_and_at_most_a_second_apart_for_ever():
    retry = Retry(60.0)
    waits = [retry.after_loss() for _ in range(500)]
    assert max(waits) <= 1.0
    assert min(waits) > 0
    assert np.std(waits[1:]) > 0.1


def test_a_refusal_is_tried_three_times_a_minute_apart():
    retry = Retry(60.0)
    assert [retry.after_refusal() for _ in range(REFUSED_TRIES)] == [60.0, 60.0, None]
    retry.connected()
    assert retry.after_refusal() == 60.0
    # Those of a process before count.
    assert [Retry(60.0, refused).at_first() for refused in range(4)] == [0.0, 60.0, 60.0, None]
    assert Retry(60.0, 2).after_refusal() is None
