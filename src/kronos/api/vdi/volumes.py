"""Volumes and their VDI records: what a record takes from its storage, and how the two are made together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, at
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import SR, VBD, VDI
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.rules.surroundings import features
from kronos.storage.base import Attachment, StorageDriver, Volume

log = logging.getLogger(__name__)

PARENT = "vhd-parent"
"""The key of sm_config that names a VDI's parent by uuid, whatever the format: Xen Orchestra draws chains from it."""

FORMAT = "image-format"
_DERIVED = frozenset({PARENT, FORMAT, "error"})
_INTENT = "volume"


def plugged(machine: Machine, sr: SR) -> StorageDriver:
    """The driver of an SR that is plugged in here. Raises SR_HAS_NO_PBDS [sr]."""
    driver = machine.storage.get(sr.uuid)
    if driver is None:
        raise Failure("SR_HAS_NO_PBDS", sr.ref)
    return driver


@contextmanager
def named_by_reference(*rows: Record) -> Iterator[None]:
    """A driver names SRs, VDIs and VMs by uuid; clients know references."""
    try:
        yield
    except Failure as failure:
        names: dict[str, str] = {row.stored()["uuid"]: row.ref for row in rows}
        raise Failure(failure.code, *(names.get(each, each) for each in failure.params)) from failure


# --- records ---------------------------------------------------------------------------------------------------------


def fields_of(volume: Volume, present: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a volume says of itself that no client can change; `present` is the record's sm_config."""
    kept = {key: value for key, value in (present or {}).items() if key not in _DERIVED}
    derived = {FORMAT: volume.format} | ({PARENT: volume.parent} if volume.parent else {})
    return {
        "location": volume.location,
        "virtual_size": volume.virtual_size,
        "physical_utilisation": volume.physical_utilisation,
        "managed": volume.managed,
        "missing": False,
        "sm_config": kept | dict(volume.sm_config) | derived,
    }


def lineage_of(db: Database, volume: Volume) -> dict[str, Any]:
    """Whose snapshot a volume is. Of what the SR does not call a snapshot the record may say so by itself."""
    if not volume.is_a_snapshot:
        return {}
    source = db.tables["VDI"].by_uuid(volume.snapshot_of)
    return {
        "is_a_snapshot": True,
        "snapshot_of": source or NULL,
        "snapshot_time": at(int(volume.snapshot_time)),
    }


def kept_by(volume: Volume) -> dict[str, Any]:
    """What clients set on a VDI and the SR keeps as well."""
    return {
        "name_label": volume.name_label,
        "name_description": volume.name_description,
        "sharable": volume.sharable,
        "read_only": volume.read_only,
    }


def introduce(db: Database, sr: SR, volume: Volume, **fields: Any) -> VDI:
    """A record for a volume of an SR; `fields` come before what the volume says of its names."""
    described = kept_by(volume) | {"type": volume.type} | lineage_of(db, volume) | fields
    described |= fields_of(volume, fields.get("sm_config"))
    with db.transaction():
        row = db.create(VDI, uuid=volume.uuid, SR=sr.ref, **described)
        if volume.managed:
            sr.virtual_allocation += volume.virtual_size
    return row


def refresh(db: Database, sr: SR, row: VDI, volume: Volume) -> None:
    """Bring a record up to date with its volume."""
    with db.transaction():
        if row.ref not in db.rows:
            return
        if row.managed and volume.managed:
            sr.virtual_allocation += volume.virtual_size - row.virtual_size
        fields = fields_of(volume, row.sm_config) | lineage_of(db, volume)
        if keeps_names(db, sr):
            fields |= kept_by(volume)
        db.write(row, fields)


def keeps_names(db: Database, sr: SR) -> bool:
    """Whether an SR keeps its VDIs' names; of others the record alone has them."""
    return "VDI_UPDATE" in features(db, sr)


def forget(db: Database, row: VDI) -> None:
    """Remove the record of a disk that is gone: its VBDs go too, and CD drives that held it are empty."""
    with db.transaction():
        for vbd in (db.get(VBD, ref) for ref in row.VBDs):
            if vbd.type == "CD":
                db.write(vbd, {"VDI": NULL, "empty": True, "currently_attached": False})
                continue
            metrics = db.rows.get(vbd.metrics)
            if metrics is not None:
                db.delete(metrics)
            db.delete(vbd)
        sr = db.find(SR, row.SR)
        if sr is not None and row.managed and row.ref in db.rows:
            sr.virtual_allocation = max(0, sr.virtual_allocation - row.virtual_size)
        db.delete(row)


# --- making ----------------------------------------------------------------------------------------------------------


@contextmanager
def being_made(call: Call, sr: SR, uuid: str) -> Iterator[ExitStack]:
    """A volume comes into being together with its record: both stay, or neither, even if the daemon is killed.

    The stack takes what undoes the block's steps.
    """
    facts = {"kind": "volume", "sr": sr.uuid, "vdi": uuid}
    with call.machine.intents.declared(f"{_INTENT}.{sr.uuid}.{uuid}", facts), ExitStack() as undo:
        yield undo
        call.pipeline.durability.block()
        undo.pop_all()


def drop(driver: StorageDriver, uuid: str) -> None:
    """Undo the making of a volume. What fails is logged: the caller is to hear why it was undone."""
    try:
        driver.volume_destroy(uuid)
    except (Failure, OSError) as error:
        log.warning("The unfinished volume %s stays: %s", uuid, error)


def unfinished(machine: Machine, sr: SR) -> set[str]:
    """The volumes of an SR that are being made now or, if it is not plugged in, when the daemon was killed."""
    prefix = f"{_INTENT}.{sr.uuid}."
    return {path.name.removeprefix(prefix) for path in machine.intents.directory.glob(f"{prefix}*")}


def settle(db: Database, machine: Machine, sr: SR, driver: StorageDriver) -> None:
    """Remove what a crash left half made. Only before the driver is in use: later such volumes may be in work."""
    for uuid in unfinished(machine, sr):
        if db.tables["VDI"].by_uuid(uuid) is None:
            log.warning("Volume %s of SR %s was left without a record by a crash", uuid, sr.uuid)
            try:
                driver.volume_destroy(uuid)
            except Failure as failure:
                if failure.code == "VDI_IN_USE":
                    # Who wrote it then does so still: it is nobody's disk until the next plug, and the others are.
                    continue
                if failure.code != "VDI_MISSING":
                    raise
        machine.intents.settle(f"{_INTENT}.{sr.uuid}.{uuid}")


# --- using -----------------------------------------------------------------------------------------------------------


@contextmanager
def opened(call: Call, vdi: VDI, *, writable: bool) -> Iterator[Attachment]:
    """A VDI's content on this host, for as long as the block runs."""
    sr = call.db.get(SR, vdi.SR)
    driver = plugged(call.machine, sr)
    with named_by_reference(sr, vdi):
        attachment = driver.volume_attach(vdi.uuid, writable)
        try:
            yield attachment
        finally:
            # A VM that reads the same disk holds the same attachment.
            if not any(call.db.get(VBD, ref).currently_attached for ref in vdi.VBDs):
                driver.volume_detach(vdi.uuid)
