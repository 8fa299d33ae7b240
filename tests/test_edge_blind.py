"""Blind time: gaps that are told, and the share of event starts that fall into them."""

from __future__ import annotations

import sys
import threading
import time
from itertools import count, pairwise

import numpy as np
import pytest

from anomaly.edge.blind import Coverage, Gap, operational_recall
from anomaly.errors import UsageError

UTC = 1_790_000_000.0
S = 1_000_000_000


def look(coverage: Coverage, begin_s: float, end_s: float, every_s: float = 0.1) -> None:
    for at_s in np.arange(begin_s, end_s + 1e-6, every_s):
        coverage.scored(UTC + at_s, int(at_s * S))


def test_without_monitored_time_nothing_can_be_claimed():
    assert Coverage(0.1).blind_share_upper(1.0) == 1.0
    assert operational_recall(0.9, 1.0) == 0.0


def test_the_share_is_that_of_the_starts_whose_event_falls_wholly_into_a_gap():
    coverage = Coverage(0.1)
    look(coverage, 0, 40)
    look(coverage, 50, 100)
    # Of a gap of 10 s an event of 2 s can start in 8 of 100 s; one of 12 s cannot hide in it.
    assert 0.08 <= coverage.blind_share(2.0) < 0.082
    assert coverage.blind_share(12.0) == 0.0
    starts = np.random.default_rng(0).uniform(0, 100, 100_000)
    assert coverage.blind_share(2.0) == pytest.approx(np.mean((starts > 40) & (starts + 2 < 50)), abs=0.004)
    assert operational_recall(0.9, coverage.blind_share_upper(2.0)) == pytest.approx(0.9 * 0.92, abs=0.002)
    assert [(gap.start_utc_s - UTC, gap.end_utc_s - UTC, gap.reason) for gap in coverage.gaps_done()] == [
        (pytest.approx(40, abs=1e-3), pytest.approx(50, abs=1e-3), "blind")
    ]
    assert coverage.gaps_done() == []


def test_the_calibrated_interval_itself_hides_nothing_more_than_was_calibrated():
    coverage = Coverage(0.1)
    look(coverage, 0, 100)
    assert coverage.blind_share(0.0) < 0.002  # the width of a class of lengths
    assert coverage.gaps_done() == []


def test_a_gap_that_goes_on_counts_and_is_told_in_parts():
    coverage = Coverage(0.1)
    look(coverage, 0, 10)
    told: list[Gap] = []
    for at_s in range(11, 201):
        coverage.tick(at_s * S, UTC + at_s)
        told += coverage.gaps_done()
    assert len(told) == 3
    assert coverage.blind_share(1.0) == pytest.approx(189 / 200, abs=0.01)
    coverage.scored(UTC + 200.5, int(200.5 * S))
    told += coverage.gaps_done()
    assert told[0].start_utc_s == pytest.approx(UTC + 10)
    assert told[-1].end_utc_s == pytest.approx(UTC + 200.5)
    for one, following in pairwise(told):
        assert one.end_utc_s == pytest.approx(following.start_utc_s)


def test_frames_that_show_nothing_are_blind_from_the_first_of_them_on():
    coverage = Coverage(0.1)
    look(coverage, 0, 50)
    # Ten seconds of the same picture until it is called frozen, then it goes on.
    coverage.mistrusted(40 * S, UTC + 50.1, int(50.1 * S))
    for at_s in np.arange(50.2, 60, 0.1):
        coverage.mistrusted(40 * S, UTC + at_s, int(at_s * S))
    assert coverage.blind_share(1.0) == pytest.approx(19 / 60, abs=0.01)
    look(coverage, 60, 100)
    assert coverage.blind_share(1.0) == pytest.approx(19 / 100, abs=0.01)
    (gap,) = coverage.gaps_done()
    assert gap == Gap(pytest.approx(UTC + 40), pytest.approx(UTC + 60), "blind")


def test_what_shows_nothing_is_not_blind_before_it_was_to_be_looked_at():
    coverage = Coverage(0.1)
    look(coverage, 0, 10)
    coverage.state(False, UTC + 10, 10 * S)
    coverage.state(True, UTC + 90, 90 * S)
    coverage.mistrusted(10 * S, UTC + 100, 100 * S)
    assert coverage.blind_share(1.0) == pytest.approx(9 / 20, abs=0.01)


def test_time_outside_running_is_a_gap_of_its_own_and_not_monitored():
    coverage = Coverage(0.1)
    look(coverage, 0, 10)
    coverage.state(False, UTC + 10, 10 * S)
    look(coverage, 10.1, 30)
    assert coverage.blind_share(1.0) == 0.0
    coverage.state(True, UTC + 30, 30 * S)
    look(coverage, 30.1, 40)
    (gap,) = coverage.gaps_done()
    assert gap == Gap(pytest.approx(UTC + 10), pytest.approx(UTC + 30), "state")
    assert coverage.blind_share(1.0) == 0.0


def test_a_camera_that_never_came_is_blind_from_the_start():
    coverage = Coverage(0.1)
    for at_s in range(100):
        coverage.tick(at_s * S, UTC + at_s)
    assert coverage.blind_share(1.0) > 0.98
    assert coverage.gaps_done()[0].start_utc_s == UTC


def test_a_clock_that_is_set_makes_no_gap_longer():
    coverage = Coverage(0.1)
    look(coverage, 0, 10)
    coverage.scored(UTC + 86_400 + 13, 13 * S)
    (gap,) = coverage.gaps_done()
    assert gap.end_utc_s - gap.start_utc_s == pytest.approx(3.0)


