"""Passthrough: which of a host's PCI devices and graphics adapters a VM gets."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PCI, PGPU, VGPU, VM, GPU_group, Host, VGPU_type
from kronos.rules.surroundings import domain_type

WHOLE: Final = "passthrough"
"""The kind of a virtual adapter that is a whole physical one."""

SLOTS: Final = range(21)
"""Places of VGPUs in their VM."""

_FOR_GUESTS = ("vfio-pci", "pciback", "xen-pciback")
_NAMED = re.compile(r"[0-9]{1,3}/([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_PLACE = re.compile(r"[0-9]{1,2}", re.ASCII)


class Passed(NamedTuple):
    """What a VM gets: an adapter for each of its VGPUs, and every device that goes along."""

    adapters: dict[str, PGPU]
    devices: list[PCI]


def passed(db: Database, vm: VM, host: Host) -> Passed:
    """What a VM is to be given on a host.

    Raises FEATURE_REQUIRES_HVM [text], VM_REQUIRES_GPU [vm, group], VM_REQUIRES_VGPU [vm, group, type], and for devices
    that VM.other_config:pci names INVALID_VALUE [field, value], OPERATION_NOT_ALLOWED.
    """
    adapters: dict[str, PGPU] = {}
    devices: dict[str, PCI] = {}
    for vgpu in (db.get(VGPU, ref) for ref in vm.VGPUs):
        if domain_type(db, vm) != "hvm":
            raise Failure("FEATURE_REQUIRES_HVM", "Graphics adapters are passed to HVM guests alone")
        adapter = _free_adapter(db, vm, vgpu, host, taken=[each.ref for each in adapters.values()])
        adapters[vgpu.ref] = adapter
        device = db.get(PCI, adapter.PCI)
        for each in (device, *(db.get(PCI, ref) for ref in device.dependencies)):
            devices[each.ref] = each
    for each in _named(db, vm, host):
        devices[each.ref] = each
    return Passed(adapters, list(devices.values()))


def users(db: Database, adapter: PGPU) -> list[str]:
    """The VMs that have an adapter, or a part of it, or are about to."""
    vgpus = [*adapter.resident_VGPUs, *db.referrers("VGPU", "scheduled_to_be_resident_on", adapter.ref)]
    with_part = [db.get(VGPU, ref).VM for ref in vgpus]
    device = db.find(PCI, adapter.PCI)
    whole = holders(device) if device is not None else []
    return list(dict.fromkeys(ref for ref in with_part + whole if db.find(VM, ref) is not None))


def holders(device: PCI) -> list[str]:
    """The VMs that have a device or are about to."""
    about_to = [device.scheduled_to_be_attached_to] if device.scheduled_to_be_attached_to != NULL else []
    return [*device.attached_VMs, *about_to]


def place(db: Database, vm: VM, untrusted_device: str) -> str:
    """The place of a new VGPU: as given, or the first free one for 0.

    Raises INVALID_DEVICE [device], DEVICE_ALREADY_EXISTS [device], VM_PCI_BUS_FULL [vm].
    """
    if not _PLACE.fullmatch(untrusted_device):
        raise Failure("INVALID_DEVICE", untrusted_device)
    wanted = int(untrusted_device)
    used = {db.get(VGPU, ref).device for ref in vm.VGPUs}
    if wanted == 0:
        for number in SLOTS:
            if str(number) not in used:
                return str(number)
        raise Failure("VM_PCI_BUS_FULL", vm.ref)
    if str(wanted) in used:
        raise Failure("DEVICE_ALREADY_EXISTS", untrusted_device)
    if wanted not in SLOTS:
        raise Failure("INVALID_DEVICE", untrusted_device)
    return str(wanted)


def assert_compatible(db: Database, vm: VM, kind: VGPU_type) -> None:
    """Raises VGPU_TYPE_NOT_COMPATIBLE [type] where the VM has a virtual adapter that is not to be beside this one."""
    present = [db.find(VGPU_type, db.get(VGPU, ref).type) for ref in vm.VGPUs]
    if any(each is not None and kind.ref not in each.compatible_types_in_vm for each in present):
        raise Failure("VGPU_TYPE_NOT_COMPATIBLE", kind.ref)


def _free_adapter(db: Database, vm: VM, vgpu: VGPU, host: Host, taken: list[str]) -> PGPU:
    """The adapter of the VGPU's group that it gets; each can be had whole, so that all free ones are as good."""
    kind, group = db.find(VGPU_type, vgpu.type), db.find(GPU_group, vgpu.GPU_group)
    for adapter in (db.get(PGPU, ref) for ref in group.PGPUs) if group is not None else ():
        others = set(users(db, adapter)) - {vm.ref}
        fits = adapter.host == host.ref and vgpu.type in adapter.enabled_VGPU_types
        if fits and not others and adapter.ref not in taken and db.find(PCI, adapter.PCI) is not None:
            return adapter
    if kind is None or kind.implementation == WHOLE:
        raise Failure("VM_REQUIRES_GPU", vm.ref, vgpu.GPU_group)
    raise Failure("VM_REQUIRES_VGPU", vm.ref, vgpu.GPU_group, vgpu.type)


def _named(db: Database, vm: VM, host: Host) -> list[PCI]:
    """The devices that other_config:pci names, as `0/0000:01:00.0,0/0000:01:00.1`."""
    text = vm.other_config.get("pci", "")
    known = {row.pci_id: row for row in db.all(PCI) if row.host == host.ref} if text else {}
    found = []
    for word in text.split(",") if text else ():
        named = _NAMED.fullmatch(word.strip())
        if named is None:
            raise Failure("INVALID_VALUE", "other_config:pci", text)
        device = known.get(named[1])
        if device is None:
            raise Failure("OPERATION_NOT_ALLOWED", f"Host {host.ref} has no PCI device {named[1]}")
        if device.driver_name not in _FOR_GUESTS:
            raise Failure("OPERATION_NOT_ALLOWED", f"PCI {device.ref} is in use by host {host.ref}")
        if set(holders(device)) - {vm.ref}:
            raise Failure("OPERATION_NOT_ALLOWED", f"PCI {device.ref} is in use by another VM")
        found.append(device)
    return found
