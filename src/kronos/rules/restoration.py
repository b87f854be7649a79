"""Restoration: how a dump of a database becomes this host's own."""

from __future__ import annotations

from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.dump import Dump
from kronos.db.records import PIF, VM, Host

Rows = dict[str, tuple[str, dict[str, Any]]]


def fitted(dump: Dump, db: Database, host: Host) -> Rows:
    """The dump's rows for this host, which becomes the coordinator and only host of the pool.

    The host keeps its uuid, its control domain's, its NICs' addresses and the interface that it is managed by.

    Raises RESTORE_INCOMPATIBLE_VERSION, RESTORE_TARGET_MISSING_DEVICE [device], RESTORE_TARGET_MGMT_IF_NOT_IN_BACKUP;
    INTERNAL_ERROR for a dump without a pool or its coordinator.
    """
    schema = model().schema
    if dump.schema != (schema["major"], schema["minor"]):
        raise Failure("RESTORE_INCOMPATIBLE_VERSION")
    master = _master(dump)
    rows: Rows = {
        ref: (cls, dict(fields))
        for ref, (cls, fields) in dump.rows.items()
        if not _is_others(cls, ref, fields, master)
    }
    _become(rows, db, host, master)
    _adopt_interfaces(rows, db, host)
    return rows


def _master(dump: Dump) -> str:
    pools = list(dump.of("pool").values())
    if len(pools) != 1:
        raise Failure("INTERNAL_ERROR", f"the dump has {len(pools)} pools")
    master: str = pools[0].get("master", NULL)
    if master not in dump.of("host"):
        raise Failure("INTERNAL_ERROR", "the dump has no coordinator")
    return master


def _is_others(cls: str, ref: str, fields: dict[str, Any], master: str) -> bool:
    """Whether a row is of a host that is not to come along."""
    if cls == "host":
        return ref != master
    return cls in ("PIF", "PBD", "host_cpu") and fields.get("host", master) != master


def _become(rows: Rows, db: Database, host: Host, master: str) -> None:
    _, restored = rows[master]
    restored["uuid"] = host.uuid
    ours = db.find(VM, host.control_domain)
    theirs = rows.get(restored.get("control_domain", NULL))
    if ours is not None and theirs is not None:
        theirs[1]["uuid"] = ours.uuid


def _adopt_interfaces(rows: Rows, db: Database, host: Host) -> None:
    own = [pif for pif in db.all(PIF) if pif.host == host.ref]
    addresses = {pif.device: pif.MAC for pif in own if pif.physical}
    managing = [pif.device for pif in own if pif.management]
    restored = [fields for cls, fields in rows.values() if cls == "PIF"]
    for fields in restored:
        device = fields.get("device", "")
        fields["management"] = device in managing
        if fields.get("physical"):
            if device not in addresses:
                raise Failure("RESTORE_TARGET_MISSING_DEVICE", device)
            fields["MAC"] = addresses[device]
    if managing and not any(fields["management"] for fields in restored):
        devices = [str(fields.get("device", "")) for fields in restored]
        raise Failure("RESTORE_TARGET_MGMT_IF_NOT_IN_BACKUP", *devices)
