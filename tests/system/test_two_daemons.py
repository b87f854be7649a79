"""More than one daemon on a host: each with its own VMs, none in the other's way; and one of a user without rights."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import Images, add_interface, internal_network, vm_record
from harness.host import Host
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NOBODY = 65534
BESIDE = {"http_port": 8080, "https_port": 8443, "internal_bridge": "xenapi1"}


# --- a second one ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(daemon: Daemon, images: Images) -> Iterator[Daemon]:
    """A daemon on the first one's host."""
    made = Daemon(daemon.host, images, "y", **BESIDE)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="module")
def guests(daemon: Daemon, second: Daemon) -> list[str]:
    """A guest of each, with an interface on the host-internal network of its daemon."""
    return [started(daemon, "169.254"), started(second, "198.51.100")]


def started(daemon: Daemon, block: str) -> str:
    client = daemon.client()
    network = internal_network(client)
    if block != "169.254":
        # The block that every daemon takes for its guests can be served once on a host.
        for key, value in (
            ("ip_begin", f"{block}.1"),
            ("ip_end", f"{block}.254"),
            ("netmask", "255.255.255.0"),
        ):
            client("network.remove_from_other_config", network, key)
            client("network.add_to_other_config", network, key, value)
    vm = client("VM.create", vm_record(daemon.state, f"guest of {daemon.directory.name}"))
    add_interface(client, vm, network)
    client("VM.start", vm, False, False)
    return str(client("VM.get_uuid", vm))


def vms(client: Client) -> dict[str, str]:
    """The states of the VMs that a daemon knows, by uuid."""
    rows = client("VM.get_all_records").values()
    return {
        row["uuid"]: row["power_state"]
        for row in rows
        if not row["is_a_template"] and not row["is_control_domain"]
    }


def test_each_knows_its_own_guests_alone(daemon: Daemon, second: Daemon, guests: list[str]) -> None:
    assert vms(daemon.client()) == {guests[0]: "Running"}
    assert vms(second.client()) == {guests[1]: "Running"}
    assert set(daemon.guest_pids()) == {guests[0]}
    assert set(second.guest_pids()) == {guests[1]}


def test_each_has_its_own_bridge_and_address_service(daemon: Daemon, guests: list[str]) -> None:
    bridges = {name for name, kind in daemon.host.links().items() if kind == "bridge"}
    assert bridges == {"xenapi", "xenapi1"}
    services = [line for line in daemon.host.processes().values() if "dnsmasq" in line]
    assert sorted(str(daemon.directory) in line for line in services) == [False, True]


def test_a_session_of_one_is_none_of_the_other(daemon: Daemon, second: Daemon) -> None:
    stranger = second.client()
    stranger.session = daemon.client().session
    with pytest.raises(Failure) as refused:
        stranger("VM.get_all")
    assert refused.value.code == "SESSION_INVALID"


def test_the_end_of_one_leaves_the_other_alone(daemon: Daemon, second: Daemon, guests: list[str]) -> None:
    before = daemon.guest_pids() | second.guest_pids()
    keeps_asking = second.client()
    assert daemon.stop(30) == 0
    assert vms(keeps_asking) == {guests[1]: "Running"}
    daemon.start()
    assert vms(daemon.client()) == {guests[0]: "Running"}
    assert vms(keeps_asking) == {guests[1]: "Running"}
    assert daemon.guest_pids() | second.guest_pids() == before
    rules = daemon.host.run("nft", "list", "map", "bridge", "kronos", "from_port")
    taps = [name for name, kind in daemon.host.links().items() if kind == "tun"]
    assert len(taps) == 2
    assert all(tap in rules for tap in taps)


