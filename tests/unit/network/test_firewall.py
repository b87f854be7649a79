"""The nft text that ports and internal networks become."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from kronos.network import firewall
from kronos.network.base import LockingMode, VifPort
from kronos.network.subnet import subnet_of_options

MAC = "02:00:00:00:00:01"
IPV4 = IPv4Address("10.0.0.1")
IPV6 = IPv6Address("fd00::1")


def rules(port: VifPort, direction: str) -> list[str]:
    start = f"add rule bridge kronos {direction}-{port.device} "
    return [
        line.removeprefix(start)
        for line in firewall.secure_script(port).splitlines()
        if line.startswith(start)
    ]


def test_an_unlocked_port_passes_everything() -> None:
    port = VifPort("tap0.0", MAC)
    assert rules(port, "from") == rules(port, "to") == []


def test_an_unlocked_port_may_have_a_limit() -> None:
    port = VifPort("tap0.0", MAC, rate_kbytes=1000)
    assert rules(port, "from") == ["limit rate over 1000 kbytes/second burst 128 kbytes drop"]


@pytest.mark.parametrize(
    "port",
    [
        VifPort("tap0.0", MAC, LockingMode.DISABLED, (IPV4,), rate_kbytes=5),
        VifPort("tap0.0", MAC, LockingMode.LOCKED),
        VifPort("tap0.0", MAC, carrier=False),
    ],
    ids=["disabled", "locked to no address", "without carrier"],
)
def test_a_shut_port_passes_nothing_either_way(port: VifPort) -> None:
    assert rules(port, "from") == rules(port, "to") == ["drop"]


def test_whatever_a_locked_port_does_not_name_is_dropped() -> None:
    for port in (
        VifPort("tap0.0", MAC, LockingMode.LOCKED, (IPV4,)),
        VifPort("tap0.0", MAC, LockingMode.LOCKED, (), (IPV6,)),
    ):
        assert rules(port, "from")[0] == f"ether saddr != {MAC} drop"
        assert rules(port, "from")[-1] == "drop"


def test_a_port_locked_to_ipv4_has_no_rule_that_accepts_ipv6() -> None:
    accepted = [
        rule
        for rule in rules(VifPort("tap0.0", MAC, LockingMode.LOCKED, (IPV4,)), "from")
        if "accept" in rule
    ]
    assert accepted
    assert not any("ip6" in rule or "icmpv6" in rule for rule in accepted)


def test_the_old_rules_go_in_the_transaction_that_brings_the_new() -> None:
    lines = firewall.secure_script(VifPort("tap0.0", MAC, LockingMode.DISABLED)).splitlines()
    flush = lines.index("flush chain bridge kronos from-tap0.0")
    assert flush < lines.index("add rule bridge kronos from-tap0.0 drop")


def test_the_link_local_address_follows_from_the_mac() -> None:
    assert firewall.link_local("52:54:00:12:34:56") == IPv6Address("fe80::5054:ff:fe12:3456")


def test_translation_replaces_its_own_table_only() -> None:
    subnet = subnet_of_options({"ip_begin": "10.1.0.1", "ip_end": "10.1.0.99", "netmask": "255.255.255.0"})
    script = firewall.translate_script("xapi1", subnet)
    assert script.startswith("add table ip kronos-xapi1\ndelete table ip kronos-xapi1\n")
    assert 'ip saddr 10.1.0.0/24 ip daddr != 10.1.0.0/24 oifname != "xapi1" masquerade' in script
