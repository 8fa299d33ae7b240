"""Sweeps and studies: the same counts as the decider's own, and honest after a look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from score_series import labelled_clips, normal_series

from anomaly.calibration import (
    Event,
    Series,
    calibrate,
    decide,
    event_scores,
    recall_bound,
    split_events,
    study,
    threshold_grid,
)
from anomaly.calibration.events import counting_units
from anomaly.calibration.sweep import Footage, sweep
from anomaly.commands.study_cost import protected
from anomaly.commands.study_table import told_of
from anomaly.config import StudyConfig
from anomaly.decider import DeciderConfig, alarms, in_alarm
from anomaly.errors import CalibrationError, LabelsError

durations = st.sampled_from([0.0, 0.1, 0.25, 0.7, 3.0])
configs = st.builds(
    DeciderConfig,
    smoothing_s=durations,
    min_duration_s=durations,
    max_duration_s=st.sampled_from([0.55, 3.0, 1000.0]),
    leave_ratio=st.sampled_from([0.3, 0.8, 1.0]),
    join_gap_s=durations,
)
THRESHOLDS = np.array([0.05, 0.2, 0.3, 0.42, 0.55, 0.71, 0.9, 1.3])


@st.composite
def footage(draw):
    """A few series, some with holes, some of one frame, and longer ones than a block of the scan."""
    series = []
    for index in range(draw(st.integers(1, 4))):
        n = draw(st.sampled_from([1, 2, 40, 300, 700]))
        chance = np.random.default_rng(draw(st.integers(0, 2**32)))
        times = np.cumsum(
            chance.choice([0.04, 0.1, 0.1, 0.1, 0.3, 40.0], n, p=[0.1, 0.3, 0.3, 0.19, 0.1, 0.01])
        )
        scores = np.abs(np.convolve(chance.normal(size=n + 9), np.ones(10) / 4, "valid"))
        series.append(Series(f"s{index}", times, scores))
    return series


@settings(max_examples=150, deadline=None)
@given(footage(), configs)
def test_a_sweep_counts_what_the_decider_counts_at_every_threshold(series, config):
    swept = sweep(Footage(series), config, THRESHOLDS)
    for index, threshold in enumerate(THRESHOLDS):
        fresh = pieces = 0
        seconds = 0.0
        for one in series:
            used = config if len(one.times) > 1 else config.for_images()
            found = alarms(one.times, one.scores, used, threshold)
            fresh += sum(not alarm.continued for alarm in found)
            pieces += len(found)
            seconds += one.seconds[in_alarm(one.times, one.scores, used, threshold)].sum()
        assert pieces <= swept.n_alarms[index]
        if pieces == fresh and config.max_duration_s == 1000:
            assert swept.n_alarms[index] == fresh
        assert swept.alarm_seconds[index] == pytest.approx(seconds, abs=1e-6)


def test_an_endless_alarm_is_split_in_a_sweep_as_by_the_decider():
    series = [Series("n", np.arange(3600.0), np.ones(3600))]
    config = DeciderConfig(0, 0, 60, 1, 0)
    assert sweep(Footage(series), config, np.array([0.5, 2.0])).n_alarms.tolist() == [60, 0]
    assert len(alarms(series[0].times, series[0].scores, config, 0.5)) == 60


def grid(n=3):
    return [
        DeciderConfig(smoothing, hold, 30, 0.9, 0.5)
        for smoothing in (0.0, 0.3, 1.0)[:n]
        for hold in (0.0, 0.5)
    ]


def test_a_study_tells_what_calibration_would_find():
    series, events = labelled_clips(40)
    events = [*events, Event("clip003", 8, 9, ("late",)), Event("clip004", 8, 9, ("own",), "alarm")]
    # Cut where the anomaly begins: at its height in its first frame.
    times = np.arange(0, 3, 0.1)
    series.append(Series("cut", times, np.where(times < 0.4, 2.0, 0.5)))
    events.append(Event("cut", 0, 0.4, ("late",)))
    # One right after another, the first within the reach of the second's label.
    times = np.arange(0, 12, 0.1)
    series.append(
        Series("twice", times, 0.5 + 3.0 * ((times >= 3) & (times < 5)) + 0.4 * (abs(times - 6) < 0.5))
    )
    events += [Event("twice", 3, 5, ("first",)), Event("twice", 5.7, 6.5, ("second",))]
    times = np.append(np.arange(0, 3, 0.1), np.arange(13, 16, 0.1))
    series.append(Series("hole", times, np.where((times > 12.9) & (times < 13.4), 2.0, 0.5)))
    events.append(Event("hole", 13, 13.4, ("after a hole",)))
    holdout = normal_series()
    ordinary = float(np.median(np.concatenate([one.scores for one in holdout])))
    thresholds = threshold_grid(series + holdout, 50)
    table = study(series, events, holdout, grid(), thresholds, tolerance_s=0.5)
    assert table.n_events == 43
    for index in (0, 3, 5):
        config = table.settings[index]
        decided = {one.source: decide(one, config) for one in series}
        scores = event_scores(events, decided, 0.5, ordinary)
        if config.smoothing_s:
            as_it_is = event_scores(events, decided, 0.5)
            assert scores[-4] < as_it_is[-4]  # what began with its clip had no time to rise
            assert scores[-2] < as_it_is[-2]  # nor is what the first has left the second's doing
            assert scores[-1] < as_it_is[-1]
        units = counting_units(events, scores, "clip")
        expected = [(units >= threshold).mean() for threshold in table.thresholds]
        np.testing.assert_allclose(table.recall[index], expected, atol=1e-9)
        found = [
            sum(len(alarms(h.times, h.scores, config, t)) for h in holdout) for t in table.thresholds[::7]
        ]
        np.testing.assert_array_equal(table.n_alarms[index][::7], found)
    assert table.hours == pytest.approx(0.5)
    row = list(table.rows())[7]
    assert row["threshold"] == table.thresholds[7]
    assert row["false_alarms_per_hour"] == table.n_alarms[0, 7] / 0.5
    assert row["smoothing_s"] == 0


def test_the_band_holds_for_all_settings_and_thresholds_together():
    series, events = labelled_clips(30)
    thresholds = threshold_grid(normal_series(), 20)
    table = study(series, events, normal_series(), grid(), thresholds)
    assert table.recall_low.max() == recall_bound(30, 0, 0.95, settings_tried=6 * 20)
    assert (table.recall_low < table.recall).all()
    # Each of the 6 x 20 exact upper bounds takes its share of the 5 %.
    np.testing.assert_allclose(poisson.cdf(table.n_alarms, table.alarms_high), 0.05 / 120)


def test_the_best_setting_has_the_fewest_false_alarms_at_the_recall_asked_for():
    series, events = labelled_clips(40, height=0.3)
    holdout = normal_series()
    table = study(series, events, holdout, grid(), threshold_grid(series + holdout, 100))
    best = table.best(0.9)
    costs = [
        row[np.flatnonzero(recall >= 0.9)[-1]]
        for row, recall in zip(table.n_alarms, table.recall, strict=True)
        if (recall >= 0.9).any()
    ]
    at = np.flatnonzero(table.recall[best] >= 0.9)[-1]
    assert table.n_alarms[best, at] == min(costs)
    with pytest.raises(CalibrationError, match="no setting"):
        study(series, events, holdout, grid(), [9.0, 10.0]).best(0.9)


def test_progress_and_workers_change_nothing():
    series, events = labelled_clips(10)
    seen = []
    alone = study(series, events, normal_series(), grid(), [1.2, 1.4], workers=1, progress=seen.append)
    many = study(series, events, normal_series(), grid(), [1.4, 1.2], workers=4)
    assert sum(seen) == 6
    np.testing.assert_array_equal(alone.n_alarms, many.n_alarms)
    np.testing.assert_array_equal(alone.recall, many.recall)


def test_pictures_can_be_studied():
    bad = [Series(f"bad{i}.png", [0.0], [1 + i / 10]) for i in range(10)]
    good = [Series(f"good{i}.png", [0.0], [i / 10]) for i in range(10)]
    events = [Event(one.source, 0, 1, ("crack",)) for one in bad]
    table = study(bad, events, good, [DeciderConfig(1, 1, 60, 0.9, 1)], [0.45, 1.35])
    assert table.recall[0].tolist() == pytest.approx([1.0, 0.6])
    assert table.n_alarms[0].tolist() == [5, 0]
    assert table.alarm_time_share[0].tolist() == [0.5, 0]
    assert next(table.rows())["false_alarms_per_hour"] is None


def test_events_are_split_by_clip_and_not_by_score():
    _, events = labelled_clips(20)
    events = [*events, *(Event(one.video, 8, 9, ("late",)) for one in events)]
    choose, certify = split_events(events, share=0.5, seed=3)
    assert len(choose) + len(certify) == 40
    assert not {e.video for e in choose} & {e.video for e in certify}
    assert len({e.video for e in choose}) == 10
    assert split_events(list(reversed(events)), seed=3)[0] == list(reversed(choose))
    assert split_events(events, seed=4)[0] != choose


def test_clips_of_one_group_are_split_together_and_count_once():
    series, events = labelled_clips(20)
    events = [replace(event, group=f"part{i // 2}") for i, event in enumerate(events)]
    choose, certify = split_events(events)
    assert len(choose) == len(certify) == 10
    assert not {e.group for e in choose} & {e.group for e in certify}
    for count in ("clip", "event"):
        assert study(series, events, normal_series(), grid(), [1.2, 1.4], count=count).n_events == 10


def test_a_study_of_nothing_is_refused():
    series, events = labelled_clips(3)
    with pytest.raises(CalibrationError, match="settings"):
        study(series, events, normal_series(), [], [1.0])
    with pytest.raises(CalibrationError, match="found independently"):
        study(series, [], normal_series(), grid(), [1.0])
    with pytest.raises(LabelsError, match="elsewhere"):
        study(series, [Event("elsewhere", 0, 1, ("x",))], normal_series(), grid(), [1.0])


def best_of_many(chance, corrected):
    """Settings that differ by luck only: of the best of 100 on 59 events, true recall minus certified."""
    n, tried = 59, 100
    scores = chance.random((tried, n))  # score of an event under each setting; recall at t is 1 - t
    best = np.argmax(scores.min(axis=1))
    series = [Series(f"{i}", np.arange(3.0), np.array([0.0, s, 0.0])) for i, s in enumerate(scores[best])]
    events = [Event(f"{i}", 0, 3, ("x",)) for i in range(n)]
    holdout = [Series("n", np.arange(100.0), np.full(100, 1e-6))]
    plain = DeciderConfig(0, 0, 60, 1, 0)
    result = calibrate(series, events, holdout, plain, settings_tried=tried if corrected else 1)
    return (1 - result.threshold) - result.certificate.recall


def test_the_best_of_a_hundred_settings_breaks_a_plain_bound_and_not_a_corrected_one():
    chance = np.random.default_rng(0)
    broken = [best_of_many(chance, corrected=False) < 0 for _ in range(60)]
    held = [best_of_many(chance, corrected=True) >= 0 for _ in range(60)]
    assert np.mean(broken) > 0.3
    assert np.mean(held) > 0.85


def test_at_the_threshold_that_calibration_sets_a_study_misses_what_it_misses():
    """What a jam has left is taken off exactly: the event that set the threshold lies on it by a few 1e-8 of its score."""
    times = np.arange(0, 10, 0.1)
    config, holdout = DeciderConfig(smoothing_s=2.0), normal_series()
    for seed in range(12):
        chance, series, events = np.random.default_rng(seed), [], []
        for name in map(str, range(60)):
            scores = 1 + 60.0 * ((times >= 2) & (times < 4)) + 0.1 * chance.random(len(times))
            scores[(times >= 5.5) & (times < 7)] += 3 + 0.3 * chance.random()
            series.append(Series(name, times, scores))
            events += [Event(name, 2, 4, ("jam",)), Event(name, 5.5, 7, ("chip",))]
        threshold = calibrate(series, events, holdout, config, tolerance_s=0.5).threshold
        assert study(series, events, holdout, [config], [threshold], tolerance_s=0.5).recall == 1


def test_a_study_of_one_setting_claims_no_best_and_counts_one_as_one():
    series, events = labelled_clips(1)
    tried = [DeciderConfig(), DeciderConfig(smoothing_s=1.0)]
    one = study(series, events, normal_series(), tried[:1], [1.0])
    said = told_of(one, tried[:1], tried[0], 0.95)
    assert said[0].startswith("1 decider setting at 1 threshold, on 1 labelled event and ")
    assert said[1].startswith("The setting: smoothing_s=0.5 ")
    both = study(series, events, normal_series(), tried, [1.0, 2.0])
    said = told_of(both, tried, tried[1], 0.95)
    assert said[0].startswith("2 decider settings at 2 thresholds, on 1 labelled event and ")
    assert said[1] == "Fewest false alarms at a recall of 95 %: smoothing_s=1."


def test_a_study_beside_normal_pictures_asks_for_no_minutes_of_them():
    series, events = labelled_clips(2)
    pictures = [Series(f"{i}.png", np.zeros(1), np.array([1.0 + i / 100])) for i in range(300)]
    *_, how = protected(StudyConfig(), events, pictures, 2)
    assert "certified on 1 that played no part" in how
    assert "Chosen on the events of 1 clip," in how
    assert "The same normal pictures chose and are reported on" in how
    assert "minutes" not in how
    table = study(series, events, pictures, [DeciderConfig()], [1.0])
    assert told_of(table, [DeciderConfig()], DeciderConfig(), 0.95)[0].endswith("and normal pictures.")
