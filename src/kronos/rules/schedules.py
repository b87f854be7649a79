"""Schedules of snapshots: which settings are good, and when the last run was due."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time, timedelta, tzinfo

from kronos.datamodel.errors import Failure

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
QUARTERS = ("0", "15", "30", "45")

DEFAULTS = {"min": "0", "hour": "0", "days": "Monday"}
KEYS: dict[str, tuple[str, ...]] = {
    "hourly": ("min",),
    "daily": ("hour", "min"),
    "weekly": ("hour", "min", "days"),
}
RETAINED = range(1, 11)


def checked(schedule: Mapping[str, str], keys: tuple[str, ...] = ("hour", "min", "days")) -> dict[str, str]:
    """The settings, spelled as XenAPI does. Raises INVALID_VALUE ["schedule:<key>", value]."""
    found = {}
    for key, value in schedule.items():
        good = _spelled(key, value) if key in keys else None
        if good is None:
            raise Failure("INVALID_VALUE", f"schedule:{key}" if key else "schedule", value)
        found[key] = good
    return found


def completed(frequency: str, schedule: Mapping[str, str]) -> dict[str, str]:
    """What a frequency makes of the settings: its own keys and no others, with the default where one is missing."""
    return {key: schedule.get(key, DEFAULTS[key]) for key in KEYS[frequency]}


def assert_retained(number: int) -> None:
    """Raises INVALID_VALUE ["retained_snapshots", number]."""
    if number not in RETAINED:
        raise Failure("INVALID_VALUE", "retained_snapshots", str(number))


def last_due(frequency: str, schedule: Mapping[str, str], moment: float, zone: tzinfo | None = None) -> float:
    """When the run at or before `moment` was due (seconds since the epoch); `zone` is the host's own unless given."""
    wanted = completed(frequency, schedule)
    minute = int(wanted["min"])
    local = datetime.fromtimestamp(moment, zone)
    if frequency == "hourly":
        due = local.replace(minute=minute, second=0, microsecond=0).timestamp()
        return due if due <= moment else due - 3600
    days = wanted["days"].split(",") if "days" in wanted else DAYS
    at = time(int(wanted["hour"]), minute)
    for back in range(9):
        day = local.date() - timedelta(days=back)
        due = datetime.combine(day, at, zone).timestamp()
        if DAYS[day.weekday()] in days and due <= moment:
            return due
    raise AssertionError(wanted)


def _spelled(key: str, value: str) -> str | None:
    if key == "hour":
        return value if value.isascii() and value.isdigit() and int(value) < 24 else None
    if key == "min":
        return value if value in QUARTERS else None
    days = [next((day for day in DAYS if day.lower() == each.lower()), "") for each in value.split(",")]
    return ",".join(days) if all(days) and len(set(days)) == len(days) else None
