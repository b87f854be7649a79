"""A host's NIC goes into a bridge while somebody is connected over it: in a namespace, with the kernel's own bridges.

The tool here keeps a file and leaves the rest to netlink. How the distributions' tools do it was tried in containers:
docs/network.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ADDRESS, GATEWAY, V6 = "192.0.2.2/24", "192.0.2.1", "2001:db8::2/64"
BEFORE, AFTER = "nic\n", "bridge\n"
# A program as xapi-network is, with a tool whose configuration is one file. What it does next comes from the test.
PROGRAM = """
import pathlib, sys, time
from dataclasses import replace
from kronos.network.configuration import links, program, tools, transaction
from kronos.network.configuration.base import Refused

class Plain:
    name = "plain"
    def is_there(self): return True
    def configures(self, device): return device == "nic0"
    def bridged(self, port): return {FILE: "bridge\\n"}
    def join(self, port, has):
        links.into_bridge(port, has)
        time.sleep(PAUSE)
    def leave(self, port, has): links.out_of_bridge(port, has)

FILE, PAUSE = sys.argv[2], float(sys.argv[3])
program.TOOLS = tools.TOOLS = {"plain": Plain()}
program.tell_daemon = lambda: None
sys.exit(program.main(["--state", sys.argv[1], *sys.argv[4:]]))
"""
TALKER = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7), 20) as line:
    line.settimeout(30)
    while True:
        line.sendall(b"x")
        assert line.recv(1) == b"x"
        print("heard", flush=True)
        time.sleep(0.005)
"""
LISTENER = """
import socket
with socket.create_server(("", 7)) as door:
    print("open", flush=True)
    line, _ = door.accept()
    while said := line.recv(100):
        line.sendall(said)
"""


