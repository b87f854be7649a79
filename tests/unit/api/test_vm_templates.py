"""VMs that become templates, and templates that become VMs."""

from __future__ import annotations

import pytest

from kronos.db.records import VM, VMSS, VUSB, USB_group, VM_appliance, VM_group, VM_metrics


def test_a_halted_vm_becomes_a_template_and_leaves_its_group_and_usb_devices(xapi):
    group = xapi.db.create(VM_group)
    vm = xapi.db.create(VM, groups=(group.ref,), ha_always_run=True)
    device = xapi.db.create(VUSB, VM=vm.ref, USB_group=xapi.db.create(USB_group).ref)
    xapi("VM.set_is_a_template", vm.ref, True)
    assert vm.is_a_template
    assert (vm.groups, vm.VUSBs, vm.ha_always_run) == ((), (), False)
    assert xapi.db.find(VUSB, device.ref) is None
    assert vm.current_operations == {}


@pytest.mark.parametrize("state", ["Running", "Paused", "Suspended"])
def test_one_that_is_not_halted_does_not(xapi, state):
    vm = xapi.db.create(VM, power_state=state)
    assert xapi.refused("VM.set_is_a_template", vm.ref, True) == [
        "VM_BAD_POWER_STATE",
        vm.ref,
        "halted",
        state.lower(),
    ]
    assert not vm.is_a_template


def test_nor_does_one_that_something_else_counts_on(xapi):
    schedule, appliance = xapi.db.create(VMSS), xapi.db.create(VM_appliance)
    scheduled, started = (
        xapi.db.create(VM, snapshot_schedule=schedule.ref),
        xapi.db.create(VM, appliance=appliance.ref),
    )
    refused = xapi.refused("VM.set_is_a_template", scheduled.ref, True)
    assert refused == ["VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE", scheduled.ref, schedule.ref]
    refused = xapi.refused("VM.set_is_a_template", started.ref, True)
    assert refused == ["VM_IS_PART_OF_AN_APPLIANCE", started.ref, appliance.ref]


def test_a_template_becomes_a_vm_that_was_installed_then(xapi):
    metrics = xapi.db.create(VM_metrics)
    vm = xapi.db.create(VM, is_a_template=True, metrics=metrics.ref)
    assert xapi.refused("VM.set_is_a_template", vm.ref, True) == [
        "VM_IS_TEMPLATE",
        vm.ref,
        "make_into_template",
    ]
    xapi("VM.set_is_a_template", vm.ref, False)
    assert not vm.is_a_template
    assert metrics.install_time > "2"
