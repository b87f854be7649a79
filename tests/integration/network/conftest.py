"""Network namespaces as hosts and guests, so that no test touches the machine's own network."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kronos.network.base import LinkState, NetworkDriver, PhysicalInterface
from kronos.network.bridge import BridgeNetwork
from kronos.network.fake import FakeNetwork

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
    """This thread, and the threads and processes it starts, are in the named namespace meanwhile."""
    with open("/proc/thread-self/ns/net") as outside, open(f"/run/netns/{name}") as inside:
        _enter(inside.fileno())
        try:
            yield
        finally:
            _enter(outside.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """A network namespace with a name of its own, and commands run inside."""

    def __init__(self) -> None:
        self.name = f"kronet-{os.getpid()}-{next(_numbers)}"
        # A process that was killed may have had the number of this one.
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")

    def run(self, *argv: str, check: bool = True, timeout: float = 20) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} in {self.name}: {done.stdout}{done.stderr}")
        return done.stdout if done.returncode == 0 else ""

    def popen(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pings(self, address: str) -> bool:
        """Whether an answer comes; waits long enough for a busy machine."""
        self.run("ip", "neigh", "flush", "all")
        return any(self._ping(address, "-W", "2") for _ in range(5))

    def is_cut_off_from(self, address: str) -> bool:
        """Whether no answer comes within a time that is ample when one can."""
        return not self._ping(address, "-W", "0.4")

    def _ping(self, address: str, *options: str) -> bool:
        argv = ["ip", "netns", "exec", self.name, "ping", "-n", "-c", "1", *options, address]
        return subprocess.run(argv, capture_output=True, timeout=20).returncode == 0

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)


@pytest.fixture
def host() -> Iterator[Namespace]:
    """An empty namespace that the test itself is in, with whatever it starts."""
    namespace = Namespace()
    with contextlib.ExitStack() as undo:
        undo.callback(namespace.remove)
        undo.enter_context(_inside(namespace.name))
        yield namespace


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """The directory of the address service; what still runs there at the end is ended."""
    directory = tmp_path / "state"
    yield directory
    driver = BridgeNetwork(directory, sysfs=tmp_path / "sys")
    for bridge in directory.glob("*"):
        driver._addresses.stop(bridge.name)


@pytest.fixture
def network(host: Namespace, state: Path, tmp_path: Path) -> BridgeNetwork:
    """The real driver in a host with no hardware."""
    return BridgeNetwork(state, sysfs=tmp_path / "sys")


@pytest.fixture
def guest(host: Namespace) -> Iterator[Callable[..., Namespace]]:
    """Makes a namespace that plays a guest: its eth0 is the other end of the host's `device`, in `bridge`."""
    with contextlib.ExitStack() as undo:

        def make(device: str, bridge: str, address: str = "", mac: str = "") -> Namespace:
            namespace = Namespace()
            undo.callback(namespace.remove)
            join(host, namespace, device, bridge, mac)
            if address:
                namespace.run("ip", "addr", "add", address, "dev", "eth0")
            return namespace

        yield make


def join(host: Namespace, other: Namespace, device: str, bridge: str = "", mac: str = "") -> None:
    with_mac = ["address", mac] if mac else []
    veth = ["type", "veth", "peer", "name", device, "netns", host.name]
    subprocess.run(["ip", "link", "add", "eth0", *with_mac, "netns", other.name, *veth], check=True)
    other.run("ip", "link", "set", "eth0", "up")
    host.run("ip", "link", "set", device, *(["master", bridge] if bridge else []), "up")


class FakeWorld:
    """The machine around the fake driver."""

    def __init__(self) -> None:
        self.driver = FakeNetwork()

    def add_nic(self, device: str, address: str = "", mac: str = "02:00:00:00:00:aa") -> None:
        ip, netmask = (address.partition("/")[0], "255.255.255.0") if address else ("", "")
        self.driver.add_nic(PhysicalInterface(device, mac, up=True, carrier=True, ip=ip, netmask=netmask))

    def set_carrier(self, device: str, carrier: bool) -> None:
        self.driver.set_carrier(device, carrier)


class NamespaceWorld:
    """The machine around the real driver: a namespace, where a veth plays the NIC and its peer the cable."""

    def __init__(self, host: Namespace, driver: BridgeNetwork) -> None:
        self._host = host
        self.driver: NetworkDriver = driver

    def add_nic(self, device: str, address: str = "", mac: str = "02:00:00:00:00:aa") -> None:
        run = self._host.run
        run("ip", "link", "add", device, "address", mac, "type", "veth", "peer", "name", f"{device}-cable")
        run("ip", "link", "set", f"{device}-cable", "up")
        run("ip", "link", "set", device, "up")
        if address:
            run("ip", "addr", "add", address, "dev", device)

    def set_carrier(self, device: str, carrier: bool) -> None:
        self._host.run("ip", "link", "set", f"{device}-cable", "up" if carrier else "down")


@pytest.fixture(params=["fake", pytest.param("bridge", marks=pytest.mark.integration)])
def world(request: pytest.FixtureRequest) -> FakeWorld | NamespaceWorld:
    """A machine with each driver in turn."""
    if request.param == "fake":
        return FakeWorld()
    return NamespaceWorld(request.getfixturevalue("host"), request.getfixturevalue("network"))


class Seen:
    """What a watch told, and waiting for it."""

    def __init__(self) -> None:
        self.states: list[LinkState] = []

    def __call__(self, state: LinkState) -> None:
        self.states.append(state)

    def wait_for(self, wanted: Callable[[LinkState], bool], seconds: float = 30.0) -> LinkState:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for state in list(self.states):
                if wanted(state):
                    return state
            time.sleep(0.005)
        raise AssertionError(f"not seen; seen {self.states}")


@pytest.fixture
def seen() -> Seen:
    return Seen()
