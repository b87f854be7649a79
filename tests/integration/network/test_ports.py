"""Guests' ports: real frames against the locking modes and limits."""

from __future__ import annotations

import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

import pytest

from kronos.network.base import LockingMode, VifPort
from kronos.network.bridge import BridgeNetwork
from kronos.network.firewall import link_local

pytestmark = pytest.mark.integration

MAC = "02:00:00:00:00:01"
ALLOWED = (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.11"))
LOCKED = VifPort("tap0.0", MAC, LockingMode.LOCKED, ALLOWED)
LOCKED_IPV6 = VifPort("tap0.0", MAC, LockingMode.LOCKED, (), (IPv6Address("fd00::1"),))


GRACE = 2.0
"""Seconds for a program to tell of a frame that has come: what is to be heard was sent before they begin."""
ROUTER_ADVERTISEMENT, NEIGHBOR_ADVERTISEMENT = 134, 136


class Guests(NamedTuple):
    one: Any
    """10.0.0.1, fd00::1: the guest whose port has the rules."""
    other: Any
    """10.0.0.2, fd00::2: its neighbour."""


@pytest.fixture
def guests(host: Any, network: BridgeNetwork, guest: Any) -> Guests:
    network.create_bridge("xapi0")
    host.run("ip", "addr", "add", "10.0.0.254/24", "dev", "xapi0")
    one = guest("tap0.0", "xapi0", "10.0.0.1/24", MAC)
    other = guest("tap1.0", "xapi0", "10.0.0.2/24", "02:00:00:00:00:02")
    one.run("ip", "addr", "add", "fd00::1/64", "dev", "eth0")
    other.run("ip", "addr", "add", "fd00::2/64", "dev", "eth0")
    return Guests(one, other)


def use_address(guest: Any, address: str) -> None:
    """The guest drops its address and takes another one."""
    guest.run("ip", "-4", "addr", "flush", "dev", "eth0")
    guest.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")


def use_mac(guest: Any, mac: str) -> None:
    guest.run("ip", "link", "set", "eth0", "address", mac)
    guest.run("ip", "neigh", "flush", "all")


def test_a_locked_guest_talks_from_its_addresses_to_guests_and_host(
    network: BridgeNetwork, guests: Guests
) -> None:
    network.secure(LOCKED)
    assert guests.one.pings("10.0.0.2")
    assert guests.one.pings("10.0.0.254")
    assert guests.other.pings("10.0.0.1")
    use_address(guests.one, "10.0.0.11")
    assert guests.one.pings("10.0.0.2")


def test_a_locked_guest_cannot_take_another_address(network: BridgeNetwork, guests: Guests) -> None:
    network.secure(LOCKED)
    use_address(guests.one, "10.0.0.3")
    guests.one.run("ip", "neigh", "add", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    assert guests.one.is_cut_off_from("10.0.0.2")
    assert guests.one.is_cut_off_from("10.0.0.254")
    assert "10.0.0.3" not in guests.other.run("ip", "neigh")


def test_a_locked_guest_cannot_take_another_mac(network: BridgeNetwork, guests: Guests) -> None:
    network.secure(LOCKED)
    assert arrives(guests.one, guests.other, source=("10.0.0.1", 5000), target=("10.0.0.255", 5000))
    use_mac(guests.one, "02:00:00:00:00:99")
    assert guests.one.is_cut_off_from("10.0.0.2")
    assert not arrives(guests.one, guests.other, source=("10.0.0.1", 5000), target=("10.0.0.255", 5000))


def test_a_guest_locked_to_ipv4_has_no_ipv6(network: BridgeNetwork, guests: Guests) -> None:
    assert guests.one.pings("fd00::2")
    network.secure(LOCKED)
    assert guests.one.is_cut_off_from("fd00::2")


def test_a_guest_locked_to_ipv6_has_that_address_only(network: BridgeNetwork, guests: Guests) -> None:
    network.secure(LOCKED_IPV6)
    assert guests.one.pings("fd00::2")
    assert guests.other.pings("fd00::1")
    assert guests.other.pings(f"{link_local(MAC)}%eth0")
    assert guests.one.is_cut_off_from("10.0.0.2")

    guests.one.run("ip", "addr", "add", "fd00::9/64", "dev", "eth0")
    guests.one.run("ip", "addr", "del", "fd00::1/64", "dev", "eth0")
    assert guests.one.is_cut_off_from("fd00::2")
    assert guests.other.is_cut_off_from("fd00::9")


def test_a_guest_locked_to_ipv6_can_look_whether_its_address_is_free(
    network: BridgeNetwork, guests: Guests
) -> None:
    """Another guest has the address already: the question must get out, and the answer back."""
    network.secure(LOCKED_IPV6)
    guests.other.run("ip", "addr", "add", "fd00::1/64", "dev", "eth0")
    guests.one.run("ip", "addr", "del", "fd00::1/64", "dev", "eth0")
    guests.one.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
    guests.one.run("ip", "addr", "add", "fd00::1/64", "dev", "eth0")
    deadline = time.monotonic() + 20
    while "dadfailed" not in guests.one.run("ip", "addr", "show", "eth0"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_guest_locked_to_ipv6_cannot_tell_others_that_an_address_is_its_own(
    network: BridgeNetwork, guests: Guests
) -> None:
    network.secure(LOCKED_IPV6)
    assert advertises(guests, "fd00::1")
    assert not advertises(guests, "fd00::9")
    assert not advertises(guests, "fd00::9", kind=ROUTER_ADVERTISEMENT)
    network.secure(VifPort("tap0.0", MAC))
    assert advertises(guests, "fd00::9")
    assert advertises(guests, "fd00::9", kind=ROUTER_ADVERTISEMENT)


def test_a_locked_guest_can_ask_for_a_lease_and_cannot_give_one(
    network: BridgeNetwork, guests: Guests
) -> None:
    network.secure(LOCKED)
    assert arrives(guests.one, guests.other, source=("0.0.0.0", 68), target=("255.255.255.255", 67))
    assert not arrives(guests.one, guests.other, source=("10.0.0.1", 67), target=("255.255.255.255", 68))
    network.unsecure("tap0.0")
    assert arrives(guests.one, guests.other, source=("10.0.0.1", 67), target=("255.255.255.255", 68))


@pytest.mark.parametrize(
    "port",
    [
        VifPort("tap0.0", MAC, LockingMode.DISABLED),
        VifPort("tap0.0", MAC, LockingMode.LOCKED),
        VifPort("tap0.0", MAC, carrier=False),
    ],
    ids=["disabled", "locked to no address", "without carrier"],
)
def test_a_shut_port_passes_nothing_until_it_is_opened(
    network: BridgeNetwork, guests: Guests, port: VifPort
) -> None:
    network.secure(port)
    assert guests.one.is_cut_off_from("10.0.0.2")
    assert guests.other.is_cut_off_from("10.0.0.1")
    assert guests.one.is_cut_off_from("10.0.0.254")
    network.secure(VifPort("tap0.0", MAC))
    assert guests.one.pings("10.0.0.2")


def test_rules_hold_from_a_devices_first_frame_and_again_when_it_comes_back(
    host: Any, network: BridgeNetwork, guest: Any
) -> None:
    network.create_bridge("xapi0")
    guest("tap1.0", "xapi0", "10.0.0.2/24")
    network.secure(LOCKED)
    for _ in range(2):
        one = guest("tap0.0", "xapi0", "10.0.0.3/24", MAC)
        assert one.is_cut_off_from("10.0.0.2")
        use_address(one, "10.0.0.1")
        assert one.pings("10.0.0.2")
        host.run("ip", "link", "del", "tap0.0")


def test_rules_can_be_set_again_after_somebody_flushed_them_all(
    host: Any, network: BridgeNetwork, guests: Guests
) -> None:
    network.secure(VifPort("tap0.0", MAC, LockingMode.DISABLED))
    host.run("nft", "flush", "ruleset")
    assert network.secured() == set()
    assert guests.one.pings("10.0.0.2")

    network.secure(VifPort("tap0.0", MAC, LockingMode.DISABLED))

    assert guests.one.is_cut_off_from("10.0.0.2")


def test_rules_of_one_port_leave_the_others_alone(network: BridgeNetwork, guests: Guests) -> None:
    network.secure(VifPort("tap2.0", "02:00:00:00:00:03", LockingMode.DISABLED))
    network.secure(VifPort("tap0.01", "02:00:00:00:00:03", LockingMode.DISABLED))
    assert guests.one.pings("10.0.0.2")


def test_a_locked_guest_does_not_get_its_neighbours_frames(
    network: BridgeNetwork, guests: Guests, guest: Any
) -> None:
    """A frame to an address the bridge has not learned goes to every port."""
    silent = "02:00:00:00:00:55"
    guests.other.run("ip", "neigh", "add", "10.0.0.55", "lladdr", silent, "dev", "eth0")
    guests.one.run("ip", "addr", "add", "10.0.0.55/24", "dev", "eth0")
    guests.one.run("ip", "link", "set", "eth0", "promisc", "on")

    def overheard() -> bool:
        with subprocess.Popen(
            ["ip", "netns", "exec", guests.one.name, sys.executable, "-c", OVERHEAR, silent],
            stdout=subprocess.PIPE,
            text=True,
        ) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            guests.other.is_cut_off_from("10.0.0.55")
            return said_by(listener) == "heard"

    assert overheard()
    network.secure(LOCKED)
    assert not overheard()


def test_what_a_guest_sends_is_limited_and_what_it_gets_is_not(
    network: BridgeNetwork, guests: Guests
) -> None:
    rate = 2000
    network.secure(VifPort("tap0.0", MAC, rate_kbytes=rate))
    # The bucket starts with a second's worth and the burst.
    sent = throughput(guests.one, guests.other, "10.0.0.2", seconds=2.0)
    assert 0.5 * rate * 2 < sent < rate * 3 * 1.1 + 128
    # On a busy machine somebody else may have most of an instant.
    assert any(throughput(guests.other, guests.one, "10.0.0.1", seconds=0.5) > 20 * rate for _ in range(10))


OVERHEAR = """
import socket, sys, time
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
frames.bind(("eth0", 0))
wanted = bytes.fromhex(sys.argv[1].replace(":", ""))
print("ready", flush=True)
end = time.monotonic() + 60
while (left := end - time.monotonic()) > 0:
    frames.settimeout(left)
    try:
        if frames.recv(2000)[:6] == wanted:
            print("heard")
            break
    except TimeoutError:
        break
"""
SEND = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
sender.bind((sys.argv[1], int(sys.argv[2])))
sender.sendto(b"x" * 300, (sys.argv[3], int(sys.argv[4])))
"""
RECEIVE = """
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
receiver.bind(("0.0.0.0", int(sys.argv[1])))
receiver.settimeout(60)
print("ready", flush=True)
try:
    print(len(receiver.recv(1000)))
except TimeoutError:
    print("nothing")
"""
ADVERTISE = """
import socket, sys
message = bytes([int(sys.argv[1]), 0, 0, 0, 0x20, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, sys.argv[2])
sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sender.bind(("fd00::1", 0))
sender.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
"""
HEAR_ADVERTISEMENT = """
import socket, sys, time
receiver = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
print("ready", flush=True)
end = time.monotonic() + 60
while (left := end - time.monotonic()) > 0:
    receiver.settimeout(left)
    try:
        message = receiver.recv(1000)
    except TimeoutError:
        break
    if message[0] == int(sys.argv[1]) and message[8:24] == socket.inet_pton(socket.AF_INET6, sys.argv[2]):
        print("heard")
        break
"""
SINK = """
import socket, time
with socket.create_server(("0.0.0.0", 5001)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    total = 0
    try:
        while data := connection.recv(1 << 20):
            total += len(data)
    except ConnectionResetError:
        pass
    print(total)
"""
SOURCE = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5001), timeout=60)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
end = time.monotonic() + float(sys.argv[2])
connection.settimeout(0.1)
while time.monotonic() < end:
    try:
        connection.send(bytes(1 << 16))
    except TimeoutError:
        pass
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
"""


def said_by(listener: subprocess.Popen[str]) -> str:
    """What it says of something that has been sent by now; nothing when it has not heard of it."""
    try:
        return listener.communicate(timeout=GRACE)[0].strip()
    except subprocess.TimeoutExpired:
        listener.kill()
        return listener.communicate()[0].strip()


def arrives(sender: Any, receiver: Any, source: tuple[str, int], target: tuple[str, int]) -> bool:
    with receiver.popen(sys.executable, "-c", RECEIVE, str(target[1])) as listening:
        assert listening.stdout.readline() == "ready\n"
        if source[0] == "0.0.0.0":
            # A socket without an address would be given the interface's, as a guest without one has none.
            sender.run("ip", "-4", "addr", "flush", "dev", "eth0")
        sender.run(sys.executable, "-c", SEND, source[0], str(source[1]), target[0], str(target[1]))
        if source[0] == "0.0.0.0":
            sender.run("ip", "addr", "add", "10.0.0.1/24", "dev", "eth0")
        return said_by(listening) == "300"


def advertises(guests: Guests, address: str, kind: int = NEIGHBOR_ADVERTISEMENT) -> bool:
    """Whether the guest's claim to `address` reaches its neighbour."""
    with guests.other.popen(sys.executable, "-c", HEAR_ADVERTISEMENT, str(kind), address) as listening:
        assert listening.stdout.readline() == "ready\n"
        guests.one.run(sys.executable, "-c", ADVERTISE, str(kind), address)
        return said_by(listening) == "heard"


def throughput(sender: Any, receiver: Any, address: str, seconds: float) -> float:
    """KiB that arrive over one TCP connection held open for so long; what is on its way at the end is dropped."""
    with receiver.popen(sys.executable, "-c", SINK) as sink:
        assert sink.stdout.readline() == "ready\n"
        sender.run(sys.executable, "-c", SOURCE, address, str(seconds))
        return int(sink.communicate(timeout=60)[0]) / 1024
