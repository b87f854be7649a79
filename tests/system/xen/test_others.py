"""Others look after the same guests: what virsh and xl show and do is understood, and does no harm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.xen import control_domain
from harness.xen.guest import Guest, xl

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def test_xl_and_virsh_show_a_guest_with_its_domid(guest: Guest) -> None:
    guest.start()
    (line,) = (line for line in xl("list").splitlines() if guest.uuid in line)
    assert line.split()[1] == guest.domid
    (line,) = (line for line in guest.daemon.virsh("list", "--title").splitlines() if guest.uuid in line)
    assert line.split() == [guest.domid, guest.uuid, "running", "guest"]


@pytest.mark.parametrize("command", ["xl destroy", "virsh destroy"])
def test_a_guest_that_others_destroy_is_halted(guest: Guest, command: str) -> None:
    guest.start()
    subprocess.run([*command.split(), guest.uuid], check=True, capture_output=True, timeout=60)
    guest.becomes("Halted")
    guest.start()
    assert guest.power_state == "Running"


def test_a_guest_that_others_pause_is_paused_and_goes_on(guest: Guest) -> None:
    guest.start()
    guest.daemon.virsh("suspend", guest.uuid)
    guest.becomes("Paused")
    guest.daemon.virsh("resume", guest.uuid)
    guest.becomes("Running")


def test_a_guest_that_others_reboot_runs_on_with_a_new_domid(guest: Guest) -> None:
    guest.start()
    before = guest.domid
    guest.daemon.virsh("reboot", guest.uuid)
    guest.ready(times=2)
    wait_until(lambda: guest.domid != before, 30, "its record has the old domid")
    assert guest.power_state == "Running"
    assert any(line.split()[1] == guest.domid for line in xl("list").splitlines() if guest.uuid in line)


def test_a_guest_that_others_shut_down_is_halted(guest: Guest) -> None:
    guest.start()
    xl("shutdown", guest.uuid)
    guest.becomes("Halted", 60)


def test_a_guest_of_somebody_elses_is_left_alone(
    guest: Guest, daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    initrd = daemon.state / "guest" / "obedient-initrd"
    config = tmp_path / "stranger.cfg"
    config.write_text(
        f'name="stranger"\nmemory=96\nkernel="{control_domain.KERNEL}"\nramdisk="{initrd}"\nextra="console=hvc0"\n'
    )
    known = set(client("VM.get_all"))
    xl("create", str(config))
    try:
        guest.start()
        daemon.restart()
        other = daemon.client()
        assert set(other("VM.get_all")) == known | {guest.vm}
        assert other("VM.get_power_state", guest.vm) == "Running"
        other("VM.hard_shutdown", guest.vm)
        other.close()
        assert any(line.startswith("stranger ") for line in xl("list").splitlines())
    finally:
        xl("destroy", "stranger")
        guest.client = client = daemon.client()
