"""Recovery: which storage a VM needs where it is to be brought back."""

from __future__ import annotations

from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PBD, SR, VBD, VDI, VM


def required_srs(db: Database, vm: VM) -> list[SR]:
    """The SRs that hold a VM's disks and saved memory; media do not count."""
    disks = [vbd.VDI for vbd in (db.get(VBD, ref) for ref in vm.VBDs) if vbd.type == "Disk"]
    vdis = (db.find(VDI, ref) for ref in (*disks, vm.suspend_VDI) if ref != NULL)
    found = (db.find(SR, vdi.SR) for vdi in vdis if vdi is not None)
    return list(dict.fromkeys(sr for sr in found if sr is not None and sr.content_type != "iso"))


def missing_srs(here: Database, vm: VM, there: Database) -> list[SR]:
    """Those SRs that the database `there` does not have plugged in on any host."""
    return [sr for sr in required_srs(here, vm) if not _is_plugged(there, sr.uuid)]


def _is_plugged(db: Database, uuid: str) -> bool:
    ref = db.tables["SR"].by_uuid(uuid)
    sr = db.find(SR, ref) if ref is not None else None
    return sr is not None and any(db.get(PBD, ref).currently_attached for ref in sr.PBDs)
