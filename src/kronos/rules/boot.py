"""Boot: what a VM starts from. Firmware for HVM guests; for the others a kernel, given by its path or by a loader."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import VM
from kronos.hypervisor.base import DirectKernel, Firmware
from kronos.rules.surroundings import is_true, pool

GUEST_KERNELS = (Path("/var/lib/xcp/guest"),)
"""The directory whose kernels any VM may boot, on every XenAPI host."""

DEFAULT_ORDER = "cd"

Resolve = Callable[[Path], Path]


def firmware(db: Database, vm: VM, nvram: Path | None = None) -> Firmware:
    """The firmware of an HVM guest; `nvram` is where it keeps its UEFI variables. Raises INVALID_VALUE."""
    params = vm.HVM_boot_params
    kind = params.get("firmware", "bios")
    order = params.get("order") or DEFAULT_ORDER
    if kind == "bios":
        return Firmware("bios", order)
    if kind == "uefi":
        return Firmware("uefi", order, secure_boot=_secure(db, vm), nvram=nvram)
    raise Failure("INVALID_VALUE", "HVM-boot-params['firmware']", kind)


def _secure(db: Database, vm: VM) -> bool:
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
