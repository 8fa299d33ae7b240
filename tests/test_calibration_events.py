"""Labels to events, events to scores, scores to what counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.calibration import (
    Event,
    Series,
    decide,
    event_outcomes,
    event_scores,
    frame_recall,
    join_events,
)
from anomaly.calibration.events import counting_units
from anomaly.decider import DeciderConfig, alarms
from anomaly.errors import CalibrationError, LabelsError, UsageError
from anomaly.types import Interval

PLAIN = DeciderConfig(smoothing_s=0, min_duration_s=0, max_duration_s=1000, leave_ratio=1, join_gap_s=0)


def decided(times, scores, config=PLAIN, name="v"):
    return {name: decide(Series(name, times, scores), config)}


def test_overlapping_intervals_of_one_video_are_one_event():
    events = join_events(
        [
            Interval("b", 1, 3, "dent"),
            Interval("a", 5, 6, "scratch"),
            Interval("a", 1, 3, "dent"),
            Interval("a", 2, 2.5, "scratch"),
            Interval("a", 3, 4, "dent"),
        ]
    )
    assert [(e.video, e.start_s, e.end_s, e.labels) for e in events] == [
        ("a", 1, 4, ("dent", "scratch")),
        ("a", 5, 6, ("scratch",)),
        ("b", 1, 3, ("dent",)),
    ]
    assert len(join_events([Interval("a", 1, 4, "x"), Interval("a", 5, 6, "x")], gap_s=1)) == 1


def test_a_short_interval_inside_a_long_one_does_not_shorten_its_reach():
    events = join_events([Interval("a", 0, 10, "x"), Interval("a", 1, 2, "x"), Interval("a", 9, 11, "x")])
    assert [(e.start_s, e.end_s) for e in events] == [(0, 11)]


def test_what_is_labelled_normal_is_no_event():
    assert join_events([Interval("a", 0, 1, "Normal"), Interval("a", 2, 3, "good")]) == []


def test_an_event_found_independently_counts_but_the_alarm_does_not_widen_it():
    (event,) = join_events([Interval("a", 2, 3, "x", "audit"), Interval("a", 1, 9, "x", "alarm")])
    assert event.certifies
    assert (event.start_s, event.end_s, event.found) == (2, 3, "audit")
    (event,) = join_events([Interval("a", 1, 9, "x", "alarm"), Interval("a", 2, 3, "x", "proposed")])
    assert not event.certifies


def test_the_detectors_label_does_not_make_one_event_of_two_that_were_found_independently():
    events = join_events(
        [Interval("a", 0, 5, "x"), Interval("a", 100, 105, "y"), Interval("a", 4, 101, "z", "alarm"),
         Interval("a", 200, 201, "z", "alarm"), Interval("a", 200.5, 202, "w", "proposed")]
    )  # fmt: skip
    assert [(one.start_s, one.end_s, one.labels, one.found) for one in events] == [
        (0, 5, ("x", "z"), "independent"),
        (100, 105, ("z", "y"), "independent"),
        (200, 202, ("z", "w"), "alarm"),
    ]


def test_bad_intervals_and_gaps_are_refused():
    with pytest.raises(LabelsError, match=r"a: start_s 3 is not before end_s 3"):
        join_events([Interval("a", 3, 3, "x")])
    with pytest.raises(UsageError, match="gap"):
        join_events([], gap_s=-1)


def test_the_score_is_the_largest_decision_score_within_the_tolerance():
    times, scores = np.arange(10.0), np.array([0, 9, 0, 1, 2, 1, 0, 0, 8, 0.0])
    event = Event("v", 3, 6, ("x",))
    assert event_scores([event], decided(times, scores)) == [2]
    assert event_scores([event], decided(times, scores), tolerance_s=1.5) == [2]
    assert event_scores([event], decided(times, scores), tolerance_s=2) == [9]  # [1, 8): 1 is in, 8 is not
    assert event_scores([event], decided(times, scores), tolerance_s=2.5) == [9]


def test_where_the_windows_of_two_events_would_overlap_they_meet_half_way():
    times = np.arange(10.0)
    jam, chip = Event("v", 2, 4, ("jam",)), Event("v", 6, 8, ("chip",))
    for scores, expected in (
        ([0, 0, 9, 9, 5, 0, 1, 1, 0, 0], [9, 1]),  # 4 s is within 2 s of both, and nearer the jam
        ([0, 0, 2, 2, 0, 3, 7, 7, 0, 0], [2, 7]),  # 6 s is within 2 s of the jam, but the chip is there
    ):
        assert event_scores([jam, chip], decided(times, scores), tolerance_s=2).tolist() == expected
    # The detector's own alarm proves nothing; that the chip does not stand for it holds all the same.
    alarm = Event("v", 2, 4, ("jam",), "alarm")
    assert event_scores([alarm, chip], decided(times, [0, 0, 9, 9, 9, 0, 1, 1, 0, 0]), 2).tolist() == [9, 1]


@pytest.mark.parametrize(
    ("smoothing_s", "min_duration_s"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5), (1.0, 0.5), (2, 1)]
)
@pytest.mark.parametrize("gap_s", [0.1, 0.4, 3.0])
def test_an_event_after_another_scores_as_one_with_ordinary_footage_before_it(
    smoothing_s, min_duration_s, gap_s
):
    """The same chip in two clips, one of which has a jam before it."""
    config = DeciderConfig(smoothing_s, min_duration_s)
    times = np.arange(0, 20, 0.1)
    chip = Event("v", 6 + gap_s, 7.5 + gap_s, ("chip",))
    bump = np.where((times >= chip.start_s) & (times < chip.end_s), 2.0, 0.0)
    alone = np.ones(len(times)) + bump
    after_jam = np.where((times >= 3) & (times < 6), 8.0, alone)
    jam = Event("v", 3, 6, ("jam",))
    (expected,) = event_scores([chip], decided(times, alone, config), 0.0, ordinary=1.0)
    scores = event_scores([jam, chip], decided(times, after_jam, config), 0.0, ordinary=1.0)
    assert scores[1] == pytest.approx(expected, abs=1e-9)
    if smoothing_s:
        assert event_scores([jam, chip], decided(times, after_jam, config), 0.0)[1] > expected + 0.01 * (
            gap_s < 1
        )


@pytest.mark.parametrize("hole_s", [2.5, 30.0])
def test_an_event_after_a_hole_scores_as_one_with_ordinary_footage_before_it(hole_s):
    """A recorder that goes on where something moves: no score may rise at once because nothing was recorded before."""
    config = DeciderConfig(smoothing_s=2.0)
    times = np.arange(0, 10, 0.1)
    chip = Event("v", 6, 6.2, ("chip",))
    scores = np.where((times >= 6) & (times < 6.15), 8.0, 1.0)
    (expected,) = event_scores([chip], decided(times, scores, config), ordinary=1.0)
    kept = (times < 5.95 - hole_s) | (times > 5.95)
    after_hole = decided(np.append(-40.0, times[kept]), np.append(1.0, scores[kept]), config)
    assert event_scores([chip], after_hole)[0] > 1.5 * expected
    assert event_scores([chip], after_hole, ordinary=1.0)[0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 5), min_size=30, max_size=60),
    st.floats(0, 2),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 2),
)
def test_no_event_scores_higher_for_what_is_taken_to_go_before_it(
    scores, smoothing, hold, tolerance, ordinary
):
    events = [Event("v", 0.05, 0.5, ("a",)), Event("v", 1.0, 1.3, ("b",)), Event("v", 1.5, 2.5, ("c",))]
    one = decided(np.arange(len(scores)) / 10, scores, DeciderConfig(smoothing, hold))
    assert (event_scores(events, one, tolerance, ordinary) <= event_scores(events, one, tolerance)).all()


def test_an_alarm_that_was_on_before_catches_only_if_the_threshold_is_reached_inside():
    config = DeciderConfig(smoothing_s=0, leave_ratio=0.5, join_gap_s=0, max_duration_s=1000)
    times = np.arange(6.0)
    event = Event("v", 3, 6, ("x",))
    riding = decided(times, [0, 1, 1, 0.7, 0.7, 0.7], config)
    running = decided(times, [0, 1, 1, 1, 0.7, 0.7], config)
    fresh = decided(times, [0, 1, 0, 0.7, 1, 0.7], config)
    assert [event_outcomes([event], one, 1.0)[0].outcome for one in (riding, running, fresh)] == [
        "missed",
        "running",
        "caught",
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=8, max_size=40),
    st.floats(0, 3),
    st.floats(0.1, 3),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.2, 0.5, 0.7]),
    st.sampled_from([0.5, 1.0]),
)
def test_an_event_is_caught_exactly_where_a_decider_that_was_idle_starts_an_alarm_in_it(
    scores, start, length, min_duration, threshold, leave
):
    config = DeciderConfig(0.2, min_duration, 1.0, leave, 0.3)
    times = np.arange(len(scores)) / 10
    one = decided(times, scores, config)
    event = Event("v", start, start + length, ("x",))
    outcome = event_outcomes([event], one, threshold)[0].outcome
    window = (times >= start) & (times < start + length)
    if not window.any():
        assert outcome in ("blind", "missed")
        return
    found = alarms(times, scores, config, threshold)
    starts_inside = any(not a.continued and a.start_s in times[window] for a in found)
    running_before = any(a.start_s < times[window][0] for a in found)
    if starts_inside:
        assert outcome == "caught"
    elif not running_before:
        assert outcome == "missed"
    else:
        assert outcome in ("missed", "running")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=8, max_size=40), st.floats(0.01, 1), st.floats(0.01, 1))
def test_catching_is_monotone_in_the_threshold(scores, one, other):
    config = DeciderConfig(0.3, 0.2, 1.0, 0.8, 0.2)
    series = decided(np.arange(len(scores)) / 10, scores, config)
    event = Event("v", 0.3, 0.6, ("x",))
    low, high = (event_outcomes([event], series, level)[0].caught for level in sorted([one, other]))
    assert low or not high


def test_an_event_in_a_hole_is_blind_but_one_between_two_samples_is_missed():
    times = np.r_[np.arange(5.0), np.arange(60.0, 65.0)]
    series = decided(times, np.ones(10))
    inside_hole, between_frames, beyond = (
        Event("v", 30, 40, ("x",)),
        Event("v", 2.2, 2.8, ("x",)),
        Event("v", 70, 80, ("x",)),
    )
    outcomes = event_outcomes([inside_hole, between_frames, beyond], series, 0.5)
    assert [one.outcome for one in outcomes] == ["blind", "missed", "blind"]
    assert outcomes[1].score == -np.inf


def test_a_single_picture_is_one_frame_whatever_the_decider_asks_of_videos():
    series = decided([0.0], [3.0], DeciderConfig(smoothing_s=1, min_duration_s=2))
    assert event_scores([Event("v", 0, 1, ("x",))], series) == [3.0]


def test_an_event_of_a_video_without_scores_is_named():
    with pytest.raises(LabelsError, match="w@1-2"):
        event_scores([Event("w", 1, 2, ("x",))], decided([0.0], [1.0]))


def test_a_clip_counts_once_by_its_hardest_event_unless_told_otherwise():
    events = [
        Event("a", 1, 2, ("x",)),
        Event("a", 3, 4, ("x",)),
        Event("b", 1, 2, ("x",)),
        Event("b", 5, 6, ("x",), "alarm"),
        Event("c", 1, 2, ("x",)),
    ]
    scores = np.array([3.0, 2.0, 5.0, 0.1, np.nan])
    assert counting_units(events, scores, "clip").tolist() == [2.0, 5.0]
    assert counting_units(events, scores, "event").tolist() == [3.0, 2.0, 5.0]


def test_frame_recall_is_the_share_of_labelled_frames_in_alarm():
    series = decided(np.arange(8.0), [0, 0, 1, 1, 0, 0, 1, 0])
    events = [Event("v", 2, 6, ("x",)), Event("v", 6, 8, ("x",))]
    assert frame_recall(events, series, 0.5) == 3 / 6


@pytest.mark.parametrize(
    ("times", "scores", "word"),
    [
        ([0.0, 1.0], [1.0, np.nan], "nan"),
        ([0.0, 1.0], [1.0, -2.0], "-2"),
        ([1.0, 1.0], [1.0, 1.0], "increase"),
        ([], [], "without frames"),
        ([0.0], [1.0, 2.0], "two equal rows"),
    ],
)
def test_series_with_bad_scores_are_refused_by_name(times, scores, word):
    with pytest.raises(CalibrationError, match=f"clip7.mp4: .*{word}"):
        Series("clip7.mp4", np.array(times), np.array(scores))
