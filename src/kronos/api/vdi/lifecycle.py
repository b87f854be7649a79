"""VDI create, destroy, resize and forget."""

from __future__ import annotations

import logging
import uuid as uuids
from collections.abc import Mapping
from typing import Any

from kronos.api.sr import contents
from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import SR, VBD, VDI, VM
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.registry import message
from kronos.rules.devices import disk_number
from kronos.rules.surroundings import LIVE
from kronos.storage.base import whole_sectors
from kronos.storage.faults import Fault

log = logging.getLogger(__name__)

# What clients leave out though it has no default in the contract: Ansible sends eight fields, others fewer.
_OPTIONAL: dict[str, Any] = {"type": "user", "sharable": False, "read_only": False, "other_config": {}}


@message("VDI.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """A new disk of zeros. Its size is rounded up to what the storage can hold.

    Raises SR_BACKEND_FAILURE_79 (size), 44 (space), VDI_TOO_LARGE, SR_OPERATION_NOT_SUPPORTED, SR_HAS_NO_PBDS.
    """
    return create_as(call, args, str(uuids.uuid4())).ref


def create_as(call: Call, args: Mapping[str, Any], uuid: str) -> VDI:
    """VDI.create, with a uuid that the caller has noted for the case of a crash."""
    fields = constructor_fields("VDI", _OPTIONAL | dict(args))
    sr = call.db.get(SR, fields.pop("SR"))
    with call.pipeline.holds.hold(sr, "vdi_create", call.task), volumes.named_by_reference(sr):
        return _make(call, sr, fields, uuid)


def _make(call: Call, sr: SR, fields: dict[str, Any], uuid: str) -> VDI:
    """Make a volume and its record; the caller holds the SR."""
    driver = volumes.plugged(call.machine, sr)
    with volumes.being_made(call, sr, uuid) as undo:
        told = {name: fields[name] for name in ("name_label", "name_description", "type", "sharable")}
        volume = driver.volume_create(
            uuid,
            fields["virtual_size"],
            **told,
            read_only=fields["read_only"],
            sm_config=fields["sm_config"],
        )
        undo.callback(volumes.drop, driver, uuid)
        row = volumes.introduce(call.db, sr, volume, **fields)
        undo.callback(volumes.forget, call.db, row)
    contents.look_again(call, sr)
    return row


@message("VDI.destroy", holds="destroy")
def destroy(call: Call, self: str) -> None:
    """Destroy a disk and its data; VBDs that referred to it go too, and of a VM's memory nothing is left.

    Raises VDI_IN_USE [vdi, operation], VDI_NOT_MANAGED [vdi], SR_HAS_NO_PBDS.
    """
    row = call.db.get(VDI, self)
    sr = call.db.get(SR, row.SR)
    if not row.managed:
        raise Failure("VDI_NOT_MANAGED", row.ref)
    with call.pipeline.holds.hold(sr, "vdi_destroy", call.task), volumes.named_by_reference(sr, row):
        try:
            volumes.plugged(call.machine, sr).volume_destroy(row.uuid)
        except Failure as failure:
            if failure.code != "VDI_MISSING":
                raise
            log.info("VDI %s was gone before it was to be destroyed", row.uuid)
        # A crash just before this leaves a record without a volume, which the scan at the next plug forgets.
        with call.db.transaction():
            for ref in call.db.referrers("VM", "suspend_VDI", row.ref):
                call.db.get(VM, ref).suspend_VDI = NULL
            volumes.forget(call.db, row)
    contents.look_again(call, sr)


@message("VDI.forget", holds="forget")
def forget(call: Call, vdi: str) -> None:
    """Remove the record of a disk and leave its data alone; a scan of its SR finds it again."""
    volumes.forget(call.db, call.db.get(VDI, vdi))


@message("VDI.resize", holds="resize")
def resize(call: Call, vdi: str, size: int) -> None:
    """Grow a disk that no VM uses. Raises SR_BACKEND_FAILURE_79 for a smaller size, VDI_IN_USE."""
    _grow(call, call.db.get(VDI, vdi), size)


@message("VDI.resize_online", holds="resize_online")
def resize_online(call: Call, vdi: str, size: int) -> None:
    """Grow a disk that a running VM may be using, which sees the new size at once.

    Raises SR_BACKEND_FAILURE_79 for a smaller size, VM_LACKS_FEATURE.
    """
    row = call.db.get(VDI, vdi)
    user = writer_of(call, row)
    if user is None:
        _grow(call, row, size)
        return
    vm, device = user
    sr = call.db.get(SR, row.SR)
    driver = volumes.plugged(call.machine, sr)
    with call.pipeline.holds.hold(sr, "vdi_resize", call.task), volumes.named_by_reference(sr, row, vm):
        # Of the disk itself: QEMU cuts one off without a question, and a record may say anything.
        present = driver.volume(row.uuid).virtual_size
        wanted = whole_sectors(row.uuid, size)
        if wanted < present:
            raise Fault.VDI_SIZE.failure(f"{size} is less than {present}")
        call.machine.hypervisor.resize_disk(vm.uuid, device, wanted)
        volumes.refresh(call.db, sr, row, driver.volume(row.uuid))
    contents.look_again(call, sr)


def _grow(call: Call, row: VDI, size: int) -> None:
    sr = call.db.get(SR, row.SR)
    with call.pipeline.holds.hold(sr, "vdi_resize", call.task), volumes.named_by_reference(sr, row):
        volume = volumes.plugged(call.machine, sr).volume_resize(row.uuid, size)
        volumes.refresh(call.db, sr, row, volume)
    contents.look_again(call, sr)


def writer_of(call: Call, vdi: VDI) -> tuple[VM, int] | None:
    """The running VM that has a disk open for writing, with the number under which it has it."""
    for vbd in (call.db.get(VBD, ref) for ref in vdi.VBDs):
        vm = call.db.find(VM, vbd.VM)
        if vbd.currently_attached and vbd.mode == "RW" and vm is not None and vm.power_state in LIVE:
            number = disk_number(vbd.userdevice)
            if number is not None:
                return vm, number
    return None