class Host:
    """A namespace with a NIC, a router at the other end of its cable, and the program."""

    def __init__(self, inside, outside, directory: Path) -> None:  # type: ignore[no-untyped-def]
        self.inside, self.outside = inside, outside
        self.state, self.file = directory / "state", directory / "configuration"
        self.file.write_text(BEFORE)

    def start(self, *words: str, pause: float = 0.0) -> subprocess.Popen[str]:
        return self.inside.popen(
            sys.executable, "-c", PROGRAM, str(self.state), str(self.file), str(pause), *words
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def holder(self) -> str:
        """The interface that has the host's address."""
        return self.inside.run("ip", "-o", "-4", "addr", "show", "to", ADDRESS).split()[1]

    def routes(self) -> list[str]:
        said = self.inside.run("ip", "route", "show", "default") + self.inside.run(
            "ip", "route", "show", "10.0.0.0/8"
        )
        return [line.strip() for line in said.splitlines()]

    def addresses_v6(self, device: str) -> str:
        return self.inside.run("ip", "-o", "-6", "addr", "show", "dev", device, "scope", "global")

    def is_as_it_was(self) -> bool:
        unbridged = not (self.inside.run("ip", "-o", "link", "show", "type", "bridge"))
        return unbridged and self.holder() == "nic0" and self.file.read_text() == BEFORE and not self.left()

    def left(self) -> list[str]:
        return [path.name for path in self.state.glob("*.json")] if self.state.exists() else []


@pytest.fixture
def managed(host, guest, tmp_path: Path) -> Host:  # type: ignore[no-untyped-def]
    outside = guest("nic0", "", f"{GATEWAY}/24")
    for address in (ADDRESS, V6):
        host.run("ip", "addr", "add", address, "dev", "nic0")
    host.run("ip", "route", "add", "default", "via", GATEWAY, "metric", "7")
    host.run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.9", "dev", "nic0")
    return Host(host, outside, tmp_path)


@pytest.fixture
def connection(managed: Host) -> Iterator[Callable[[], bool]]:
    """Tells whether something is heard, from now on, over a connection that began before."""
    listener = managed.inside.popen(sys.executable, "-c", LISTENER)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "open\n"
    talker = managed.outside.popen(sys.executable, "-c", TALKER, ADDRESS.partition("/")[0])
    assert talker.stdout is not None
    assert talker.stdout.readline() == "heard\n"
    os.set_blocking(talker.stdout.fileno(), False)

    def is_heard() -> bool:
        fresh = until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                said = os.read(talker.stdout.fileno(), 1 << 16)  # type: ignore[union-attr]
            except BlockingIOError:
                fresh = min(fresh, time.monotonic())
                time.sleep(0.01)
                continue
            if not said:
                return False
            if time.monotonic() > fresh:  # what was waiting has been read: this is new
                return b"heard" in said
        return False

    yield is_heard
    for process in (talker, listener):
        process.kill()
        process.wait()


def test_the_bridge_takes_over_all_that_the_nic_had(managed: Host) -> None:
    mac = managed.inside.run("cat", "/sys/class/net/nic0/address")
    routes = managed.routes()
    assert managed.run("bridge") == (0, "brnic0 has taken the place of nic0, by plain\n")
    assert managed.holder() == "brnic0"
    assert V6 in managed.addresses_v6("brnic0") and V6 not in managed.addresses_v6("nic0")
    assert managed.routes() == [route.replace("nic0", "brnic0") for route in routes]
    assert managed.inside.run("cat", "/sys/class/net/brnic0/address") == mac
    assert managed.inside.pings(GATEWAY)
    assert managed.file.read_text() == AFTER


def test_a_connection_over_it_goes_on(managed: Host, connection: Callable[[], bool]) -> None:
    assert managed.run("bridge")[0] == 0
    assert connection()
    assert managed.run("undo")[0] == 0
    assert connection()


def test_undoing_gives_back_all_that_was(managed: Host) -> None:
    routes = managed.routes()
    managed.run("bridge")
    assert managed.run("undo") == (0, "nic0 has its addresses back, by plain\n")
    assert managed.is_as_it_was()
    assert V6 in managed.addresses_v6("nic0")
    assert managed.routes() == routes
    assert not managed.state.exists()


def test_asking_twice_changes_nothing(managed: Host) -> None:
    managed.run("bridge")
    assert managed.run("bridge") == (0, "brnic0 has the place of nic0 already\n")
    assert managed.holder() == "brnic0"


def test_a_gateway_that_falls_silent_takes_the_change_back(
    managed: Host, connection: Callable[[], bool]
) -> None:
    program = managed.start("bridge", "--timeout", "1", pause=6.0)
    until = time.monotonic() + 20
    while not managed.inside.run("ip", "-o", "link", "show", "type", "bridge") and time.monotonic() < until:
        time.sleep(0.01)
    managed.outside.run("ip", "link", "set", "eth0", "arp", "off")
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    assert f"the gateway {GATEWAY} does not answer on brnic0" in said
    assert managed.is_as_it_was()
    managed.outside.run("ip", "link", "set", "eth0", "arp", "on")
    assert connection()


def test_a_gateway_that_never_answered_is_not_waited_for(managed: Host) -> None:
    managed.outside.run("ip", "link", "set", "eth0", "arp", "off")
    assert managed.run("bridge")[0] == 0
    assert managed.holder() == "brnic0"


def test_being_killed_in_the_middle_takes_the_change_back(
    managed: Host, connection: Callable[[], bool]
) -> None:
    process = _halfway(managed)
    process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while not managed.is_as_it_was() and time.monotonic() < until:
        time.sleep(0.05)
    assert managed.is_as_it_was()
    assert connection()
    process.communicate()


def test_the_next_boot_takes_back_what_was_never_confirmed(managed: Host) -> None:
    process = _halfway(managed)
    # Both go at once, as when the power fails; then there is a kernel that knows nothing.
    os.kill(process.pid, signal.SIGSTOP)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert children, "nobody guards the change"
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in map(int, children):
            # Beside the guard there may be an `ip` that was just ending.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    process.kill()
    process.communicate()
    managed.inside.run("ip", "link", "del", "brnic0")
    assert managed.file.read_text() == AFTER
    status, said = managed.run("settle", "--files")
    assert (status, said) == (0, "a change of nic0 that was not confirmed has been undone\n")
    assert managed.file.read_text() == BEFORE
    assert not managed.left()


def _halfway(managed: Host) -> subprocess.Popen[str]:
    """The program, when the file is written and the bridge is made, but nothing is confirmed."""
    process = managed.start("bridge", pause=60)
    until = time.monotonic() + 20
    while managed.inside.run("ip", "-o", "-4", "addr", "show", "dev", "nic0") and time.monotonic() < until:
        time.sleep(0.01)
    assert managed.left(), "it is not half-way, it is over"
    return process


def test_what_somebody_has_changed_since_stays(managed: Host) -> None:
    managed.run("bridge")
    managed.file.write_text("mine\n")
    status, said = managed.run("undo")
    assert status == 1 and "has been changed since" in said
    assert managed.file.read_text() == "mine\n"
    assert managed.holder() == "brnic0"


def test_a_bridge_that_guests_are_in_stays(managed: Host) -> None:
    managed.run("bridge")
    managed.inside.run("ip", "link", "add", "tap0", "type", "veth", "peer", "name", "guest0")
    managed.inside.run("ip", "link", "set", "tap0", "master", "brnic0")
    status, said = managed.run("undo")
    assert status == 1 and "guests are in brnic0: tap0" in said
    assert managed.run("undo", "--force")[0] == 0
    assert managed.holder() == "nic0"


def test_what_a_bridge_cannot_take_is_refused(managed: Host) -> None:
    assert "lo is not Ethernet" in managed.run("bridge", "lo")[1]
    assert "there is no interface nic9" in managed.run("bridge", "nic9")[1]
    managed.inside.run("ip", "link", "add", "br0", "type", "bridge")
    assert "br0 is a bridge already" in managed.run("bridge", "br0")[1]
    managed.inside.run("ip", "link", "set", "nic0", "master", "br0")
    assert "nic0 is in br0 already" in managed.run("bridge", "nic0")[1]