def outcome(daemon: Daemon, **settings: object) -> tuple[int, str]:
    """What becomes of one more daemon with these settings over those of another: status and log."""
    options = [f"--set={name}={str(value).lower()}" for name, value in (daemon.settings | settings).items()]
    done = subprocess.run(
        daemon.host.command(sys.executable, "-m", "kronos.daemon", *options),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_database_has_one_daemon(daemon: Daemon) -> None:
    pid = daemon.pid
    status, said = outcome(daemon, http_port=8081, https_port=8444)
    assert status == 1
    assert "cannot start" in said and f"is held by process {pid}" in said
    assert "Traceback" not in said
    assert daemon.client()("pool.get_all")


def test_a_port_has_one_daemon(daemon: Daemon) -> None:
    place = Path(f"{daemon.host.directory}/z")
    own = {"state": place, "run": place, "socket": place / "xapi", "storage": place / "sr"}
    try:
        status, said = outcome(daemon, **own, libvirt=daemon.libvirtd.uri, private_libvirt=False)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert status == 1
    assert "cannot start" in said and "in use" in said
    assert "Traceback" not in said
    assert daemon.client()("pool.get_all")


# --- one of a user ---------------------------------------------------------------------------------------------------


class UsersHost(Host):
    """A host on which commands run as a user without any rights."""

    def command(self, *argv: str) -> list[str]:
        home = self.directory / "home"
        become = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "--bounding-set=-all",
        ]
        environment = [
            f"HOME={home}",
            f"XDG_RUNTIME_DIR={home}",
            f"PATH=/usr/sbin:/sbin:{os.environ['PATH']}",
        ]
        return super().command(*become, "env", *environment, *argv)


@pytest.fixture(scope="module")
def users_daemon(images: Images) -> Iterator[Daemon]:
    """A daemon of a user, with the user's own libvirt."""
    with contextlib.ExitStack() as undo:
        host = UsersHost()
        undo.callback(host.close)
        daemon = Daemon(
            host,
            images,
            http_port=8080,
            https_port=8443,
            private_libvirt=False,
            libvirt="qemu:///session",
        )
        undo.callback(daemon.close)
        (host.directory / "home").mkdir()
        for place in (daemon.directory, host.directory / "home"):
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", place], check=True)
        probe = subprocess.run(host.command(sys.executable, "-c", "import kronos"), capture_output=True)
        if probe.returncode != 0:
            pytest.skip("this tree is not for every user to read")
        yield daemon.start()


@pytest.fixture
def theirs(users_daemon: Daemon) -> tuple[Client, str]:
    """A client of the user's daemon, and a VM that runs under it."""
    client = users_daemon.client()
    vm = str(client("VM.create", vm_record(users_daemon.state, "a user's")))
    client("VM.start", vm, False, False)
    console = users_daemon.directory / "run" / client("VM.get_uuid", vm) / "serial.log"
    wait_until(lambda: console.exists() and b"ready" in console.read_bytes(), 60, "it does not boot")
    return client, vm


def owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_a_user_without_rights_runs_vms(users_daemon: Daemon, theirs: tuple[Client, str]) -> None:
    client, vm = theirs
    assert owner(users_daemon.pid) == NOBODY
    emulators = [pid for pid, line in users_daemon.host.processes().items() if "qemu-system" in line]
    assert [owner(pid) for pid in emulators] == [NOBODY]
    client("VM.clean_shutdown", vm)
    assert client("VM.get_power_state", vm) == "Halted"
    client("VM.destroy", vm)


def test_what_needs_rights_is_refused_and_leaves_nothing(users_daemon: Daemon) -> None:
    client = users_daemon.client()
    vm = client("VM.create", vm_record(users_daemon.state, "with an interface"))
    add_interface(client, vm, internal_network(client))
    with pytest.raises(Failure):
        client("VM.start", vm, False, False)
    assert client("VM.get_power_state", vm) == "Halted"
    assert client("VM.get_current_operations", vm) == {}
    client("VM.destroy", vm)


def test_a_users_daemon_ends_and_finds_its_vm_again(users_daemon: Daemon, theirs: tuple[Client, str]) -> None:
    client, vm = theirs
    domid = client("VM.get_domid", vm)
    began = time.monotonic()
    assert users_daemon.stop(30) == 0
    print(f"a user's daemon ended in {time.monotonic() - began:.2f} s")
    users_daemon.start()
    client = users_daemon.client()
    assert (client("VM.get_power_state", vm), client("VM.get_domid", vm)) == ("Running", domid)
    client("VM.hard_shutdown", vm)
    client("VM.destroy", vm)
