"""What xe-reset-networking is asked for, and what it refuses."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest

from kronos.network.configuration.base import Addressing, Refused
from kronos.network.configuration.readdressing import expected
from kronos.network.configuration.reset import addressing_of, parse

STATIC = ("--mode=static", "--ip=192.0.2.5", "--netmask=255.255.255.0")


def asked(*words: str) -> Addressing:
    return addressing_of(parse(list(words)))


def test_without_options_a_server_is_asked() -> None:
    assert asked() == Addressing("dhcp")
    assert expected(asked()).addresses == ()


def test_a_static_address() -> None:
    wanted = asked(*STATIC, "--gateway=192.0.2.1", "--dns=192.0.2.1,192.0.2.3")
    assert wanted == Addressing(
        "static", IPv4Interface("192.0.2.5/24"), "192.0.2.1", dns=("192.0.2.1", "192.0.2.3")
    )
    assert expected(wanted).lasting() == {"192.0.2.5/24"}
    assert expected(wanted).gateways == ("192.0.2.1",)


def test_modes_are_taken_in_capitals_too() -> None:
    assert asked("--mode=DHCP", "--mode-v6=AutoConf") == Addressing("dhcp", ipv6="autoconf")


def test_an_address_of_ipv6_alone() -> None:
    wanted = asked("--mode=none", "--mode-v6=static", "--ipv6=2001:db8::5/64", "--gateway-v6=fe80::1")
    assert wanted == Addressing(
        "none", ipv6="static", address_v6=IPv6Interface("2001:db8::5/64"), gateway_v6="fe80::1"
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--mode=none",), "other than none"),
        (("--mode=static", "--ip=192.0.2.5"), "takes --ip and --netmask"),
        (("--mode-v6=static", "--ipv6=2001:db8::5"), "length of the prefix"),
        ((*STATIC[:2], "--netmask=255.0.255.0"), "255.0.255.0"),
        ((*STATIC, "--gateway=nowhere"), "nowhere"),
        ((*STATIC, "--dns=192.0.2.1,$(reboot)"), "reboot"),
        (("--vlan=7",), "VLAN"),
        (("--master=192.0.2.9",), "in no pool"),
    ],
)
def test_what_cannot_be_done_is_refused(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(Refused, match=why):
        asked(*words)
