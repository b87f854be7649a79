"""Schedules: what may be said in one, and when its runs are due."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from kronos.datamodel.errors import Failure
from kronos.rules import schedules

BERLIN = ZoneInfo("Europe/Berlin")


def due(frequency: str, schedule: dict[str, str], text: str, zone=UTC) -> str:
    """When the run before a moment was due, both written in the zone's own time."""
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=zone)
    found = schedules.last_due(frequency, schedule, moment.timestamp(), zone)
    return datetime.fromtimestamp(found, zone).strftime("%Y-%m-%d %H:%M")


def test_an_hourly_run_is_due_at_its_minute():
    assert due("hourly", {"min": "15"}, "2026-03-04 10:15") == "2026-03-04 10:15"
    assert due("hourly", {"min": "15"}, "2026-03-04 10:14") == "2026-03-04 09:15"
    assert due("hourly", {"min": "45"}, "2026-03-04 00:10") == "2026-03-03 23:45"


def test_a_daily_run_is_due_at_its_hour():
    assert due("daily", {"hour": "3", "min": "30"}, "2026-03-04 03:30") == "2026-03-04 03:30"
    assert due("daily", {"hour": "3", "min": "30"}, "2026-03-04 03:29") == "2026-03-03 03:30"


def test_a_weekly_run_is_due_on_each_of_its_days():
    # 4 March 2026 is a Wednesday.
    assert due("weekly", {"hour": "5", "days": "Wednesday"}, "2026-03-04 05:00") == "2026-03-04 05:00"
    assert due("weekly", {"hour": "5", "days": "Wednesday"}, "2026-03-04 04:59") == "2026-02-25 05:00"
    assert due("weekly", {"hour": "5", "days": "Monday,Friday"}, "2026-03-04 12:00") == "2026-03-02 05:00"


def test_what_is_not_said_has_a_default():
    assert due("weekly", {}, "2026-03-04 12:00") == "2026-03-02 00:00"


def test_the_hour_is_the_hosts_own_on_both_sides_of_summer_time():
    # Clocks went forward on 29 March 2026.
    assert due("daily", {"hour": "4"}, "2026-03-28 12:00", BERLIN) == "2026-03-28 04:00"
    assert due("daily", {"hour": "4"}, "2026-03-30 12:00", BERLIN) == "2026-03-30 04:00"
    assert due("hourly", {"min": "30"}, "2026-03-29 03:10", BERLIN) == "2026-03-29 01:30"


def test_days_are_spelled_as_xenapi_does():
    assert schedules.checked({"days": "monday,FRIDAY"}) == {"days": "Monday,Friday"}


@pytest.mark.parametrize(
    "wrong",
    [("min", "7"), ("min", "00"), ("hour", "24"), ("hour", "-1"), ("hour", "²"), ("days", "Moonday"),
     ("days", ""), ("days", "Monday,Monday"), ("year", "1")],
)  # fmt: skip
def test_what_no_schedule_says_is_refused(wrong):
    with pytest.raises(Failure) as failure:
        schedules.checked(dict([wrong]))
    assert failure.value.description == ["INVALID_VALUE", f"schedule:{wrong[0]}", wrong[1]]


def test_a_frequency_has_its_own_settings_alone():
    assert schedules.completed("hourly", {"min": "15", "hour": "2"}) == {"min": "15"}
    assert schedules.completed("weekly", {"hour": "2"}) == {"hour": "2", "min": "0", "days": "Monday"}
