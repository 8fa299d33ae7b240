"""The price of a threshold: rates, time in alarm, hits by chance, budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import poisson
from score_series import normal_series

from anomaly.calibration import Series, decide, false_alarms, normal_windows
from anomaly.calibration.budget import spent_on, split_holdout, threshold_for_budget, without
from anomaly.calibration.false_alarms import _bunched, poisson_bounds
from anomaly.decider import DeciderConfig, alarms

PLAIN = DeciderConfig(smoothing_s=0, min_duration_s=0, max_duration_s=60, leave_ratio=1, join_gap_s=0)


def footage(seconds, fps=1.0, spikes=(), name="n"):
    scores = np.full(int(seconds * fps), 0.1)
    scores[list(spikes)] = 1.0
    return decide(Series(name, np.arange(len(scores)) / fps, scores), PLAIN)


def test_none_seen_in_two_hours_is_at_most_one_and_a_half_an_hour():
    price = false_alarms([footage(7200)], 0.5)
    assert price.per_hour == 0
    assert price.per_hour_at_most == pytest.approx(1.498, abs=1e-3)
    assert "at most 1.5 at 95 %" in price.text()
    assert (
        false_alarms([footage(7200, spikes=range(0, 7200, 30))], 0.5)
        .text()
        .startswith("240 false alarms in 2 hours of normal footage: 120 an hour")
    )


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_the_poisson_bounds_are_exact(count):
    low, high = poisson_bounds(count, 2.0, 0.95)
    assert poisson.cdf(count, 2 * high) == pytest.approx(0.05)
    if count:
        assert poisson.sf(count - 1, 2 * low) == pytest.approx(0.05)


def test_the_rate_of_the_cheapest_of_many_settings_is_bounded_for_all_of_them():
    chance = np.random.default_rng(0)
    rate, hours, tried, broken = 3.0, 1.0, 20, 0
    for _ in range(300):  # settings that are all alike
        n = int(chance.poisson(rate * hours, tried).min())
        spikes = range(0, 30 * n, 30)
        price = false_alarms([footage(3600, spikes=spikes)], 0.5, settings_tried=tried)
        broken += price.per_hour_at_most < rate
    assert broken <= 0.05 * 300 + 4 * np.sqrt(300 * 0.05 * 0.95)
    assert "at 95 % for all 20 settings compared" in price.text()
    assert (price.per_hour_at_least, price.per_hour_at_most) == poisson_bounds(n, 1.0, 1 - 0.05 / tried)
    pictures = [decide(Series(f"{i}.png", [0.0], [i / 100]), PLAIN) for i in range(100)]
    assert "alarm: 0 %, at most 5.82 % at 95" in false_alarms(pictures, 2.0, settings_tried=tried).text()


def test_the_most_that_is_told_is_never_under_the_bound():
    for n, told in ((0, "at most 3 at"), (4, "at most 9.2 at"), (5, "at most 11 at")):  # 2.996, 9.154, 10.51
        assert told in false_alarms([footage(3600, spikes=range(0, 30 * n, 30))], 0.5).text()
    assert "at most 1.5 at" in false_alarms([footage(7570)], 0.5).text()  # 1.4247


def test_alarms_hours_and_time_in_alarm_are_counted():
    price = false_alarms([footage(3600, spikes=[10, 11, 50]), footage(3600, spikes=[7], name="m")], 0.5)
    assert (price.n_alarms, price.hours, price.per_hour) == (3, 2.0, 1.5)
    assert price.alarm_time_share == pytest.approx(4 / 7200)
    assert (price.n_frames, price.n_frames_in_alarm) == (7200, 4)


def test_under_a_minute_there_is_no_rate_and_under_half_an_hour_a_warning():
    short = false_alarms([footage(50, spikes=[3])], 0.5)
    assert short.per_hour is None
    assert short.per_hour_at_most is None
    assert "Only 50 s" in short.text()
    assert "less than half an hour" in false_alarms([footage(600)], 0.5).text()
    assert "less than half an hour" not in false_alarms([footage(1800)], 0.5).text()


def test_holes_in_the_footage_are_no_hours():
    times = np.r_[np.arange(100.0), np.arange(5000.0, 5100.0)]
    price = false_alarms([decide(Series("n", times, np.full(200, 0.1)), PLAIN)], 0.5)
    assert price.hours == pytest.approx(200 / 3600)


def test_pictures_have_a_share_and_no_rate():
    pictures = [decide(Series(f"{i}.png", [0.0], [i / 10]), PLAIN) for i in range(10)]
    price = false_alarms(pictures, 0.75)
    assert price.per_hour is None
    assert price.alarm_time_share == 0.2
    assert "2 of 10 normal pictures alarm: 20 %" in price.text()


def test_without_normal_footage_nothing_is_claimed():
    price = false_alarms([], 0.5)
    assert price.per_hour is None
    assert "nothing can be said" in price.text()


def test_a_detector_that_always_alarms_is_split_into_many_false_alarms_and_hits_every_window():
    one = decide(Series("n", np.arange(3600.0), np.ones(3600)), PLAIN)
    price = false_alarms([one], 0.5, windows=normal_windows([one], [10.0]))
    assert price.n_alarms == 60
    assert price.alarm_time_share == 1
    assert price.chance_hit_rate == 1


def test_the_chance_hit_rate_grows_with_the_length_of_the_events():
    one = footage(1000, spikes=range(0, 1000, 100))
    for length, expected in [(9.0, 0.1), (49.0, 0.5), (200.0, 1.0)]:
        rate = normal_windows([one], [length]).hit_rate(0.5)
        # Lengths are rounded up by 10 % at most; the spikes do not fill the last window wholly.
        assert expected - 0.04 <= rate <= min(1.0, 1.15 * expected + 0.03)
    assert normal_windows([one], [9.0, 200.0]).hit_rate(0.5) == pytest.approx(0.55, abs=0.03)


def test_chance_hits_of_events_longer_than_the_hold_out_are_told_apart():
    windows = normal_windows([footage(30, spikes=[20])], [1000.0])
    assert windows.truncated == 1
    assert windows.hit_rate(0.5) == 1.0
    assert normal_windows([], [5.0]).hit_rate(0.5) is None


@pytest.mark.parametrize(("each", "bunched"), [(1, False), (4, True)])
def test_alarms_that_come_in_bunches_are_told_not_to_be_what_the_bound_takes_them_for(each, bunched):
    """Of six in two minutes, one such bunch an hour, the 95 % bound lay under the truth in 38 of 100 simulated hold-outs of five hours."""
    chance = np.random.default_rng(2)
    clips = [
        footage(600, spikes=[at + 5 * i for at in chance.integers(0, 580, size=4 // each) for i in range(each)], name=f"{k}")
        for k in range(10)
    ]  # fmt: skip
    told = false_alarms(clips, 0.5)
    assert told.n_alarms >= 30
    assert told.bunched is bunched
    assert ("in bunches" in told.text()) is bunched


@pytest.mark.parametrize(("busy", "bunched"), [(4, False), (16, True)])
def test_alarms_of_few_clips_among_many_are_told_not_to_be_what_the_bound_takes_them_for(busy, bunched):
    """Of ten clips of half an hour whose levels scatter as their frames do it lay under the truth in 49 of 100 simulated hold-outs."""
    clips = [
        footage(600, spikes=range(10, 600, 600 // (busy if k < 2 else 4)), name=f"{k}") for k in range(10)
    ]
    told = false_alarms(clips, 0.5)
    assert told.bunched is bunched
    assert ("more in some clips than in others" in told.text()) is bunched


@pytest.mark.parametrize(
    ("lengths_s", "alarms"), [([3600.0, 60.0], 6), ([7200.0] * 3 + [15.0] * 60, 200), ([60.0] * 60, 100)]
)
def test_alarms_that_come_independently_are_seldom_called_bunched_however_long_clips_are(lengths_s, alarms):
    """One long clip beside brief ones, in which less than one alarm is expected, was called bunched in 6 to 11 of 100."""
    chance = np.random.default_rng(4)
    begins = np.cumsum([0.0, *lengths_s])
    called = 0
    for _ in range(500):
        at = np.sort(chance.uniform(0, begins[-1], size=chance.poisson(alarms)))
        called += _bunched(np.split(at, np.searchsorted(at, begins[1:-1])), lengths_s)
    assert called <= 20


def test_pictures_that_alarm_beside_video_are_no_bunch():
    """They follow each other at no time at all, and say nothing of how alarms of the video come."""
    pictures = [decide(Series(f"{i}.png", np.zeros(1), np.ones(1)), PLAIN) for i in range(6)]
    assert not false_alarms([footage(600), *pictures], 0.5).bunched


def test_whole_series_are_dealt_to_two_halves_and_one_series_is_cut_with_a_guard():
    series = [one.series for one in (footage(100, name="a"), footage(300, name="b"), footage(210, name="c"))]
    spend, report = split_holdout(series, 10)
    assert sorted([sorted(s.source for s in spend), sorted(s.source for s in report)]) == [["a", "c"], ["b"]]
    (first,), (second,) = split_holdout(series[:1], 10)
    assert second.times[0] - first.times[-1] >= 10
    assert len(first.times) + len(second.times) >= 88


@pytest.mark.parametrize("shifts", [("day", "night"), ("early", "late", "night"), ("a", "b", "c", "d")])
def test_clips_named_by_day_and_shift_leave_no_shift_to_one_half_alone(shifts):
    """Dealt in turn, the budget was spent on all the nights, and the days alone were reported on."""
    names = [f"{day:02d}_{shift}" for day in range(1, 13) for shift in shifts]
    for part in split_holdout([footage(100, name=name).series for name in names], 10):
        of_shift = [sum(one.source.endswith(shift) for one in part) for shift in shifts]
        assert min(of_shift) >= 2, of_shift


@pytest.mark.parametrize("budget", [0.0, 6.0, 60.0])
def test_the_budget_is_kept_and_not_wasted(budget):
    config = DeciderConfig(smoothing_s=0.3, join_gap_s=0.5)
    holdout = [decide(one, config) for one in normal_series(2, seconds=1200)]
    threshold = threshold_for_budget(holdout, budget)

    def rate(level):
        return sum(len(alarms(h.series.times, h.series.scores, config, level)) for h in holdout) / (
            2400 / 3600
        )

    assert rate(threshold) <= budget
    assert all(rate(threshold * factor) <= budget for factor in (1.001, 1.01, 1.1))
    assert rate(threshold * 0.97) > budget


def test_a_budget_that_allows_the_split_alarms_of_an_endless_one_does_not_lower_the_threshold_to_nothing():
    holdout = [
        footage(3600, spikes=range(0, 3600, 30))
    ]  # from 0.1 down: one endless alarm, 60 pieces an hour
    windows = normal_windows(holdout, [2.0])
    assert threshold_for_budget(holdout, 60.0, windows=windows, max_chance_hit=0.1) >= 1.0


def test_footage_of_one_name_in_two_places_counts_as_spent_where_one_is():
    first, second, third = normal_series(3)
    twin = replace(second, source=first.source)
    assert spent_on([first, twin, third], [twin]) == (
        (first.source, 0.0, None),
        (first.source, 0.0, None),
        ("normal2", 0.0, None),
    )
    assert without([first, twin, third], spent_on([first, twin, third], [twin])) == []
    assert spent_on([first, twin, third], [first, twin]) == (("normal2", 0.0, None),)


def test_a_budget_needs_a_minute_of_footage():
    assert threshold_for_budget([footage(59)], 1.0) is None


@pytest.mark.parametrize(("clips", "told"), [(1, "one clip"), (3, "3 clips"), (8, None)])
def test_a_bound_of_few_clips_says_that_others_may_alarm_more_often(clips, told):
    """Exact where alarms come independently; clips that differ among each other have them together."""
    text = false_alarms([footage(3600, name=f"{i}.mp4") for i in range(clips)], 0.5).text()
    said = "normal footage unlike that may alarm more often" in text
    assert said == (told is not None)
    assert told is None or f"The bound is of {told} alone" in text


def test_pictures_are_no_clips_that_a_rate_is_of():
    pictures = [decide(Series(f"{i}.png", [0.0], [0.1]), PLAIN) for i in range(10)]
    assert "The bound is of one clip alone" in false_alarms([footage(3600), *pictures], 0.5).text()
