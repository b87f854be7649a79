"""VBD: a VM's disks and CD drives."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

from kronos.api.vm.backing import attach, driver_of
from kronos.api.vm.naming import named_by_reference
from kronos.api.vm.state import open_elsewhere
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI, VM, VBD_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.registry import message
from kronos.hypervisor.base import Disk
from kronos.rules import devices, operations
from kronos.rules import domain as domains

_MOVES = ("migrate_send", "pool_migrate")
ALLOWED_TYPES = ("system", "user", "ephemeral", "suspend", "crashdump", "metadata", "rrd", "pvs_cache")


@message("VBD.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """Give a VM a disk or a CD drive; a running VM gets it at `plug`.

    Raises VBD_CDS_MUST_BE_READONLY, VBD_NOT_REMOVABLE_MEDIA, INVALID_DEVICE, DEVICE_ALREADY_EXISTS,
    VDI_INCOMPATIBLE_TYPE [vdi, type], VDI_READONLY [vdi], OTHER_OPERATION_IN_PROGRESS while the VM moves.
    """
    fields = constructor_fields("VBD", args)
    db = call.db
    with db.transaction():  # VM and disk are not to go before the record that refers to them is there
        vm = db.get(VM, fields["VM"])
        fields["empty"] = fields["empty"] or fields["VDI"] == NULL
        vdi = None if fields["empty"] else db.get(VDI, fields["VDI"])
        if vdi is not None and vdi.type not in ALLOWED_TYPES:
            raise Failure("VDI_INCOMPATIBLE_TYPE", vdi.ref, vdi.type)
        if fields["type"] == "CD" and fields["mode"] != "RO":
            raise Failure("VBD_CDS_MUST_BE_READONLY")
        if vdi is None:
            if fields["type"] != "CD":
                raise Failure("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
            fields["VDI"] = NULL
        else:
            if fields["mode"] == "RW" and vdi.read_only:
                raise Failure("VDI_READONLY", vdi.ref)
            if "backend-kind" in vdi.sm_config:
                backend = {"backend-kind": vdi.sm_config["backend-kind"]}
                fields["other_config"] = fields["other_config"] | backend
        for task, operation in vm.current_operations.items():
            if operation in _MOVES:
                raise Failure("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, operation, task)
        userdevice = devices.vbd_device(db, vm, fields["userdevice"], fields["type"])
        suspended = vm.power_state == "Suspended"
        given = args if suspended else {}
        fields |= {
            "userdevice": userdevice,
            "device": given.get("device", ""),
            "currently_attached": given.get("currently_attached", False),
            "metrics": db.create(VBD_metrics).ref,
        }
        return db.create(VBD, **fields).ref


@message("VBD.destroy")
def destroy(call: Call, self: str) -> None:
    """Take a disk away from a VM; the VDI stays. Raises OPERATION_NOT_ALLOWED while it is attached."""
    vbd = call.db.get(VBD, self)
    with call.db.transaction():
        if vbd.currently_attached or vbd.reserved:  # a suspended VM's is too: its guest wakes with the disk
            vm = call.db.get(VM, vbd.VM)
            raise Failure("OPERATION_NOT_ALLOWED", f"VBD '{vbd.uuid}' still attached to '{vm.uuid}'")
        for task, operation in vbd.current_operations.items():
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VBD", vbd.ref, operation, task)
        metrics = call.db.find(VBD_metrics, vbd.metrics)
        if metrics is not None:
            call.db.delete(metrics)
        call.db.delete(vbd)


def disk_of(call: Call, vbd: VBD, undo: ExitStack) -> Disk:
    """A VBD as the hypervisor plugs it, its VDI attached."""
    if vbd.empty:
        return domains.disk(call.db, vbd, None)
    attachment = attach(call, call.db.get(VDI, vbd.VDI), writable=vbd.mode == "RW", undo=undo)
    return domains.disk(call.db, vbd, attachment)


def drive(vbd: VBD) -> Disk:
    """An empty CD drive at the place of a VBD."""
    number = devices.disk_number(vbd.userdevice)
    if number is None:
        raise Failure("INVALID_DEVICE", vbd.userdevice)
    return Disk(number, None, read_only=True, cdrom=True, bootable=vbd.bootable)


@message("VBD.plug", holds="plug")
def plug(call: Call, self: str) -> None:
    """Give a running VM the disk now. Raises DEVICE_ALREADY_ATTACHED and what the rules say."""
    vbd = call.db.get(VBD, self)
    vm = call.db.get(VM, vbd.VM)
    with named_by_reference(vm), ExitStack() as undo:
        disk = disk_of(call, vbd, undo)
        call.machine.hypervisor.plug_disk(vm.uuid, disk)
        undo.pop_all()
    call.db.write(vbd, {"currently_attached": True, "device": devices.disk_name(disk.device)})


@message("VBD.unplug", holds="unplug")
def unplug(call: Call, self: str) -> None:
    """Take the disk out of a running VM, when its guest lets go.

    Raises DEVICE_DETACH_REJECTED [type, vbd, text], DEVICE_DETACH_TIMEOUT [type, vbd].
    """
    take_out(call, call.db.get(VBD, self))


@message("VBD.unplug_force", holds="unplug_force")
def unplug_force(call: Call, self: str) -> None:
    """Unplug if it is plugged."""
    vbd = call.db.get(VBD, self)
    if vbd.currently_attached:
        take_out(call, vbd)


def take_out(call: Call, vbd: VBD) -> None:
    """Unplug a disk and let go of its VDI."""
    vm = call.db.get(VM, vbd.VM)
    number = devices.disk_number(vbd.userdevice)
    assert number is not None
    with named_by_reference(vm):
        call.machine.hypervisor.unplug_disk(vm.uuid, number)
    gone_from_guest(call, vbd, {"currently_attached": False})


def gone_from_guest(call: Call, vbd: VBD, fields: dict[str, Any]) -> None:
    """The guest has a disk no more: write that down, and then let go of it, unless another VM has it open.

    In this order, since what the record says is true from now on, whatever becomes of the letting go. The last of
    several VMs that give up the same disk at once lets go of it, which the one step of writing and looking tells.
    """
    with call.db.transaction():
        vdi = call.db.find(VDI, vbd.VDI)
        call.db.write(vbd, fields)
        last = vdi is not None and not open_elsewhere(call.db, vdi, call.db.get(VM, vbd.VM))
    if vdi is not None and last:
        driver_of(call, vdi).volume_detach(vdi.uuid)


@message("VBD.insert", holds="insert")
def insert(call: Call, vbd: str, vdi: str) -> None:
    """Put a disc into an empty CD drive. Raises VBD_NOT_EMPTY, VBD_NOT_REMOVABLE_MEDIA."""
    row, disc = call.db.get(VBD, vbd), call.db.get(VDI, vdi)
    vm = call.db.get(VM, row.VM)
    if vm.power_state not in ("Running", "Paused"):
        call.db.write(row, {"VDI": disc.ref, "empty": False})
        return
    with named_by_reference(vm), ExitStack() as undo:
        attachment = attach(call, disc, writable=False, undo=undo)
        image_format: Literal["raw", "qcow2"] = "qcow2" if attachment.format == "qcow2" else "raw"
        media = replace(drive(row), path=attachment.path, format=image_format)
        call.machine.hypervisor.change_media(vm.uuid, media)
        undo.pop_all()
    call.db.write(row, {"VDI": disc.ref, "empty": False, "currently_attached": True})


@message("VBD.eject", holds="eject")
def eject(call: Call, vbd: str) -> None:
    """Empty a CD drive. Raises VBD_IS_EMPTY, VBD_NOT_REMOVABLE_MEDIA."""
    row = call.db.get(VBD, vbd)
    vm = call.db.get(VM, row.VM)
    emptied = {"VDI": NULL, "empty": True}
    if vm.power_state in ("Running", "Paused"):
        with named_by_reference(vm):
            call.machine.hypervisor.change_media(vm.uuid, drive(row))
        gone_from_guest(call, row, emptied)
    else:
        call.db.write(row, emptied)


@message("VBD.pause", holds="pause")
def pause(call: Call, self: str) -> str:
    """Have a disk's backend serve no requests. No type of SR can: its own operations never need that.

    Raises SR_OPERATION_NOT_SUPPORTED [SR], HANDLE_INVALID for an empty drive.
    """
    raise _not_pausable(call, self)


@message("VBD.unpause", holds="unpause")
def unpause(call: Call, self: str, token: str) -> None:
    """Have it go on; nothing was paused. Raises what pause does."""
    raise _not_pausable(call, self)


def _not_pausable(call: Call, ref: str) -> Failure:
    vdi = call.db.get(VDI, call.db.get(VBD, ref).VDI)
    return Failure("SR_OPERATION_NOT_SUPPORTED", vdi.SR)


@message("VBD.assert_attachable")
def assert_attachable(call: Call, self: str) -> None:
    """Raises what would keep the disk from being attached now."""
    failure = operations.refusal(call.db, call.db.get(VBD, self), "attach")
    if failure is not None:
        raise failure


@message("VBD.set_mode")
def set_mode(call: Call, self: str, value: str) -> None:
    """Read-only or read-write, from the next start. Raises VBD_CDS_MUST_BE_READONLY, VM_BAD_POWER_STATE."""
    vbd = call.db.get(VBD, self)
    if vbd.type == "CD" and value == "RW":
        raise Failure("VBD_CDS_MUST_BE_READONLY")
    vm = call.db.get(VM, vbd.VM)
    if vm.power_state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm.ref, "halted", vm.power_state.lower())
    vbd.mode = value
