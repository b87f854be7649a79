"""VTPM: a VM's TPM 2.0, emulated by swtpm under libvirt."""

from __future__ import annotations

import base64
import binascii

from kronos.api.vm import firmware
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, VTPM, Secret
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("VTPM.create")
def create(call: Call, vM: str, is_unique: bool) -> str:
    """Give a halted VM a TPM without contents; its first start makes them.

    Raises VM_BAD_POWER_STATE [vm, expected, actual], VTPM_MAX_AMOUNT_REACHED [amount].
    """
    vm = call.db.get(VM, vM)
    with call.pipeline.holds.hold(vm, "create_vtpm", call.task):
        return firmware.add_tpm(call.db, vm, unique=is_unique).ref


@message("VTPM.destroy", holds="destroy")
def destroy(call: Call, self: str) -> None:
    """Take a TPM, and what is in it, from a halted VM. Raises VM_BAD_POWER_STATE [vm, expected, actual]."""
    firmware.forget_tpm(call.db, call.db.get(VTPM, self))


@message("VTPM.get_contents")
def get_contents(call: Call, self: str) -> str:
    """What is in a TPM, in base64; empty before its VM's first start."""
    row = call.db.get(VTPM, self)
    vm = call.db.find(VM, row.VM)
    if vm is not None:
        firmware.refresh(call, vm)
    secret = call.db.find(Secret, row.contents)
    return secret.value if secret is not None else ""


@message("VTPM.set_contents")
def set_contents(call: Call, self: str, contents: str) -> None:
    """Replace what is in a TPM. Raises INVALID_VALUE for what is not base64."""
    row = call.db.get(VTPM, self)
    try:
        base64.b64decode(contents, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Failure("INVALID_VALUE", "contents", "(not base64)") from error
    with call.db.transaction():
        before = call.db.find(Secret, row.contents)
        row.contents = call.db.create(Secret, value=contents).ref
        if before is not None:
            call.db.delete(before)
