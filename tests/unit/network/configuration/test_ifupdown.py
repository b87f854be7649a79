"""/etc/network/interfaces with a bridge in the place of a NIC."""

from __future__ import annotations

import fnmatch
import re
from ipaddress import IPv4Interface, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.network.configuration import ifupdown
from kronos.network.configuration.base import Addressing, Port, Refused, bytes_of, text_of
from kronos.network.configuration.ifupdown import MAIN

PORT = Port("ens3", "brens3", "52:54:00:12:34:56")
STOCK = """\
# This file describes the network interfaces available on your system
source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug ens3
iface ens3 inet dhcp
"""

_OTHERS = (
    "# a comment of ens3, and \\\n",
    "\n",
    "auto lo\niface lo inet loopback\n",
    "auto ens4\niface ens4 inet static\n\taddress 192.0.2.9/24\n\tup ip route add \\\n\t\t10.0.0.0/8 via 192.0.2.1\n",
    "iface ens33 inet manual\n",
    "mapping eth*\n  script /sbin/guess\n",
    "allow-hotplug ens4\n",
    "iface ens4 inet6 auto\n  # \udcff\n",
)
_OPTIONS = (
    "    address 10.0.0.2/24\n",
    "\tgateway 10.0.0.1\n",
    "  dns-nameservers 10.0.0.1 10.0.0.2\n",
    "  dns-search example.org\n",
    "  up ip route add 10.1.0.0/16 via 10.0.0.3\n",
    "  up echo $IFACE \\\n    is up\n",
    "  # why\n",
    "  metric 7\n",
)
_OWN = ("inet dhcp", "inet static", "inet6 static", "inet6 auto", "inet6 dhcp")


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """Files as administrators write them, with one to three stanzas of ens3 somewhere."""
    heads = draw(st.lists(st.sampled_from(_OWN), min_size=1, max_size=3, unique=True))
    own = [f"iface ens3 {head}\n" + "".join(draw(st.lists(st.sampled_from(_OPTIONS)))) for head in heads]
    own.append(draw(st.sampled_from(("auto ens3\n", "allow-hotplug ens3\n", "auto lo ens3\n", ""))))
    parts = draw(st.permutations(own + draw(st.lists(st.sampled_from(_OTHERS), max_size=6))))
    # A stanza's options end where the next begins: what follows ours must begin something, or mean nothing.
    return "".join(parts)


def stanzas(text: str, name: str) -> list[tuple[str, list[str]]]:
    """What ifupdown reads of a name, by a reader of the test's own: what follows the name, and the options' words."""
    joined = "".join(
        line if line.lstrip().startswith("#") else re.sub(r"\\\n\Z", " ", line)
        for line in text.splitlines(keepends=True)
    )
    found: list[tuple[str, list[str]]] = []
    current: list[str] | None = None
    for line in joined.split("\n"):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("iface", "auto", "mapping", "source") or words[0].startswith("allow-"):
            current = None
            if words[:2] == ["iface", name]:
                current = []
                found.append((" ".join(words[2:]), current))
        elif current is not None:
            current.append(" ".join(words))
    return found


@given(configurations())
def test_the_bridge_has_all_that_the_nic_had_in_its_order(text: str) -> None:
    after = ifupdown.bridged({MAIN: text}, PORT)[MAIN]
    before = stanzas(text, "ens3")
    now = stanzas(after, "brens3")

    assert [head for head, _ in now] == [head for head, _ in before]
    for (_, mine), (_, theirs) in zip(now, before, strict=True):
        assert [option for option in mine if not option.startswith("pre-up ")] == theirs
    assert [head for head, _ in stanzas(after, "ens3")] == ["inet manual"]


@given(configurations())
def test_what_is_not_the_nics_stays_byte_for_byte(text: str) -> None:
    after = ifupdown.bridged({MAIN: text}, PORT)[MAIN]
    kept = iter(after.splitlines(keepends=True))
    for line in text.splitlines(keepends=True):
        if not re.match(r"\s*iface ens3 ", line):
            assert line in kept, f"{line!r} is lost, or in another place"


@given(configurations())
def test_the_bridge_is_up_from_the_boot_and_knows_its_nic(text: str) -> None:
    after = ifupdown.bridged({MAIN: text}, PORT)[MAIN]
    assert re.search(r"^auto brens3$", after, re.M)
    made = [option for option in stanzas(after, "brens3")[0][1] if option.startswith("pre-up ")]
    assert any("ip link add name brens3" in each for each in made)
    assert made[-1] == "pre-up ip link set dev ens3 master brens3"
    assert ifupdown.is_bridged({MAIN: after}, PORT)
    assert not ifupdown.is_bridged({MAIN: text}, PORT)


def test_a_stock_machine() -> None:
    after = ifupdown.bridged({MAIN: STOCK}, PORT)[MAIN]
    assert after.startswith(STOCK.partition("iface ens3")[0]), "all before it is as it was"
    assert "iface ens3 inet manual\n" in after
    assert "auto brens3\niface brens3 inet dhcp\n" in after


def test_bytes_of_any_kind_are_kept() -> None:
    content = b"# \xff\xfe caf\xe9\r\n" + STOCK.encode()
    after = bytes_of(ifupdown.bridged({MAIN: text_of(content)}, PORT)[MAIN])
    assert after.startswith(b"# \xff\xfe caf\xe9\r\n")


