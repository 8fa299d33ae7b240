"""The decider: its rules one by one, and the whole-series functions against the loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.decider import Alarm, Decider, DeciderConfig, alarms, decision_scores, in_alarm, smooth
from anomaly.errors import AnomalyError, UsageError

PLAIN = DeciderConfig(smoothing_s=0, min_duration_s=0, max_duration_s=1000, leave_ratio=1, join_gap_s=0)


def with_(**changes: float) -> DeciderConfig:
    return DeciderConfig(**{**{name: getattr(PLAIN, name) for name in PLAIN.__dataclass_fields__}, **changes})


def run(times, scores, config, threshold):
    """Frame by frame: smoothed, decision scores, alarm on, all alarms."""
    decider = Decider(config, threshold)
    state = decider.start()
    rows, ended, started = [], [], []
    for time_s, score in zip(times, scores, strict=True):
        decision, state = decider.step(state, time_s, score)
        rows.append((decision.score, decision.decision_score, decision.alarm))
        ended += decision.ended
        if decision.started:
            started.append(decision.started.start_s)
    ended += decider.finish(state)
    smoothed, decided, on = (np.array(column) for column in zip(*rows, strict=True))
    assert started == [alarm.start_s for alarm in ended]
    return smoothed, decided, on.astype(bool), ended


def test_an_alarm_starts_where_the_score_reaches_the_threshold_and_ends_where_it_leaves_it():
    *_, found = run([0, 1, 2, 3, 4], [0.1, 0.5, 0.9, 0.5, 0.1], PLAIN, 0.5)
    assert found == [Alarm(1, 3, 2, 0.9)]


def test_smoothing_follows_time_and_not_the_number_of_frames():
    config = with_(smoothing_s=2.0)
    dense = smooth(np.arange(0, 10, 0.1), np.r_[0.0, np.ones(99)], config)
    sparse = smooth([0.0, 9.9], [0.0, 1.0], config)
    assert sparse[-1] == pytest.approx(dense[-1])
    assert sparse[-1] == pytest.approx(1 - math.exp(-9.9 / 2.0))


def test_smoothing_starts_at_the_first_score_and_keeps_a_constant_exactly():
    assert (smooth(np.arange(50) / 7, np.full(50, 0.1), with_(smoothing_s=0.3)) == 0.1).all()


def test_the_decision_score_is_what_held_for_the_minimum_duration():
    times, scores = [0, 1, 2, 3, 4], [5.0, 4.0, 6.0, 7.0, 1.0]
    assert decision_scores(times, scores, with_(min_duration_s=2)).tolist() == [-math.inf, -math.inf, 4, 4, 1]


def test_frame_times_that_carry_rounding_still_fill_the_minimum_duration():
    times = np.arange(8) * 0.1  # 0.7 - 0.4 is less than 0.3 in floating point
    decided = decision_scores(times, np.r_[np.zeros(4), np.ones(4)], with_(min_duration_s=0.3))
    assert decided[7] == 1.0


def test_before_the_minimum_duration_of_footage_nothing_alarms_and_an_image_can_where_none_is_asked():
    assert run([0.0], [9.0], with_(min_duration_s=0.5), 1.0)[3] == []
    assert run([0.0], [9.0], with_(min_duration_s=0.5, smoothing_s=1).for_images(), 1.0)[3] == [
        Alarm(0, 0, 0, 9.0)
    ]


def test_an_alarm_goes_on_above_the_leave_threshold_and_a_new_one_needs_the_enter_threshold():
    scores = [1.0, 0.8, 0.7, 0.8, 1.0]
    *_, found = run(range(5), scores, with_(leave_ratio=0.75), 1.0)
    assert [(alarm.start_s, alarm.end_s) for alarm in found] == [(0, 1), (4, 4)]


def test_dips_shorter_than_the_join_gap_are_bridged_and_do_not_count_into_the_end():
    scores = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    _, _, on, found = run(range(7), scores, with_(join_gap_s=3), 1.0)
    assert found == [Alarm(0, 2, 0, 1.0)]
    assert on.tolist() == [True] * 5 + [False] * 2


def test_an_alarm_that_never_ends_is_split_into_many():
    *_, found = run(range(100), [1.0] * 100, with_(max_duration_s=10), 0.5)
    assert len(found) == 10
    assert [alarm.continued for alarm in found] == [False] + [True] * 9
    assert all(alarm.end_s - alarm.start_s < 10 for alarm in found)


def test_an_alarm_can_be_split_where_it_is_above_the_leave_threshold():
    decider = Decider(with_(join_gap_s=5), 0.5)
    state = decider.start()
    assert decider.split(state) == (None, state)
    for time_s, score in ((0.0, 0.6), (1.0, 0.9), (2.0, 0.1)):
        _, state = decider.step(state, time_s, score)
    # In a dip that may be its end.
    assert decider.split(state) == (None, state)
    _, state = decider.step(state, 3.0, 0.7)
    ended, state = decider.split(state)
    assert ended == Alarm(0, 3, 1, 0.9)
    decision, state = decider.step(state, 4.0, 0.8)
    assert (decision.alarm, decision.started, decision.ended) == (True, None, ())
    assert decider.finish(state) == (Alarm(3, 4, 4, 0.8, continued=True),)


def test_an_alarm_lasts_through_a_hole_in_the_footage_if_the_score_still_holds_and_is_split_if_long():
    times = [0.0, 1.0, 31.0, 32.0]
    assert len(run(times, [1.0] * 4, with_(max_duration_s=60), 0.5)[3]) == 1
    found = run(times, [1.0] * 4, with_(max_duration_s=20), 0.5)[3]
    assert [(alarm.start_s, alarm.end_s) for alarm in found] == [(0, 1), (31, 32)]


def test_without_a_threshold_scores_are_smoothed_and_nothing_alarms():
    smoothed, _, on, found = run(range(3), [0.0, 1.0, 1.0], with_(smoothing_s=1), None)
    assert smoothed[2] > smoothed[1] > 0
    assert not on.any()
    assert found == []
    assert alarms(range(3), [0.0, 1.0, 1.0], PLAIN, None) == []


def test_the_state_is_not_changed_by_a_step():
    decider = Decider(with_(min_duration_s=1), 1.0)
    _, state = decider.step(decider.start(), 0.0, 2.0)
    once, twice = decider.step(state, 1.0, 3.0), decider.step(state, 1.0, 3.0)
    assert once == twice


@pytest.mark.parametrize(
    ("times", "scores", "word"),
    [
        ([0, 1], [0.5, math.nan], "nan"),
        ([0, 1], [0.5, -1], "-1"),
        ([0, 1], [0.5, math.inf], "inf"),
        ([1, 1], [0.5, 0.5], "increase|come after"),
    ],
)
def test_bad_frames_are_told_in_one_line(times, scores, word):
    with pytest.raises(AnomalyError, match=word):
        run(times, scores, PLAIN, 1.0)
    with pytest.raises(AnomalyError, match=word):
        alarms(times, scores, PLAIN, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"smoothing_s": -1},
        {"min_duration_s": math.nan},
        {"max_duration_s": 0},
        {"max_duration_s": math.inf},
        {"leave_ratio": 0},
        {"leave_ratio": 1.01},
        {"join_gap_s": math.inf},
    ],
)
def test_settings_out_of_range_are_refused_by_name(change):
    with pytest.raises(UsageError, match=f"decider.{next(iter(change))}"):
        with_(**change)


durations = st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 2.5])


@st.composite
def footage(draw):
    """Times with jitter and holes, scores with many ties."""
    steps = draw(st.lists(st.sampled_from([0.04, 0.1, 0.1, 0.1, 0.3, 1.7, 40.0]), min_size=1, max_size=80))
    levels = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0]) | st.floats(0, 2)
    scores = draw(st.lists(levels, min_size=len(steps), max_size=len(steps)))
    return draw(st.floats(-5, 5)) + np.cumsum(steps), np.array(scores)


configs = st.builds(
    DeciderConfig,
    smoothing_s=durations,
    min_duration_s=durations,
    max_duration_s=st.sampled_from([0.05, 0.5, 3.0, 1000.0]),
    leave_ratio=st.sampled_from([0.3, 0.8, 1.0]),
    join_gap_s=durations,
)


@settings(max_examples=400, deadline=None)
@given(footage(), configs, st.data())
def test_whole_series_and_frame_by_frame_agree_bit_for_bit(series, config, data):
    times, scores = series
    decided = decision_scores(times, scores, config)
    exact = [float(score) for score in decided if score > -math.inf]  # thresholds that tie with a score
    threshold = data.draw(st.sampled_from([0.0, 0.25, 0.5, *exact]))
    loop_smoothed, loop_decided, loop_on, loop_alarms = run(times, scores, config, threshold)
    np.testing.assert_array_equal(smooth(times, scores, config), loop_smoothed)
    np.testing.assert_array_equal(decided, loop_decided)
    np.testing.assert_array_equal(in_alarm(times, scores, config, threshold), loop_on)
    assert alarms(times, scores, config, threshold) == loop_alarms


@settings(max_examples=100, deadline=None)
@given(footage(), configs, st.floats(0.01, 1.5))
def test_every_alarm_starts_at_the_threshold_or_continues_a_split_one(series, config, threshold):
    times, scores = series
    decided = dict(zip(times.tolist(), decision_scores(times, scores, config).tolist(), strict=True))
    for alarm in alarms(times, scores, config, threshold):
        assert alarm.continued or decided[alarm.start_s] >= threshold
        assert alarm.start_s <= alarm.peak_s <= alarm.end_s


@settings(max_examples=100, deadline=None)
@given(footage(), configs, st.integers(1, 60))
def test_the_future_changes_no_decision(series, config, cut):
    times, scores = series
    np.testing.assert_array_equal(
        decision_scores(times, scores, config)[:cut], decision_scores(times[:cut], scores[:cut], config)
    )
    np.testing.assert_array_equal(
        in_alarm(times, scores, config, 0.5)[:cut], in_alarm(times[:cut], scores[:cut], config, 0.5)
    )
