"""A real guest, Linux on emulated hardware, through its life: what it sees and what XenAPI says of it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import guests
from harness.console import Shell
from harness.daemon import Daemon, wait_until, watching
from harness.xen import control_domain
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PROMPT = "tiny login:"
BOOT = 90.0
"""Seconds to the prompt on a machine that does other things too; three when it does not."""
SOON = 4.0 if not control_domain.here() else 15.0
"""Seconds in which XenAPI shows what happened behind its back, on a machine that does other things too: less than
between two of the looks that it takes by itself."""


class Guest:
    """The tiny guest as a VM."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client = daemon.client(timeout=120)
        self.vm = guests.tiny_vm(self.client, "tiny")
        self.uuid = self.client("VM.get_uuid", self.vm)

    @property
    def power_state(self) -> str:
        return str(self.client("VM.get_power_state", self.vm))

    @property
    def log(self) -> Path:
        return self.daemon.directory / "run" / self.uuid / "serial.log"

    def up(self) -> Guest:
        """At its prompt; started if need be."""
        if self.power_state == "Suspended":
            self.client("VM.hard_shutdown", self.vm)
        if self.power_state == "Paused":
            self.client("VM.unpause", self.vm)
        if self.power_state == "Halted":
            self.client("VM.start", self.vm, False, False)
            wait_until(lambda: PROMPT in self.log.read_text(errors="replace"), BOOT, "no prompt")
        return self

    def shell(self) -> Shell:
        return Shell(self.daemon, self.client.session, self.vm).log_in()

    def metrics(self) -> dict[str, Any]:
        """What its agent tells; empty before it has told anything."""
        ref = self.client("VM.get_guest_metrics", self.vm)
        try:
            return dict(self.client("VM_guest_metrics.get_record", ref))
        except Failure as failure:
            assert failure.code == "HANDLE_INVALID"
            return {}

    def address(self, device: int = 0) -> str:
        """Its address by its agent."""
        key = f"{device}/ip"
        return str(wait_until(lambda: self.metrics().get("networks", {}).get(key), 60, f"no address {key}"))


@pytest.fixture(scope="module")
def guest(daemon: Daemon) -> Iterator[Guest]:
    """One guest for all tests, which find it at its prompt."""
    made = Guest(daemon)
    yield made
    made.client.close()


@pytest.fixture
def up(guest: Guest) -> Guest:
    return guest.up()


def test_it_has_an_address_and_answers_the_host(up: Guest) -> None:
    address = up.address()
    assert address.startswith("169.254.")
    assert up.daemon.host.succeeds("ping", "-c", "1", "-W", "5", address)


def test_its_agent_tells_of_it(up: Guest) -> None:
    up.address()
    metrics = up.metrics()
    assert metrics["os_version"]["name"].startswith("Kronos tiny guest")
    assert metrics["PV_drivers_detected"] is True
    assert metrics["live"] is True
    assert set(metrics["networks"]) >= {"0/ip", "0/ipv4/0"}


def test_it_shows_its_memory_and_processors(up: Guest) -> None:
    metrics = up.client("VM_metrics.get_record", up.client("VM.get_metrics", up.vm))
    shell = up.shell()
    kilobytes = int(shell.run("grep MemTotal /proc/meminfo").split()[1])
    assert 0.5 < kilobytes * 1024 / int(metrics["memory_actual"]) <= 1
    assert int(shell.run("nproc")) == int(metrics["VCPUs_number"])
    shell.close()


def test_a_disk_comes_and_goes_while_it_runs(up: Guest) -> None:
    client = up.client
    vdi = guests.new_disk(client, "hot", 64 << 20)
    vbd = guests.add_disk(client, up.vm, vdi, "autodetect")
    shell = up.shell()
    before = shell.run("ls /sys/block")
    client("VBD.plug", vbd)
    assert client("VBD.get_currently_attached", vbd) is True
    assert client("VBD.get_device", vbd)
    wait_until(lambda: shell.run("ls /sys/block") != before, 20, "the guest does not see the disk")
    (device,) = set(shell.run("ls /sys/block").split()) - set(before.split())
    assert int(shell.run(f"cat /sys/block/{device}/size")) * 512 == 64 << 20
    written = shell.run(f"echo hello > /dev/{device}; sync; head -c 5 /dev/{device}")
    assert written == "hello"
    client("VBD.unplug", vbd)
    assert client("VBD.get_currently_attached", vbd) is False
    assert shell.run("ls /sys/block") == before
    shell.close()
    client("VBD.destroy", vbd)
    client("VDI.destroy", vdi)


def test_an_interface_comes_and_goes_while_it_runs(up: Guest) -> None:
    client = up.client
    vif = guests.add_interface(client, up.vm, guests.internal_network(client), "1")
    client("VIF.plug", vif)
    assert client("VIF.get_currently_attached", vif) is True
    shell = up.shell()
    mac = client("VIF.get_MAC", vif).lower()
    wait_until(lambda: mac in shell.run("cat /sys/class/net/*/address"), 20, "the guest does not see it")
    wait_until(lambda: shell.run("ip -o -4 addr show eth1"), 30, "the guest's new interface has no address")
    assert up.address(1) in shell.run("ip -o -4 addr show eth1")
    client("VIF.unplug", vif)
    assert client("VIF.get_currently_attached", vif) is False
    assert mac not in shell.run("cat /sys/class/net/*/address")
    shell.close()
    client("VIF.destroy", vif)


def test_it_is_paused_and_goes_on(up: Guest) -> None:
    address = up.address()
    up.client("VM.pause", up.vm)
    assert up.power_state == "Paused"
    assert not up.daemon.host.succeeds("ping", "-c", "1", "-W", "1", address)
    up.client("VM.unpause", up.vm)
    assert up.power_state == "Running"
    assert up.daemon.host.succeeds("ping", "-c", "1", "-W", "5", address)


