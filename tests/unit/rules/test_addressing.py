"""Addresses as clients say them: what is taken, and which parameter is wrong where it is not."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.network.configuration.base import Addressing
from kronos.rules.addressing import V4, V6, addressing, v4, v6


def test_a_static_address_of_each_family() -> None:
    ipv4 = v4("Static", "192.0.2.5", "255.255.255.0", "192.0.2.1", "192.0.2.3,2001:db8::3,nobody")
    ipv6 = v6("Static", "2001:db8::5/64", "fe80::1", "192.0.2.3, 2001:db8::3")
    assert ipv4 == V4("Static", IPv4Interface("192.0.2.5/24"), "192.0.2.1", ("192.0.2.3",))
    assert ipv6 == V6("Static", IPv6Interface("2001:db8::5/64"), "fe80::1", ("2001:db8::3",))


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (("Static", "", "255.255.255.0", "", ""), "IP"),
        (("Static", "192.0.2.5", "", "", ""), "netmask"),
        (("Static", "192.0.2.500", "255.255.255.0", "", ""), "IP"),
        (("Static", "0.0.0.0", "255.255.255.0", "", ""), "IP"),
        (("Static", "224.0.0.1", "255.255.255.0", "", ""), "IP"),
        (("Static", "192.0.2.5", "255.0.255.0", "", ""), "netmask"),
        (("Static", "192.0.2.5", "0.0.0.255", "", ""), "netmask"),
        (("Static", "192.0.2.5", "24", "", ""), "netmask"),
        (("Static", "192.0.2.5", "255.255.255.0", "there", ""), "gateway"),
        (("Static", "192.0.2.5", "255.255.255.0", "198.51.100.1", ""), "gateway"),
        (("Static", "192.0.2.5", "255.255.255.0", "192.0.2.5", ""), "gateway"),
        (("DHCP", "", "", "there", ""), "gateway"),
    ],
)
def test_what_is_no_address_is_named(said: tuple[str, str, str, str, str], wrong: str) -> None:
    with pytest.raises(Failure) as raised:
        v4(*said)
    assert raised.value.description == ["INVALID_IP_ADDRESS_SPECIFIED", wrong]


@pytest.mark.parametrize(
    "address", ["", "2001:db8::5", "192.0.2.5/24", "::/64", "fe80::5%eth0/64", "ff02::1/64"]
)
def test_an_address_of_ipv6_has_its_prefix(address: str) -> None:
    with pytest.raises(Failure) as raised:
        v6("Static", address, "", "")
    assert raised.value.description == ["INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6"]


def test_a_server_gives_all_that_belongs_to_its_address() -> None:
    assert v4("DHCP", "192.0.2.5", "255.255.255.0", "192.0.2.1", "") == V4("DHCP")
    assert v6("Autoconf", "2001:db8::5/64", "fe80::1", "") == V6("Autoconf")


def test_only_the_management_interface_leads_to_the_world() -> None:
    ipv4 = v4("Static", "192.0.2.5", "255.255.255.0", "192.0.2.1", "192.0.2.3")
    there = addressing(ipv4, V6("None"), manages=True)
    assert (there.gateway, there.dns) == ("192.0.2.1", ("192.0.2.3",))
    assert addressing(ipv4, V6("None"), manages=False) == Addressing("static", IPv4Interface("192.0.2.5/24"))


@given(st.sampled_from(["None", "DHCP", "Static"]), *[st.text("0123456789.:/%a ", max_size=16)] * 4)
def test_nothing_else_is_ever_told_to_a_tool(
    mode: str, ip: str, netmask: str, gateway: str, dns: str
) -> None:
    """Files of the host's configuration are made of it: what is no address stays out."""
    try:
        told = addressing(v4(mode, ip, netmask, gateway, dns), V6("None"), manages=True)
    except Failure as failure:
        assert failure.code == "INVALID_IP_ADDRESS_SPECIFIED"
        return
    assert (told.address is not None) == (mode == "Static")
    for word in (told.gateway, *told.dns):
        assert not word or IPv4Interface(word).network.prefixlen == 32
