"""The exact bound: against Clopper-Pearson, exact fractions, MAPIE and simulation; and its words."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from anomaly.calibration import Certificate, certify, events_needed, just_below, recall_bound, threshold_rank
from anomaly.calibration.certificate import at_least, at_most, percent
from anomaly.errors import SchemaError, UsageError

levels = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.data(), levels)
def test_the_bound_is_that_of_clopper_and_pearson(n, data, confidence):
    missed = data.draw(st.integers(0, n))
    exact = binomtest(n - missed, n, alternative="greater").proportion_ci(confidence, method="exact").low
    assert recall_bound(n, missed, confidence) == pytest.approx(exact, abs=1e-12)


def misses_at_most(k, n, recall):
    """P(Bin(n, 1 - recall) <= k) in exact arithmetic."""
    hit = Fraction(recall)
    return sum(comb(n, i) * (1 - hit) ** i * hit ** (n - i) for i in range(k + 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.sampled_from([0.5, 0.8, 0.9, 0.95]), levels)
def test_the_rank_is_the_largest_that_proves_the_target(n, target, confidence):
    rank = threshold_rank(n, target, confidence)
    error = 1 - Fraction(confidence)
    slack = Fraction(1, 10**12)
    if rank:
        assert misses_at_most(rank - 1, n, target) <= error + slack
        assert recall_bound(n, rank - 1, confidence) >= target - 1e-12
    assert misses_at_most(rank, n, target) >= error - slack
    assert recall_bound(n, rank, confidence) <= target + 1e-12


@pytest.mark.parametrize(("target", "events"), [(0.9, 29), (0.95, 59), (0.99, 299)])
def test_events_needed_with_none_missed(target, events):
    assert events_needed(target, 0.95) == events
    assert threshold_rank(events, target, 0.95) == 1
    assert threshold_rank(events - 1, target, 0.95) == 0


def test_six_events_certify_0_607_and_say_how_many_more_are_needed():
    certificate = certify(6, 0.95, 0.95)
    assert round(certificate.recall, 3) == 0.607
    assert certificate.recall == 0.05 ** (1 / 6) or certificate.recall == pytest.approx(0.05 ** (1 / 6))
    assert certificate.more_events_needed == 66  # 72 at the price of two looks
    text = certificate.text()
    assert text.startswith("At least 60.69 % of anomalies")  # 0.60696, never told above itself
    assert "66 more" in text
    assert "not proven" in text
    assert "other kinds are not covered" in text


def test_enough_events_prove_the_target_and_may_miss_some():
    certificate = certify(300, 0.95, 0.95)
    assert certificate.n_missed_allowed == 8
    assert certificate.recall >= 0.95
    assert certificate.reaches_target
    assert certificate.more_events_needed == 0


def test_a_threshold_that_misses_more_tells_how_many_events_would_make_up_for_it():
    certificate = certify(60, 0.95, 0.95, n_missed=3)
    assert certificate.recall == recall_bound(60, 3, 0.95) < 0.95
    total = 60 + certificate.more_events_needed
    assert recall_bound(total, 3, 0.95, 2) >= 0.95 > recall_bound(total - 1, 3, 0.95, 2)


@pytest.mark.parametrize("tried", [1, 4])
@pytest.mark.parametrize(("n_events", "missed"), [(1, None), (3, None), (58, None), (60, 3)])
def test_the_events_that_are_said_to_prove_the_target_do_so_when_they_are_calibrated_with_those_before(
    n_events, missed, tried
):
    """That is another look at the same clips, and has to pay for this one."""
    first = certify(n_events, 0.95, 0.95, n_missed=missed, settings_tried=tried)
    total = n_events + first.more_events_needed
    assert f"({total} in all; calibrating again is another look at these, and counted)" in first.text()
    then = certify(total, 0.95, 0.95, n_missed=missed, settings_tried=tried + 1)
    assert then.reaches_target
    assert then.recall >= 0.95
    assert not certify(total - 1, 0.95, 0.95, n_missed=missed, settings_tried=tried + 1).reaches_target


def test_what_a_threshold_set_by_hand_is_said_to_need_is_enough_for_it():
    """More events are more thresholds that it could have been."""
    first = certify(60, 0.9, 0.95, n_missed=3, by_hand=True)
    assert first.settings_tried == 60
    then = certify(60 + first.more_events_needed, 0.9, 0.95, n_missed=3, settings_tried=2, by_hand=True)
    assert then.reaches_target
    assert then.recall >= 0.9


@pytest.mark.timeout(20)
def test_a_target_next_to_one_is_answered_at_once():
    for target in (0.999999, 0.99999999, math.nextafter(1, 0)):
        n = events_needed(target, 0.95)
        assert n == pytest.approx(math.log(0.05) / math.log(target), rel=1e-3)
        assert threshold_rank(n, target, 0.95) == 1
        assert threshold_rank(n - 1, target, 0.95) == 0
        assert certify(60, target, 0.95).more_events_needed > n


def test_a_target_of_one_is_answered_with_what_can_be_proven():
    certificate = certify(100, 1.0, 0.95)
    assert certificate.recall == pytest.approx(0.05**0.01)
    assert certificate.more_events_needed is None
    assert (
        "no number of examples can prove that. The threshold is set to catch every labelled one"
        in certificate.text()
    )
    raised = certify(100, 1.0, 0.95, n_missed=3).text()
    assert "no number of examples can prove that. This threshold misses 3 of the labelled events." in raised


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.05 ** (1 / 6), "60.7 %"), (0.95, "95 %"), (0.57, "57 %"), (0.0, "0 %"), (0.9496, "94.96 %"), (0.94996, "94.996 %"),
        (0.9999, "99.99 %"), (0.99951, "99.95 %"), (0.9504, "95 %"), (0.0004, "under 0.1 %"), (0.3649, "36.5 %"),
    ],
)  # fmt: skip
def test_no_whole_percent_is_told_that_is_not_reached(share, told):
    assert percent(share) == told


def test_one_event_too_few_for_the_target_does_not_read_as_if_it_were_reached():
    text = certify(58, 0.95, 0.95).text()
    assert text.startswith("At least 94.96 % of anomalies")
    assert "You asked for 95 %: not proven. 14 more" in text
    assert certify(597, 0.995, 0.95).text().startswith("At least 99.49 % of anomalies")


@pytest.mark.parametrize(
    ("share", "least", "most"),
    [
        (0.05 ** (1 / 6), "60.69 %", "60.7 %"), (0.95, "95 %", "95 %"), (0.57, "57 %", "57 %"), (0.0, "0 %", "0 %"),
        (1.0, "100 %", "100 %"), (0.94999, "94.99 %", "95 %"), (0.000012, "0.0012 %", "0.0012 %"),
        (0.0000123, "0.0012 %", "0.0013 %"), (0.99999, "99.999 %", "99.999 %"), (0.1004, "10.04 %", "10.04 %"),
    ],
)  # fmt: skip
def test_bounds_are_rounded_to_the_side_on_which_they_still_hold(share, least, most):
    assert (at_least(share), at_most(share)) == (least, most)


def test_certificates_that_prove_next_to_nothing_are_sentences():
    assert (
        certify(1, 0.95, 0.9999)
        .text()
        .startswith("At least 0.01 % of anomalies like the one labelled anomaly")
    )


@pytest.mark.parametrize(
    ("n", "unit", "said"),
    [
        (3, "event", "not one of the 3 labelled anomalies is caught."), (1, "event", "the one labelled anomaly is missed."),
        (3, "incident", "not one of the 3 labelled incidents is caught."), (1, "incident", "the one labelled incident is missed."),
        (3, "clip", "in each of the 3 labelled clips an anomaly is missed."), (1, "clip", "in the one labelled clip an anomaly is missed."),
    ],
)  # fmt: skip
def test_where_everything_is_missed_one_sentence_says_so(n, unit, said):
    """Not that it is wrong in at most 5 of 100 calibrations, and of clips not that nothing in them is caught."""
    assert certify(n, 0.95, 0.95, n_missed=n, unit=unit).text() == f"Nothing is proven: {said}"


@pytest.mark.parametrize("confidence", [1.0, 0.0, 1.2, float("nan")])
def test_a_confidence_of_one_is_refused_in_one_line(confidence):
    with pytest.raises(UsageError, match=r"calibration\.confidence=.* outside \(0, 1\)"):
        certify(10, 0.9, confidence)


@pytest.mark.parametrize("target", [0.0, 1.01, float("nan")])
def test_a_target_out_of_range_is_refused(target):
    with pytest.raises(UsageError, match="target_recall"):
        certify(10, target, 0.95)


def test_looking_at_settings_costs():
    assert recall_bound(59, 0, 0.95, settings_tried=100) == pytest.approx(0.0005 ** (1 / 59))
    assert threshold_rank(59, 0.95, 0.95, settings_tried=2) == 0
    assert events_needed(0.95, 0.95, settings_tried=100) == 149
    assert (
        "Up to 100 settings or thresholds were compared"
        in certify(200, 0.95, 0.95, settings_tried=100).text()
    )


def test_what_was_tried_with_other_models_is_said_not_to_be_counted():
    told = "Other models tried on these anomalies, copies of this one included, are not counted unless you say how many"
    assert told in certify(200, 0.95, 0.95).text()


def test_certificates_survive_json_and_refuse_what_is_not_one():
    certificate = certify(6, 0.95, 0.95)
    values = json.loads(json.dumps(certificate.to_json()))
    assert Certificate.from_json(values) == certificate
    with pytest.raises(SchemaError, match="recall"):
        Certificate.from_json({key: value for key, value in values.items() if key != "recall"})
    for recall in (1.0, "0.9", None):
        with pytest.raises(SchemaError, match=f"recall {recall}"):
            Certificate.from_json({**values, "recall": recall})


@given(st.floats(1e-30, 1e30))
def test_a_threshold_is_never_rounded_upward(score):
    threshold = just_below(score)
    for stored in (np.float32(threshold), json.loads(json.dumps(threshold)), float(f"{threshold:.17g}")):
        assert float(stored) < score * (1 - 2e-8)
        assert np.float32(stored) < np.float32(score)
    assert threshold > score * (1 - 3e-7)


def test_simulated_recall_falls_below_the_bound_no_more_often_than_allowed():
    chance = np.random.default_rng(0)
    draws = 4000
    for n, target in [(6, 0.95), (30, 0.9), (59, 0.95), (200, 0.95)]:
        certificate = certify(n, target, 0.95)
        scores = np.sort(chance.random((draws, n)), axis=1)
        recall = 1 - scores[:, certificate.n_missed_allowed]  # of uniform scores above that threshold
        broken = (recall < certificate.recall).mean()
        assert broken <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / draws)
        assert broken >= 0.05 - 4 * np.sqrt(0.05 * 0.95 / draws)  # exact, so not wasteful either


@pytest.mark.filterwarnings("ignore:No predict parameters")
@pytest.mark.parametrize("n", [40, 100, 300])
@pytest.mark.parametrize("procedure", ["fixed_sequence", "bonferroni_holm"])
def test_the_threshold_is_at_or_above_mapies_at_the_same_level(n, procedure):
    risk_control = pytest.importorskip("mapie.risk_control")
    chance = np.random.default_rng(n)
    scores = np.r_[chance.beta(5, 2, n), chance.beta(2, 5, n)]
    truth = np.r_[np.ones(n), np.zeros(n)].astype(int)
    candidates = np.unique(scores[:n])
    if procedure == "bonferroni_holm":
        candidates = candidates[:: max(1, n // 40)]
    controller = risk_control.BinaryClassificationController(
        lambda x: np.c_[1 - x[:, 0], x[:, 0]],
        risk_control.recall,
        target_level=0.9,
        confidence_level=0.95,
        list_predict_params=candidates,
        fwer_method=procedure,
    )
    controller.calibrate(scores[:, None], truth)
    valid = np.asarray(controller.valid_predict_params, dtype=float)
    ours = np.sort(scores[:n])[threshold_rank(n, 0.9, 0.95) - 1]
    assert len(valid) or procedure == "bonferroni_holm"
    assert not len(valid) or ours >= valid.max()