def test_the_stanza_is_changed_in_the_file_where_it_is() -> None:
    drop_in = "/etc/network/interfaces.d/wired"
    changed = ifupdown.bridged(
        {MAIN: "source interfaces.d/*\n", drop_in: "auto ens3\niface ens3 inet dhcp\n"}, PORT
    )
    assert set(changed) == {drop_in}


def test_what_concerns_the_wire_stays_with_the_nic() -> None:
    text = "auto ens3\niface ens3 inet dhcp\n  ethernet-wol g\n  mtu 9000\n"
    after = ifupdown.bridged({MAIN: text}, PORT)[MAIN]
    assert "ethernet-wol g" in stanzas(after, "ens3")[0][1]
    bridge = stanzas(after, "brens3")[0][1]
    assert "ethernet-wol g" not in bridge
    assert {"mtu 9000", "pre-up ip link set dev ens3 mtu 9000"} <= set(bridge)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("auto lo\n", "no `iface ens3`"),
        ("iface ens3 inet manual\n", "gives ens3 no address"),
        ("iface ens3 inet ppp\n", "not understood"),
        ("iface ens3 inet dhcp inherits other\n", "not understood"),
        ("iface ens3 inet dhcp\n  wpa-ssid home\n", "line 2 of /etc/network/interfaces: `wpa-ssid home`"),
        ("iface ens3 inet dhcp\n  up ethtool -K ens3 tso off\n", "names ens3 in a command"),
        ("iface ens3 inet dhcp\niface br0 inet static\n  bridge_ports ens3\n", "also speaks of it"),
        ("iface ens3 inet dhcp\niface ens3.7 inet dhcp\n", "also speaks of it"),
        ("iface ens3 inet dhcp\niface ens3:0 inet static\n", "also speaks of it"),
        ("iface ens3 inet dhcp\niface brens3 inet dhcp\n", "also speaks of it"),
        ("auto /ens*\niface ens3 inet dhcp\n", "by a pattern"),
        ("auto ens3=work\niface ens3 inet dhcp\n", "also speaks of it"),
        ("mapping ens*\n  script x\niface ens3 inet dhcp\n", "maps ens3"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, why: str) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        ifupdown.bridged({MAIN: text}, PORT)


def test_files_that_are_sourced_are_read_in_order() -> None:
    files = {
        MAIN: "source interfaces.d/*.cfg\nsource-directory more\n",
        "/etc/network/interfaces.d/b.cfg": "auto b\n",
        "/etc/network/interfaces.d/a.cfg": "source deeper\n",
        "/etc/network/interfaces.d/deeper": "auto c\n",
        "/etc/network/more/wired": "auto d\n",
        "/etc/network/more/wired.dpkg-old": "auto e\n",
    }
    found = ifupdown.gather(files.__getitem__, lambda pattern: fnmatch.filter(files, pattern))
    start = "/etc/network/"
    assert [path.removeprefix(start) for path in found] == [
        *("interfaces", "interfaces.d/a.cfg", "interfaces.d/deeper", "interfaces.d/b.cfg", "more/wired"),
    ]


def test_what_only_a_shell_understands_is_not_sourced() -> None:
    with pytest.raises(Refused, match="only a shell"):
        ifupdown.gather({MAIN: "source $(ls)\n"}.__getitem__, lambda _: [])


def test_a_client_asks_without_commands_that_ran_already() -> None:
    text = "iface brens3 inet dhcp\n  hostname box\n  up echo\niface brens3 inet6 static\n  address 2001:db8::1/64\n"
    said = ifupdown.client_only({MAIN: text}, "brens3")
    assert stanzas(said, "brens3") == [("inet dhcp", ["hostname box"]), ("inet6 manual", [])]


STATIC = Addressing("static", IPv4Interface("192.0.2.5/24"), "192.0.2.1", dns=("192.0.2.1",))


@given(configurations())
def test_other_addresses_replace_those_that_were(text: str) -> None:
    bridged = ifupdown.bridged({MAIN: text}, PORT)
    after = ifupdown.readdressed(bridged, "brens3", STATIC)[MAIN]
    ((head, options),) = stanzas(after, "brens3")
    assert head == "inet static"
    addresses = [each for each in options if each.split()[0] in ("address", "gateway", "dns-nameservers")]
    assert addresses == ["address 192.0.2.5/24", "gateway 192.0.2.1", "dns-nameservers 192.0.2.1"]
    assert ifupdown.is_bridged({MAIN: after}, PORT)


def test_both_families_get_addresses() -> None:
    both = Addressing("dhcp", ipv6="static", address_v6=IPv6Interface("2001:db8::5/64"), gateway_v6="fe80::1")
    after = ifupdown.readdressed({MAIN: "auto lo\n"}, "brens3", both)[MAIN]
    assert stanzas(after, "brens3") == [
        ("inet dhcp", []),
        ("inet6 static", ["address 2001:db8::5/64", "gateway fe80::1"]),
    ]
    assert after.startswith("auto lo\n\nauto brens3\n")


def test_the_former_interface_loses_its_addresses() -> None:
    text = "auto ens4\niface ens4 inet static\n  address 192.0.2.4/24\n  up echo\n"
    after = ifupdown.readdressed({MAIN: text}, "brens3", STATIC, ["ens4"])[MAIN]
    assert stanzas(after, "ens4") == [("inet manual", ["up echo"])]