def test_it_is_suspended_and_goes_on_where_it_was(up: Guest) -> None:
    shell = up.shell()
    shell.run("echo kept > /tmp/kept")
    booted = shell.run("cat /proc/sys/kernel/random/boot_id")
    shell.close()
    up.client("VM.suspend", up.vm)
    assert up.power_state == "Suspended"
    assert up.uuid not in up.daemon.guest_pids()
    image = up.client("VM.get_suspend_VDI", up.vm)
    assert up.client("VDI.get_type", image) == "suspend"
    up.client("VM.resume", up.vm, False, False)
    assert up.power_state == "Running"
    shell = up.shell()
    assert shell.run("cat /tmp/kept") == "kept"
    assert shell.run("cat /proc/sys/kernel/random/boot_id") == booted
    shell.close()
    with pytest.raises(Failure, match="HANDLE_INVALID"):
        up.client("VDI.get_uuid", image)


def test_it_is_resumed_with_the_processors_that_it_has_whatever_its_next_start_will_give_it(
    guest: Guest,
) -> None:
    client, vm = guest.client, guest.vm
    if guest.power_state != "Halted":
        client("VM.hard_shutdown", vm)
    client("VM.set_VCPUs_max", vm, 2)
    guest.up()
    client("VM.set_VCPUs_at_startup", vm, 2)
    client("VM.suspend", vm)
    client("VM.resume", vm, False, False)
    shell = guest.shell()
    assert shell.run("nproc") == "1"
    shell.close()
    client("VM.hard_shutdown", vm)
    client("VM.set_VCPUs_at_startup", vm, 1)
    client("VM.set_VCPUs_max", vm, 1)


def test_a_migration_that_is_not_live_gives_it_a_new_run_where_it_was(up: Guest) -> None:
    shell = up.shell()
    booted = shell.run("cat /proc/sys/kernel/random/boot_id")
    shell.close()
    before = up.client("VM.get_domid", up.vm)
    up.client("VM.pool_migrate", up.vm, up.client("VM.get_resident_on", up.vm), {"live": "false"})
    assert (up.power_state, up.client("VM.get_suspend_VDI", up.vm)) == ("Running", "OpaqueRef:NULL")
    assert up.client("VM.get_domid", up.vm) != before
    shell = up.shell()
    assert shell.run("cat /proc/sys/kernel/random/boot_id") == booted
    shell.close()


def test_it_is_rebooted_cleanly(up: Guest) -> None:
    shell = up.shell()
    booted = shell.run("cat /proc/sys/kernel/random/boot_id")
    shell.close()
    size = up.log.stat().st_size
    up.client("VM.clean_reboot", up.vm)
    assert up.power_state == "Running"
    wait_until(
        lambda: PROMPT in up.log.read_text(errors="replace")[size:], BOOT, "no prompt after the reboot"
    )
    shell = up.shell()
    assert shell.run("cat /proc/sys/kernel/random/boot_id") != booted
    shell.close()


def test_virsh_shows_it_by_its_name(up: Guest) -> None:
    (line,) = (line for line in up.daemon.virsh("list", "--title").splitlines() if up.uuid in line)
    assert line.split()[0] == str(up.client("VM.get_domid", up.vm))
    assert line.split()[2:] == ["running", "tiny"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_runs_on_while_the_daemon_is_away(up: Guest, end: str) -> None:
    pid = up.daemon.guest_pids()[up.uuid]
    domid = up.client("VM.get_domid", up.vm)
    address = up.address()
    getattr(up.daemon, end)()
    assert up.daemon.host.succeeds("ping", "-c", "1", "-W", "5", address)
    up.daemon.start()
    up.client = up.daemon.client(timeout=120)
    assert up.daemon.guest_pids()[up.uuid] == pid
    assert (up.power_state, up.client("VM.get_domid", up.vm)) == ("Running", domid)
    shell = up.shell()
    assert shell.run("echo $((6 * 7))") == "42"
    shell.close()
    assert up.daemon.host.succeeds("ping", "-c", "1", "-W", "5", up.address())


def test_it_is_shut_down_cleanly(up: Guest) -> None:
    up.client("VM.clean_shutdown", up.vm)
    assert up.power_state == "Halted"
    assert up.uuid not in up.daemon.guest_pids()
    record = up.client("VM.get_record", up.vm)
    assert (record["resident_on"], record["consoles"]) == ("OpaqueRef:NULL", [])
    assert not [name for name, kind in up.daemon.host.links().items() if kind == "tun"]


def ended(pid: int, do: Callable[[], Any]) -> float:
    """The moment at which a process ends after something was done."""
    handle = os.pidfd_open(pid)
    try:
        do()
        assert select.select([handle], [], [], 60)[0], "it does not end"
        return time.monotonic()
    finally:
        os.close(handle)


@pytest.mark.parametrize("how", ["powers itself off", "is destroyed with virsh"])
def test_it_is_halted_at_once_when_it(how: str, up: Guest) -> None:
    pid = up.daemon.guest_pids()[up.uuid]
    with watching(up.daemon, "vm") as watcher:
        if how == "powers itself off":
            shell = up.shell()
            moment = ended(pid, lambda: shell.connection.sendall(b"poweroff\n"))
            shell.close()
        else:
            moment = ended(pid, lambda: up.daemon.virsh("destroy", up.uuid))
        seen = watcher.wait_for(
            lambda event: event["ref"] == up.vm and event["snapshot"]["power_state"] == "Halted"
        )
    print(f"Halted in XenAPI {(seen - moment) * 1000:.0f} ms after its process ended")
    assert seen - moment < SOON
    assert up.power_state == "Halted"
