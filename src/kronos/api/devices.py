"""The host's PCI and USB devices and its graphics adapters, as records."""

from __future__ import annotations

from pathlib import Path

from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PCI, PGPU, PUSB, VUSB, GPU_group, Host, USB_group, VGPU_type
from kronos.rules.passthrough import WHOLE
from kronos.system import pci, usb


def refresh(db: Database, host: Host, sysfs: Path = Path("/sys")) -> None:
    """Make the records what the host has. What clients set on those that stay is kept."""
    refresh_pci(db, host, pci.devices(sysfs / "bus/pci/devices"))
    refresh_usb(db, host, usb.devices(sysfs / "bus/usb/devices"))


# --- PCI and graphics ------------------------------------------------------------------------------------------------


def refresh_pci(db: Database, host: Host, found: list[pci.Device]) -> None:
    known = {row.pci_id: row for row in db.all(PCI) if row.host == host.ref}
    vendors = {each for device in found for each in (device.vendor, device.subsystem_vendor)}
    # The lists of names are a megabyte: they are read where a device is new or another one.
    is_new = any(_is_new(known.get(device.address), device) for device in found)
    names = pci.Names(vendors) if is_new else None
    with db.transaction():
        rows = {
            device.address: _pci(db, host, known.pop(device.address, None), device, names) for device in found
        }
        for row in known.values():
            db.delete(row)
        for device in found:
            others = [
                rows[other.address].ref for other in found if other.slot == device.slot and other != device
            ]
            db.write(rows[device.address], {"dependencies": tuple(others), "functions": len(others) + 1})
        _refresh_graphics(db, host, [(rows[each.address], each) for each in found if each.is_display])


def _is_new(row: PCI | None, device: pci.Device) -> bool:
    return row is None or (row.vendor_id, row.device_id) != (device.vendor, device.device)


def _pci(db: Database, host: Host, row: PCI | None, device: pci.Device, names: pci.Names | None) -> PCI:
    fields = {
        "class_id": device.cls,
        "vendor_id": device.vendor,
        "device_id": device.device,
        "subsystem_vendor_id": device.subsystem_vendor,
        "subsystem_device_id": device.subsystem_device,
        "driver_name": device.driver,
    }
    if names is not None:
        ids = (device.vendor, device.device, device.subsystem_vendor, device.subsystem_device)
        fields |= {
            "class_name": names.cls(device.cls) or f"Class {device.cls}",
            "vendor_name": names.vendor(device.vendor) or f"Vendor {device.vendor}",
            "device_name": names.device(*ids[:2]) or f"Device {device.device}",
            "subsystem_vendor_name": names.vendor(device.subsystem_vendor),
            "subsystem_device_name": names.subsystem(*ids),
        }
    if row is None:
        return db.create(PCI, host=host.ref, pci_id=device.address, **fields)
    db.write(row, fields)
    return row


def _refresh_graphics(db: Database, host: Host, adapters: list[tuple[PCI, pci.Device]]) -> None:
    known = {row.PCI: row for row in db.all(PGPU) if row.host == host.ref}
    for row, device in adapters:
        adapter = known.pop(row.ref, None)
        if adapter is None:
            group = _group_of(db, row)
            adapter = db.create(PGPU, PCI=row.ref, host=host.ref, GPU_group=group.ref)
        # A guest can have it whole once the host's own kernel has let go of it.
        types = (whole(db).ref,) if device.is_for_guests else ()
        db.write(
            adapter,
            {
                "is_system_display_device": device.boots_screen and not device.is_for_guests,
                "dom0_access": "disabled" if device.is_for_guests else "enabled",
                "supported_VGPU_types": types,
                "enabled_VGPU_types": tuple(ref for ref in adapter.enabled_VGPU_types if ref in types)
                if adapter.supported_VGPU_types == types
                else types,
                "supported_VGPU_max_capacities": {ref: 1 for ref in types},
            },
        )
    for adapter in known.values():
        db.delete(adapter)
    for group in db.all(GPU_group):
        tally_group(db, group)


