"""VM.platform: the map of virtual hardware that templates and clients write, read with care.

As in the reference an unreadable flag counts as its default, so that an old record still starts; what would give the
guest another machine than it was promised is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from kronos.datamodel.errors import Failure
from kronos.db.records import VM
from kronos.hypervisor.base import Platform

Vga = Literal["std", "cirrus", "virtio", "none"]
Bus = Literal["ide", "sata", "scsi", "virtio"]

_DEFAULT = Platform()
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_KEYMAP = re.compile(r"[a-z]{2,3}(-[a-z]{2,4})?", re.ASCII)
_NIC = re.compile(r"[a-z0-9-]{2,16}", re.ASCII)
_MACHINES: dict[str, Literal["q35", "pc"]] = {"q35": "q35", "pc": "pc", "i440fx": "pc"}
_VIDEO_MIB = range(1, 257)


def flag(platform: Mapping[str, str], key: str, default: bool) -> bool:
    """A flag as the reference reads it: true, 1, false and 0 in any case; anything else is the default."""
    return {"true": True, "1": True, "false": False, "0": False}.get(platform.get(key, "").lower(), default)


def describe(vm: VM) -> Platform:
    """The virtual hardware that a VM's platform map asks for. Raises INVALID_VALUE [field, value]."""
    platform = vm.platform
    nested = platform.get("nested-virt", "false")
    if nested.lower() not in ("true", "1", "false", "0"):
        raise Failure("INVALID_VALUE", "platform:nested-virt", nested)
    _check_device_model(vm)
    usb = flag(platform, "usb", _DEFAULT.usb)
    vga = _vga(platform)
    keymap = platform.get("keymap", "")
    return Platform(
        acpi=flag(platform, "acpi", _DEFAULT.acpi),
        apic=flag(platform, "apic", _DEFAULT.apic),
        pae=flag(platform, "pae", _DEFAULT.pae),
        nx=flag(platform, "nx", _DEFAULT.nx),
        viridian=flag(platform, "viridian", _DEFAULT.viridian),
        hpet=flag(platform, "hpet", _DEFAULT.hpet),
        nested=flag(platform, "nested-virt", False),
        vga=vga,
        videoram=_video_mib(platform),
        usb=usb,
        usb_tablet=usb and flag(platform, "usb_tablet", _DEFAULT.usb_tablet),
        vnc=vga != "none",
        serial=_serial(vm) != "none",
        machine=_MACHINES.get(platform.get("chipset", ""), _DEFAULT.machine),
        keymap=keymap if _KEYMAP.fullmatch(keymap) else _DEFAULT.keymap,
    )


def cores_per_socket(vm: VM) -> int:
    """How many of the VM's processors share a socket.

    Raises INVALID_VALUE [field, value], VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE [vcpus, cores].
    """
    text = vm.platform.get("cores-per-socket")
    if text is None:
        return 1
    if not _NUMBER.fullmatch(text):
        raise Failure("INVALID_VALUE", "platform:cores-per-socket", text)
    cores = int(text)
    if cores < 1 or vm.VCPUs_max % cores != 0:
        raise Failure("VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE", str(vm.VCPUs_max), text)
    return cores


def disk_bus(vm: VM) -> Bus | None:
    """The bus that the guest needs for its disks, None for what its hypervisor does best.

    Windows cannot be installed from a bus that it has no driver for: its templates start with IDE, until
    platform:disk_type says that the drivers are there.
    """
    wanted = vm.platform.get("disk_type", "")
    for bus in get_args(Bus):
        if wanted == bus:
            found: Bus = bus
            return found
    return "ide" if _is_windows(vm) else None


def nic_model(vm: VM) -> str | None:
    """The network card that the guest needs (platform:nic_type), None for what its hypervisor does best."""
    wanted = vm.platform.get("nic_type", "")
    if _NIC.fullmatch(wanted):
        return wanted
    return "e1000" if _is_windows(vm) else None


def _is_windows(vm: VM) -> bool:
    return vm.reference_label.startswith("windows")


def _check_device_model(vm: VM) -> None:
    """The names of XenServer's device models say which firmware they can boot."""
    model, firmware = vm.platform.get("device-model"), vm.HVM_boot_params.get("firmware", "bios")
    if model == "qemu-trad" and firmware == "uefi":
        text = "UEFI boot is not supported with qemu-trad"
        raise Failure("INVALID_VALUE", "platform:device-model", text)
    if model == "qemu-upstream-uefi" and firmware == "bios":
        text = "BIOS boot is not supported with qemu-upstream-uefi"
        raise Failure("INVALID_VALUE", "platform:device-model", text)


def _vga(platform: Mapping[str, str]) -> Vga:
    for kind in get_args(Vga):
        if platform.get("vga") == kind:
            found: Vga = kind
            return found
    return _DEFAULT.vga


def _video_mib(platform: Mapping[str, str]) -> int:
    text = platform.get("videoram", "")
    mib = int(text) if _NUMBER.fullmatch(text) else _DEFAULT.videoram
    return mib if mib in _VIDEO_MIB else _DEFAULT.videoram


def _serial(vm: VM) -> str:
    # Older clients wrote it to other_config.
    return vm.platform.get("hvm_serial", vm.other_config.get("hvm_serial", "pty"))