def test_the_share_is_never_below_what_the_gaps_really_hide():
    random = np.random.default_rng(0)
    gaps = random.exponential(2.0, 2000)
    coverage = Coverage(0.1)
    at_s = 0.0
    coverage.scored(UTC, 0)
    for gap in gaps:
        at_s += gap
        coverage.scored(UTC + at_s, round(at_s * S))
    for event_s in (0.0, 0.5, 1.7, 4.0, 9.0):
        seen = np.where(gaps > 0.11, event_s, max(event_s, 0.1))
        really = np.maximum(gaps - seen, 0).sum() / gaps.sum()
        assert really - 1e-6 <= coverage.blind_share(event_s) <= really + 0.005


def test_a_restart_forgets_no_gap_and_counts_the_time_off():
    before = Coverage(0.1)
    look(before, 0, 1800)
    before.tick(3600 * S, UTC + 3600)
    assert before.blind_share(1.0) == pytest.approx(1799 / 3600, abs=0.001)
    # Another boot: the monotonic clock starts anew.
    after = Coverage(0.1, before.kept(UTC + 3600))
    after.scored(UTC + 3900, 7 * S)
    for at_s in np.arange(0, 300, 0.1):
        after.scored(UTC + 3900 + at_s, round((7 + at_s) * S))
    # One gap, from before the restart to after it.
    assert after.blind_share(1.0) == pytest.approx(2099 / 4200, abs=0.001)
    assert after.since_utc_s == UTC
    assert after.gaps_done() == []


@pytest.mark.parametrize(("was", "is_"), [(True, True), (True, False), (False, True)])
def test_time_off_is_blind_where_the_camera_was_or_is_to_be_looked_at(was: bool, is_: bool):
    before = Coverage(0.1)
    look(before, 0, 100)
    before.state(was, UTC + 100, 100 * S)
    after = Coverage(0.1, before.kept(UTC + 100))
    after.state(is_, UTC + 200, S)
    assert after.blind_share(1.0) == pytest.approx(99 / 200, abs=0.001)


def test_time_off_outside_running_is_not_monitored():
    before = Coverage(0.1)
    look(before, 0, 100)
    before.state(False, UTC + 100, 100 * S)
    after = Coverage(0.1, before.kept(UTC + 100))
    after.state(False, UTC + 200, S)
    assert after.blind_share(1.0) == 0.0


def test_what_was_kept_passes_through_a_run_that_sees_nothing():
    before = Coverage(0.1)
    look(before, 0, 100)
    kept = before.kept(UTC + 100)
    assert Coverage(0.1, Coverage(0.1).kept(UTC)).blind_share(1.0) == 1.0
    assert Coverage(0.1, kept).kept(UTC + 150) == kept


def test_the_share_is_that_of_one_to_two_days_and_says_since_when():
    hour = 3600
    coverage = Coverage(1.0)
    coverage.tick(0, UTC)
    coverage.scored(UTC + 6 * hour, 6 * hour * S)
    shares = []
    for at_s in range(6 * hour, 60 * hour, 10):
        coverage.scored(UTC + at_s, at_s * S)
        if at_s % hour == 0:
            shares.append((at_s // hour, coverage.blind_share(9.9), coverage.since_utc_s - UTC))
    by_hour = {at: (share, since) for at, share, since in shares}
    assert by_hour[24][0] == pytest.approx(6 / 24 + 0.0075, abs=0.004)
    assert by_hour[47][1] == 0
    assert by_hour[47][0] == pytest.approx(6 / 47 + 0.0087, abs=0.004)
    assert by_hour[49] == (pytest.approx(0.01, abs=0.004), pytest.approx(24 * hour, abs=11))
    # After weeks off there is a day of nothing, and no more.
    after = Coverage(1.0, coverage.kept(UTC + 60 * hour))
    after.scored(UTC + 900 * hour, S)
    assert after.blind_share(10.0) == pytest.approx(1.0, abs=0.001)
    assert after.since_utc_s == UTC + 876 * hour


@pytest.mark.parametrize(
    ("interval_s", "gap_s", "event_s", "share"),
    [
        (1.0, 1.5, 0.2, 1.3 / 1.5),
        (0.2, 0.35, 0.05, 0.30 / 0.35),
        (1.0, 1.5, 1.2, 0.2),
        (1.0, 1.5, 1.6, 0.0),
        (1.0, 1.05, 0.2, 0.05 / 1.05),
    ],
)
def test_of_gaps_longer_than_the_interval_all_that_hides_an_event_counts(
    interval_s: float, gap_s: float, event_s: float, share: float
):
    coverage = Coverage(interval_s)
    for number in range(1000):
        coverage.scored(UTC + number * gap_s, round(number * gap_s * S))
    assert share - 1e-6 <= coverage.blind_share(event_s) <= share + 0.003


def test_a_confidence_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"confidence=1\.5"):
        Coverage(0.1).blind_share_upper(1.0, confidence=1.5)


def test_how_blind_a_camera_is_can_be_asked_while_it_is_scored():
    """The page, the figures and whoever scraped them got an error now and then instead."""
    coverage, over = Coverage(0.1), threading.Event()
    coverage.tick(0, 0.0)

    def score() -> None:
        at_ns = 0
        for number in count():
            if over.is_set():
                return
            if number % 6000 == 0:
                # Gaps of new lengths again.
                coverage._days[-1].classes.clear()
            at_ns += int(0.001 * 1.0021 ** (number % 6000) * S)
            coverage.scored(at_ns / S, at_ns)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    scoring = threading.Thread(target=score)
    scoring.start()
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert 0.0 <= coverage.blind_share(0.5) <= 1.0
    finally:
        over.set()
        scoring.join()
        sys.setswitchinterval(before)
