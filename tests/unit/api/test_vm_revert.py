"""VM.revert: what a VM gets back of a snapshot, what it keeps, and which disks go."""

from __future__ import annotations

import pytest

from kronos.db.records import VBD, VDI, VM, VM_appliance

NULL = "OpaqueRef:NULL"


def snapshot_of(host, vm, left_out=()) -> VM:
    return host.db.get(VM, host("VM.snapshot", vm.ref, "before the update", list(left_out)))


def disks(host, vm) -> list[VDI]:
    return [host.db.get(VDI, host.db.get(VBD, ref).VDI) for ref in vm.VBDs]


def test_a_disk_that_the_vm_got_after_the_snapshot_is_taken_away_and_stays(host):
    vm = host.halted_vm(host.vdi(host.storage))
    snapshot = snapshot_of(host, vm)
    later = host.vdi(host.storage)
    taken = host.db.get(VBD, vm.VBDs[0]).stored()
    like_it = ("bootable", "mode", "type", "other_config", "qos_algorithm_type", "qos_algorithm_params")
    fields = {name: taken[name] for name in like_it}
    host("VBD.create", fields | {"VM": vm.ref, "VDI": later.ref, "userdevice": "5", "empty": False})
    host("VM.revert", snapshot.ref)
    assert later.ref not in [disk.ref for disk in disks(host, vm)]
    assert host.db.find(VDI, later.ref) is later


def test_so_does_one_that_the_snapshot_left_out(host):
    system, data = host.vdi(host.storage), host.vdi(host.storage)
    vm = host.halted_vm(system, data)
    snapshot = snapshot_of(host, vm, [data.ref])
    host("VM.revert", snapshot.ref)
    assert host.db.find(VDI, data.ref) is data
    assert host.db.find(VDI, system.ref) is None


def test_the_snapshots_of_a_disk_are_those_of_the_disk_in_its_place(host):
    vm = host.halted_vm(host.vdi(host.storage))
    first, second = snapshot_of(host, vm), snapshot_of(host, vm)
    for _ in range(2):  # what one revert left behind, the next would not know
        before = disks(host, vm)
        host("VM.revert", first.ref)
        host("SR.scan", host.storage.ref)
        (disk,) = disks(host, vm)
        assert host.db.find(VDI, before[0].ref) is None
        taken = {disks(host, first)[0].ref, disks(host, second)[0].ref}
        assert set(disk.snapshots) == taken


class Killed(BaseException):
    """The daemon is gone: nothing after this runs."""


def test_a_daemon_killed_before_the_replaced_disks_go_destroys_them_at_its_next_start(host):
    vm = host.halted_vm(host.vdi(host.storage))
    first, second = snapshot_of(host, vm), snapshot_of(host, vm)
    (replaced,) = disks(host, vm)

    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kronos.api.vdi.branching.succeed", die)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            host("VM.revert", first.ref)
    host.driver(host.storage).detach()
    host.start_again()
    (disk,) = disks(host, vm)
    assert host.db.find(VDI, replaced.ref) is None
    assert set(disk.snapshots) == {disks(host, first)[0].ref, disks(host, second)[0].ref}
    assert host.machine.intents.left() == {}


def test_the_vm_is_called_and_set_as_it_was_then(host):
    vm = host.halted_vm(host.vdi(host.storage))
    vm.name_label, vm.order, vm.blocked_operations = "then", 3, {"pool_migrate": "no"}
    vm.other_config = vm.other_config | {"key": "then"}
    seed = vm.other_config["mac_seed"]
    snapshot = snapshot_of(host, vm)
    vm.name_label, vm.order, vm.blocked_operations, vm.other_config = "now", 0, {}, {"key": "now"}
    snapshot.name_description = "of the snapshot alone"
    host("VM.revert", snapshot.ref)
    assert (vm.name_label, vm.order, vm.blocked_operations) == ("then", 3, {"pool_migrate": "no"})
    assert (vm.other_config["key"], vm.other_config["mac_seed"]) == ("then", seed)
    assert vm.name_description == ""
    assert not vm.is_a_template


def test_its_tags_stay_as_they_are(host):
    vm = host.halted_vm()
    snapshot = snapshot_of(host, vm)
    vm.tags, vm.affinity = ("backed up",), host.host.ref
    host("VM.revert", snapshot.ref)
    assert (vm.tags, vm.affinity) == (("backed up",), host.host.ref)


def test_an_appliance_that_is_gone_is_not_given_back(host):
    vm = host.halted_vm()
    appliance = host.db.create(VM_appliance)
    vm.appliance = appliance.ref
    snapshot = snapshot_of(host, vm)
    vm.appliance = NULL
    host.db.delete(appliance)
    host("VM.revert", snapshot.ref)
    assert vm.appliance == NULL


def test_a_snapshot_that_remembers_nothing_gives_what_its_own_record_has(host):
    vm = host.halted_vm()
    snapshot = snapshot_of(host, vm)
    for unreadable in ("", "((", "(('name__label'))"):
        snapshot.snapshot_metadata = unreadable
        vm.name_label, vm.VCPUs_max = "now", 4
        host("VM.revert", snapshot.ref)
        assert (vm.name_label, vm.VCPUs_max) == ("now", 1)


def test_values_that_cannot_be_are_passed_over(host):
    vm = host.halted_vm()
    snapshot = snapshot_of(host, vm)
    snapshot.snapshot_metadata = "(('order' 'first') ('name__label' 'then') ('suspend_SR' 'OpaqueRef:gone'))"
    host("VM.revert", snapshot.ref)
    assert (vm.order, vm.name_label, vm.suspend_SR) == (0, "then", NULL)
