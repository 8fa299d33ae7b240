"""The certificate held by simulation, through the program: series, events, decider, `calibrate`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from anomaly.calibration import calibrate
from anomaly.decider import DeciderConfig
from benchmarks.populations import TOLERANCE_S, holdout_series, simulated_population

CONFIG = DeciderConfig(
    smoothing_s=0.3, min_duration_s=0.2, max_duration_s=30, leave_ratio=0.9, join_gap_s=0.5
)


def broken_certificates(repeats, n, target, seed):
    chance = np.random.default_rng(seed)
    population, holdout = simulated_population(chance, 1000), holdout_series(chance, 1)
    broken = 0
    for _ in range(repeats):
        series, events = population.draw(chance, n)
        result = calibrate(
            series,
            events,
            holdout,
            CONFIG,
            target_recall=target,
            tolerance_s=TOLERANCE_S,
            max_chance_hit=1.0,
        )
        broken += population.recall(CONFIG, result.threshold) < result.certificate.recall
    return broken


@pytest.mark.parametrize(("n", "target"), [(6, 0.95), (30, 0.8)])
def test_the_true_recall_is_seldom_below_the_certified_one(n, target):
    repeats = 150
    assert broken_certificates(repeats, n, target, seed=1) <= binom.ppf(0.9999, repeats, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "target"), [(5, 0.8), (59, 0.95), (100, 0.9), (300, 0.99)])
def test_the_true_recall_is_below_the_certified_one_in_five_of_a_hundred_cases(n, target):
    repeats = 600
    broken = broken_certificates(repeats, n, target, seed=2)
    assert broken <= binom.ppf(0.9999, repeats, 0.05)
    assert broken >= binom.ppf(0.0001, repeats, 0.02)  # and not by wasting half of what the events prove
