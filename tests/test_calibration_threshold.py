"""Calibration as a whole: what it sets, proves, withholds and refuses."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from score_series import labelled_clips, noise, normal_series

from anomaly.calibration import (
    CameraCalibrations,
    Event,
    Series,
    calibrate,
    calibrate_cameras,
    decide,
    event_scores,
    recall_bound,
    threshold_rank,
)
from anomaly.calibration.budget import split_holdout, without
from anomaly.decider import DeciderConfig, alarms
from anomaly.errors import CalibrationError, LabelsError, UsageError

CONFIG = DeciderConfig(
    smoothing_s=0.3, min_duration_s=0.2, max_duration_s=30, leave_ratio=0.9, join_gap_s=0.5
)

INSTANT = DeciderConfig(smoothing_s=0, min_duration_s=0)


def test_the_threshold_is_the_ranked_event_score_and_the_deciders_alarms_bear_it_out():
    series, events = labelled_clips(120)
    result = calibrate(series, events, normal_series(), CONFIG)
    decided = {one.source: decide(one, CONFIG) for one in series}
    scores = np.sort(event_scores(events, decided, 1.0))
    assert result.certificate.n_missed_allowed == 1  # P(Bin(120, 0.05) <= 1) = 0.016, <= 2 = 0.056
    assert scores[0] < result.threshold < scores[1]
    assert result.threshold == pytest.approx(scores[1])
    assert result.certificate.recall == recall_bound(120, 1, 0.95) >= 0.95
    assert [one.outcome for one in result.events].count("missed") == 1
    for one, row in zip(series, result.events, strict=True):
        found = [a for a in alarms(one.times, one.scores, CONFIG, result.threshold) if 3 <= a.start_s < 7]
        assert bool(found) == (row.outcome == "caught")


def test_six_events_get_0_607_and_the_words_for_it():
    series, events = labelled_clips(6)
    result = calibrate(series, events, normal_series(), CONFIG)
    assert round(result.certificate.recall, 3) == 0.607
    assert "At least 60.69 %" in result.text()
    assert "66 more labelled events" in result.text()
    assert all(one.outcome == "caught" for one in result.events)


def test_with_too_few_events_the_budget_may_lower_the_threshold_but_never_raise_it():
    series, events = labelled_clips(6)
    plain = calibrate(series, events, normal_series(), CONFIG)
    generous = calibrate(series, events, normal_series(), CONFIG, budget_per_hour=20)
    strict = calibrate(series, events, normal_series(level=3.0), CONFIG, budget_per_hour=0, max_chance_hit=1)
    assert generous.threshold < plain.threshold
    assert generous.certificate.recall == plain.certificate.recall
    assert strict.threshold == plain.threshold


def test_where_recall_and_budget_exclude_each_other_both_ends_are_shown_and_recall_wins():
    series, events = labelled_clips(60, height=0.3)
    options = {"budget_per_hour": 1.0, "max_chance_hit": 1.0}
    result = calibrate(series, events, normal_series(), CONFIG, **options)
    recall_end, budget_end = result.conflict
    assert result.threshold == recall_end.threshold < budget_end.threshold
    assert recall_end.certificate.recall >= 0.95 > budget_end.certificate.recall
    assert recall_end.false_alarms.per_hour > 1
    assert "For the budget" in result.text()
    told = calibrate(series, events, normal_series(), CONFIG, prefer="budget", **options)
    assert told.threshold == budget_end.threshold
    missed = sum(not one.caught for one in told.events)
    assert told.certificate.recall == recall_bound(60, missed, 0.95)
    assert told.certificate.more_events_needed > 0


def test_the_budget_is_spent_on_one_part_and_reported_on_another():
    series, events = labelled_clips(60)
    quiet, loud = normal_series(1, seed=1), normal_series(1, seed=2, spread=0.5)
    loud = [Series("loud", loud[0].times, loud[0].scores)]
    whole = calibrate(series, events, quiet + loud, CONFIG, max_chance_hit=1)
    half = calibrate(series, events, quiet + loud, CONFIG, budget_per_hour=100, max_chance_hit=1)
    assert whole.false_alarms.n_frames == 12000
    assert half.false_alarms.n_frames == 6000
    (spent,) = half.spent
    assert spent[0] != "loud"  # the loud half is told, the quiet one was spent
    assert half.false_alarms.n_alarms > whole.false_alarms.n_alarms / 2
    (left,) = without(quiet + loud, half.spent)
    assert left.source == "loud"
    assert whole.spent == ()
    (one,) = normal_series(1)
    cut = calibrate(series, events, [one], CONFIG, budget_per_hour=100, max_chance_hit=1)
    (left,) = without([one], cut.spent)
    assert len(left.times) == cut.false_alarms.n_frames < len(one.times) / 2


def test_a_detector_that_always_alarms_gets_no_certificate():
    chance = np.random.default_rng(0)
    series, events = labelled_clips(60)
    loud = [Series(one.source, one.times, 5 + chance.random(len(one.times))) for one in series]
    holdout = [Series("n", np.arange(6000) / 10, 5 + chance.random(6000))]
    result = calibrate(loud, events, holdout, CONFIG)
    assert result.certificate is None
    assert result.false_alarms.chance_hit_rate > 0.9
    assert "by chance" in result.text()
    assert result.false_alarms.n_alarms >= 600 / CONFIG.max_duration_s


def test_without_normal_footage_there_is_a_threshold_but_no_certificate():
    series, events = labelled_clips(60)
    result = calibrate(series, events, [], CONFIG)
    assert result.certificate is None
    assert "no normal footage" in result.withheld
    assert result.threshold > 0


def test_hold_out_of_under_a_minute_gives_no_rate_and_says_so():
    series, events = labelled_clips(60)
    result = calibrate(series, events, normal_series(1, seconds=50), CONFIG, budget_per_hour=1)
    assert result.false_alarms.per_hour is None
    assert "Only 50 s" in result.text()
    assert "false alarms an hour was not used" in result.text()


def test_more_pictures_are_not_asked_for_where_no_number_of_them_has_hours():
    events = [Event(f"{i}.png", 0.0, math.inf, ("scratch",)) for i in range(60)]
    labeled = [Series(one.video, [0.0], [3.0 + i / 60]) for i, one in enumerate(events)]
    holdout = [Series(f"n{i}.png", [0.0], [1.0 + i / 600]) for i in range(60)]
    said = calibrate(labeled, events, holdout, CONFIG, budget_per_hour=6).text()
    assert "6 false alarms an hour was not used: single pictures were held out, which have no hours." in said
    assert "too little normal footage" not in said


def test_an_event_is_not_caught_by_the_alarm_of_another_labelled_one_that_is_fading():
    """A chip that is not seen at all, a second after a jam whose smoothed score is still high."""
    series, events = labelled_clips(60, height=8.0)
    jams = [replace(one, labels=("jam",)) for one in events]
    chips = [Event(one.video, 7.2, 8.2, ("chip",)) for one in events]
    config = DeciderConfig(smoothing_s=2.0)
    result = calibrate(series, [*jams, *chips], normal_series(), config, tolerance_s=0.5)
    assert result.certificate is None
    assert "by chance" in result.withheld
    lowest = {kind.label: kind.lowest_score for kind in result.kinds}
    assert lowest["chip"] < 1.2 < 3 < lowest["jam"]


def test_what_only_an_alarm_of_nothing_that_is_labelled_catches_is_told_by_its_kind():
    series, events = labelled_clips(60, height=8.0)
    chips = [Event(one.video, 7.2, 8.2, ("chip",)) for one in events]
    result = calibrate(series, chips, normal_series(), DeciderConfig(smoothing_s=2.0), tolerance_s=0.5)
    said = "60 of 60 events (60 chip). That such ones are caught where nothing goes before them is not shown."
    assert said in result.text()


def test_only_events_found_independently_certify():
    series, events = labelled_clips(40)
    more_series, more = labelled_clips(30, seed=3, found="alarm")
    more_series = [Series("own" + one.source, one.times, one.scores) for one in more_series]
    more = [Event("own" + one.video, one.start_s, one.end_s, one.labels, one.found) for one in more]
    result = calibrate(series + more_series, events + more, normal_series(), CONFIG)
    assert result.certificate.n_events == 40
    assert len(result.events) == 70
    assert "30 of 70" in result.text()
    own = calibrate(more_series, more, normal_series(), CONFIG)
    assert own.certificate is None
    assert "found by the detector itself" in own.withheld
    assert all(one.caught for one in own.events)


def test_clips_with_several_events_count_once():
    series, events = labelled_clips(30)
    events = events + [Event(one.video, 8.5, 9, ("late",)) for one in events[:20]]
    by_clip = calibrate(series, events, normal_series(), CONFIG, max_chance_hit=1)
    by_event = calibrate(series, events, normal_series(), CONFIG, max_chance_hit=1, count="event")
    assert (by_clip.certificate.n_events, by_clip.certificate.unit) == (30, "clip")
    assert (by_event.certificate.n_events, by_event.certificate.unit) == (50, "event")
    assert by_clip.certificate.recall < by_event.certificate.recall
    assert "30 labelled clips" in by_clip.text()


def test_kinds_are_told_apart_and_the_worst_comes_first():
    series, events = labelled_clips(60)
    weak = [Event(one.video, 8.0, 9.0, ("stain",)) for one in events[:3]]
    result = calibrate(series, [*events, *weak], normal_series(), CONFIG, count="event", tolerance_s=0)
    assert result.kinds[0].label == "stain"
    assert {kind.label: kind.n_events for kind in result.kinds} == {"stain": 3, "dent": 30, "scratch": 30}
    assert "look normal to the detector" in " ".join(result.notes)
    stain = next(one for one in result.events if one.event.labels == ("stain",))
    scratch = next(one for one in result.events if one.event.labels == ("scratch",))
    assert stain.normal_share > 0.2 > 0.02 > scratch.normal_share


def test_blind_events_are_told_and_not_counted():
    series, events = labelled_clips(60)
    result = calibrate(series, [*events, Event("clip000", 100, 101, ("dent",))], normal_series(), CONFIG)
    assert result.certificate.n_events == 60
    assert "clip000@100-101" in " ".join(result.notes)
    assert result.events[-1].outcome == "blind"


def test_pictures_calibrate_like_videos():
    chance = np.random.default_rng(0)
    bad = [Series(f"bad{i}.png", [0.0], [1 + chance.random()]) for i in range(60)]
    good = [Series(f"good{i}.png", [0.0], [chance.random()]) for i in range(200)]
    result = calibrate(bad, [Event(one.source, 0, 1, ("crack",)) for one in bad], good, CONFIG)
    assert result.certificate.recall >= 0.95
    assert result.false_alarms.alarm_time_share == 0
    assert result.false_alarms.per_hour is None


def test_ties_count_as_caught_after_a_round_trip_through_float32_and_json():
    series, events = labelled_clips(60)
    level = float(np.float64(1) / 3 + 1)
    tied = [Series(one.source, one.times, np.where(one.scores > 1.5, level, 1.0)) for one in series]
    plain = DeciderConfig(0, 0, 60, 1, 0)
    result = calibrate(tied, events, [Series("n", np.arange(600.0), np.r_[np.ones(599), 0.9])], plain)
    stored = json.loads(json.dumps(result.to_json(), allow_nan=False))["threshold"]
    for threshold in (stored, float(np.float32(stored))):
        assert all(alarms(one.times, one.scores, plain, threshold) for one in tied)


def test_a_target_of_one_is_answered():
    series, events = labelled_clips(60)
    result = calibrate(series, events, normal_series(), CONFIG, target_recall=1.0)
    assert all(one.caught for one in result.events)
    assert result.certificate.recall == pytest.approx(0.05 ** (1 / 60))
    assert "no number of examples" in result.text()


def test_trying_settings_costs_recall():
    series, events = labelled_clips(60)
    once = calibrate(series, events, normal_series(), CONFIG)
    often = calibrate(series, events, normal_series(), CONFIG, settings_tried=100)
    assert often.false_alarms.per_hour_at_most > once.false_alarms.per_hour_at_most
    assert often.certificate.recall < once.certificate.recall
    assert often.certificate.settings_tried == 100


def test_no_labels_and_labels_only_of_normal_are_refused():
    with pytest.raises(CalibrationError, match="name no anomaly"):
        calibrate(normal_series(), [], normal_series(), CONFIG)


def test_anomalies_that_score_below_everything_normal_are_listed():
    series, events = labelled_clips(7)
    dull = [Series(one.source, one.times, one.scores * 0.01) for one in series]
    with pytest.raises(CalibrationError, match=r"does not see .*clip000@4-6 \(.*and 2 more"):
        calibrate(dull, events, normal_series(), CONFIG)


def test_constant_scores_are_refused():
    series, events = labelled_clips(5)
    flat = [Series(one.source, one.times, np.full(len(one.times), 0.7)) for one in series]
    with pytest.raises(CalibrationError, match=r"every frame scores 0\.7"):
        calibrate(flat, events, [Series("n", np.arange(100.0), np.full(100, 0.7))], CONFIG)


def test_nan_scores_are_refused_by_name():
    with pytest.raises(CalibrationError, match=r"clip.mp4: 1 of 3 scores .* nan at 1.000 s"):
        Series("clip.mp4", np.arange(3.0), np.array([1, np.nan, 2]))


def test_events_too_short_for_the_decider_are_refused_with_the_remedy():
    series, events = labelled_clips(5)
    slow = DeciderConfig(smoothing_s=0, min_duration_s=20)
    with pytest.raises(CalibrationError, match=r"min_duration_s"):
        calibrate(series, events, normal_series(), slow)


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("confidence", 1.0, "confidence"),
        ("target_recall", 0.0, "target_recall"),
        ("target_recall", 1.5, "target_recall"),
        ("budget_per_hour", -1.0, "calibration.false_alarms_per_hour"),
    ],
)
def test_arguments_out_of_range_are_refused_by_the_name_a_user_types(option, value, key):
    series, events = labelled_clips(5)
    with pytest.raises(UsageError, match=f"{key}={value}"):
        calibrate(series, events, normal_series(), CONFIG, **{option: value})


def test_events_of_unknown_videos_are_refused():
    series, _ = labelled_clips(3)
    with pytest.raises(LabelsError, match="elsewhere"):
        calibrate(series, [Event("elsewhere", 0, 1, ("x",))], normal_series(), CONFIG)


def test_two_series_of_one_name_are_refused():
    series, events = labelled_clips(3)
    with pytest.raises(CalibrationError, match="two series"):
        calibrate([*series, series[0]], events, normal_series(), CONFIG)


def test_cameras_with_enough_events_get_their_own_certificate_and_the_only_other_what_its_events_prove():
    chance = np.random.default_rng(0)
    bright, bright_events = labelled_clips(60)
    dark, dark_events = labelled_clips(10, seed=5)
    bright = [Series("b" + s.source, s.times, s.scores * 4, "bright") for s in bright]
    dark = [Series("d" + s.source, s.times, s.scores, "dark") for s in dark]
    events = [
        Event(name + e.video, e.start_s, e.end_s, e.labels)
        for name, some in (("b", bright_events), ("d", dark_events))
        for e in some
    ]
    holdout = [
        Series("nb", np.arange(6000) / 10, 4 * noise(chance, 6000), "bright"),
        Series("nd", np.arange(6000) / 10, noise(chance, 6000), "dark"),
    ]
    result = calibrate_cameras(bright + dark, events, holdout, CONFIG)
    # Ten events are too few for the target; what they prove, they prove of their own camera.
    assert set(result.own) == {"bright", "dark"}
    assert result.own["bright"].certificate.recall >= 0.95
    certificate, _ = result.proven("dark")
    assert certificate.n_events == 10
    assert certificate.recall == pytest.approx(0.05 ** (1 / 10))
    assert result.threshold("dark") == result.own["dark"].threshold != result.threshold("bright")
    # No sentence speaks for all: it would be of a threshold that none of them uses.
    assert result.pooled.certificate is None
    assert "All cameras together" not in result.text()
    assert result.scales["bright"].ordinary == pytest.approx(4 * result.scales["dark"].ordinary, rel=0.1)
    scaled = result.scales["bright"].apply(holdout[0]).scores
    assert np.median(scaled) == pytest.approx(1)
    assert np.quantile(scaled, 0.99) == pytest.approx(2)


@pytest.mark.parametrize(("clips", "told"), [(4, "events"), (12, "incidents")])
def test_what_is_certified_together_does_not_speak_for_a_camera_whose_own_events_contradict_it(
    clips: int, told: str
):
    seen, events = labelled_clips(300)
    blind, missed = labelled_clips(clips, seed=5, height=0.0)
    seen = [replace(one, camera=f"seen{i % 6}") for i, one in enumerate(seen)]
    blind = [replace(one, source=f"x{one.source}", camera="blind") for one in blind]
    missed = [
        replace(event, video=f"x{event.video}", group="" if clips == 4 else f"g{i % 4}")
        for i, event in enumerate(missed)
    ]
    names = [*(f"seen{i}" for i in range(6)), "blind"]
    holdout = [
        replace(one, source=f"{one.source}{name}", camera=name) for one in normal_series() for name in names
    ]
    result = calibrate_cameras([*seen, *blind], [*events, *missed], holdout, CONFIG, target_recall=0.95)
    assert not result.own
    assert f"Camera blind: 0 of {clips}" in result.assumption
    certificate, why = result.proven("blind")
    assert certificate is None
    assert why.startswith(f"of camera blind, 0 of 4 labelled {told} are caught: at 95 % no more than 52.7")
    assert "No certificate for blind" in result.assumption
    # Nor is there a sentence for all of them then.
    assert result.pooled.certificate is None


def test_many_short_events_of_one_clip_do_not_thin_out_the_chance_hits_of_long_ones():
    """Sixty clips with a long anomaly that the detector does not see, and one with hundreds of short ones that it does."""
    chance = np.random.default_rng(0)

    def clip(name: str, seconds: float) -> Series:
        n = int(seconds * 10)
        return Series(name, np.arange(n) / 10, chance.exponential(size=n) * 0.1 + 1)

    holdout = [clip(f"n{i}", 1800) for i in range(4)]
    labeled, events = [], []
    for i in range(60):
        one = clip(f"long{i}", 80)
        one.scores[300] = max(one.scores[100:700].max(), 1.62)
        labeled.append(one)
        events.append(Event(one.source, 10.0, 70.0, ("jam",)))
    parts = clip("parts", 1204)
    for second in range(2, 1200, 4):
        parts.scores[10 * second : 10 * second + 5] += 3
        events.append(Event("parts", float(second), second + 0.5, ("scratch",)))
    result = calibrate([*labeled, parts], events, holdout, INSTANT, tolerance_s=0.5)
    assert result.certificate is None
    assert "events would be caught by chance" in result.withheld
    assert result.false_alarms.chance_hit_rate > 0.7


def test_a_budget_spends_no_camera_whole_so_that_a_restless_one_is_seen():
    labeled, events, holdout = [], [], []
    for number, camera in enumerate("abc"):
        clips, found = labelled_clips(20, seed=number, height=6)
        labeled += [replace(one, source=camera + one.source, camera=camera) for one in clips]
        events += [replace(one, video=camera + one.video) for one in found]
        (normal,) = normal_series(1, seconds=3600, seed=9 + number)
        scores = normal.scores.copy()
        if camera == "b":
            for start in range(0, len(scores) - 20, 310):
                scores[start : start + 3] += 200
        holdout.append(replace(normal, source=camera, camera=camera, scores=scores))
    result = calibrate_cameras(
        labeled, events, holdout, DeciderConfig(), budget_per_hour=6.0, tolerance_s=0.5
    )
    assert {source for source, _, _ in result.pooled.spent} == set("abc")
    assert set(result.unspoken) == {"b"}
    assert "by chance" in result.unspoken["b"]
    assert result.pooled.certificate is None
    assert (
        "Camera b: 20 of 20 labelled events caught (100 %); 58 false alarms in 30 minutes"
        in result.assumption
    )


def test_clips_too_short_to_be_halved_are_dealt_whole_to_both_parts_of_a_budget():
    """As where each clip lies in a folder of its own, which tells a camera."""
    short = [
        replace(one, source=f"n{i}", camera=f"n{i}") for i, one in enumerate(normal_series(6, seconds=8.0))
    ]
    (long,) = normal_series(1, seconds=300.0, seed=3)
    spend, report = split_holdout([*short, replace(long, source="long", camera="long")], 10.0)
    assert len(spend) == len(report) == 4
    assert {one.source for one in [*spend, *report]} == {*(f"n{i}" for i in range(6)), "long"}
    assert split_holdout(short[:1], 10.0) == ([], short[:1])
    assert split_holdout([], 10.0) == ([], [])


def test_clips_of_one_incident_count_once_for_their_camera_too():
    """Sixty clips of six incidents do not suffice for a threshold of their own, however events are counted."""
    series, events, holdout = [], [], []
    for camera, n, incidents in (("many", 60, 60), ("few", 60, 6), ("fewer", 12, 4)):
        clips, found = labelled_clips(n, seed=n + len(camera))
        series += [replace(one, source=camera + one.source, camera=camera) for one in clips]
        holdout += [replace(one, source=camera + one.source, camera=camera) for one in normal_series()]
        events += [
            replace(one, video=camera + one.video, group=f"{camera}{i % incidents}")
            for i, one in enumerate(found)
        ]
    result = calibrate_cameras(series, events, holdout, CONFIG, count="event")
    assert set(result.own) == {"many"}
    assert result.shared.certificate.n_events == 10
    assert result.shared.certificate.unit == "incident"


def test_cameras_that_share_a_threshold_are_certified_as_a_whole_and_none_by_itself():
    clips, events = labelled_clips(90)
    clips = [replace(one, camera=f"c{i % 3}") for i, one in enumerate(clips)]
    holdout = [
        replace(one, source=f"{one.source}c{i}", camera=f"c{i}")
        for i in range(3)
        for one in normal_series(seed=i)
    ]
    result = calibrate_cameras(clips, events, holdout, CONFIG)
    assert result.pooled.certificate is not None
    assert result.pooled.certificate.recall > 0.95
    for camera in ("c0", "c1", "c2"):
        certificate, why = result.proven(camera)
        assert certificate is None
        assert "only if its anomalies stand out from its normal footage as much as theirs do" in why


def test_anomalies_that_one_camera_does_not_see_take_nothing_from_the_others():
    good, events = labelled_clips(60)
    poor, unseen = labelled_clips(2, seed=5, height=0.0)
    good = [replace(one, camera="good") for one in good]
    poor = [
        replace(one, source=f"x{one.source}", camera="poor", scores=np.zeros_like(one.scores)) for one in poor
    ]
    unseen = [replace(event, video=f"x{event.video}") for event in unseen]
    holdout = [
        replace(one, source=f"{one.source}{name}", camera=name)
        for one in normal_series()
        for name in ("good", "poor")
    ]
    result = calibrate_cameras([*good, *poor], [*events, *unseen], holdout, CONFIG)
    certificate, _ = result.proven("good")
    assert certificate is not None
    assert certificate.recall > 0.95
    certificate, why = result.proven("poor")
    assert certificate is None
    assert "does not see these anomalies" in why


def test_pictures_are_certified_as_pictures_and_chance_is_asked_of_single_frames():
    chance = np.random.default_rng(0)
    pictures = [Series(f"p{i}", np.zeros(1), np.array([2.0 + chance.random()])) for i in range(60)]
    events = [Event(one.source, 0, 1, ("dent",)) for one in pictures]
    # One frame in five is as high as an anomaly; smoothed over two seconds none is.
    scores = np.where(np.arange(6000) % 5 == 0, 3.0, 1.0)
    holdout = [Series("n", np.arange(6000) / 10, scores)]
    result = calibrate(pictures, events, holdout, DeciderConfig(smoothing_s=2.0))
    assert result.false_alarms.chance_hit_rate == pytest.approx(0.2, abs=0.01)
    assert result.certificate is None
    calm = calibrate(pictures, events, normal_series(), DeciderConfig(smoothing_s=2.0))
    assert (
        "All were single pictures: of video, where scores are smoothed, they prove nothing."
        in calm.certificate.text()
    )


@pytest.mark.parametrize("count", ["clip", "event"])
def test_pictures_of_one_part_count_once_by_the_hardest(count):
    chance = np.random.default_rng(0)
    pictures = [Series(f"p{i}", np.zeros(1), np.array([2.0 + chance.random()])) for i in range(60)]
    alone = [Event(one.source, 0, 1, ("dent",)) for one in pictures]
    grouped = [replace(event, group=f"part{i // 3}") for i, event in enumerate(alone)]
    options = {"target_recall": 0.8, "count": count}
    each = calibrate(pictures, alone, normal_series(), CONFIG, **options)
    assert each.certificate.n_events == 60
    assert "takes for granted that these 60 pictures show 60 different incidents" in each.certificate.text()
    result = calibrate(pictures, grouped, normal_series(), CONFIG, **options)
    assert (result.certificate.n_events, result.certificate.unit) == (20, "incident")
    hardest = np.sort([min(one.scores[0] for one in pictures[i : i + 3]) for i in range(0, 60, 3)])
    assert result.threshold == pytest.approx(hardest[threshold_rank(20, 0.8, 0.95) - 1])
    text = result.certificate.text()
    assert "of incidents like the 20 labelled incidents will be caught, wherever they are seen." in text
    assert "takes for granted that these 20 groups show 20 different incidents" in text
    assert Event.from_json(json.loads(json.dumps(grouped[0].to_json()))) == grouped[0]


def test_a_camera_whose_threshold_is_nothing_is_told_and_does_not_divide_by_it():
    series, events = labelled_clips(60)
    camera = [replace(one, camera="a") for one in series]
    holdout = [replace(one, camera="a") for one in normal_series()]
    result = calibrate_cameras(camera, events, holdout, CONFIG)
    nothing = replace(result, own={"a": replace(result.own["a"], threshold=0.0)})
    assert np.isfinite(nothing.apply(holdout[0]).scores).all()
    assert (nothing.apply(holdout[0]).scores >= nothing.pooled.threshold).mean() > 0.98


def test_an_event_that_lasts_to_the_end_of_its_clip_has_the_length_of_what_is_there():
    series, events = labelled_clips(60)
    open_ended = [replace(event, end_s=math.inf) for event in events]
    to_the_end = [replace(event, end_s=10.0) for event in events]
    found, expected = (calibrate(series, some, normal_series(), CONFIG) for some in (open_ended, to_the_end))
    assert found.certificate == expected.certificate
    assert found.threshold == expected.threshold
    assert found.false_alarms.chance_hit_rate == expected.false_alarms.chance_hit_rate


def test_the_pooled_certificate_does_not_speak_for_a_camera_that_alarms_by_chance():
    calm, events = labelled_clips(70)
    odd, odd_events = labelled_clips(4, seed=5)
    calm = [Series("c" + s.source, s.times, s.scores, "calm") for s in calm]
    odd = [Series("o" + s.source, s.times, s.scores, "odd") for s in odd]
    events = [
        Event(name + e.video, e.start_s, e.end_s, e.labels)
        for name, some in (("c", events), ("o", odd_events))
        for e in some
    ]
    holdout = [
        Series(f"nc{i}", one.times, one.scores, "calm")
        for i, one in enumerate(normal_series(1, seconds=600) * 6)
    ]
    quiet = Series("no", *_of(normal_series(1, seconds=600)), "odd")
    loud = Series("no", *_of(holdout_with_alarms(15)), "odd")
    fine = calibrate_cameras(calm + odd, events, [*holdout, quiet], CONFIG)
    assert fine.proven("odd")[0] is not None
    result = calibrate_cameras(calm + odd, events, [*holdout, loud], CONFIG)
    certificate, why = result.proven("odd")
    assert certificate is None
    assert "by chance" in why
    assert result.proven("calm")[0] is not None


def _of(series: list[Series]) -> tuple[np.ndarray, np.ndarray]:
    return series[0].times, series[0].scores


def test_a_camera_without_normal_footage_is_refused():
    series, events = labelled_clips(3)
    with pytest.raises(CalibrationError, match="no normal footage"):
        calibrate_cameras(series, events, [], CONFIG)


def holdout_with_alarms(every_s: float) -> list[Series]:
    """Ten minutes that alarm for a moment every so often."""
    (one,) = normal_series(1, seconds=600)
    scores = one.scores.copy()
    scores[:: int(every_s * 10)] += 20
    return [Series(one.source, one.times, scores)]


def test_short_alarms_of_the_detector_do_not_thin_out_the_chance_hits_of_long_events():
    long, _ = labelled_clips(20, seconds=70.0)
    events = [Event(one.source, 4.0, 54.0, ("scratch",)) for one in long]
    short, own = labelled_clips(400, seed=3, found="alarm")
    short = [Series("own" + one.source, one.times, one.scores) for one in short]
    own = [Event("own" + e.video, 5.0, 5.1, e.labels, e.found) for e in own]
    # Of the 50 s stretches five in six hold an alarm; of those of the detector's own labels hardly any.
    holdout = holdout_with_alarms(60.0)
    config = DeciderConfig(smoothing_s=0)
    result = calibrate(long + short, events + own, holdout, config, tolerance_s=0.1)
    assert result.certificate is None
    assert "by chance" in result.withheld


def test_long_events_that_chance_was_not_measured_for_count_as_caught_by_it():
    clips, events = labelled_clips(60, seconds=100.0)
    # A third of the events last longer than a tenth of the hold-out; the median event is short.
    events = [Event(e.video, 4.0, 90.0 if i % 3 == 0 else 6.0, e.labels) for i, e in enumerate(events)]
    result = calibrate(clips, events, normal_series(1, seconds=300), CONFIG)
    assert result.certificate is None
    assert "room for 3 stretches of 88 s" in result.withheld
    told = re.search(r"Hold out (\d+) s more of normal footage, in clips of 88 s or longer", result.withheld)
    assert told
    # What it asks for is enough, and what it does not ask for is not.
    enough, short = (normal_series(1, seconds=int(told[1]) - less, seed=9) for less in (0, 10))
    assert calibrate(clips, events, normal_series(1, seconds=300) + enough, CONFIG).certificate is not None
    assert calibrate(clips, events, normal_series(1, seconds=300) + short, CONFIG).certificate is None
    assert calibrate(clips, events, normal_series(3, seconds=600), CONFIG).certificate is not None


def test_a_clip_cut_where_its_anomaly_begins_promises_no_more_than_the_stream_it_was_cut_from():
    clips, events = labelled_clips(60)  # from 4 to 6 s
    brief = [Event(e.video, 4.0, 4.25, e.labels) for e in events]
    config = DeciderConfig(smoothing_s=0.5)
    whole = calibrate(clips, brief, normal_series(), config, tolerance_s=0.0)
    cut = [Series(one.source, one.times[40:] - 4.0, one.scores[40:]) for one in clips]
    at_start = [Event(e.video, 0.0, 0.25, e.labels) for e in events]
    result = calibrate(cut, at_start, normal_series(), config, tolerance_s=0.0)
    in_stream = sorted(one.score for one in whole.events)
    from_cut = sorted(one.score for one in result.events)
    np.testing.assert_allclose(from_cut, in_stream, atol=0.25)  # the footage before was not just ordinary
    assert result.threshold == pytest.approx(whole.threshold, abs=0.15)
    assert max(from_cut) < 0.8 * max(one.scores[:3].max() for one in cut)


def test_neither_end_of_a_conflict_is_called_proven_where_nothing_is():
    """Events of the detector's own prove nothing at any threshold, nor do those that chance catches as often."""
    own = calibrate(
        *labelled_clips(60, height=0.3, found="alarm"), normal_series(), CONFIG, budget_per_hour=1
    )
    clips, events = labelled_clips(60, height=0.01)
    # A few that the budget's threshold catches, so that it proves something.
    clips[:9] = [replace(one, scores=one.scores * np.where(one.times < 4, 1, 3)) for one in clips[:9]]
    unseen = calibrate(clips, events, normal_series(), CONFIG, budget_per_hour=1)
    for result, why in ((own, "found by the detector itself"), (unseen, "events would be caught by chance")):
        assert result.certificate is None
        at_recall = result.conflict[0]
        assert (at_recall.serves, at_recall.certificate) == ("recall", None)
        assert at_recall.withheld == result.withheld
        assert why in at_recall.withheld
        assert f"not certified: {result.withheld}" in result.text()
        assert result.to_json()["conflict"][0]["certificate"] is None
    assert "proven" not in own.text()
    # Where chance forbids one end only, the other stands.
    assert unseen.conflict[1].certificate is not None
    assert "of normal stretches" not in unseen.conflict[1].text()


