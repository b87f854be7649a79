"""VDI setters: what the SR keeps as well, and what the record alone has."""

from __future__ import annotations

from typing import Any

from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import SR, VDI, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

# --- kept by the SR too ----------------------------------------------------------------------------------------------


def _set_in_both(call: Call, ref: str, **fields: Any) -> None:
    """First in the SR, from where a scan would bring it back, then in the record.

    Raises SR_HAS_NO_PBDS, VDI_NOT_MANAGED.
    """
    row = call.db.get(VDI, ref)
    sr = call.db.get(SR, row.SR)
    if volumes.keeps_names(call.db, sr):
        with volumes.named_by_reference(sr, row):
            volumes.plugged(call.machine, sr).volume_update(row.uuid, **fields)
    call.db.write(row, fields)


@message("VDI.set_name_label")
def set_name_label(call: Call, self: str, value: str) -> None:
    """Name a disk."""
    _set_in_both(call, self, name_label=value)


@message("VDI.set_name_description")
def set_name_description(call: Call, self: str, value: str) -> None:
    """Describe a disk."""
    _set_in_both(call, self, name_description=value)


@message("VDI.set_sharable")
def set_sharable(call: Call, self: str, value: bool) -> None:
    """Whether several VMs may write to a disk at once."""
    _set_in_both(call, self, sharable=value)


@message("VDI.set_read_only")
def set_read_only(call: Call, self: str, value: bool) -> None:
    """Whether a disk may be written to at all."""
    _set_in_both(call, self, read_only=value)


@message("VDI.update", holds="update")
def update(call: Call, vdi: str) -> None:
    """Tell the SR what the record says, and the record what the SR says. Raises SR_OPERATION_NOT_SUPPORTED."""
    row = call.db.get(VDI, vdi)
    sr = call.db.get(SR, row.SR)
    with volumes.named_by_reference(sr, row):
        volume = volumes.plugged(call.machine, sr).volume_update(
            row.uuid,
            name_label=row.name_label,
            name_description=row.name_description,
            sharable=row.sharable,
            read_only=row.read_only,
            sm_config=row.sm_config,
        )
    volumes.refresh(call.db, sr, row, volume)


# --- in the record alone: storage managers and importers tell what they know -----------------------------------------


def _set(call: Call, ref: str, **fields: Any) -> None:
    call.db.write(call.db.get(VDI, ref), fields)


@message("VDI.set_managed")
def set_managed(call: Call, self: str, value: bool) -> None:
    """Whether a disk is one that clients may use."""
    _set(call, self, managed=value)


@message("VDI.set_missing")
def set_missing(call: Call, self: str, value: bool) -> None:
    """Whether a disk was not found in its SR."""
    _set(call, self, missing=value)


@message("VDI.set_virtual_size")
def set_virtual_size(call: Call, self: str, value: int) -> None:
    """The size that guests see, in bytes."""
    _set(call, self, virtual_size=value)


@message("VDI.set_physical_utilisation")
def set_physical_utilisation(call: Call, self: str, value: int) -> None:
    """The space that a disk takes, in bytes."""
    _set(call, self, physical_utilisation=value)


@message("VDI.set_is_a_snapshot")
def set_is_a_snapshot(call: Call, self: str, value: bool) -> None:
    """Whether a disk is a snapshot."""
    _set(call, self, is_a_snapshot=value)


@message("VDI.set_snapshot_of")
def set_snapshot_of(call: Call, self: str, value: str) -> None:
    """The disk that this one is a snapshot of."""
    _set(call, self, snapshot_of=value)


@message("VDI.set_snapshot_time")
def set_snapshot_time(call: Call, self: str, value: str) -> None:
    """When this snapshot was taken."""
    _set(call, self, snapshot_time=value)


@message("VDI.set_metadata_of_pool")
def set_metadata_of_pool(call: Call, self: str, value: str) -> None:
    """The pool whose database is on a disk."""
    if value != NULL:
        call.db.get(Pool, value)
    _set(call, self, metadata_of_pool=value)


@message("VDI.set_allow_caching")
def set_allow_caching(call: Call, self: str, value: bool) -> None:
    """Whether a host may keep a local copy of what it reads."""
    _set(call, self, allow_caching=value)


@message("VDI.set_on_boot", holds="set_on_boot")
def set_on_boot(call: Call, self: str, value: str) -> None:
    """Whether each start of the VM begins with the disk's content of today.

    Raises SR_OPERATION_NOT_SUPPORTED, VDI_IN_USE.
    """
    _set(call, self, on_boot=value)


# --- what there is no more, or not here ------------------------------------------------------------------------------


@message("VDI.force_unlock")
def force_unlock(call: Call, vdi: str) -> None:
    """Disks have had no locks of their own for long. Raises MESSAGE_DEPRECATED."""
    raise Failure("MESSAGE_DEPRECATED")


@message("VDI.get_nbd_info")
def get_nbd_info(call: Call, self: str) -> tuple[dict[str, Any], ...]:
    """The NBD servers of a disk: none, since no network has the purpose nbd served. Raises VDI_INCOMPATIBLE_TYPE."""
    row = call.db.get(VDI, self)
    if row.type == "cbt_metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", row.ref, "CBT metadata")
    return ()
