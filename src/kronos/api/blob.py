"""blob: bytes of a client's that are kept with an object. The bytes themselves go through the doors at /blob."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import EPOCH
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import KINDS, SR, VM, Blob, Host, Network, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.system.blobs import BlobFiles

OWNERS: tuple[type[Record], ...] = (VM, Host, SR, Network, Pool)
MIME_TYPE = "application/octet-stream"


def files(machine: Machine) -> BlobFiles:
    """Where this host keeps them."""
    return BlobFiles(machine.state / "blobs")


def _new(db: Database, mime_type: str, public: bool) -> Blob:
    return db.create(Blob, mime_type=mime_type or MIME_TYPE, public=public, size=0, last_updated=EPOCH)


@message("blob.create")
def create(call: Call, mime_type: str, public: bool) -> str:
    """A blob that belongs to no object. Anybody may read a public one without logging in."""
    return _new(call.db, mime_type, public).ref


@message("blob.destroy")
def destroy(call: Call, self: str) -> None:
    """Forget a blob and its bytes; the object that it belongs to no longer names it."""
    row = call.db.get(Blob, self)
    with call.db.transaction():
        for owner in (each for kind in OWNERS for each in call.db.all(kind)):
            blobs: dict[str, str] = owner.stored()["blobs"]
            if self in blobs.values():
                kept = {name: ref for name, ref in blobs.items() if ref != self}
                call.db.write(owner, {"blobs": kept})
        call.db.delete(row)
    call.pipeline.durability.block()
    files(call.machine).remove(row.uuid)


def forget(db: Database, owner: Record) -> list[str]:
    """Delete the records of an object's blobs, in the transaction that deletes the object; the uuids for `remove`."""
    found = [db.find(Blob, ref) for ref in owner.stored()["blobs"].values()]
    rows = [row for row in found if row is not None]
    for row in rows:
        db.delete(row)
    return [row.uuid for row in rows]


def remove(machine: Machine, uuids: Iterable[str]) -> None:
    """Remove the bytes of blobs whose records are gone. What a crash leaves of them, the next start removes."""
    for uuid in uuids:
        files(machine).remove(uuid)


def tidy(db: Database, machine: Machine) -> None:
    """At the start of the daemon: remove bytes that belong to no blob."""
    files(machine).tidy(row.uuid for row in db.all(Blob))


def _attach(call: Call, cls: str, ref: str, name: str, mime_type: str, public: bool) -> str:
    """A new blob of an object's. Raises MAP_DUPLICATE_KEY where it has one of that name."""
    owner: Any = call.db.get(KINDS[cls], ref)
    with call.db.transaction():
        if name in owner.blobs:
            raise Failure("MAP_DUPLICATE_KEY", cls, "blobs", ref, name)
        row = _new(call.db, mime_type, public)
        row.name_label = name
        call.db.write(owner, {"blobs": owner.blobs | {name: row.ref}})
    return row.ref


@message("VM.create_new_blob")
def create_for_vm(call: Call, vm: str, name: str, mime_type: str, public: bool) -> str:
    return _attach(call, "VM", vm, name, mime_type, public)


@message("host.create_new_blob")
def create_for_host(call: Call, host: str, name: str, mime_type: str, public: bool) -> str:
    return _attach(call, "host", host, name, mime_type, public)


@message("SR.create_new_blob")
def create_for_sr(call: Call, sr: str, name: str, mime_type: str, public: bool) -> str:
    return _attach(call, "SR", sr, name, mime_type, public)


@message("network.create_new_blob")
def create_for_network(call: Call, network: str, name: str, mime_type: str, public: bool) -> str:
    return _attach(call, "network", network, name, mime_type, public)


@message("pool.create_new_blob")
def create_for_pool(call: Call, pool: str, name: str, mime_type: str, public: bool) -> str:
    return _attach(call, "pool", pool, name, mime_type, public)
