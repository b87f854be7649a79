"""VDI introduce and its kin: records for disks that exist already."""

from __future__ import annotations

import uuid as uuids
from typing import Any

from kronos.api.sr import contents
from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.db.records import SR, VDI
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("VDI.introduce")
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    kind: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool,
    virtual_size: int,
    physical_utilisation: int,
    metadata_of_pool: str,
    is_a_snapshot: bool,
    snapshot_time: str,
    snapshot_of: str,
) -> str:
    """Take what lies at `location` of an SR as a disk. Its sizes and lineage are what the SR says they are.

    Raises SR_OPERATION_NOT_SUPPORTED [sr], VDI_LOCATION_MISSING [sr, location], LOCATION_NOT_UNIQUE [sr, location].
    """
    row = call.db.get(SR, sr)
    identity = _identity(uuid)
    with call.pipeline.holds.hold(row, "vdi_introduce", call.task), volumes.named_by_reference(row):
        _check_free(call, row, identity, location)
        driver = volumes.plugged(call.machine, row)
        volume = driver.volume_introduce(identity, location)
        fields: dict[str, Any] = {
            "name_label": name_label,
            "name_description": name_description,
            "sharable": sharable,
            "read_only": read_only or volume.read_only,
        }
        if volumes.keeps_names(call.db, row):
            driver.volume_update(identity, **fields)
        fields |= {"type": kind, "other_config": other_config, "xenstore_data": xenstore_data}
        fields |= {"sm_config": sm_config, "metadata_of_pool": metadata_of_pool}
        made = volumes.introduce(call.db, row, volume, **fields)
    contents.look_again(call, row)
    return made.ref


def _identity(untrusted_uuid: str) -> str:
    """The uuid that a client gives, or a new one. Raises UUID_INVALID [class, uuid]."""
    if not untrusted_uuid:
        return str(uuids.uuid4())
    try:
        return str(uuids.UUID(untrusted_uuid))
    except ValueError:
        raise Failure("UUID_INVALID", "VDI", untrusted_uuid) from None


def _check_free(call: Call, sr: SR, uuid: str, location: str) -> None:
    """There must be no record for the disk yet."""
    if any(call.db.get(VDI, ref).location == location for ref in sr.VDIs):
        raise Failure("LOCATION_NOT_UNIQUE", sr.ref, location)
    if call.db.tables["VDI"].by_uuid(uuid) is not None:
        raise Failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", "VDI", "uuid", uuid)


@message("VDI.pool_introduce")
def pool_introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    kind: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool,
    virtual_size: int,
    physical_utilisation: int,
    metadata_of_pool: str,
    is_a_snapshot: bool,
    snapshot_time: str,
    snapshot_of: str,
    cbt_enabled: bool,
) -> str:
    """A record for a disk, without a word to its SR: for storage managers, and for hosts that join a pool."""
    call.db.get(SR, sr)
    identity = _identity(uuid)
    with call.db.transaction():
        if call.db.tables["VDI"].by_uuid(identity) is not None:
            raise Failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", "VDI", "uuid", identity)
        row = call.db.create(
            VDI,
            uuid=identity,
            name_label=name_label,
            name_description=name_description,
            SR=sr,
            type=kind,
            sharable=sharable,
            read_only=read_only,
            other_config=other_config,
            location=location or identity,
            xenstore_data=xenstore_data,
            sm_config=sm_config,
            managed=managed,
            virtual_size=virtual_size,
            physical_utilisation=physical_utilisation,
            metadata_of_pool=metadata_of_pool,
            is_a_snapshot=is_a_snapshot,
            snapshot_time=snapshot_time,
            snapshot_of=snapshot_of,
            cbt_enabled=cbt_enabled,
        )
    return row.ref


# The same under the name that storage managers use.
message("VDI.db_introduce")(pool_introduce)


@message("VDI.db_forget")
def db_forget(call: Call, vdi: str) -> None:
    """Remove the record of a disk, without a word to its SR and whatever it is used for."""
    volumes.forget(call.db, call.db.get(VDI, vdi))
