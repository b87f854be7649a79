"""Passing: the host's devices that a VM has to itself, while it starts, runs and ends."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PCI, PGPU, VGPU, VM, VUSB, Host
from kronos.dispatch.call import Call
from kronos.hypervisor.hardware import HostUSB
from kronos.rules import passthrough
from kronos.rules.devices import usb_number, usb_of
from kronos.rules.surroundings import LIVE
from kronos.system import usb as system


def usb(call: Call, vm: VM) -> list[HostUSB]:
    """The USB devices that a VM's VUSBs stand for. Raises OPERATION_NOT_ALLOWED where one is not there."""
    found = []
    for vusb in (call.db.get(VUSB, ref) for ref in vm.VUSBs):
        pusb = usb_of(call.db, vusb, call.host)
        place = system.place(pusb.path, call.machine.root / system.DEVICES.relative_to("/"))
        if place is None:
            text = f"PUSB {pusb.ref} of VUSB {vusb.ref} is not plugged in"
            raise Failure("OPERATION_NOT_ALLOWED", text)
        found.append(HostUSB(usb_number(vusb.uuid), *place))
    return found


def pci(db: Database, vm: VM) -> list[str]:
    """The addresses of the PCI devices that are reserved for a VM."""
    reserved = db.referrers("PCI", "scheduled_to_be_attached_to", vm.ref)
    return sorted(db.get(PCI, ref).pci_id for ref in reserved)


def reserve(db: Database, vm: VM, host: Host) -> None:
    """Keep PCI devices for a VM that is to start; inside the transaction that finds that they are free."""
    given = passthrough.passed(db, vm, host)
    for ref, adapter in given.adapters.items():
        db.get(VGPU, ref).scheduled_to_be_resident_on = adapter.ref
    for device in given.devices:
        device.scheduled_to_be_attached_to = vm.ref


def release(db: Database, vm: VM) -> None:
    """A VM that was to start has started, or will not."""
    with db.transaction():
        for ref in tuple(db.referrers("PCI", "scheduled_to_be_attached_to", vm.ref)):
            db.get(PCI, ref).scheduled_to_be_attached_to = NULL
        for vgpu in (db.find(VGPU, ref) for ref in vm.VGPUs):
            if vgpu is not None:
                vgpu.scheduled_to_be_resident_on = NULL


def started(db: Database, vm: VM) -> None:
    """A VM has the devices that were reserved for it."""
    for ref in db.referrers("PCI", "scheduled_to_be_attached_to", vm.ref):
        device = db.get(PCI, ref)
        device.attached_VMs = tuple(dict.fromkeys((*device.attached_VMs, vm.ref)))
    for vgpu in (db.get(VGPU, ref) for ref in vm.VGPUs):
        adapter = db.find(PGPU, vgpu.scheduled_to_be_resident_on)
        if adapter is not None:
            db.write(vgpu, {"resident_on": adapter.ref, "PCI": adapter.PCI, "currently_attached": True})
    release(db, vm)


def ended(db: Database, vm: VM) -> None:
    """A VM is off, and its devices are free."""
    for device in [db.find(PCI, ref) for ref in vm.attached_PCIs]:
        if device is not None:
            device.attached_VMs = tuple(ref for ref in device.attached_VMs if ref != vm.ref)
    for vgpu in (db.get(VGPU, ref) for ref in vm.VGPUs):
        db.write(vgpu, {"resident_on": NULL, "PCI": NULL, "currently_attached": False})
    if vm.scheduled_to_be_resident_on == NULL:
        release(db, vm)


def copy(db: Database, source: VM, vm: VM) -> None:
    """Have a copy of a VM ask for adapters as its source does."""
    for vgpu in (db.get(VGPU, ref) for ref in source.VGPUs):
        stored = vgpu.stored()
        kept = {name: stored[name] for name in ("GPU_group", "device", "other_config", "type", "extra_args")}
        db.create(VGPU, VM=vm.ref, **kept)


def settle(db: Database) -> None:
    """After a crash: nothing is kept for starts that did not come to their end."""
    for device in db.all(PCI):
        vm = db.find(VM, device.scheduled_to_be_attached_to)
        if device.scheduled_to_be_attached_to != NULL and (vm is None or vm.power_state not in LIVE):
            device.scheduled_to_be_attached_to = NULL
    for vgpu in db.all(VGPU):
        vm = db.find(VM, vgpu.VM)
        if vgpu.scheduled_to_be_resident_on != NULL and (vm is None or vm.power_state not in LIVE):
            vgpu.scheduled_to_be_resident_on = NULL
