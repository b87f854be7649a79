"""Secure boot: the keys that guests' firmware goes by, of a VM and of the host.

The host's are those of the distribution's firmware, with which a VM that asks for secure boot begins. A VM's own are in
its variables (`api/vm/firmware`), and are changed while it is off.
"""

from __future__ import annotations

import base64
import io
import tarfile

from kronos.api.vm import firmware
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import VM, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.rules import boot, uefi
from kronos.rules.surroundings import domain_type
from kronos.system import ovmf

# --- VMs -------------------------------------------------------------------------------------------------------------


@message("VM.get_secureboot_readiness")
def get_secureboot_readiness(call: Call, self: str) -> str:
    """Whether a VM's firmware can tell what may boot, and if not, why."""
    vm = call.db.get(VM, self)
    if not _is_uefi(call, vm):
        return "not_supported"
    secure = boot.is_secure(call.db, vm)
    firmware.refresh(call, vm)
    return uefi.readiness(firmware.store(vm, secure=secure), secure=secure)


@message("VM.set_uefi_mode")
def set_uefi_mode(call: Call, self: str, mode: str) -> str:
    """Take the keys out of a halted VM's firmware (`setup`), or give it those of the distribution (`user`).

    Raises OPERATION_NOT_ALLOWED for a VM without UEFI, VM_BAD_POWER_STATE [vm, expected, actual].
    """
    vm = call.db.get(VM, self)
    if not _is_uefi(call, vm):
        raise Failure("OPERATION_NOT_ALLOWED", f"VM {vm.ref} does not boot by UEFI")
    with call.db.transaction():
        if vm.power_state != "Halted":
            raise Failure("VM_BAD_POWER_STATE", vm.ref, "halted", vm.power_state.lower())
        text = uefi.text_of(_in_mode(call, vm, mode))
        fields = {"NVRAM": vm.NVRAM | {uefi.FIELD: text}, "secureboot_certificates_state": "ok"}
        call.db.write(vm, fields)
    return f"The firmware of VM {vm.uuid} starts in {mode} mode"


def _in_mode(call: Call, vm: VM, mode: str) -> bytes:
    secure = boot.is_secure(call.db, vm)
    store = firmware.store(vm, secure=secure) or ovmf.template(enrolled=False)
    enrolled = ovmf.template(enrolled=True)
    if store is None or enrolled is None:
        raise Failure("OPERATION_NOT_ALLOWED", "The host has no firmware for UEFI with keys for secure boot")
    try:
        return (
            uefi.in_setup_mode(store) if mode == "setup" else uefi.with_keys(store, uefi.variables(enrolled))
        )
    except uefi.UnusableStore as error:
        raise Failure("OPERATION_NOT_ALLOWED", f"The variables of VM {vm.ref}: {error}") from error


@message("VM.set_NVRAM_EFI_variables")
def set_NVRAM_EFI_variables(call: Call, self: str, value: str, update: str) -> None:
    """Replace a VM's UEFI variables, as its firmware does; `update` says whether its lists are the newest now."""
    vm = call.db.get(VM, self)
    with call.db.transaction():
        states = {"yes": "ok", "no": vm.secureboot_certificates_state}
        found = states[update] if update in states else firmware.state(call.db, value)
        fields = {"NVRAM": vm.NVRAM | {uefi.FIELD: value}, "secureboot_certificates_state": found}
        call.db.write(vm, fields)


@message("VM.update_secureboot_certificates_on_boot")
def update_secureboot_certificates_on_boot(call: Call, self: str, mark: bool) -> None:
    """Have the newest lists of certificates put into a VM's firmware at its next start, or not.

    Raises OPERATION_NOT_ALLOWED where there is nothing newer.
    """
    vm = call.db.get(VM, self)
    with call.db.transaction():
        if vm.secureboot_certificates_state == "ok":
            text = f"VM {vm.ref} has the newest certificates for secure boot that there are"
            raise Failure("OPERATION_NOT_ALLOWED", text)
        vm.secureboot_certificates_state = "update_on_boot" if mark else "update_available"


def _is_uefi(call: Call, vm: VM) -> bool:
    return boot.is_uefi(vm) and domain_type(call.db, vm) == "hvm"


# --- the host --------------------------------------------------------------------------------------------------------


@message("host.write_uefi_certificates_to_disk")
def write_uefi_certificates_to_disk(call: Call, host: str) -> None:
    """Look again which keys guests' firmware comes with. Raises HOST_OFFLINE [host] for another host."""
    row = call.db.get(Host, host)
    if host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", host)
    show(call.db, row, call.machine)


def show(db: Database, host: Host, machine: Machine) -> None:
    """Write down the keys of the distribution's firmware: a tar with a signature list for each, in base64."""
    text = _archive(_keys(machine))
    with db.transaction():
        db.write(host, {"uefi_certificates": text})
        for pool in db.all(Pool):
            if pool.master == host.ref:
                db.write(pool, {"uefi_certificates": text})


@message("pool.get_guest_secureboot_readiness")
def get_guest_secureboot_readiness(call: Call, self: str) -> str:
    """Whether guests' firmware comes with keys; without the list of what is revoked it is half."""
    call.db.get(Pool, self)
    present = set(_keys(call.machine))
    if {"PK", "KEK", "db"} <= present:
        return "ready" if "dbx" in present else "ready_no_dbx"
    return "not_ready"


def _keys(machine: Machine) -> dict[str, bytes]:
    """None on Xen, whose guests' firmware knows no secure boot, whatever packages are installed."""
    on_xen = machine.hypervisor.type == "XEN"
    template = None if on_xen else ovmf.template(enrolled=True, root=machine.root)
    try:
        found = uefi.variables(template) if template is not None else {}
    except uefi.UnusableStore:
        return {}
    return {name: found[name, vendor].data for name, vendor in uefi.KEYS.items() if (name, vendor) in found}


def _archive(keys: dict[str, bytes]) -> str:
    if not keys:
        return ""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in keys.items():
            member = tarfile.TarInfo(f"{name}.esl")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return base64.b64encode(packed.getvalue()).decode()
