"""VMs whose kernel a loader finds: which loader, what it reads, how an installation goes on, and what ends a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Reason
from kronos.rules import boot, domain

LOADED = DirectKernel(Path("/found/kernel"), None, "quiet")


def guest(world, loader: str = "eliloader", **fields):
    return world.vm(**{"domain_type": "pvh", "HVM_boot_policy": "", "PV_bootloader": loader} | fields)


@pytest.mark.parametrize("written", ["pygrub", "/usr/bin/pygrub", "/usr/lib/xen-4.17/bin/pygrub"])
def test_a_loader_goes_by_its_name_wherever_an_old_host_had_it(world, written):
    assert boot.loader(guest(world, written)) == "pygrub"
    assert boot.loader(guest(world, "/usr/bin/eliloader")) == "eliloader"


@pytest.mark.parametrize("written", ["grub", "/bin/sh", "pygrub;reboot", "pygrub/"])
def test_any_other_program_is_not_run(world, written):
    vm = guest(world, written)
    with pytest.raises(Failure) as caught:
        boot.loader(vm)
    assert caught.value.description[:2] == ["BOOTLOADER_FAILED", vm.ref]


def test_an_hvm_guest_needs_no_loader(world):
    assert boot.by_loader(world.db, guest(world))
    assert not boot.by_loader(world.db, world.vm(PV_bootloader="pygrub"))
    assert not boot.by_loader(world.db, guest(world, ""))


def test_a_guest_boots_what_its_loader_has_found(world):
    assert domain.describe(world.db, guest(world), {}, loaded=LOADED).boot is LOADED


# --- what a loader reads ---------------------------------------------------------------------------------------------


def test_the_first_bootable_disk_is_read(world):
    vm = guest(world)
    world.vbd(vm, world.vdi(), userdevice="0")
    second = world.vbd(vm, world.vdi(), userdevice="10", bootable=True)
    first = world.vbd(vm, world.vdi(), userdevice="2", bootable=True)
    world.cd(vm, world.vdi(), userdevice="1", bootable=True)
    assert boot.loaded_from(world.db, vm, cd=False) is first
    first.bootable = second.bootable = False
    found = boot.loaded_from(world.db, vm, cd=False)
    assert found is not None
    assert found.userdevice == "0"


def test_a_cd_is_read_where_there_is_one_in_the_drive(world):
    vm = guest(world)
    world.vbd(vm, world.vdi(), bootable=True)
    world.cd(vm, userdevice="2")
    assert boot.loaded_from(world.db, vm, cd=True) is None
    full = world.cd(vm, world.vdi(), userdevice="3")
    assert boot.loaded_from(world.db, vm, cd=True) is full


# --- how an installation goes on -------------------------------------------------------------------------------------


def after(world, vm):
    for row, fields in boot.advanced(world.db, vm):
        world.db.write(row, fields)


def test_an_installed_guest_boots_by_pygrub_the_next_time(world):
    vm = guest(world, other_config={"install-repository": "http://m/", "install-distro": "rhlike"})
    after(world, vm)
    assert (vm.PV_bootloader, vm.other_config) == ("pygrub", {"install-repository": "http://m/"})
    after(world, vm)
    assert vm.PV_bootloader == "pygrub"


def test_a_guest_installed_from_cd_boots_its_first_disk_the_next_time(world):
    vm = guest(world, other_config={"install-repository": "cdrom"})
    root = world.vbd(vm, world.vdi(), userdevice="0")
    drive = world.cd(vm, world.vdi(), userdevice="3", bootable=True)
    after(world, vm)
    assert (root.bootable, drive.bootable) == (True, False)


def test_nothing_goes_on_where_no_loader_installs(world):
    assert boot.advanced(world.db, guest(world, "pygrub")) == []
    assert boot.advanced(world.db, world.vm(PV_bootloader="eliloader")) == []


def test_keys_that_mean_nothing_here_stay(world):
    vm = guest(world, other_config={"install-distro": "somebody's own"})
    after(world, vm)
    assert (vm.PV_bootloader, vm.other_config) == ("eliloader", {"install-distro": "somebody's own"})


# --- ends ------------------------------------------------------------------------------------------------------------


def test_what_a_loader_found_is_good_for_one_run(world):
    ends = ("actions_after_shutdown", "actions_after_reboot", "actions_after_crash")
    restarting = dict.fromkeys(ends, "restart")
    found = domain.describe(world.db, guest(world, **restarting), {}, loaded=LOADED)
    assert (found.on_poweroff, found.on_reboot, found.on_crash) == ("destroy", "destroy", "destroy")
    kept = domain.describe(world.db, guest(world, actions_after_crash="preserve"), {}, loaded=LOADED)
    assert kept.on_crash == "preserve"
    plain = domain.describe(world.db, world.vm(**restarting), {})
    assert (plain.on_poweroff, plain.on_reboot, plain.on_crash) == ("restart", "restart", "restart")


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("actions_after_reboot", Reason.REBOOTED),
        ("actions_after_shutdown", Reason.SHUTDOWN),
        ("actions_after_crash", Reason.CRASHED),
    ],
)
def test_a_guest_goes_on_after_an_end_that_its_record_wants_it_to_survive(world, field, reason):
    ends = dict.fromkeys(("actions_after_reboot", "actions_after_shutdown", "actions_after_crash"), "destroy")
    assert boot.starts_again(guest(world, **ends | {field: "restart"}), reason)
    assert not boot.starts_again(guest(world, **ends), reason)
    for other in (Reason.DESTROYED, Reason.MIGRATED, Reason.FAILED, Reason.UNKNOWN, None):
        assert not boot.starts_again(guest(world, **ends | {field: "restart"}), other)


@pytest.mark.parametrize("operation", ["clean_shutdown", "hard_shutdown", "clean_reboot", "hard_reboot"])
def test_whoever_ended_it_knows_better(world, operation):
    vm = guest(world, actions_after_reboot="restart", current_operations={"task": operation})
    assert not boot.starts_again(vm, Reason.REBOOTED)
    vm.current_operations = {"task": "snapshot"}
    assert boot.starts_again(vm, Reason.REBOOTED)
