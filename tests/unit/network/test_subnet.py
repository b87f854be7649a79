"""Reading a subnet from a network's other_config."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.network.subnet import free_subnet, subnet_of_options

XENSERVER = {
    "is_guest_installer_network": "true",
    "is_host_internal_management_network": "true",
    "ip_begin": "169.254.0.1",
    "ip_end": "169.254.255.254",
    "netmask": "255.255.0.0",
}


def test_xenservers_own_network_reads_as_it_stands() -> None:
    subnet = subnet_of_options(XENSERVER)
    assert subnet.host == IPv4Interface("169.254.0.1/16")
    assert (subnet.first, subnet.last) == (IPv4Address("169.254.0.2"), IPv4Address("169.254.255.254"))
    assert (subnet.domain, subnet.nat) == ("", False)
    assert subnet.size == 65533


def test_domain_and_translation_are_options_too() -> None:
    subnet = subnet_of_options({**XENSERVER, "domain": "Guests.Internal", "nat": "true"})
    assert (subnet.domain, subnet.nat) == ("guests.internal", True)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"ip_begin": "169.254.0"}, ["INVALID_IP_ADDRESS_SPECIFIED", "ip_begin"]),
        ({"ip_end": "fe80::1"}, ["INVALID_IP_ADDRESS_SPECIFIED", "ip_end"]),
        ({"ip_begin": "169.254.0.1\nport=0"}, ["INVALID_IP_ADDRESS_SPECIFIED", "ip_begin"]),
        ({"netmask": "16"}, ["INVALID_VALUE", "netmask", "16"]),
        ({"netmask": "0.0.255.255"}, ["INVALID_VALUE", "netmask", "0.0.255.255"]),
        ({"netmask": "255.0.255.0"}, ["INVALID_VALUE", "netmask", "255.0.255.0"]),
        ({"netmask": "255.255.255.255"}, ["INVALID_VALUE", "netmask", "255.255.255.255"]),
        ({"netmask": "0.0.0.0"}, ["INVALID_VALUE", "netmask", "0.0.0.0"]),
        ({"ip_begin": "169.254.0.0"}, ["INVALID_VALUE", "ip_begin", "169.254.0.0"]),
        ({"ip_begin": "169.254.255.254"}, ["INVALID_VALUE", "ip_begin", "169.254.255.254"]),
        ({"ip_end": "169.254.0.1"}, ["INVALID_VALUE", "ip_end", "169.254.0.1"]),
        ({"ip_end": "169.254.255.255"}, ["INVALID_VALUE", "ip_end", "169.254.255.255"]),
        ({"ip_end": "10.0.0.1"}, ["INVALID_VALUE", "ip_end", "10.0.0.1"]),
        ({"nat": "maybe"}, ["INVALID_VALUE", "nat", "maybe"]),
        ({"domain": "a\nserver=1.1.1.1"}, ["INVALID_VALUE", "domain", "a\nserver=1.1.1.1"]),
        ({"domain": "a/b"}, ["INVALID_VALUE", "domain", "a/b"]),
        ({"domain": "-a"}, ["INVALID_VALUE", "domain", "-a"]),
    ],
)
def test_an_option_that_makes_no_subnet_is_named(changes: dict[str, str], failure: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        subnet_of_options({**XENSERVER, **changes})
    assert caught.value.description == failure


@pytest.mark.parametrize("missing", ["ip_begin", "ip_end"])
def test_an_address_cannot_be_left_out(missing: str) -> None:
    with pytest.raises(Failure) as caught:
        subnet_of_options({key: value for key, value in XENSERVER.items() if key != missing})
    assert caught.value.description == ["INVALID_IP_ADDRESS_SPECIFIED", missing]


@given(
    st.dictionaries(st.sampled_from(["ip_begin", "ip_end", "netmask", "nat", "domain"]), st.text(max_size=20))
)
def test_any_text_gives_a_subnet_or_a_failure(options: dict[str, str]) -> None:
    try:
        subnet_of_options({**XENSERVER, **options})
    except Failure as failure:
        assert failure.code in ("INVALID_VALUE", "INVALID_IP_ADDRESS_SPECIFIED")


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_leased_addresses_lie_in_the_subnet_and_are_not_the_hosts(
    begin: IPv4Address, end: IPv4Address, prefix: int
) -> None:
    mask = IPv4Network((0, prefix)).netmask
    try:
        subnet = subnet_of_options({"ip_begin": str(begin), "ip_end": str(end), "netmask": str(mask)})
    except Failure:
        return
    assert subnet.host.ip < subnet.first <= subnet.last < subnet.network.broadcast_address
    assert {subnet.first, subnet.last} <= {begin + 1, end}


def test_the_first_choice_is_xenservers() -> None:
    subnet = free_subnet([IPv4Network("10.0.0.0/8")])
    assert (subnet.host, subnet.last) == (IPv4Interface("169.254.0.1/16"), IPv4Address("169.254.255.254"))


def test_a_taken_subnet_is_passed_over() -> None:
    taken = [IPv4Network("169.254.169.254/32"), IPv4Network("192.168.128.0/23")]
    subnet = free_subnet(taken, domain="internal", nat=True)
    assert subnet.host == IPv4Interface("192.168.130.1/24")
    assert (subnet.first, subnet.last) == (IPv4Address("192.168.130.2"), IPv4Address("192.168.130.254"))
    assert (subnet.domain, subnet.nat) == ("internal", True)


def test_when_everything_is_taken_it_says_so() -> None:
    with pytest.raises(Failure) as caught:
        free_subnet([IPv4Network("0.0.0.0/0")])
    assert caught.value.code == "OPERATION_NOT_ALLOWED"
