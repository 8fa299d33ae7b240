"""States by schedule and by hand, on days of 23, 24 and 25 hours."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from anomaly.edge.state import StateKeeper, parse_schedule
from anomaly.errors import UsageError

ZONE = "Europe/Berlin"


def utc(text: str, fold: int = 0) -> float:
    """POSIX time of a moment by the clock on the wall."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE), fold=fold).timestamp()


def test_the_first_rule_that_holds_counts():
    schedule = parse_schedule(
        [
            {"state": "stopped", "days": ["sat", "sun"]},
            {"state": "maintenance", "days": "mon-fri", "from": "22:00", "to": "06:00"},
        ],
        ZONE,
    )
    wanted = {
        "2026-11-23 12:00": "running",  # a Monday
        "2026-11-23 22:00": "maintenance",
        "2026-11-24 05:59": "maintenance",
        "2026-11-24 06:00": "running",
        "2026-11-23 05:00": "running",  # no rule begins on Sunday evening
        "2026-11-28 01:00": "stopped",  # Saturday comes first
        "2026-11-29 23:59": "stopped",
    }
    assert {moment: schedule.state_at(utc(moment)) for moment in wanted} == wanted


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-29", 3.0), ("2026-10-25", 5.0), ("2026-11-23", 4.0)],
    ids=["23 h", "25 h", "24 h"],
)
def test_daylight_saving_follows_the_clock_on_the_wall(day: str, hours: float):
    schedule = parse_schedule([{"state": "stopped", "from": "01:00", "to": "05:00"}, {"timezone": ZONE}])
    begin, end = utc(f"{day} 01:00"), utc(f"{day} 05:00")
    assert (end - begin) / 3600 == hours
    assert [schedule.state_at(moment) for moment in (begin - 1, begin, end - 1, end)] == [
        "running", "stopped", "stopped", "running",
    ]  # fmt: skip


def test_what_is_set_by_hand_holds_until_the_schedule_changes_its_mind():
    keeper = StateKeeper(parse_schedule([{"state": "stopped", "from": "22:00", "to": "06:00"}], ZONE))
    assert keeper.now(utc("2026-11-23 12:00")) == "running"
    keeper.set("changeover", utc("2026-11-23 12:00"))
    assert keeper.now(utc("2026-11-23 21:59")) == "changeover"
    assert keeper.now(utc("2026-11-23 22:00")) == "stopped"
    keeper.set("running", utc("2026-11-23 23:00"))
    assert keeper.now(utc("2026-11-24 05:00")) == "running"
    assert keeper.now(utc("2026-11-24 07:00")) == "running"
    assert keeper.now(utc("2026-11-24 22:30")) == "stopped"


@pytest.mark.parametrize(
    ("start", "state"),
    [
        ("2026-11-27 21:59", "maintenance"),
        # The weekend came between: the schedule changed its mind twice, and would by now have done so for good.
        ("2026-11-28 12:00", "stopped"),
        ("2026-11-30 12:00", "running"),
        ("2027-11-30 12:00", "running"),
        # A clock that was set back knows of no change.
        ("2026-11-26 12:00", "maintenance"),
    ],
)
def test_a_start_does_not_bring_back_what_the_schedule_has_overruled(start: str, state: str):
    keeper = StateKeeper(parse_schedule([{"state": "stopped", "days": ["sat", "sun"]}], ZONE))
    keeper.restore("maintenance", utc("2026-11-27 21:00"), utc(start))
    assert keeper.now(utc(start)) == state


def test_another_schedule_counts_at_once_and_what_is_set_by_hand_holds_until_that_one_changes_its_mind():
    at_night = parse_schedule([{"state": "stopped", "from": "22:00", "to": "06:00"}], ZONE)
    tuesdays = parse_schedule([{"state": "changeover", "days": "tue"}], ZONE)
    keeper = StateKeeper(at_night)
    assert keeper.now(utc("2026-11-23 23:00")) == "stopped"
    keeper.plan(parse_schedule([]), utc("2026-11-23 23:00"))
    assert keeper.now(utc("2026-11-23 23:00")) == "running"
    keeper.set("maintenance", utc("2026-11-23 23:10"))
    keeper.plan(tuesdays, utc("2026-11-23 23:20"))
    assert keeper.now(utc("2026-11-23 23:59")) == "maintenance"
    assert keeper.now(utc("2026-11-24 00:00")) == "changeover"
    # What the schedule before had overruled is not brought back.
    keeper.set("maintenance", utc("2026-11-24 12:00"))
    keeper.plan(parse_schedule([]), utc("2026-11-25 12:00"))
    assert keeper.now(utc("2026-11-25 12:00")) == "running"


