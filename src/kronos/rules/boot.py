"""Boot: what a VM starts from, and whether it starts again when it ends.

Firmware for HVM guests; for the others a kernel, given by its path or by a loader. What a loader found is good for one
run alone: whenever such a guest ends and is to go on, the toolstack boots it, and not the hypervisor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from kronos.boot.eliloader import plan as installation
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import VBD, VM
from kronos.hypervisor.base import Action, DirectKernel, Firmware, Reason
from kronos.rules.devices import disk_number
from kronos.rules.surroundings import domain_type, is_true, pool

GUEST_KERNELS = (Path("/var/lib/xcp/guest"),)
"""The directory whose kernels any VM may boot, on every XenAPI host."""

DEFAULT_ORDER = "cd"

Resolve = Callable[[Path], Path]
Loader = Literal["eliloader", "pygrub"]

AFTER_CRASH: dict[str, Action] = {
    "destroy": "destroy",
    "coredump_and_destroy": "destroy",
    "restart": "restart",
    "coredump_and_restart": "restart",
    "rename_restart": "restart",
    "preserve": "preserve",
}

_TAKES_CARE = ("clean_shutdown", "hard_shutdown", "shutdown", "clean_reboot", "hard_reboot", "pool_migrate")
"""Operations that know what is to be of a VM that ends under them."""


def firmware(db: Database, vm: VM, nvram: Path | None = None) -> Firmware:
    """The firmware of an HVM guest; `nvram` is where it keeps its UEFI variables. Raises INVALID_VALUE."""
    params = vm.HVM_boot_params
    kind = params.get("firmware", "bios")
    order = params.get("order") or DEFAULT_ORDER
    if kind == "bios":
        return Firmware("bios", order)
    if kind == "uefi":
        return Firmware("uefi", order, secure_boot=is_secure(db, vm), nvram=nvram)
    raise Failure("INVALID_VALUE", "HVM-boot-params['firmware']", kind)


def is_uefi(vm: VM) -> bool:
    """Whether the record asks for UEFI; that matters for HVM guests alone."""
    return vm.HVM_boot_params.get("firmware") == "uefi"


def keeps_variables(vm: VM) -> bool:
    """Whether UEFI begins each run where the last one ended. Raises INVALID_VALUE [field, value]."""
    wanted = vm.NVRAM.get("EFI-variables-on-boot", "persist")
    if wanted not in ("persist", "reset"):
        raise Failure("INVALID_VALUE", "NVRAM['EFI-variables-on-boot']", wanted)
    return wanted == "persist"


def is_secure(db: Database, vm: VM) -> bool:
    """`auto`: secure boot where the pool has the certificates for it."""
    wanted = vm.platform.get("secureboot", "false")
    if wanted == "auto":
        found = pool(db)
        return found is not None and bool(found.custom_uefi_certificates or found.uefi_certificates)
    return is_true(wanted)


def kernel(
    vm: VM,
    kernels: Sequence[Path] = GUEST_KERNELS,
    *,
    resolve: Resolve | None = None,
    loaded: DirectKernel | None = None,
) -> DirectKernel:
    """The kernel of a guest that boots one directly. A VM with a PV_bootloader boots what that has `loaded`.

    PV_kernel and PV_ramdisk are paths on the host that any operator of the VM may write, so only files under
    `kernels` are taken. This check is of names alone, as rules touch no file: whoever lets untrusted users put links
    there gives `resolve` (Path.resolve), and the files behind them must lie under `kernels` too.

    Raises INVALID_VALUE [field, path, reason], BOOTLOADER_FAILED [vm, text].
    """
    if vm.PV_bootloader:
        if loaded is None:
            raise Failure("BOOTLOADER_FAILED", vm.ref, f"{vm.PV_bootloader} has found no kernel")
        return loaded
    ramdisk = _permitted("ramdisk", vm.PV_ramdisk, kernels, resolve) if vm.PV_ramdisk else None
    return DirectKernel(_permitted("kernel", vm.PV_kernel, kernels, resolve), ramdisk, vm.PV_args)


# --- loaders ---------------------------------------------------------------------------------------------------------


def by_loader(db: Database, vm: VM) -> bool:
    """Whether a loader finds the VM's kernel at each of its boots."""
    return bool(vm.PV_bootloader) and domain_type(db, vm) != "hvm"


def loader(vm: VM) -> Loader:
    """Which of the two it is; old records have the path where a host had it. Raises BOOTLOADER_FAILED [vm, text]."""
    match vm.PV_bootloader.rpartition("/")[2]:
        case "eliloader":
            return "eliloader"
        case "pygrub":
            return "pygrub"
    text = f"There is no boot loader {vm.PV_bootloader}, only eliloader and pygrub"
    raise Failure("BOOTLOADER_FAILED", vm.ref, text)


def loaded_from(db: Database, vm: VM, *, cd: bool) -> VBD | None:
    """The disk, or the CD, that a loader reads: among those with something in them the bootable ones first."""
    wanted = "CD" if cd else "Disk"
    present = [vbd for ref in vm.VBDs if (vbd := db.find(VBD, ref)) is not None]
    found = [vbd for vbd in present if vbd.type == wanted and not vbd.empty]
    return min(found, key=lambda vbd: (not vbd.bootable, _place(vbd))) if found else None


def _place(vbd: VBD) -> int:
    number = disk_number(vbd.userdevice)
    return 1 << 16 if number is None else number


def advanced(db: Database, vm: VM) -> list[tuple[Record, dict[str, Any]]]:
    """What is written when a boot of the VM has begun: an installation is a step further."""
    if not by_loader(db, vm) or vm.PV_bootloader.rpartition("/")[2] != "eliloader":
        return []
    after = installation.successor(vm.PV_bootloader, vm.other_config)
    writes: list[tuple[Record, dict[str, Any]]] = [
        (vm, {"PV_bootloader": after.PV_bootloader, "other_config": after.other_config})
    ]
    if after.only_first_disk_bootable:
        vbds = [vbd for ref in vm.VBDs if (vbd := db.find(VBD, ref)) is not None]
        writes += [(vbd, {"bootable": _place(vbd) == 0}) for vbd in vbds]
    return writes


def starts_again(vm: VM, reason: Reason | None) -> bool:
    """Whether a VM that the hypervisor let end is to be booted again, and nobody has it in hand who knows better."""
    if any(operation in _TAKES_CARE for operation in vm.current_operations.values()):
        return False
    match reason:
        case Reason.REBOOTED:
            return vm.actions_after_reboot == "restart"
        case Reason.SHUTDOWN:
            return vm.actions_after_shutdown == "restart"
        case Reason.CRASHED:
            return AFTER_CRASH[vm.actions_after_crash] == "restart"
    return False


# --- kernels of the host ---------------------------------------------------------------------------------------------


def _permitted(field: str, untrusted_path: str, kernels: Sequence[Path], resolve: Resolve | None) -> Path:
    if not untrusted_path.startswith("/") or "\0" in untrusted_path:
        raise Failure("INVALID_VALUE", field, untrusted_path, "Is not an absolute path")
    # POSIX lets two leading slashes mean something else; they mean nothing here.
    path = Path(os.path.normpath("/" + untrusted_path.lstrip("/")))
    for seen in (path, resolve(path) if resolve is not None else path):
        if not any(directory in seen.parents for directory in kernels):
            allowed = "; ".join(str(directory) for directory in kernels)
            reason = f"Is not in any of the allowed kernel directories: [{allowed}]"
            raise Failure("INVALID_VALUE", field, untrusted_path, reason)
        path = seen
    return path
