"""systemd-networkd's files for a bridge in the place of a NIC."""

from __future__ import annotations

import configparser
import re
from ipaddress import IPv4Interface, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.network.configuration import networkd
from kronos.network.configuration.base import Addressing, Port, Refused

PORT = Port("ens3", "brens3", "52:54:00:12:34:56", 9000)
NETDEV, NETWORK, NIC = networkd.files_of("brens3")

_SECTIONS = {
    "Network": (
        "DHCP=yes",
        "DHCP=ipv4",
        "Address=192.0.2.2/24",
        "Gateway=192.0.2.1",
        "DNS=192.0.2.1",
        "# why",
        "LLDP=yes",
    ),
    "DHCPv4": ("UseDNS=no", "RouteMetric=100", "ClientIdentifier=mac"),
    "Address": ("Address=2001:db8::2/64", "Label=x"),
    "Route": ("Destination=10.0.0.0/8", "Gateway=192.0.2.9"),
}


@st.composite
def files(draw: st.DrawFn) -> str:
    text = "# mine\n[Match]\nName=en*\n\n[Link]\nMTUBytes=9000\n\n"
    for name in draw(st.lists(st.sampled_from(sorted(_SECTIONS)), max_size=5)):
        text += (
            f"[{name}]\n"
            + "".join(f"{line}\n" for line in draw(st.lists(st.sampled_from(_SECTIONS[name]))))
            + "\n"
        )
    return text


def read(text: str) -> list[tuple[str, list[str]]]:
    """Sections with their assignments, repeated ones too."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), []))
        elif line and not line.startswith("#"):
            found[-1][1].append(line)
    return found


@given(files(), files())
def test_the_bridge_has_every_section_of_the_nics_file_and_its_drop_ins(text: str, drop_in: str) -> None:
    after = networkd.bridged("20-wired.network", [text, drop_in], PORT)
    wanted = [each for each in read(text) + read(drop_in) if each[0] not in ("Match", "Link")]
    assert read(after[NETWORK]) == [("Match", ["Name=brens3"]), *wanted]


def test_the_bridge_is_the_nics_likeness() -> None:
    after = networkd.bridged(
        "20-wired.network", ["[Match]\nName=ens3\n[Link]\nMTUBytes=9000\n[Network]\nDHCP=yes\n"], PORT
    )
    device = configparser.ConfigParser()
    device.read_string(after[NETDEV])
    assert dict(device["NetDev"]) == {
        "name": "brens3",
        "kind": "bridge",
        "macaddress": PORT.mac,
        "mtubytes": "9000",
    }
    assert read(after[NIC])[:2] == [("Match", ["Name=ens3"]), ("Link", ["MTUBytes=9000"])]
    assert "Bridge=brens3" in read(after[NIC])[2][1]


def test_a_server_is_told_the_number_that_it_knows() -> None:
    lease = "ffcb8f0757000200000ab11a2b3c4d"
    after = networkd.bridged("20-wired.network", ["[Network]\nDHCP=yes\n"], PORT, lease)
    assert re.findall(r"IAID=(\d+)", after[NETWORK]) == [str(0xCB8F0757)] * 2
    assert (
        "IAID"
        not in networkd.bridged("20-wired.network", ["[Network]\nDHCP=yes\n"], PORT, "01525400123456")[
            NETWORK
        ]
    )


@pytest.mark.parametrize("line", ["Bridge=br0", "Bond = bond0", "VLAN=ens3.7"])
def test_a_nic_that_something_else_is_built_on_is_refused(line: str) -> None:
    with pytest.raises(Refused, match=line.partition("=")[0].strip()):
        networkd.bridged("20-wired.network", [f"[Network]\n{line}\n"], PORT)


def test_a_file_that_would_come_first_is_refused() -> None:
    with pytest.raises(Refused, match=r"00-first\.network"):
        networkd.bridged("00-first.network", ["[Network]\nDHCP=yes\n"], PORT)


def test_addresses_said_anew() -> None:
    wanted = Addressing(
        *("static", IPv4Interface("192.0.2.5/24"), "192.0.2.1"),
        *("static", IPv6Interface("2001:db8::5/64"), "fe80::1", ("192.0.2.1",)),
    )
    lines = read(networkd.readdressed(PORT, wanted)[NETWORK])[1][1]
    assert lines == [
        *("DHCP=no", "IPv6AcceptRA=no", "Address=192.0.2.5/24", "Gateway=192.0.2.1"),
        *("Address=2001:db8::5/64", "Gateway=fe80::1", "DNS=192.0.2.1"),
    ]
    assert "DHCP=ipv4" in networkd.readdressed(PORT, Addressing())[NETWORK]
