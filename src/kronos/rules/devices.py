"""Device numbers of VBDs and VIFs: what a client may write, what it means, and which are free; the devices of VUSBs.

A disk has one place in its VM, whatever it is called: `0`, `xvda`, `hda`, `sda` and `vda` are the same. (The reference
lets an `sda` stand beside an `xvda`; no hypervisor here could tell them apart.)
"""

from __future__ import annotations

import re

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import PUSB, VBD, VIF, VM, VUSB, Host, USB_group

AUTODETECT = "autodetect"
VBD_NUMBERS = range(255)
VBD_NUMBERS_OF_CONTROL_DOMAINS = range(256)
VIF_NUMBERS = range(16)

_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
_NAME = re.compile(r"(?:xvd|hd|sd|vd)([a-z]{1,2})", re.ASCII)


def disk_number(untrusted_userdevice: str) -> int | None:
    """The place that a VBD's userdevice or device names, None where it names none."""
    if _NUMBER.fullmatch(untrusted_userdevice):
        return int(untrusted_userdevice)
    name = _NAME.fullmatch(untrusted_userdevice)
    if name is None:
        return None
    number = 0
    for letter in name[1]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def disk_name(number: int) -> str:
    """What VBD.device shows for a place: 0 is xvda, 25 xvdz, 26 xvdaa."""
    letters = ""
    number += 1
    while number > 0:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"xvd{letters}"


def allowed_vbd_devices(db: Database, vm: VM) -> tuple[str, ...]:
    """VM.get_allowed_VBD_devices: the places that no disk has yet, lowest first."""
    used = _used_disks(db, vm)
    return tuple(str(number) for number in _disk_numbers(vm) if number not in used)


def allowed_vif_devices(db: Database, vm: VM) -> tuple[str, ...]:
    """VM.get_allowed_VIF_devices: the numbers that no interface has yet, lowest first."""
    used = _used_interfaces(db, vm)
    return tuple(str(number) for number in VIF_NUMBERS if number not in used)


def vbd_device(db: Database, vm: VM, untrusted_userdevice: str, kind: str = "Disk") -> str:
    """The userdevice of a new VBD of type `kind`: as given, or the first free one for `autodetect`.

    Raises INVALID_DEVICE [device], DEVICE_ALREADY_EXISTS [device], NOT_IMPLEMENTED for a floppy drive.
    """
    if kind == "Floppy":
        raise Failure("NOT_IMPLEMENTED", "VBD of type 'floppy'")
    if untrusted_userdevice == AUTODETECT:
        free = allowed_vbd_devices(db, vm)
        if not free:
            raise Failure("INVALID_DEVICE", untrusted_userdevice)
        return free[0]
    number = disk_number(untrusted_userdevice)
    if number is None or number not in _disk_numbers(vm):
        raise Failure("INVALID_DEVICE", untrusted_userdevice)
    if number in _used_disks(db, vm):
        raise Failure("DEVICE_ALREADY_EXISTS", untrusted_userdevice)
    return untrusted_userdevice


def vif_device(db: Database, vm: VM, untrusted_device: str) -> str:
    """The device of a new VIF: as given, or the first free one for `autodetect`.

    Raises INVALID_DEVICE [device], DEVICE_ALREADY_EXISTS [device].
    """
    if untrusted_device == AUTODETECT:
        free = allowed_vif_devices(db, vm)
        if not free:
            raise Failure("INVALID_DEVICE", untrusted_device)
        return free[0]
    if not _NUMBER.fullmatch(untrusted_device) or int(untrusted_device) not in VIF_NUMBERS:
        raise Failure("INVALID_DEVICE", untrusted_device)
    if int(untrusted_device) in _used_interfaces(db, vm):
        raise Failure("DEVICE_ALREADY_EXISTS", untrusted_device)
    return str(int(untrusted_device))


def usb_number(uuid: str) -> int:
    """What the hypervisor calls a VUSB: 48 bits of its uuid, as it has no number of its own, and a VM has a few."""
    return int(uuid.replace("-", "")[:12], 16)


def usb_of(db: Database, vusb: VUSB, host: Host) -> PUSB:
    """The device that a VUSB stands for. Raises OPERATION_NOT_ALLOWED where the host has none for guests."""
    group = db.find(USB_group, vusb.USB_group)
    for pusb in [db.find(PUSB, ref) for ref in group.PUSBs] if group is not None else []:
        if pusb is not None and pusb.host == host.ref and pusb.passthrough_enabled:
            return pusb
    raise Failure("OPERATION_NOT_ALLOWED", f"VUSB {vusb.ref} is not available on Host {host.ref}")


def _disk_numbers(vm: VM) -> range:
    return VBD_NUMBERS_OF_CONTROL_DOMAINS if vm.is_control_domain else VBD_NUMBERS


def _used_disks(db: Database, vm: VM) -> set[int]:
    names = [name for ref in vm.VBDs if (vbd := db.find(VBD, ref)) for name in (vbd.userdevice, vbd.device)]
    return {number for name in names if (number := disk_number(name)) is not None}


def _used_interfaces(db: Database, vm: VM) -> set[int]:
    names = [vif.device for ref in vm.VIFs if (vif := db.find(VIF, ref))]
    return {int(name) for name in names if _NUMBER.fullmatch(name)}