def _group_of(db: Database, row: PCI) -> GPU_group:
    """The group of adapters like this one, made where there is none."""
    kind = f"{row.vendor_id}/{row.device_id}"
    for group in db.all(GPU_group):
        if group.GPU_types == (kind,):
            return group
    label = f"Group of {row.vendor_name} {row.device_name} GPUs"
    return db.create(GPU_group, name_label=label, GPU_types=(kind,))


def whole(db: Database) -> VGPU_type:
    """The type of a virtual adapter that is a whole physical one."""
    for row in db.all(VGPU_type):
        if row.implementation == WHOLE:
            return row
    return db.create(VGPU_type, model_name=WHOLE, implementation=WHOLE)


def tally_group(db: Database, group: GPU_group) -> None:
    """What a group of adapters can do follows from its members."""
    members = [db.get(PGPU, ref) for ref in group.PGPUs]
    types = []
    for member in members:
        row = db.find(PCI, member.PCI)
        types += [f"{row.vendor_id}/{row.device_id}"] if row is not None else []
    fields = {
        name: tuple(dict.fromkeys(ref for member in members for ref in member.stored()[name]))
        for name in ("supported_VGPU_types", "enabled_VGPU_types")
    }
    kept = {"GPU_types": tuple(dict.fromkeys(types))} if types else {}
    db.write(group, fields | kept)


# --- USB -------------------------------------------------------------------------------------------------------------


def refresh_usb(db: Database, host: Host, found: list[usb.Device]) -> None:
    known = {row.path: row for row in db.all(PUSB) if row.host == host.ref}
    names: pci.Names | None = None
    with db.transaction():
        for device in found:
            row = known.get(device.path)
            if row is not None and _is_same(row, device):
                del known[device.path]
                continue
            if names is None:
                names = pci.Names({each.vendor for each in found}, pci.USB_NAMES)
            _new_usb(db, host, device, names)
        for row in known.values():
            _forget_usb(db, row)


def _is_same(row: PUSB, device: usb.Device) -> bool:
    there = (device.vendor, device.product, device.serial, device.version, device.speed)
    return (row.vendor_id, row.product_id, row.serial, row.version, row.speed) == there


def _new_usb(db: Database, host: Host, device: usb.Device, names: pci.Names) -> None:
    vendor = names.vendor(device.vendor) or device.vendor_name
    product = names.device(device.vendor, device.product) or device.product_name
    group = db.create(USB_group, name_label=f"Group of {device.vendor} {device.product} USBs")
    db.create(
        PUSB,
        USB_group=group.ref,
        host=host.ref,
        path=device.path,
        vendor_id=device.vendor,
        vendor_desc=vendor,
        product_id=device.product,
        product_desc=product,
        serial=device.serial,
        version=device.version,
        description="_".join(each for each in (vendor, product, device.serial) if each),
        speed=device.speed,
    )


def pulled(db: Database, host: Host, found: list[usb.Device]) -> list[VUSB]:
    """What VMs have of devices that are there no more, or are others now."""
    present = {device.path: device for device in found}
    gone = [
        row
        for row in db.all(PUSB)
        if row.host == host.ref and (row.path not in present or not _is_same(row, present[row.path]))
    ]
    return [vusb for row in gone for vusb in _vusbs(db, row) if vusb.currently_attached]


def _vusbs(db: Database, row: PUSB) -> list[VUSB]:
    group = db.find(USB_group, row.USB_group)
    return [db.get(VUSB, ref) for ref in group.VUSBs] if group is not None else []


def _forget_usb(db: Database, row: PUSB) -> None:
    """A device was pulled: its group and VUSB go with it, unless a VM goes on without the device."""
    for vusb in _vusbs(db, row):
        if not vusb.currently_attached:
            db.delete(vusb)
    db.delete(row)
    group = db.find(USB_group, row.USB_group)
    if group is not None and not group.PUSBs and not group.VUSBs and row.USB_group != NULL:
        db.delete(group)
