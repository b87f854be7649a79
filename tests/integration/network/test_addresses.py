"""Address service: guests lease addresses from a real dnsmasq."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.network.bridge import BridgeNetwork
from kronos.network.subnet import Subnet, subnet_of_options

pytestmark = pytest.mark.integration

OPTIONS = {"ip_begin": "169.254.0.1", "ip_end": "169.254.255.254", "netmask": "255.255.0.0"}
INTERNAL = subnet_of_options(OPTIONS)
SCRIPT = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
echo "ip=$ip router=$router dns=$dns domain=$domain lease=$lease"
ip addr replace "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route replace default via "$router"
"""


@pytest.fixture
def lease(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Asks for an address as a guest does; what it was given."""
    script = tmp_path / "udhcpc"
    script.write_text(SCRIPT)
    script.chmod(0o755)

    def ask(guest: Any, hostname: str = "web01") -> dict[str, str]:
        asked = [
            "-n",
            "-q",
            "-f",
            "-i",
            "eth0",
            "-t",
            "15",
            "-T",
            "1",
            "-s",
            str(script),
            "-x",
            f"hostname:{hostname}",
        ]
        answer = guest.run("busybox", "udhcpc", *asked)
        return dict(word.split("=", 1) for word in answer.split() if "=" in word)

    return ask


def pid_of(state: Path, bridge: str = "xenapi") -> int:
    return int((state / bridge / "pid").read_text())


def is_alive(pid: int) -> bool:
    try:
        return b"dnsmasq" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def addresses(host: Any) -> list[str]:
    return [line.split()[3] for line in host.run("ip", "-o", "-4", "addr", "show", "xenapi").splitlines()]


def test_a_guest_leases_an_address_and_reaches_the_host(
    network: BridgeNetwork, guest: Any, lease: Any
) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    one = guest("tap0.0", "xenapi", mac="02:00:00:00:00:01")

    given = lease(one)

    (held,) = network.leases("xenapi")
    assert (held.mac, held.ip, held.hostname) == ("02:00:00:00:00:01", given["ip"], "web01")
    assert held.expiry > time.time()
    assert given["router"] == given["dns"] == ""
    assert one.pings("169.254.0.1")
    answer = one.run("busybox", "nslookup", "web01", "169.254.0.1")
    assert given["ip"] in answer


def test_leases_outlive_the_service(network: BridgeNetwork, guest: Any, lease: Any) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    one = guest("tap0.0", "xenapi")
    given = lease(one)
    network.stop_addresses("xenapi")
    assert [held.ip for held in network.leases("xenapi")] == [given["ip"]]

    network.serve_addresses("xenapi", INTERNAL)

    assert lease(one)["ip"] == given["ip"]


def test_a_daemon_that_restarts_finds_the_service_running(
    network: BridgeNetwork, state: Path, tmp_path: Path
) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    before = pid_of(state)

    restarted = BridgeNetwork(state, sysfs=tmp_path / "sys")
    restarted.serve_addresses("xenapi", INTERNAL)

    assert pid_of(state) == before
    assert is_alive(before)
    restarted.stop_addresses("xenapi")
    assert not is_alive(before)


def test_a_service_that_died_is_started_again(
    network: BridgeNetwork, state: Path, guest: Any, lease: Any
) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    dead = pid_of(state)
    handle = os.pidfd_open(dead)
    os.kill(dead, signal.SIGKILL)
    select.select([handle], [], [], 60)
    os.close(handle)

    network.serve_addresses("xenapi", INTERNAL)

    assert pid_of(state) != dead
    assert lease(guest("tap0.0", "xenapi"))["ip"].startswith("169.254.")


def test_another_subnet_takes_the_place_of_the_first(
    host: Any, network: BridgeNetwork, state: Path, guest: Any, lease: Any
) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    before = pid_of(state)
    options = {"ip_begin": "10.9.0.1", "ip_end": "10.9.0.9", "netmask": "255.255.255.0"}

    network.serve_addresses("xenapi", subnet_of_options(options))

    assert not is_alive(before)
    assert addresses(host) == ["10.9.0.1/24"]
    assert lease(guest("tap0.0", "xenapi"))["ip"].startswith("10.9.0.")


def test_stopping_takes_the_hosts_address_away(host: Any, network: BridgeNetwork, state: Path) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    process = pid_of(state)
    assert addresses(host) == ["169.254.0.1/16"]

    network.stop_addresses("xenapi")

    assert addresses(host) == []
    assert not is_alive(process)


def test_destroying_the_bridge_ends_its_service(network: BridgeNetwork, state: Path) -> None:
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", INTERNAL)
    process = pid_of(state)

    network.destroy_bridge("xenapi")

    assert not is_alive(process)
    assert not (state / "xenapi").exists()


def test_the_service_in_somebody_elses_bridge_ends_too(
    host: Any, network: BridgeNetwork, state: Path
) -> None:
    host.run("ip", "link", "add", "br0", "type", "bridge")
    network.create_bridge("br0")
    network.serve_addresses("br0", INTERNAL)
    process = pid_of(state, "br0")

    network.destroy_bridge("br0")

    assert not is_alive(process)
    assert not (state / "br0").exists()
    assert [bridge.name for bridge in network.bridges()] == ["br0"]


def test_what_was_done_is_undone_when_the_service_cannot_start(host: Any, network: BridgeNetwork) -> None:
    network.create_bridge("xenapi")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 67))
        with pytest.raises(Failure, match="in use"):
            network.serve_addresses("xenapi", subnet_of_options({**OPTIONS, "nat": "true"}))
    assert addresses(host) == []
    assert "kronos-xenapi" not in host.run("nft", "list", "tables")


def test_two_networks_are_served_side_by_side(network: BridgeNetwork, guest: Any, lease: Any) -> None:
    subnets: dict[str, Subnet] = {
        "xapi1": subnet_of_options(
            {"ip_begin": "10.1.0.1", "ip_end": "10.1.0.99", "netmask": "255.255.255.0"}
        ),
        "xapi2": subnet_of_options(
            {"ip_begin": "10.2.0.1", "ip_end": "10.2.0.99", "netmask": "255.255.255.0"}
        ),
    }
    for bridge, subnet in subnets.items():
        network.create_bridge(bridge)
        network.serve_addresses(bridge, subnet)
    assert lease(guest("tap1.0", "xapi1"))["ip"].startswith("10.1.0.")
    assert lease(guest("tap2.0", "xapi2"))["ip"].startswith("10.2.0.")


def test_translation_lets_guests_out_and_nobody_in(
    host: Any, network: BridgeNetwork, guest: Any, lease: Any
) -> None:
    host.run("ip", "link", "add", "outside", "type", "bridge")
    host.run("ip", "link", "set", "outside", "up")
    host.run("ip", "addr", "add", "10.8.0.1/24", "dev", "outside")
    elsewhere = guest("uplink", "outside", "10.8.0.2/24")
    network.create_bridge("xenapi")
    network.serve_addresses("xenapi", subnet_of_options({**OPTIONS, "nat": "true"}))
    one = guest("tap0.0", "xenapi")

    given = lease(one)

    assert given["router"] == given["dns"] == "169.254.0.1"
    assert one.pings("10.8.0.2")
    elsewhere.run("ip", "route", "add", "169.254.0.0/16", "via", "10.8.0.1")
    assert elsewhere.is_cut_off_from(given["ip"])
    network.serve_addresses("xenapi", INTERNAL)
    assert "kronos-xenapi" not in host.run("nft", "list", "tables")
