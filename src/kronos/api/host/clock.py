"""host: what time it is there, and whom it takes it from."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from threading import Lock

from kronos.api.host.surroundings import asked_of_the_system
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import at, now
from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import clock
from kronos.system.timekeeping import Timekeeping

_setting = Lock()
"""Held while the clock or its service is set: two half-made settings would be neither."""


@message("host.get_servertime", inline=True)
def get_servertime(call: Call, host: str) -> str:
    """The host's clock, UTC."""
    call.db.get(Host, host)
    return now()


@message("host.get_server_localtime", inline=True)
def get_server_localtime(call: Call, host: str) -> str:
    """The host's clock in its own time zone, written without one."""
    call.db.get(Host, host)
    time.tzset()  # the zone may have been set since the daemon began
    moment = time.time()
    return at(moment + time.localtime(moment).tm_gmtoff).removesuffix("Z")


@message("host.set_servertime")
def set_servertime(call: Call, self: str, value: str) -> None:
    """Set the clock, to a moment that is taken as UTC.

    Raises NOT_ALLOWED_WHEN_NTP_IS_ENABLED, INVALID_VALUE.
    """
    row = call.db.get(Host, self)
    if row.ntp_mode != "Disabled":
        raise Failure("NOT_ALLOWED_WHEN_NTP_IS_ENABLED", row.ref)
    moment = _moment(value)
    with _setting, asked_of_the_system():
        _hands(call).set_clock(f"{moment:%Y-%m-%d %H:%M:%S}")


def _moment(value: str) -> datetime:
    for form in ("%Y%m%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
        try:
            return datetime.strptime(value.removesuffix("Z"), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise Failure("INVALID_VALUE", "value", value)


# --- time zones ----------------------------------------------------------------------------------------------


@message("host.list_timezones")
def list_timezones(call: Call, self: str) -> tuple[str, ...]:
    """Every time zone that the host knows."""
    call.db.get(Host, self)
    return _hands(call).timezones()


@message("host.set_timezone")
def set_timezone(call: Call, self: str, value: str) -> None:
    """Set the host's time zone. Raises INVALID_VALUE for one that it does not know."""
    row = call.db.get(Host, self)
    hands = _hands(call)
    if value not in hands.timezones():
        raise Failure("INVALID_VALUE", "timezone", value)
    with _setting, asked_of_the_system():
        hands.set_timezone(value)
        row.timezone = value


# --- servers -------------------------------------------------------------------------------------------------


@message("host.set_ntp_mode")
def set_ntp_mode(call: Call, self: str, value: str) -> None:
    """Take the time from the distribution's servers (Factory), those that DHCP names, one's own, or nobody.

    Raises INVALID_NTP_CONFIG for Custom without servers.
    """
    row = call.db.get(Host, self)
    if row.ntp_mode != value:
        with _setting:
            _follow(call, row, value, row.ntp_custom_servers)
            row.ntp_mode = value


@message("host.set_ntp_custom_servers")
def set_ntp_custom_servers(call: Call, self: str, value: tuple[str, ...]) -> None:
    """Name the servers of the mode Custom; in that mode they are asked at once. Raises INVALID_NTP_CONFIG."""
    row = call.db.get(Host, self)
    clock.require_servers(value)
    with _setting:
        if row.ntp_mode == "Custom":
            if not value:
                raise Failure(
                    "INVALID_NTP_CONFIG", "Can't set ntp_custom_servers empty when ntp_mode is Custom"
                )
            _follow(call, row, "Custom", value)
        row.ntp_custom_servers = value


def _follow(call: Call, row: Host, mode: str, servers: tuple[str, ...]) -> None:
    """Have the time service do as a mode says; what it was told before is put back where that fails."""
    clock.require_mode(mode, servers)
    hands = _hands(call)
    with asked_of_the_system():
        hands.service()
        file = hands.chrony_file()
        before = file.read_text() if file is not None else ""
        if mode == "Disabled":
            hands.follow(False)
            return
        hands.configure(
            clock.chrony_configuration(before, mode, servers) if file is not None else None,
            clock.timesyncd_configuration(mode, servers),
        )
        try:
            hands.follow(True)
        except BaseException:
            old = clock.timesyncd_configuration(row.ntp_mode, row.ntp_custom_servers)
            hands.configure(before if file is not None else None, old)
            raise


@message("host.get_ntp_synchronized")
def get_ntp_synchronized(call: Call, self: str) -> bool:
    """Whether the host's clock follows another one now."""
    call.db.get(Host, self)
    with asked_of_the_system():
        return _hands(call).synchronised()


@message("host.get_ntp_servers_status")
def get_ntp_servers_status(call: Call, self: str) -> dict[str, str]:
    """Each server that is asked, and how its answers are used; nothing where no service runs."""
    call.db.get(Host, self)
    hands = _hands(call)
    with asked_of_the_system():
        if not hands.running():
            return {}
        text, is_chrony = hands.sources()
        if is_chrony:
            return clock.chrony_status(text)
        return clock.timesyncd_status(text, hands.synchronised())


def _hands(call: Call) -> Timekeeping:
    return Timekeeping(call.machine.outside, call.machine.root)
