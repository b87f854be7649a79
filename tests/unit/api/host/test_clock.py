"""host: time zone, clock and the servers that it follows."""

from __future__ import annotations

import pytest

CHRONY = "pool 2.debian.pool.ntp.org iburst\nserver ntp.example iburst\ndriftfile /var/lib/chrony/drift\n"


@pytest.fixture
def chrony(put):
    put("usr/lib/systemd/system/chrony.service")
    return put("etc/chrony/chrony.conf", CHRONY)


@pytest.fixture
def timesyncd(put, system):
    put("usr/lib/systemd/system/systemd-timesyncd.service")
    return system.root / "etc/systemd/timesyncd.conf.d/xapi.conf"


def test_own_servers_replace_those_of_the_distribution(xapi, system, chrony):
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["192.0.2.5", "ntp.example.org"])
    assert chrony.read_text() == CHRONY, "another mode is on"

    xapi("host.set_ntp_mode", xapi.host.ref, "Custom")

    assert chrony.read_text().splitlines() == [
        "#xapi# pool 2.debian.pool.ntp.org iburst",
        "#xapi# server ntp.example iburst",
        "driftfile /var/lib/chrony/drift",
        "server 192.0.2.5 iburst # xapi",
        "server ntp.example.org iburst # xapi",
    ]
    assert system.commands == ["systemctl enable chrony.service", "systemctl restart chrony.service"]
    assert xapi("host.get_ntp_mode", xapi.host.ref) == "Custom"


def test_the_factory_mode_gives_the_administrators_file_back(xapi, chrony):
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["192.0.2.5"])
    for mode in ("Custom", "DHCP", "Custom", "Factory"):
        xapi("host.set_ntp_mode", xapi.host.ref, mode)
    assert chrony.read_text() == CHRONY


def test_servers_that_are_in_use_are_exchanged_at_once(xapi, chrony):
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["192.0.2.5"])
    xapi("host.set_ntp_mode", xapi.host.ref, "Custom")
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["2001:db8::7"])
    assert [line for line in chrony.read_text().splitlines() if line.endswith("# xapi")] == [
        "server 2001:db8::7 iburst # xapi"
    ]


def test_a_host_without_chrony_has_a_drop_in_of_timesyncd(xapi, system, timesyncd):
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["a.example", "b.example"])
    xapi("host.set_ntp_mode", xapi.host.ref, "Custom")
    assert "NTP=a.example b.example\nFallbackNTP=\n" in timesyncd.read_text()

    xapi("host.set_ntp_mode", xapi.host.ref, "Factory")
    assert not timesyncd.exists()

    xapi("host.set_ntp_mode", xapi.host.ref, "Disabled")
    assert system.commands[-1] == "systemctl disable --now systemd-timesyncd.service"


def test_a_service_that_does_not_start_leaves_the_old_servers(xapi, system, chrony):
    system.refused = {"systemctl restart"}
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["192.0.2.5"])

    refusal = xapi.refused("host.set_ntp_mode", xapi.host.ref, "Custom")

    assert refusal[0] == "INTERNAL_ERROR" and "does not work today" in refusal[1]
    assert chrony.read_text() == CHRONY
    assert xapi("host.get_ntp_mode", xapi.host.ref) == "Factory"


@pytest.mark.parametrize("server", ["", "a b", "x\ny", "-x", "fe80::1%eth0", "a..b", "server;"])
def test_what_is_no_server_does_not_reach_the_file(xapi, chrony, server):
    assert xapi.refused("host.set_ntp_custom_servers", xapi.host.ref, [server])[0] == "INVALID_NTP_CONFIG"


def test_custom_needs_servers(xapi, chrony):
    assert xapi.refused("host.set_ntp_mode", xapi.host.ref, "Custom")[0] == "INVALID_NTP_CONFIG"
    xapi("host.set_ntp_custom_servers", xapi.host.ref, ["192.0.2.5"])
    xapi("host.set_ntp_mode", xapi.host.ref, "Custom")
    assert xapi.refused("host.set_ntp_custom_servers", xapi.host.ref, [])[0] == "INVALID_NTP_CONFIG"


def test_a_host_without_a_time_service_says_so(xapi, system):
    refusal = xapi.refused("host.set_ntp_mode", xapi.host.ref, "Disabled")
    assert refusal[0] == "OPERATION_NOT_ALLOWED" and "chrony" in refusal[1]


def test_the_time_zone_is_one_that_the_host_knows(xapi, system):
    zones = xapi("host.list_timezones", xapi.host.ref)
    assert {"UTC", "Europe/Berlin"} <= set(zones)

    xapi("host.set_timezone", xapi.host.ref, "Europe/Berlin")

    assert system.commands == ["timedatectl set-timezone Europe/Berlin"]
    assert xapi("host.get_timezone", xapi.host.ref) == "Europe/Berlin"
    assert xapi.refused("host.set_timezone", xapi.host.ref, "Mars/North") == [
        "INVALID_VALUE",
        "timezone",
        "Mars/North",
    ]


def test_the_clock_is_set_where_nobody_else_sets_it(xapi, system, chrony):
    assert xapi.refused("host.set_servertime", xapi.host.ref, "20260102T03:04:05Z") == [
        "NOT_ALLOWED_WHEN_NTP_IS_ENABLED",
        xapi.host.ref,
    ]
    xapi("host.set_ntp_mode", xapi.host.ref, "Disabled")
    xapi("host.set_servertime", xapi.host.ref, "20260102T03:04:05Z")
    assert system.commands[-1] == "timedatectl set-time 2026-01-02 03:04:05 UTC"


def test_a_daemon_that_is_not_the_service_leaves_the_host_alone(xapi):
    refusal = xapi.refused("host.set_timezone", xapi.host.ref, "Europe/Berlin")
    assert refusal[0] == "OPERATION_NOT_ALLOWED"
    assert xapi("host.get_timezone", xapi.host.ref) == "UTC"
