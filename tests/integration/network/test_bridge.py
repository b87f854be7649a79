"""Linux bridges: what is particular to the kernel's."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.network import firewall
from kronos.network.base import LinkState
from kronos.network.bridge import BridgeNetwork

pytestmark = pytest.mark.integration

MAKER = """
import os, signal
from pathlib import Path
from kronos.network import bridge
link = bridge.IPRoute.link
def cut_short(self, command, **words):
    if command == "set":
        os.kill(os.getpid(), signal.SIGKILL)
    return link(self, command, **words)
bridge.IPRoute.link = cut_short
bridge.BridgeNetwork(Path("/nowhere")).create_bridge("xapi0")
"""


@pytest.fixture
def half_made(host: Any, network: BridgeNetwork) -> str:
    """The name of a bridge whose maker was killed after its first step."""
    host.run(sys.executable, "-c", MAKER, check=False)
    (bridge,) = network.bridges()
    assert not bridge.up
    return bridge.name


def test_a_bridge_of_somebody_else_is_used_as_it_is_and_kept(host: Any, network: BridgeNetwork) -> None:
    host.run("ip", "link", "add", "br0", "mtu", "1400", "type", "bridge")
    host.run("ip", "link", "set", "br0", "up")

    bridge = network.create_bridge("br0", mtu=9000, external_ids={"a": "b"})
    network.destroy_bridge("br0")

    assert (bridge.managed, bridge.mtu, bridge.external_ids) == (False, 1400, {})
    assert network.bridges() == [bridge]


def test_a_bridge_that_a_killed_daemon_left_half_made_is_finished(
    network: BridgeNetwork, half_made: str
) -> None:
    bridge = network.create_bridge(half_made, external_ids={"a": "b"})

    assert (bridge.managed, bridge.up, bridge.external_ids) == (True, True, {"a": "b"})


def test_a_bridge_that_a_killed_daemon_left_half_made_is_removed(
    network: BridgeNetwork, half_made: str
) -> None:
    network.destroy_bridge(half_made)

    assert network.bridges() == []


JOINER = """
import os, signal
from pathlib import Path
from kronos.network import bridge
link = bridge.IPRoute.link
def cut_short(self, command, **words):
    done = link(self, command, **words)
    if "master" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
