"""Interfaces get other addresses, as the daemon asks for it: in a namespace, with the kernel's own bridges.

The tool here keeps a file and leaves the rest to netlink. How the distributions' tools do it was tried in containers:
docs/network.md.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from kronos.network.bridge import BridgeNetwork
from kronos.network.configuration.base import Addressing
from kronos.network.configuration.readdressing import Request

pytestmark = pytest.mark.integration

GATEWAY, NEW = "192.0.2.1", IPv4Interface("192.0.2.5/24")
BEFORE = "nothing\n"
PROGRAM = """
import pathlib, sys
from kronos.network.configuration import links, readdressing, tools
from kronos.network.configuration.links import Held
from kronos.network.configuration.transaction import Transaction
from kronos.system.commands import run

class Plain:
    name = "plain"
    def configures(self, device): return True
    def readdressed(self, port, addressing, old):
        return {FILE: f"{addressing.address or ''}\\n{addressing.gateway}\\n"}
    def join(self, port, has): links.into_bridge(port, has)
    def leave(self, port, has): links.out_of_bridge(port, has)
    def renew(self, port, has):
        links.into_bridge(port, Held())
        links.clear(port.bridge)
        address, gateway = pathlib.Path(FILE).read_text().splitlines()
        if address:
            run(["ip", "addr", "add", address, "dev", port.bridge])
        if gateway:
            run(["ip", "route", "add", "default", "via", gateway])

FILE = sys.argv[2]
tools.TOOLS = {"plain": Plain()}
readdressing.Transaction = lambda: Transaction(pathlib.Path(sys.argv[1]), patience=float(sys.argv[3]))
sys.exit(readdressing.main())
"""
ECHO = """
import socket, sys
with socket.create_connection((sys.argv[1], 7), 20) as line:
    line.settimeout(60)
    while said := line.recv(100):
        line.sendall(said)
"""


class Host:
    """A host with a management interface that has an address, and another one over which somebody is connected."""

    def __init__(self, inside, directory: Path, line: socket.socket) -> None:  # type: ignore[no-untyped-def]
        self.inside, self.line = inside, line
        self.state, self.file = directory / "changes", directory / "configuration"
        self.file.write_text(BEFORE)

    def start(self, addressing: Addressing, patience: float = 20) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", PROGRAM, str(self.state), str(self.file), str(patience)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        program = subprocess.Popen(["ip", "netns", "exec", self.inside.name, *argv], text=True, **pipes)  # type: ignore[call-overload]
        program.stdin.write(Request("nic0", addressing).as_json())
        program.stdin.close()
        program.stdin = None
        return program

    def run(self, addressing: Addressing, patience: float = 20) -> tuple[int, str]:
        program = self.start(addressing, patience)
        _, said = program.communicate(timeout=60)
        return program.returncode, said

    def addresses(self) -> dict[str, str]:
        lines = self.inside.run("ip", "-o", "-4", "addr", "show", "scope", "global").splitlines()
        return {line.split()[1]: line.split()[3] for line in lines}

    def is_heard(self) -> bool:
        """Whether the connection over the other interface lives."""
        self.line.sendall(b"x")
        return self.line.recv(1) == b"x"

    def is_as_it_was(self) -> bool:
        unconfirmed = (self.state / "unconfirmed.json").exists()
        return (
            self.addresses().get("nic0") == "192.0.2.2/24"
            and self.file.read_text() == BEFORE
            and not unconfirmed
        )


@pytest.fixture
def managed(host, guest, tmp_path: Path) -> Iterator[Host]:  # type: ignore[no-untyped-def]
    guest("nic0", "", f"{GATEWAY}/24")
    other = guest("nic1", "", "198.51.100.1/24")
    host.run("ip", "addr", "add", "192.0.2.2/24", "dev", "nic0")
    host.run("ip", "route", "add", "default", "via", GATEWAY)
    host.run("ip", "addr", "add", "198.51.100.2/24", "dev", "nic1")
    with socket.create_server(("198.51.100.2", 7)) as door:
        door.settimeout(20)
        echo = other.popen(sys.executable, "-c", ECHO, "198.51.100.2")
        with door.accept()[0] as line:
            line.settimeout(20)
            yield Host(host, tmp_path, line)
        echo.communicate(timeout=20)


def test_an_interface_gets_another_address_and_connections_over_others_go_on(managed: Host) -> None:
    assert managed.run(Addressing("static", NEW, GATEWAY)) == (0, "")
    assert managed.addresses() == {"brnic0": str(NEW), "nic1": "198.51.100.2/24"}
    assert managed.inside.pings(GATEWAY)
    assert managed.is_heard()


def test_a_gateway_that_is_not_there_takes_the_change_back(managed: Host) -> None:
    status, said = managed.run(Addressing("static", NEW, "192.0.2.77"), patience=0.5)
    assert (status, said) == (1, "the gateway 192.0.2.77 does not answer on brnic0\n")
    assert managed.is_as_it_was()
    assert managed.inside.pings(GATEWAY)
    assert managed.is_heard()


def test_being_killed_in_the_middle_takes_the_change_back(managed: Host) -> None:
    program = managed.start(Addressing("static", NEW, "192.0.2.77"), patience=60)
    until = time.monotonic() + 20
    while managed.addresses().get("brnic0") != str(NEW) and time.monotonic() < until:
        time.sleep(0.01)
    assert not managed.is_as_it_was()
    os.kill(program.pid, signal.SIGKILL)
    while not managed.is_as_it_was() and time.monotonic() < until + 20:
        time.sleep(0.05)
    assert managed.is_as_it_was()
    assert managed.is_heard()
    program.communicate(timeout=20)


def test_an_interface_without_addresses_has_none(managed: Host) -> None:
    assert managed.run(Addressing("static", NEW, GATEWAY))[0] == 0
    assert managed.run(Addressing("none")) == (0, "")
    assert managed.addresses() == {"nic1": "198.51.100.2/24"}
    assert managed.inside.run("ip", "-o", "link", "show", "master", "brnic0"), "guests still use its network"


def test_a_bridge_that_the_daemon_made_for_guests_is_the_hosts_own_from_then_on(
    managed: Host, network: BridgeNetwork
) -> None:
    managed.inside.run("ip", "addr", "flush", "dev", "nic0")
    network.create_bridge("brnic0")
    network.enslave("brnic0", "nic0")
    assert managed.run(Addressing("static", NEW)) == (0, "")
    network.destroy_bridge("brnic0")
    assert managed.addresses()["brnic0"] == str(NEW)


def test_what_is_no_request_changes_nothing(managed: Host) -> None:
    sound = Request("nic0", Addressing("static", NEW, GATEWAY)).as_json()
    for text in ("", "[]", sound.replace("nic0", "../nic0"), sound.replace(GATEWAY, f"{GATEWAY}; reboot")):
        argv = [sys.executable, "-m", "kronos.network.configuration.readdressing"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr.startswith("this is no request")) == (1, True)
