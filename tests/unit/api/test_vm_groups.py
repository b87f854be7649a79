"""VM groups: who may be in one."""

from __future__ import annotations

from kronos.db.records import VM, VM_group


def group(xapi) -> VM_group:
    record = {"name_label": "web", "name_description": "", "placement": "anti_affinity"}
    return xapi.db.get(VM_group, xapi("VM_group.create", record))


def test_a_vm_is_in_one_group_at_most(xapi):
    vm, first, second = xapi.db.create(VM), group(xapi), group(xapi)
    xapi("VM.set_groups", vm.ref, [first.ref])
    assert (vm.groups, first.VMs) == ((first.ref,), (vm.ref,))
    assert xapi.refused("VM.set_groups", vm.ref, [first.ref, second.ref]) == ["TOO_MANY_GROUPS"]
    assert xapi.refused("VM.set_groups", vm.ref, ["OpaqueRef:none"])[:2] == ["HANDLE_INVALID", "VM_group"]
    xapi("VM.set_groups", vm.ref, [second.ref])
    assert (first.VMs, second.VMs) == ((), (vm.ref,))


def test_only_guests_are_in_groups(xapi):
    there = group(xapi)
    for kind in ("is_a_template", "is_a_snapshot", "is_control_domain"):
        vm = xapi.db.create(VM, **{kind: True})
        assert xapi.refused("VM.set_groups", vm.ref, [there.ref])[0] == "OPERATION_NOT_ALLOWED"


def test_a_group_that_is_destroyed_leaves_its_vms(xapi):
    vm, there = xapi.db.create(VM), group(xapi)
    xapi("VM.set_groups", vm.ref, [there.ref])
    xapi("VM_group.destroy", there.ref)
    assert vm.groups == () and xapi.db.find(VM, vm.ref) is vm
