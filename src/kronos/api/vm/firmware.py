"""What a VM's firmware keeps over runs: UEFI's variables in VM.NVRAM, and its TPM's contents in a secret.

The records have it while the VM is off; while it runs its firmware writes files, which are read when the run ends.
"""

from __future__ import annotations

import base64
import binascii
import logging

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import VM, VTPM, Pool, Secret
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.hypervisor.hardware import Kept
from kronos.rules import boot, platform, uefi
from kronos.rules.surroundings import LIVE, domain_type
from kronos.system import ovmf

log = logging.getLogger(__name__)

_TPM = b"\x02\x01\x00\x0a"
"""How the state of swtpm's TPM begins: two versions, and the length of its header."""


def begin(call: Call, vm: VM) -> Kept:
    """What a VM's next run begins with. Raises INVALID_VALUE, OPERATION_NOT_ALLOWED for contents that no TPM here
    understands."""
    if platform.flag(vm.platform, "vtpm", False) and not vm.VTPMs:
        add_tpm(call.db, vm, unique=False)
    return Kept(_variables(call, vm), _tpm(call.db, vm))


def taken(machine: Machine, vm: VM) -> Kept:
    """What the run of a live VM leaves; what cannot be read is as the records have it."""
    if vm.power_state not in LIVE or not (vm.VTPMs or boot.is_uefi(vm)):
        return Kept()
    try:
        return machine.hypervisor.kept(vm.uuid)
    except Failure as failure:
        log.error("VM %s begins its next run as it did this one: %s", vm.uuid, failure)
        return Kept()


def keep(db: Database, vm: VM, kept: Kept) -> None:
    """Write down what a run has left."""
    if kept.tpm is not None and vm.VTPMs:
        secret = db.find(Secret, db.get(VTPM, vm.VTPMs[0]).contents)
        if secret is not None:
            db.write(secret, {"value": base64.b64encode(kept.tpm).decode()})
    if kept.variables is None or not boot.is_uefi(vm) or not boot.keeps_variables(vm):
        return
    text = uefi.text_of(kept.variables)
    if text != vm.NVRAM.get(uefi.FIELD):
        db.write(
            vm, {"NVRAM": vm.NVRAM | {uefi.FIELD: text}, "secureboot_certificates_state": state(db, text)}
        )


def refresh(call: Call, vm: VM) -> None:
    """Have the records say what a VM's firmware keeps now, also while it runs."""
    kept = taken(call.machine, vm)
    with call.db.transaction():
        keep(call.db, vm, kept)


def state(db: Database, text: str) -> str:
    """VM.secureboot_certificates_state of these variables."""
    store, template = uefi.store_of(text), ovmf.template(enrolled=True)
    try:
        if store is None or template is None or not uefi.lacks(store, uefi.variables(template)):
            return "ok"
    except uefi.UnusableStore:
        return "ok"
    pools = db.all(Pool)
    automatic = bool(pools) and pools[0].auto_update_vm_secureboot_certificates
    return "update_on_boot" if automatic else "update_available"


def store(vm: VM, *, secure: bool) -> bytes | None:
    """The variables that a VM has, None for none that the firmware here could read."""
    text = vm.NVRAM.get(uefi.FIELD)
    found = uefi.store_of(text) if text else None
    template = ovmf.template(enrolled=secure)
    if found is not None and template is not None and len(found) != len(template):
        found = None
    if text and found is None:
        log.warning("VM %s has UEFI variables that the firmware here cannot read: it begins anew", vm.uuid)
    return found


def _variables(call: Call, vm: VM) -> bytes | None:
    if domain_type(call.db, vm) != "hvm" or not boot.is_uefi(vm):
        return None
    boot.keeps_variables(vm)
    found = store(vm, secure=boot.is_secure(call.db, vm))
    template = ovmf.template(enrolled=True)
    if found is None or template is None or vm.secureboot_certificates_state != "update_on_boot":
        return found
    try:
        found = uefi.with_newer_lists(found, uefi.variables(template))
    except uefi.UnusableStore as error:
        log.warning("VM %s keeps its lists of certificates: %s", vm.uuid, error)
        return found
    nvram = vm.NVRAM | {uefi.FIELD: uefi.text_of(found)}
    call.db.write(vm, {"NVRAM": nvram, "secureboot_certificates_state": "ok"})
    return found


# --- TPMs ------------------------------------------------------------------------------------------------------------


def add_tpm(db: Database, vm: VM, *, unique: bool, contents: str = "") -> VTPM:
    """A TPM for a VM, with a secret of its own for its contents."""
    with db.transaction():
        secret = db.create(Secret, value=contents)
        return db.create(VTPM, VM=vm.ref, is_unique=unique, contents=secret.ref)


def copy_tpms(db: Database, source: VM, vm: VM) -> None:
    """Give a copy of a VM copies of its TPMs; the contents of one that is unique are not for copies."""
    for tpm in (db.get(VTPM, ref) for ref in source.VTPMs):
        secret = db.find(Secret, tpm.contents)
        contents = secret.value if secret is not None and not tpm.is_unique else ""
        add_tpm(db, vm, unique=tpm.is_unique, contents=contents)


def forget_tpms(db: Database, vm: VM) -> None:
    """Remove a VM's TPMs with their contents."""
    for tpm in [db.get(VTPM, ref) for ref in vm.VTPMs]:
        forget_tpm(db, tpm)


def forget_tpm(db: Database, tpm: VTPM) -> None:
    """Remove a TPM with its contents."""
    with db.transaction():
        secret = db.find(Secret, tpm.contents) if tpm.contents != NULL else None
        db.delete(tpm)
        if secret is not None:
            db.delete(secret)


def _tpm(db: Database, vm: VM) -> bytes | None:
    if not vm.VTPMs:
        return None
    secret = db.find(Secret, db.get(VTPM, vm.VTPMs[0]).contents)
    if secret is None or not secret.value:
        return None
    try:
        contents = base64.b64decode(secret.value, validate=True)
    except (binascii.Error, ValueError):
        contents = b""
    if contents[:4] != _TPM or int.from_bytes(contents[6:10], "big") != len(contents):
        # A new TPM in its place would lock the guest out of disks that it has encrypted.
        text = f"The contents of VTPM {vm.VTPMs[0]} are not those of a TPM that this host can emulate"
        raise Failure("OPERATION_NOT_ALLOWED", text)
    return contents
