"""What dnsmasq is told, and what its lease file says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kronos.network.base import Lease
from kronos.network.dnsmasq import AddressService, configuration, leases_of
from kronos.network.subnet import subnet_of_options

OPTIONS = {"ip_begin": "10.1.0.1", "ip_end": "10.1.0.99", "netmask": "255.255.255.0"}


def lines(**options: str) -> list[str]:
    return configuration(
        "xenapi", subnet_of_options({**OPTIONS, **options}), Path("/state/xenapi")
    ).splitlines()


def test_it_serves_the_guests_addresses_on_this_bridge_alone() -> None:
    assert {"interface=xenapi", "except-interface=lo", "bind-dynamic"} <= set(lines())
    assert "dhcp-range=10.1.0.2,10.1.0.99,255.255.255.0,3600" in lines()
    assert "dhcp-lease-max=98" in lines()


def test_without_translation_guests_learn_no_way_out() -> None:
    assert {"no-resolv", "dhcp-option=option:router", "dhcp-option=option:dns-server"} <= set(lines())


def test_with_translation_they_do() -> None:
    assert not {"no-resolv", "dhcp-option=option:router"} & set(lines(nat="true"))


def test_a_domain_is_answered_here_and_asked_nowhere_else() -> None:
    assert {"domain=guests", "local=/guests/"} <= set(lines(domain="guests"))


def test_leases_come_by_address_without_those_that_ended() -> None:
    text = (
        "2000 02:00:00:00:00:02 10.1.0.10 * 01:02:00:00:00:00:02\n"
        "2000 02:00:00:00:00:01 10.1.0.9 web01 *\n"
        "999 02:00:00:00:00:03 10.1.0.3 old *\n"
        "0 02:00:00:00:00:04 10.1.0.4 for-ever *\n"
    )
    assert leases_of(text, now=1000.0) == [
        Lease("02:00:00:00:00:04", "10.1.0.4", "for-ever", 0),
        Lease("02:00:00:00:00:01", "10.1.0.9", "web01", 2000),
        Lease("02:00:00:00:00:02", "10.1.0.10", "", 2000),
    ]


@pytest.mark.parametrize(
    "line",
    ["", "20", "2000 02:00:00:00:00:02 10.1.0.1", "duid 00:01:00:01:2c", "2000 1234 fd00::5 host 00:01"],
)
def test_a_line_that_is_no_whole_ipv4_lease_is_passed_over(line: str) -> None:
    assert leases_of(f"{line}\n2000 02:00:00:00:00:01 10.1.0.9 a *\n", now=0.0) == [
        Lease("02:00:00:00:00:01", "10.1.0.9", "a", 2000)
    ]


def test_a_bridge_never_served_has_no_process_and_no_leases(tmp_path: Path) -> None:
    service = AddressService(tmp_path)
    assert (service.pid("xenapi"), service.leases("xenapi")) == (None, [])
    service.stop("xenapi")
    service.forget("xenapi")


def test_a_process_that_only_has_the_number_is_left_alone(tmp_path: Path) -> None:
    service = AddressService(tmp_path)
    (tmp_path / "xenapi").mkdir()
    (tmp_path / "xenapi/pid").write_text(f"{os.getpid()}\n")
    assert service.pid("xenapi") is None
    service.stop("xenapi")
    assert not (tmp_path / "xenapi/pid").exists()
