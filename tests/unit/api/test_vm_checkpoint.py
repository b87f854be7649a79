"""Checkpoints: snapshots with memory, what becomes of the VM meanwhile and afterwards, and what a crash leaves."""

from __future__ import annotations

import json
import time

import pytest

from kronos.api.vm import checkpointing
from kronos.background.inventory import storage as storage_inventory
from kronos.background.reconcile import reconcile
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI, VIF, VM
from kronos.hypervisor.base import State


def until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture(params=["beside", "in between"])
def ways(request, host):
    """Both kinds of hypervisors: those that write the memory of a guest that stays, and those that end it for that."""
    host.hypervisor.saves_beside = request.param == "beside"
    return host


def running(host, **fields: object) -> VM:
    vm = host.halted_vm(host.vdi(host.storage, 1 << 20), **fields)
    host("VIF.create", {"device": "0", "network": host.net().ref, "VM": vm.ref, "MAC": "", "MTU": 1500} | QOS)
    host("VM.start", vm.ref, False, False)
    return vm


QOS = {"other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}


def checkpoint(host, vm: VM) -> VM:
    return host.db.get(VM, host("VM.checkpoint", vm.ref, "before the update"))


def images(host) -> set[str]:
    return {vdi.ref for vdi in host.db.all(VDI) if vdi.type == "suspend"}


def devices(host, vm: VM) -> list[VBD | VIF]:
    return [*(host.db.get(VBD, ref) for ref in vm.VBDs), *(host.db.get(VIF, ref) for ref in vm.VIFs)]


def test_a_checkpoint_is_a_suspended_snapshot_and_the_vm_runs_on(ways):
    vm = running(ways)
    made = checkpoint(ways, vm)
    assert (vm.power_state, vm.suspend_VDI, vm.current_operations) == ("Running", NULL, {})
    assert ways.hypervisor.guests[vm.uuid].state is State.RUNNING
    assert (made.name_label, made.power_state) == ("before the update", "Suspended")
    assert (made.is_a_snapshot, made.is_a_template, made.snapshot_of) == (True, True, vm.ref)
    assert made.snapshot_info == {
        "disk-snapshot-type": "crash_consistent",
        "power-state-at-snapshot": "Running",
    }
    assert images(ways) == {made.suspend_VDI}
    assert vm.parent == made.ref
    assert (made.resident_on, made.domid) == (NULL, -1)
    assert all(device.currently_attached for device in devices(ways, made))
    assert {"revert", "destroy", "hard_shutdown"} <= set(made.allowed_operations)
    assert not list(ways.machine.intents.directory.iterdir())


def test_a_guest_whose_memory_is_written_beside_it_is_the_same_run_afterwards(host):
    vm = running(host)
    before = vm.domid
    checkpoint(host, vm)
    assert vm.domid == before


def test_a_vm_is_reverted_to_a_checkpoint_and_goes_on_from_there_any_number_of_times(ways):
    vm = running(ways)
    disk = ways.db.get(VBD, vm.VBDs[0]).VDI
    made = checkpoint(ways, vm)
    for _ in range(2):
        ways("VM.revert", made.ref)
        assert vm.power_state == "Suspended"
        assert vm.suspend_VDI not in (NULL, made.suspend_VDI)
        assert ways.db.get(VBD, vm.VBDs[0]).VDI not in (disk, ways.db.get(VBD, made.VBDs[0]).VDI)
        assert all(device.currently_attached for device in devices(ways, vm))
        assert ways.db.get(VIF, vm.VIFs[0]).MAC == ways.db.get(VIF, made.VIFs[0]).MAC
        ways("VM.resume", vm.ref, False, False)
        assert (vm.power_state, vm.suspend_VDI) == ("Running", NULL)
        assert images(ways) == {made.suspend_VDI}
    assert made.power_state == "Suspended"


def test_a_revert_that_has_no_room_for_the_memory_leaves_the_vm_as_it_is(host, monkeypatch):
    vm = running(host)
    made = checkpoint(host, vm)
    disks = {vdi.ref for vdi in host.db.all(VDI)}

    def full(*args: object, **fields: object) -> None:
        raise Failure("SR_BACKEND_FAILURE_44", "", "no space", "")

    monkeypatch.setattr(host.driver(host.storage), "volume_create", full)
    assert host.refused("VM.revert", made.ref)[0] == "SR_BACKEND_FAILURE_44"
    assert vm.power_state == "Running"
    assert {vdi.ref for vdi in host.db.all(VDI)} == disks


def test_a_paused_vm_is_checkpointed_without_memory_and_stays_paused(host):
    vm = running(host)
    host("VM.pause", vm.ref)
    made = checkpoint(host, vm)
    assert (vm.power_state, made.power_state, made.suspend_VDI) == ("Paused", "Halted", NULL)


def test_a_suspended_vm_is_checkpointed_with_a_copy_of_its_memory(host):
    vm = running(host)
    host("VM.suspend", vm.ref)
    made = checkpoint(host, vm)
    assert (vm.power_state, made.power_state) == ("Suspended", "Suspended")
    assert images(host) == {vm.suspend_VDI, made.suspend_VDI}
    host("VM.resume", vm.ref, False, False)
    host("VM.revert", made.ref)
    host("VM.resume", vm.ref, False, False)
    assert vm.power_state == "Running"


@pytest.mark.parametrize("name", ["VM.clone", "VM.copy"])
def test_what_is_made_of_a_checkpoint_begins_without_memory(host, name):
    made = checkpoint(host, running(host))
    into = [NULL] if name == "VM.copy" else []
    new = host.db.get(VM, host(name, made.ref, "again", *into))
    assert (new.power_state, new.suspend_VDI, new.is_a_template) == ("Halted", NULL, True)
    assert not any(device.currently_attached for device in devices(host, new))


@pytest.mark.parametrize("name", ["VM.clone", "VM.csvm"])
def test_a_clone_of_a_suspended_vm_has_its_memory_where_the_pool_allows_it(host, name):
    vm = running(host, name_label="asleep")
    host("VM.suspend", vm.ref)
    arguments = {"VM.clone": ["clone"], "VM.csvm": []}[name]
    if name != "VM.csvm":
        assert host.refused(name, vm.ref, *arguments)[0] == "VM_BAD_POWER_STATE"
    host.pool.other_config = {"allow_clone_suspended_vm": "true"}
    new = host.db.get(VM, host(name, vm.ref, *arguments))
    assert new.power_state == "Suspended"
    assert new.name_label == (arguments or ["asleep-cloned-suspended"])[0]
    assert images(host) == {vm.suspend_VDI, new.suspend_VDI}
    host("VM.resume", new.ref, False, False)
    assert (new.power_state, vm.power_state) == ("Running", "Suspended")


def test_a_checkpoint_is_shut_down_and_destroyed_with_its_memory(host):
    vm = running(host)
    made = checkpoint(host, vm)
    host("VM.hard_shutdown", made.ref)
    assert (made.power_state, made.suspend_VDI, images(host)) == ("Halted", NULL, set())
    assert not any(device.currently_attached for device in devices(host, made))
    disk = host.db.get(VBD, made.VBDs[0]).VDI
    host("VM.destroy", made.ref)
    host("VDI.destroy", disk)
    assert vm.power_state == "Running"


def test_a_checkpoint_without_a_place_for_the_memory_is_refused(ways):
    vm = running(ways)
    ways.db.write(ways.pool, {"default_SR": NULL, "suspend_image_SR": NULL})
    assert ways.refused("VM.checkpoint", vm.ref, "no") == ["VM_NO_SUSPEND_SR", vm.ref]
    assert (vm.power_state, vm.snapshots) == ("Running", ())


@pytest.mark.parametrize("step", ["volume_snapshot", "save_memory", "suspend"])
def test_a_checkpoint_that_fails_leaves_nothing_and_the_vm_runs_on(host, monkeypatch, step):
    host.hypervisor.saves_beside = step != "suspend"
    vm = running(host)
    disks = {vdi.ref for vdi in host.db.all(VDI)}

    def fail(*args: object, **fields: object) -> None:
        raise Failure("INTERNAL_ERROR", "no")

    owner = host.driver(host.storage) if step == "volume_snapshot" else host.hypervisor
    monkeypatch.setattr(owner, step, fail)
    assert host.refused("VM.checkpoint", vm.ref, "no") == ["INTERNAL_ERROR", "no"]
    assert (vm.power_state, vm.snapshots, vm.current_operations) == ("Running", (), {})
    assert host.hypervisor.guests[vm.uuid].state is State.RUNNING
    assert {vdi.ref for vdi in host.db.all(VDI)} == disks
    assert not list(host.machine.intents.directory.iterdir())


def test_a_vm_whose_disks_could_not_be_copied_while_it_was_suspended_runs_again(host, monkeypatch):
    host.hypervisor.saves_beside = False
    vm = running(host)

    def fail(*args: object, **fields: object) -> None:
        raise Failure("INTERNAL_ERROR", "no")

    monkeypatch.setattr(host.driver(host.storage), "volume_snapshot", fail)
    assert host.refused("VM.checkpoint", vm.ref, "no") == ["INTERNAL_ERROR", "no"]
    assert (vm.power_state, vm.snapshots, images(host)) == ("Running", (), set())


def test_a_guest_that_ends_while_it_is_checkpointed_is_halted(host, monkeypatch):
    vm = running(host)

    def ends(uuid: str, path: object) -> None:
        host.hypervisor.destroy(uuid)
        raise Failure("INTERNAL_ERROR", "it is gone")

    monkeypatch.setattr(host.hypervisor, "save_memory", ends)
    assert host.refused("VM.checkpoint", vm.ref, "no") == ["INTERNAL_ERROR", "it is gone"]
    assert until(lambda: vm.power_state == "Halted")


def crashed(host, vm: VM, *vdis: VDI) -> None:
    """What a daemon that was killed during a checkpoint leaves, and the next start of it."""
    intents = host.machine.intents.directory
    (intents / f"checkpoint-{vm.uuid}").write_text(json.dumps({"kind": "checkpoint", "vm": vm.uuid}))
    uuids = ",".join(vdi.uuid for vdi in vdis)
    (intents / "vm-made").write_text(json.dumps({"kind": "disks", "vdis": uuids}))
    reconcile(host.db, host.machine)
    storage_inventory.settle_disks(host.pipeline)
    checkpointing.settle(host.pipeline)


@pytest.mark.parametrize("written", ["Running", "Paused"])
def test_a_guest_that_a_crash_left_standing_still_goes_on(host, written):
    vm = running(host)
    half = host.vdi(host.storage, type="suspend", sm_config={"type": "raw"})
    host.hypervisor.pause(vm.uuid)
    assert until(lambda: vm.power_state == "Paused")
    vm.power_state = written
    crashed(host, vm, half)
    assert vm.power_state == "Running"
    assert host.hypervisor.guests[vm.uuid].state is State.RUNNING
    assert images(host) == set()
    assert not list(host.machine.intents.directory.iterdir())


def test_a_vm_that_a_crash_left_suspended_for_a_checkpoint_is_resumed(host):
    vm = running(host)
    host("VM.suspend", vm.ref)
    crashed(host, vm)
    assert until(lambda: not list(host.machine.intents.directory.iterdir()))
    assert (vm.power_state, images(host)) == ("Running", set())


def test_memory_that_a_checkpoint_has_too_stays_when_its_vm_is_shut_down(host):
    """A crash fell between the records of a checkpoint and the resuming of its VM, which cannot be resumed."""
    vm = running(host)
    host.hypervisor.saves_beside = False
    made = checkpoint(host, vm)
    host("VM.suspend", vm.ref)
    host("VDI.destroy", vm.suspend_VDI)
    vm.suspend_VDI = made.suspend_VDI
    host("VM.hard_shutdown", vm.ref)
    assert images(host) == {made.suspend_VDI}
    assert host.db.get(VDI, made.suspend_VDI)
