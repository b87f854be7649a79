"""NetworkManager's profiles for a bridge in the place of a NIC."""

from __future__ import annotations

import configparser
from ipaddress import IPv4Interface

import pytest

from kronos.network.configuration import networkmanager
from kronos.network.configuration.base import Addressing, Port, Refused

PORT = Port("ens3", "brens3", "52:54:00:12:34:56")
BRIDGE, NIC = networkmanager.files_of("brens3")
KEYFILE = """\
[connection]
id=Wired connection 1
uuid=9a3f8a4e-0d4b-3d3f-8a0e-111111111111
type=ethernet
zone=trusted
interface-name=ens3

[ethernet]
mtu=9000
wake-on-lan=64

[ipv4]
address1=192.0.2.2/24,192.0.2.1
dns=192.0.2.1;
method=manual

[ipv6]
method=auto

[.nmmeta]
nm-generated=true
"""


def read(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser


def test_the_bridge_has_the_addresses_and_the_nic_what_is_of_the_wire() -> None:
    files = networkmanager.bridged(KEYFILE, PORT)
    before, bridge, nic = read(KEYFILE), read(files[BRIDGE]), read(files[NIC])
    for family in ("ipv4", "ipv6"):
        assert dict(bridge[family]) == dict(before[family])
        assert family not in nic
    assert dict(nic["ethernet"]) == dict(before["ethernet"])
    assert dict(bridge["ethernet"]) == {"mtu": "9000"}
    assert bridge["connection"]["zone"] == "trusted"
    assert ".nmmeta" not in bridge and ".nmmeta" not in nic


def test_the_nic_joins_the_bridge_which_has_its_mac() -> None:
    files = networkmanager.bridged(KEYFILE, PORT)
    bridge, nic = read(files[BRIDGE]), read(files[NIC])
    assert bridge["bridge"]["mac-address"].lower() == PORT.mac
    assert nic["connection"]["master"] == bridge["connection"]["uuid"] != nic["connection"]["uuid"]
    assert (bridge["connection"]["interface-name"], nic["connection"]["interface-name"]) == ("brens3", "ens3")


def test_both_come_before_the_profile_that_was() -> None:
    for text in networkmanager.bridged(KEYFILE, PORT).values():
        assert int(read(text)["connection"]["autoconnect-priority"]) > 0


@pytest.mark.parametrize(
    ("keyfile", "why"),
    [
        ("[connection]\ntype=wifi\n", "of the type wifi"),
        ("", "of the type nothing"),
        ("[connection]\ntype=ethernet\nmaster=bond0\n", "a part of bond0"),
    ],
)
def test_what_a_bridge_cannot_take_is_refused(keyfile: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        networkmanager.bridged(keyfile, PORT)


def test_addresses_said_anew() -> None:
    wanted = Addressing(
        "static", IPv4Interface("192.0.2.5/24"), "192.0.2.1", dns=("192.0.2.1", "2001:db8::1")
    )
    bridge = read(networkmanager.readdressed(PORT, wanted)[BRIDGE])
    assert dict(bridge["ipv4"]) == {
        "method": "manual",
        "address1": "192.0.2.5/24,192.0.2.1",
        "dns": "192.0.2.1;",
    }
    assert dict(bridge["ipv6"]) == {"method": "disabled"}
    assert read(networkmanager.readdressed(PORT, Addressing())[BRIDGE])["ipv4"]["method"] == "auto"
