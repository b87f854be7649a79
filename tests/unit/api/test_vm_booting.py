"""VMs whose kernel a loader finds, through their installation and their reboots."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kronos.api.vm import booting
from kronos.background.reboots import Reboots
from kronos.boot.eliloader import loading
from kronos.boot.eliloader.loading import Boot
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.guest_disk.loader import BootUnreadable
from kronos.datamodel.errors import Failure
from kronos.db.records import VBD, VM, Message, Task
from kronos.hypervisor.base import Reason

MIB = 1 << 20
INSTALL = {"install-repository": "http://mirror.example/el", "install-distro": "rhlike"}


class Loaders:
    """Stands where kernels are fetched and read: what it was asked for, and what it is to answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.meanwhile = lambda host: None
        self.remember = ""

    def load(self, plan, image, destination: Path, host) -> Boot:
        self.asked.append(f"install round {plan.round}")
        self.meanwhile(host)
        return self._made(destination, "method=there")

    def from_disk(self, image, destination: Path, arguments: str) -> Boot:
        self.asked.append(f"disk {image.form} {arguments}".strip())
        return self._made(destination, "root=/dev/xvda1")

    def _made(self, destination: Path, arguments: str) -> Boot:
        kernel = destination / "kernel"
        kernel.write_bytes(b"kernel")
        if self.failure is not None:
            raise self.failure
        return Boot(kernel, None, arguments, self.remember)


@pytest.fixture
def loaders(monkeypatch) -> Loaders:
    made = Loaders()
    monkeypatch.setattr(loading, "load", made.load)
    monkeypatch.setattr(loading, "from_disk", made.from_disk)
    return made


def guest(host, loader: str = "eliloader", **fields: object) -> VM:
    memory = {
        f"memory_{name}": 64 * MIB for name in ("static_min", "static_max", "dynamic_min", "dynamic_max")
    }
    plain = {"domain_type": "pvh", "VCPUs_max": 1, "VCPUs_at_startup": 1, "actions_after_reboot": "restart"}
    vm = host.db.create(
        VM, name_label="vm", **memory | plain | {"PV_bootloader": loader, "other_config": INSTALL} | fields
    )
    disk = host.vdi(host.storage)
    host.db.create(VBD, VM=vm.ref, VDI=disk.ref, userdevice="0", mode="RW", type="Disk", bootable=True)
    return vm


def until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def start(host, vm: VM) -> None:
    host("VM.start", vm.ref, False, False)


def booted(host, vm: VM):
    """What the hypervisor was given to boot."""
    return host.hypervisor.guests[vm.uuid].domain.boot


def left(host) -> list[Path]:
    return [path for path in booting.place(host.machine).rglob("*") if path.is_file()]


def test_an_installing_guest_boots_what_was_fetched_with_its_own_arguments_first(host, loaders):
    vm = guest(host, PV_args="ks=http://me/ks.cfg")
    start(host, vm)
    assert booted(host, vm).cmdline == "ks=http://me/ks.cfg method=there"
    assert loaders.asked == ["install round 1"]


def test_a_guest_that_began_to_install_is_to_boot_its_disk_the_next_time(host, loaders):
    vm = guest(host)
    start(host, vm)
    assert vm.PV_bootloader == "pygrub"
    assert "install-distro" not in vm.other_config


def test_an_installed_guest_boots_what_its_disk_says_with_its_own_arguments_last(host, loaders):
    vm = guest(host, "pygrub", PV_args="quiet", PV_bootloader_args="--kernel /vmlinuz")
    start(host, vm)
    assert loaders.asked == ["disk qcow2 --kernel /vmlinuz"]
    assert booted(host, vm).cmdline == "root=/dev/xvda1 quiet"


def test_the_files_are_gone_when_the_guest_runs(host, loaders):
    vm = guest(host)
    start(host, vm)
    assert left(host) == []


def test_an_installation_that_takes_two_boots_counts_them(host, loaders):
    loaders.remember = "--kernel /boot/vmlinuz-xen --ramdisk /boot/initrd-xen"
    vm = guest(host, other_config=INSTALL | {"install-distro": "sleslike"}, PV_args="quiet")
    start(host, vm)
    assert (vm.PV_bootloader, vm.other_config["install-round"]) == ("eliloader", "2")
    host("VM.hard_reboot", vm.ref)
    assert loaders.asked == ["install round 1", "install round 2"]
    assert vm.PV_bootloader == "pygrub"
    assert vm.PV_bootloader_args == loaders.remember


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (InstallFailed("INVALID_SOURCE", "http://m/x", "none such"), "INVALID_SOURCE\nhttp://m/x\nnone such"),
        (BootUnreadable("an empty disk"), "an empty disk"),
    ],
)
def test_what_a_loader_says_reaches_the_client_and_nothing_else_has_happened(host, loaders, failure, text):
    loaders.failure = failure
    vm = guest(host)
    assert host.refused("VM.start", vm.ref, False, False) == ["BOOTLOADER_FAILED", vm.ref, text]
    assert (vm.power_state, vm.PV_bootloader, vm.other_config) == ("Halted", "eliloader", INSTALL)
    assert vm.scheduled_to_be_resident_on == "OpaqueRef:NULL"
    assert left(host) == []


