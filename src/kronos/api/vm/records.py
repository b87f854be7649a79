"""VM's records: creating and destroying them, and what can be asked of one."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from kronos.api import blob
from kronos.api.vm import firmware
from kronos.api.vm.settings import note_overhead
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import (
    VBD,
    VGPU,
    VIF,
    VM,
    VUSB,
    Console,
    Host,
    VBD_metrics,
    VIF_metrics,
    VM_guest_metrics,
    VM_metrics,
)
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.rules import devices, placement

_NOT_AT_CREATION = (
    "blocked_operations",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
)
"""Taken with a record and passed over: what holds of one VM does not of another that is made like it."""


@message("VM.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """A new VM record, Halted; what it says is checked when it is started.

    Clients send whole records back: what only the system sets is left out.
    """
    fields = constructor_fields("VM", args)
    for name in ("power_state", "resident_on", "suspend_VDI", "last_booted_record", "is_a_snapshot"):
        if fields.get("power_state") != "Suspended" or name not in ("power_state", "suspend_VDI"):
            fields.pop(name, None)
    for name in _NOT_AT_CREATION:
        del fields[name]
    fields["other_config"] = {"mac_seed": str(uuids.uuid4())} | fields["other_config"]
    fields.pop("uuid", None)
    if fields.get("domain_type", "unspecified") == "unspecified":
        fields["domain_type"] = "hvm" if fields["HVM_boot_policy"] else "pv"
    with call.db.transaction():
        metrics = call.db.create(VM_metrics)
        vm = call.db.create(VM, **fields, domid=-1, metrics=metrics.ref)
        note_overhead(call, vm)
        return vm.ref


@message("VM.destroy", holds="destroy")
def destroy(call: Call, self: str) -> None:
    """Forget a VM; its disks stay. Raises OPERATION_NOT_ALLOWED for a control domain."""
    vm = call.db.get(VM, self)
    if vm.is_control_domain:
        raise Failure("OPERATION_NOT_ALLOWED", "A control domain cannot be destroyed")
    forget(call, vm)


def forget(call: Call, vm: VM) -> None:
    """Remove a VM's record with everything that exists only for it; its children get its parent."""
    remove(call.db, call.machine, vm)


def remove(db: Database, machine: Machine, vm: VM) -> None:
    """`forget`, for who has no call."""
    # Its files first: those of a VM that no record names any more would be nobody's, and a VM that is still there after
    # a crash has in its record what it begins with.
    machine.hypervisor.forget(vm.uuid)
    with db.transaction():
        for child in (db.get(VM, ref) for ref in vm.children):
            child.parent = vm.parent
        belongings: list[Record | None] = [db.find(Console, ref) for ref in vm.consoles]
        for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
            belongings += [db.find(VBD_metrics, vbd.metrics), vbd]
        for vif in (db.get(VIF, ref) for ref in vm.VIFs):
            belongings += [db.find(VIF_metrics, vif.metrics), vif]
        belongings += [*(db.find(VUSB, ref) for ref in vm.VUSBs), *(db.find(VGPU, ref) for ref in vm.VGPUs)]
        firmware.forget_tpms(db, vm)
        belongings += [db.find(VM_metrics, vm.metrics), db.find(VM_guest_metrics, vm.guest_metrics)]
        for row in belongings:
            if row is not None:
                db.delete(row)
        blobs = blob.forget(db, vm)
        db.delete(vm)
    blob.remove(machine, blobs)


@message("VM.get_allowed_VBD_devices")
def get_allowed_VBD_devices(call: Call, vm: str) -> tuple[str, ...]:
    """The places that no disk has yet."""
    return devices.allowed_vbd_devices(call.db, call.db.get(VM, vm))


@message("VM.get_allowed_VIF_devices")
def get_allowed_VIF_devices(call: Call, vm: str) -> tuple[str, ...]:
    """The numbers that no interface has yet."""
    return devices.allowed_vif_devices(call.db, call.db.get(VM, vm))


@message("VM.get_possible_hosts")
def get_possible_hosts(call: Call, vm: str) -> tuple[str, ...]:
    """The hosts that the VM could run on now."""
    return placement.possible_hosts(call.db, call.db.get(VM, vm))


@message("VM.assert_can_boot_here")
def assert_can_boot_here(call: Call, self: str, host: str) -> None:
    """Raises what keeps the VM from running on a host."""
    placement.assert_can_boot_here(call.db, call.db.get(VM, self), call.db.get(Host, host))


@message("VM.get_cooperative")
def get_cooperative(call: Call, self: str) -> bool:
    """Does the guest give memory back when it is asked to? All are trusted to: this is a question of the past."""
    call.db.get(VM, self)
    return True


@message("VM.get_boot_record")
def get_boot_record(call: Call, self: str) -> dict[str, Any]:
    """The record that a live VM was started with: settings that change only at a start are refused meanwhile."""
    return call.db.get(VM, self).snapshot()