def test_events_that_chose_the_settings_are_not_called_the_detectors_own():
    series, events = labelled_clips(40)
    chose = [replace(event, found="chose" if i else "alarm") for i, event in enumerate(events)]
    withheld = calibrate(series, chose, normal_series(), CONFIG).withheld
    assert withheld.startswith(
        "39 of 40 events were used to choose the settings, and the detector itself found"
    )
    withheld = calibrate(series[1:], chose[1:], normal_series(), CONFIG).withheld
    assert withheld.startswith("every event was used to choose the settings")


def test_what_the_cameras_promise_is_kept_by_the_thresholds_that_run():
    """Many small calibrations of two cameras that differ: what is told of each, or of all, must hold for what is deployed."""
    counts, future = {"a": 200, "b": 20, "c": 15}, {"a": 0.0, "b": -0.3, "c": 0.2}
    runs, told, broken = 100, 0, 0
    for run in range(runs):
        chance = np.random.default_rng(run)
        labeled, events, holdout = [], [], []
        for camera, n in counts.items():
            for i in range(n):
                peak = 5.0 + future[camera] + 0.5 * chance.standard_normal()
                labeled.append(
                    Series(f"{camera}{i}", np.arange(5) / 10, np.array([1, 1, peak, 1, 1.0]), camera)
                )
                events.append(Event(f"{camera}{i}", 0.1, 0.4, ("x",)))
            normal = 1 + 0.02 * chance.random(800)
            holdout.append(Series(f"n{camera}", np.arange(800) / 10, normal, camera))
        result = calibrate_cameras(labeled, events, holdout, INSTANT, target_recall=0.9)
        assert set(result.own) == {"a"}

        def kept(cameras: str, result: CameraCalibrations = result) -> float:
            """What the thresholds that run catch of the anomalies to come, in the proportions of the labelled ones."""
            caught = {
                one: stats.norm.sf(result.scales[one].raw(result.threshold(one)), 5.0 + future[one], 0.5)
                for one in cameras
            }
            return sum(counts[one] * caught[one] for one in cameras) / sum(counts[one] for one in cameras)

        for cameras, certificate in (
            *((one, result.proven(one)[0]) for one in counts),
            ("abc", result.pooled.certificate),
            ("bc", result.shared.certificate),
        ):
            if certificate is not None:
                told += 1
                broken += kept(cameras) < certificate.recall - 1e-9
    assert told >= runs
    # 5 % are allowed; of two hundred promises more than 10 % is no chance.
    assert broken / told < 0.10


def test_a_threshold_that_misses_all_that_counts_has_no_certificate_to_run_on():
    """A certificate of 0 passed `run.require_certificate`, and messages called its events certified."""
    series, events = labelled_clips(5)
    result = calibrate(series, events, normal_series(), CONFIG, threshold=50.0)
    assert result.certificate is None
    assert result.withheld == "Nothing is proven: not one of the 5 labelled anomalies is caught."


def test_an_anomaly_that_no_threshold_catches_is_told_in_words():
    """Its footage is too short for an alarm: it has no score of "-inf", nor does it look normal."""
    series, events = labelled_clips(60)
    short = Series("short", series[0].times[:2], series[0].scores[:2] + 9)
    shown = Event("short", 0.0, 1.0, ("gap",), found="alarm")
    result = calibrate([*series, short], [*events, shown], normal_series(), CONFIG)
    assert "gap: 0 of 1 caught, the hardest by no threshold" in result.text()
    assert "Missed at every threshold" in result.text()
    assert "short@0-1." in result.text()
    assert "inf" not in result.text()
    assert "look normal" not in result.text()