def test_a_guest_that_the_hypervisor_refuses_is_not_installed(host, loaders, monkeypatch):
    def refuse(domain, *, paused=False):
        raise Failure("INTERNAL_ERROR", "no")

    monkeypatch.setattr(host.hypervisor, "start", refuse)
    vm = guest(host)
    host.refused("VM.start", vm.ref, False, False)
    assert (vm.PV_bootloader, vm.other_config) == ("eliloader", INSTALL)
    assert left(host) == []


def test_an_unknown_loader_is_named(host, loaders):
    vm = guest(host, "/opt/own/loader")
    code, ref, text = host.refused("VM.start", vm.ref, False, False)
    assert (code, ref) == ("BOOTLOADER_FAILED", vm.ref)
    assert "/opt/own/loader" in text


def test_a_vm_without_a_source_says_so(host, loaders):
    vm = guest(host, other_config={})
    assert host.refused("VM.start", vm.ref, False, False)[2].startswith("UNSUPPORTED_INSTALL_METHOD\n")


def test_a_start_that_still_fetches_can_be_cancelled(host, loaders):
    fetching, stopped = threading.Event(), threading.Event()

    def fetch(circumstances) -> None:
        circumstances.on_cancel(stopped.set)
        fetching.set()
        assert stopped.wait(10)
        loaders.failure = InstallFailed("INVALID_SOURCE", "cut short")

    loaders.meanwhile = fetch
    vm = guest(host)
    task = host("Async.VM.start", vm.ref, False, False)
    assert fetching.wait(10)
    host("task.cancel", task)
    assert until(lambda: host.db.get(Task, task).status == "cancelled")
    assert vm.power_state == "Halted"


# --- suspended -------------------------------------------------------------------------------------------------------


def test_a_suspended_guest_comes_back_without_its_loader_and_no_further(host, loaders):
    vm = guest(host, other_config=INSTALL | {"install-distro": "sleslike"})
    start(host, vm)
    host("VM.suspend", vm.ref)
    host("VM.resume", vm.ref, False, False)
    assert loaders.asked == ["install round 1"]
    assert vm.other_config["install-round"] == "2"
    assert left(host) == []


# --- reboots ---------------------------------------------------------------------------------------------------------


def reboot(host, vm: VM) -> None:
    host.hypervisor.reboot(vm.uuid)


def test_a_guest_that_reboots_after_its_installation_boots_its_disk(host, loaders):
    vm = guest(host)
    start(host, vm)
    first = vm.domid
    reboot(host, vm)
    assert until(lambda: vm.power_state == "Running" and vm.domid != first)
    assert loaders.asked == ["install round 1", "disk qcow2"]
    assert until(lambda: host.machine.intents.left() == {})


def test_a_guest_reboots_on_a_host_that_takes_no_vms_any_more(host, loaders):
    vm = guest(host)
    start(host, vm)
    first = vm.domid
    host("host.disable", host.host.ref)
    reboot(host, vm)
    assert until(lambda: vm.power_state == "Running" and vm.domid != first)
    assert until(lambda: host.machine.intents.left() == {})
    assert vm.scheduled_to_be_resident_on == "OpaqueRef:NULL"


def test_a_guest_that_is_not_to_reboot_stays_down(host, loaders):
    vm = guest(host, actions_after_reboot="destroy")
    start(host, vm)
    reboot(host, vm)
    assert until(lambda: vm.power_state == "Halted")
    assert host.hypervisor.settle()
    assert loaders.asked == ["install round 1"]


def test_a_guest_that_switches_itself_off_stays_down(host, loaders):
    vm = guest(host)
    start(host, vm)
    host.hypervisor.power_off(vm.uuid)
    assert until(lambda: vm.power_state == "Halted")
    assert loaders.asked == ["install round 1"]


def test_a_clean_reboot_boots_it_once(host, loaders):
    vm = guest(host)
    start(host, vm)
    host("VM.clean_reboot", vm.ref)
    assert vm.power_state == "Running"
    assert loaders.asked == ["install round 1", "disk qcow2"]


def test_a_reboot_that_fails_leaves_the_vm_down_and_tells_why(host, loaders):
    vm = guest(host)
    start(host, vm)
    loaders.failure = BootUnreadable("an empty disk")
    reboot(host, vm)
    assert until(lambda: any("an empty disk" in row.body for row in host.db.all(Message)))
    assert vm.power_state == "Halted"
    assert until(lambda: host.machine.intents.left() == {})


def test_a_reboot_that_a_crash_cut_short_is_taken_up(host, loaders, monkeypatch):
    vm = guest(host)
    start(host, vm)
    killed, never_done = Reboots(host.pipeline), []
    monkeypatch.setattr(killed.pipeline.task_workers, "submit", lambda *work: never_done.append(work))
    monkeypatch.setattr(host.follow, "reboots", killed)
    reboot(host, vm)
    assert until(lambda: vm.power_state == "Halted")
    Reboots(host.pipeline).take_up()  # by a daemon that is killed as well
    monkeypatch.undo()

    monkeypatch.setattr(loading, "from_disk", loaders.from_disk)
    Reboots(host.pipeline).take_up()
    assert until(lambda: vm.power_state == "Running")
    assert loaders.asked[-1] == "disk qcow2"
    assert until(lambda: host.machine.intents.left() == {})


def test_news_of_an_earlier_run_reboot_nothing(host, loaders):
    vm = guest(host)
    start(host, vm)
    first = vm.domid
    host.follow.reboots.halted(vm, Reason.REBOOTED)
    assert (vm.power_state, vm.domid) == ("Running", first)
    assert host.machine.intents.left() == {}
