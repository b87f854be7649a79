"""VDI snapshot and clone: two disks that share what they have in common."""

from __future__ import annotations

import logging
import uuid as uuids
from pathlib import Path

from kronos.api.sr import contents
from kronos.api.vdi import volumes
from kronos.api.vdi.lifecycle import writer_of
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import SR, VDI
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.storage.base import LiveSwitch

log = logging.getLogger(__name__)

# A snapshot or clone begins with these of its source, as in the reference; the names come from the storage.
_INHERITED = ("type", "other_config", "xenstore_data", "on_boot", "allow_caching", "tags")


@message("VDI.snapshot", holds="snapshot")
def snapshot(call: Call, vdi: str, driver_params: dict[str, str]) -> str:
    """A disk's content as it is at this moment, also while a VM writes to it.

    Raises SR_BACKEND_FAILURE_109 (too long a chain), VDI_IS_SHARABLE, SR_OPERATION_NOT_SUPPORTED.
    """
    return branch(call, call.db.get(VDI, vdi), str(uuids.uuid4()), clone=False).ref


@message("VDI.clone", holds="clone")
def clone(call: Call, vdi: str, driver_params: dict[str, str]) -> str:
    """A disk in its own right that begins with another's content. Raises as VDI.snapshot does."""
    return branch(call, call.db.get(VDI, vdi), str(uuids.uuid4()), clone=True).ref


@message("VDI.revert", holds="revert_to")
def revert(call: Call, snapshot: str) -> None:
    """Bring a disk back to one of its snapshots: it stays the same VDI, with the content and size of then.

    Raises REVERT_ONLY_ALLOWED_ON_SNAPSHOT, HANDLE_INVALID where the disk is gone, VDI_IN_USE [vdi, operation],
    OPERATION_NOT_ALLOWED where the two are not in one SR.
    """
    row = call.db.get(VDI, snapshot)
    disk = call.db.get(VDI, row.snapshot_of)
    if disk.SR != row.SR:
        raise Failure("OPERATION_NOT_ALLOWED", f"VDI {disk.ref} is not in the SR of its snapshot {row.ref}")
    if writer_of(call, row) is not None:  # nor can one start while the snapshot is held
        raise Failure("VDI_IN_USE", row.ref, "revert_to")
    sr = call.db.get(SR, row.SR)
    holds = call.pipeline.holds
    with holds.hold(disk, "revert_from", call.task), holds.hold(sr, "vdi_revert", call.task):
        driver = volumes.plugged(call.machine, sr)
        with volumes.named_by_reference(sr, disk, row):
            driver.volume_revert(disk.uuid, row.uuid)
        for each in (disk, row):
            volumes.refresh(call.db, sr, each, driver.volume(each.uuid))
    contents.look_again(call, sr)


def branch(call: Call, source: VDI, uuid: str, *, clone: bool) -> VDI:
    """A clone or snapshot of a disk that the caller holds, with the uuid that it is to have."""
    sr = call.db.get(SR, source.SR)
    operation = "vdi_clone" if clone else "vdi_snapshot"
    inherited = {name: source.stored()[name] for name in _INHERITED}
    user = writer_of(call, source)
    named = volumes.named_by_reference(sr, source, *([user[0]] if user else []))
    with call.pipeline.holds.hold(sr, operation, call.task), named:
        driver = volumes.plugged(call.machine, sr)
        live = _switch(call, source)
        with volumes.being_made(call, sr, uuid) as undo:
            make = driver.volume_clone if clone else driver.volume_snapshot
            volume = make(source.uuid, uuid, live=live)
            undo.callback(volumes.drop, driver, uuid)
            row = volumes.introduce(call.db, sr, volume, **inherited)
            undo.callback(volumes.forget, call.db, row)
        # What was the disk's own is now a layer beneath both.
        volumes.refresh(call.db, sr, source, driver.volume(source.uuid))
    contents.look_again(call, sr)
    return row


def succeed(db: Database, machine: Machine, disk: VDI, successor: VDI) -> None:
    """A VM goes on with another disk in the place of its own: the snapshots of the one are the other's from now on.

    That the SR cannot keep that is only logged: it is no part of what the disks hold.
    """
    snapshots = [db.get(VDI, ref) for ref in disk.snapshots]
    with db.transaction():
        for each in snapshots:
            each.snapshot_of = successor.ref
    for each in snapshots:
        try:
            sr = db.get(SR, each.SR)
            volumes.plugged(machine, sr).volume_update(each.uuid, snapshot_of=successor.uuid)
        except (Failure, OSError) as error:
            log.warning("Whose snapshot VDI %s is by now: %s", each.uuid, error)


def _switch(call: Call, vdi: VDI) -> LiveSwitch | None:
    """How to make the VM that writes to a disk go on in another file, if there is one."""
    user = writer_of(call, vdi)
    if user is None:
        return None
    vm, device = user

    def switch(uuid: str, overlay: Path) -> None:
        call.machine.hypervisor.snapshot_disk(vm.uuid, device, overlay)

    return switch