AT_NIGHT = [{"state": "stopped", "from": "22:00", "to": "06:00"}]
SET = "2026-11-23 15:00"


@pytest.mark.parametrize(
    ("start", "state"),
    [
        # The schedule of then had overruled it, whether the program was on that night or not.
        ("2026-11-24 10:00", "running"),
        ("2026-11-23 18:00", "maintenance"),
    ],
)
@pytest.mark.parametrize(
    "schedule", [[], [{"state": "changeover", "days": ["sat"]}]], ids=["none", "another"]
)
def test_a_start_with_another_schedule_brings_back_what_a_reload_would_have_kept(
    schedule: list, start: str, state: str
):
    begun = StateKeeper(parse_schedule(AT_NIGHT, ZONE)).kept(utc("2026-11-23 12:00"))
    started = StateKeeper(parse_schedule(schedule, ZONE))
    started.restore("maintenance", utc(SET), utc(start), begun)
    assert started.now(utc(start)) == state
    # A second start knows what the first one decided.
    again = StateKeeper(parse_schedule(schedule, ZONE))
    again.restore("maintenance", utc(SET), utc(start) + 60, started.kept(utc(start)))
    reloaded = StateKeeper(parse_schedule(AT_NIGHT, ZONE))
    reloaded.set("maintenance", utc(SET))
    for moment in (utc("2026-11-23 17:00"), utc("2026-11-23 23:00")):
        reloaded.now(min(moment, utc(start)))
    reloaded.plan(parse_schedule(schedule, ZONE), utc(start))
    # It holds until the new one changes its mind, if it ever does.
    for moment in (utc(start) + 60, utc("2026-11-28 12:00")):
        assert started.now(moment) == again.now(moment) == reloaded.now(moment)


def test_what_a_reload_let_go_no_start_brings_back():
    keeper = StateKeeper(parse_schedule(AT_NIGHT, ZONE))
    keeper.set("maintenance", utc(SET))
    assert keeper.now(utc("2026-11-23 23:00")) == "stopped"
    keeper.plan(parse_schedule([]), utc("2026-11-24 10:00"))
    started = StateKeeper(parse_schedule([]))
    kept = keeper.kept(utc("2026-11-24 10:00"))
    started.restore("maintenance", utc(SET), utc("2026-11-24 11:00"), kept)
    assert started.now(utc("2026-11-24 11:00")) == "running"
    # What is set after that is another matter.
    started.restore("changeover", utc("2026-11-24 10:30"), utc("2026-11-24 11:00"), kept)
    assert started.now(utc("2026-11-24 11:00")) == "changeover"


def test_without_a_schedule_a_start_keeps_what_was_set():
    keeper = StateKeeper(parse_schedule([]))
    keeper.restore("changeover", utc("2026-11-23 12:00"), utc("2027-11-23 12:00"))
    assert keeper.now(utc("2027-11-23 12:00")) == "changeover"


def test_without_rules_it_runs_always_and_holds_what_was_set():
    keeper = StateKeeper(parse_schedule([]))
    keeper.set("maintenance", utc("2026-11-23 12:00"))
    assert keeper.now(utc("2027-11-23 12:00")) == "maintenance"
    with pytest.raises(UsageError, match="'asleep' is not known"):
        keeper.set("asleep", 0.0)


def test_times_without_quotes_and_days_over_the_weekend_are_read():
    # YAML reads 22:00 as the number 1320.
    schedule = parse_schedule([{"state": "stopped", "days": "sat-mon", "from": 1320, "to": "24:00"}], ZONE)
    assert schedule.state_at(utc("2026-11-23 22:30")) == "stopped"
    assert schedule.state_at(utc("2026-11-24 22:30")) == "running"
    assert schedule.rules[0].days == {5, 6, 0}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("sat", "is no list"),
        ([["sat"]], "is no mapping"),
        ([{"days": "sat"}], "needs a state"),
        ([{"state": "asleep"}], r"schedule\[0\].state='asleep'"),
        ([{"state": "stopped", "day": "sat"}], r"schedule\[0\].day is not known"),
        ([{"state": "stopped", "days": "caturday"}], "'caturday'"),
        ([{"state": "stopped", "days": []}], "days is empty"),
        ([{"state": "stopped", "from": "25:00"}], "'25:00' is no time of day"),
        ([{"state": "stopped", "from": "06:00", "to": "06:00"}], "has no length"),
        ([{"timezone": "Mars/Olympus"}], "'Mars/Olympus' is not known"),
    ],
)
def test_errors_are_one_line_that_says_what_and_where(entries: list, words: str):
    with pytest.raises(UsageError, match=words) as raised:
        parse_schedule(entries)
    assert "\n" not in str(raised.value)