bridge.IPRoute.link = cut_short
bridge.BridgeNetwork(Path("/nowhere")).enslave("xenbr0", "nic0")
"""


def test_a_bridge_has_its_nics_mac_also_where_the_daemon_was_killed_as_it_joined(
    host: Any, network: BridgeNetwork
) -> None:
    host.run("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "nic0-cable")
    network.create_bridge("xenbr0")
    host.run(sys.executable, "-c", JOINER, check=False)
    network.enslave("xenbr0", "nic0")

    (bridge,) = network.bridges()
    mac = host.run("cat", "/sys/class/net/nic0/address").strip()
    assert (bridge.members, bridge.mac) == (("nic0",), mac)


def test_a_finished_bridge_is_in_no_group_of_ours(host: Any, network: BridgeNetwork) -> None:
    network.create_bridge("xenbr0")

    assert "group default" in host.run("ip", "link", "show", "xenbr0")


def test_more_ids_than_a_bridge_can_hold_are_refused(network: BridgeNetwork) -> None:
    with pytest.raises(Failure) as caught:
        network.create_bridge("xenbr0", external_ids={"k": "v" * 300})
    assert caught.value.code == "INVALID_VALUE"
    assert network.bridges() == []


def test_a_bridge_that_cannot_be_finished_is_taken_away_again(
    network: BridgeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer_than_the_kernel_takes = "kronos " + "x" * 400
    monkeypatch.setattr("kronos.network.bridge._alias", lambda ids: longer_than_the_kernel_takes)
    with pytest.raises(Failure) as caught:
        network.create_bridge("xenbr0")
    assert caught.value.params[0].startswith("A bridge cannot be made (xenbr0): ")
    assert network.bridges() == []


def test_a_nic_that_cannot_join_is_left_as_it_was(
    host: Any, network: BridgeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "cable")
    host.run("ip", "link", "set", "nic0", "down")
    network.create_bridge("xenbr0", mtu=1400)
    monkeypatch.setattr("kronos.network.bridge._is_managed", lambda link: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        network.enslave("xenbr0", "nic0")
    shown = host.run("ip", "-o", "link", "show", "nic0")
    assert "mtu 1500" in shown
    assert "master" not in shown


def test_guests_do_not_change_a_bridges_mac(network: BridgeNetwork, guest: Callable[..., Any]) -> None:
    before = network.create_bridge("xapi0").mac
    guest("tap0.0", "xapi0")
    (bridge,) = network.bridges()
    assert (bridge.mac, bridge.members) == (before, ("tap0.0",))


def test_guests_cannot_reach_the_host_by_an_address_nobody_gave_it(
    host: Any, network: BridgeNetwork, guest: Callable[..., Any]
) -> None:
    network.create_bridge("xapi0")
    one = guest("tap0.0", "xapi0")
    link_local = firewall.link_local(network.bridges()[0].mac)
    assert one.is_cut_off_from(f"{link_local}%eth0")
    assert host.run("ip", "-o", "addr", "show", "dev", "xapi0") == ""


def test_guests_of_one_bridge_reach_each_other_at_once(
    network: BridgeNetwork, guest: Callable[..., Any]
) -> None:
    network.create_bridge("xapi0")
    one = guest("tap0.0", "xapi0", "10.0.0.1/24")
    guest("tap1.0", "xapi0", "10.0.0.2/24")
    assert one.pings("10.0.0.2")


def test_a_bridge_keeps_its_mtu_when_a_smaller_port_joins(
    host: Any, network: BridgeNetwork, guest: Any
) -> None:
    network.create_bridge("xapi0", mtu=9000)
    guest("tap0.0", "xapi0")
    assert network.bridges()[0].mtu == 9000


def test_a_nic_with_only_a_default_route_stays_out_too(host: Any, network: BridgeNetwork) -> None:
    host.run("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "cable")
    host.run("ip", "link", "set", "nic0", "up")
    host.run("ip", "route", "add", "default", "dev", "nic0")
    network.create_bridge("xenbr0")
    with pytest.raises(Failure) as caught:
        network.enslave("xenbr0", "nic0")
    assert caught.value.code == "OPERATION_NOT_ALLOWED"


def test_a_watch_that_was_too_slow_catches_up(host: Any, network: BridgeNetwork, seen: Any) -> None:
    network.create_bridge("xenbr0")
    with network.watch(seen) as watch:
        # The least the kernel allows holds no whole message, so each one counts as lost.
        watch._netlink._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        network.create_bridge("xenbr1")
        seen.wait_for(lambda state: state.device == "xenbr1")
        network.destroy_bridge("xenbr0")
        seen.wait_for(lambda state: state == LinkState("xenbr0", present=False))


def test_without_hardware_the_holder_of_the_default_route_stands_in(
    host: Any, network: BridgeNetwork
) -> None:
    for device in ("up0", "up1"):
        host.run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}-cable")
        host.run("ip", "link", "set", f"{device}-cable", "up")
        host.run("ip", "link", "set", device, "up")
    host.run("ip", "addr", "add", "10.0.0.5/24", "dev", "up0")
    host.run("ip", "addr", "add", "fd00::5/64", "dev", "up0", "nodad")
    host.run("ip", "route", "add", "default", "via", "10.0.0.1")

    (interface,) = network.physical_interfaces()

    assert (interface.device, interface.physical, interface.carrier) == ("up0", False, True)
    assert (interface.ip, interface.netmask, interface.gateway) == ("10.0.0.5", "255.255.255.0", "10.0.0.1")
    assert (interface.ip_mode, interface.ipv6_mode, interface.ipv6) == ("Static", "Static", ("fd00::5/64",))


def test_a_nic_shows_its_hardware_and_the_addresses_of_its_bridge(
    host: Any, network: BridgeNetwork, tmp_path: Path
) -> None:
    function = tmp_path / "sys/devices/pci0000:00/0000:00:03.0"
    (function / "virtio2").mkdir(parents=True)
    for name, content in (("vendor", "0x8086\n"), ("device", "0x1533\n"), ("sriov_totalvfs", "7\n")):
        (function / name).write_text(content)
    nic = tmp_path / "sys/class/net/nic0"
    nic.mkdir(parents=True)
    (nic / "device").symlink_to(function / "virtio2")
    (nic / "speed").write_text("10000\n")
    (nic / "duplex").write_text("full\n")
    (tmp_path / "sys/class/net/nic1/device").mkdir(parents=True)
    (tmp_path / "sys/class/net/nic1/speed").write_text("-1\n")
    for device in ("nic0", "nic1", "virtual"):
        host.run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}-cable")
    network.create_bridge("xenbr0")
    network.enslave("xenbr0", "nic0")
    host.run(
        "ip", "addr", "add", "10.0.0.5/24", "dev", "xenbr0", "valid_lft", "3600", "preferred_lft", "3600"
    )

    first, second = network.physical_interfaces()

    assert (first.device, first.pci_bus_path, first.bridge) == ("nic0", "0000:00:03.0", "xenbr0")
    assert (first.vendor_id, first.device_id, first.capabilities) == ("8086", "1533", ("sriov",))
    assert (first.speed_mbit, first.full_duplex) == (10000, True)
    assert (first.ip, first.ip_mode) == ("10.0.0.5", "DHCP")
    assert (second.device, second.speed_mbit, second.full_duplex, second.up) == ("nic1", 0, False, False)
