"""SR create, introduce, destroy and forget."""

from __future__ import annotations

import json
import logging
import uuid as uuids
from contextlib import ExitStack

from kronos.api import blob, secret
from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PBD, SM, SR, VDI, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.storage.base import StorageDriver

log = logging.getLogger(__name__)

INTENT = "sr"
END = "sr-end"
"""The intent of a destruction."""
_OF_POOL = ("default_SR", "suspend_image_SR", "crash_dump_SR")
_OF_HOST = ("suspend_image_sr", "crash_dump_sr", "local_cache_sr")


@message("SR.create")
def create(
    call: Call,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """Make an SR where `device_config` says, and plug it in. A shared SR gets a PBD for every host of the pool.

    Raises SR_UNKNOWN_DRIVER [type], SR_BACKEND_FAILURE_42 (the place is taken), what else the driver raises.
    """
    db = call.db
    hosts = db.all(Host) if shared else [db.get(Host, host)]
    _check_type(db, kind)
    uuid = str(uuids.uuid4())
    driver = call.machine.open_storage(kind, uuid, secret.resolved(db, device_config))
    kept = secret.stored(db, device_config)
    facts = _facts(INTENT, uuid, kind, kept)
    made = {key: value for key, value in kept.items() if device_config.get(key) != value}
    if made:  # the intent names secrets: they are on disk before it is
        call.pipeline.durability.block()
    with call.machine.intents.declared(f"{INTENT}.{uuid}", facts), ExitStack() as undo:
        undo.callback(secret.forget, db, made)
        driver.create(physical_size)
        undo.callback(_wipe, driver)
        call.task.progress(0.3)
        with db.transaction():
            sr = db.create(
                SR,
                uuid=uuid,
                name_label=name_label,
                name_description=name_description,
                type=kind,
                content_type=content_type or driver.content_type,
                shared=shared,
                sm_config=sm_config,
            )
            pbds = [db.create(PBD, SR=sr.ref, host=each.ref, device_config=kept) for each in hosts]
        undo.callback(forget_records, db, sr)
        for pbd in pbds:
            if pbd.host == call.machine.host_ref:
                undo.callback(_unplug, call, pbd)
                call.invoke("PBD.plug", pbd.ref)
        call.pipeline.durability.block()
        undo.pop_all()
    return sr.ref


def _facts(intent: str, uuid: str, kind: str, device_config: dict[str, str]) -> dict[str, str]:
    """What an intent says of an SR."""
    return {"kind": intent, "uuid": uuid, "type": kind, "device_config": json.dumps(device_config)}


def _check_type(db: Database, untrusted_type: str) -> None:
    if not db.referrers("SM", "type", untrusted_type):
        raise Failure("SR_UNKNOWN_DRIVER", untrusted_type)


def _wipe(driver: StorageDriver) -> None:
    """Undo a driver's `create`. What fails is logged: the caller is to hear why it was undone."""
    try:
        driver.discard()
    except (Failure, OSError) as error:
        log.warning("The unfinished SR %s stays where it is: %s", driver.sr_uuid, error)


def _unplug(call: Call, pbd: PBD) -> None:
    """Undo a plug, whether or not it was complete."""
    driver = call.machine.storage.pop(call.db.get(SR, pbd.SR).uuid, None)
    if driver is not None:
        driver.detach()


def settle(db: Database, machine: Machine, facts: dict[str, str]) -> None:
    """Undo an SR.create that a crash cut short, as nobody was told of the SR, or finish an SR.destroy.

    Before anything is plugged in.
    """
    if facts["kind"] == END and not facts.get("began"):
        return  # it had not been found empty yet
    ref = db.tables["SR"].by_uuid(facts["uuid"])
    log.warning("SR %s was left half made, or half destroyed, by a crash", facts["uuid"])
    if ref is not None:
        _forget_records(db, db.get(SR, ref), secrets=False)
    config = json.loads(facts["device_config"])
    _wipe(machine.open_storage(facts["type"], facts["uuid"], secret.resolved(db, config)))
    secret.forget(db, config)


@message("SR.introduce")
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """A record for an SR that exists; PBDs then say how hosts reach it.

    Raises SR_UNKNOWN_DRIVER [type], SR_UUID_EXISTS [uuid], UUID_INVALID [class, uuid].
    """
    _check_type(call.db, kind)
    try:
        identity = str(uuids.UUID(uuid)) if uuid else str(uuids.uuid4())
    except ValueError:
        raise Failure("UUID_INVALID", "SR", uuid) from None
    with call.db.transaction():
        if call.db.tables["SR"].by_uuid(identity) is not None:
            raise Failure("SR_UUID_EXISTS", identity)
        row = call.db.create(
            SR,
            uuid=identity,
            name_label=name_label,
            name_description=name_description,
            type=kind,
            content_type=content_type,
            shared=shared,
            sm_config=sm_config,
        )
    return row.ref


@message("SR.make")
def make(
    call: Call,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    sm_config: dict[str, str],
) -> str:
    """What SR.create does today. Raises MESSAGE_DEPRECATED."""
    raise Failure("MESSAGE_DEPRECATED")


@message("SR.destroy", holds="destroy")
def destroy(call: Call, sr: str) -> None:
    """Wipe an SR that is unplugged everywhere and holds no VDIs, and forget it.

    Raises SR_HAS_PBD [sr], SR_HAS_NO_PBDS [sr], SR_NOT_EMPTY, SR_INDESTRUCTIBLE [sr].
    """
    row = call.db.get(SR, sr)
    if row.other_config.get("indestructible") == "true":
        raise Failure("SR_INDESTRUCTIBLE", row.ref)
    pbds = [call.db.get(PBD, ref) for ref in row.PBDs]
    config = next((pbd.device_config for pbd in pbds if pbd.host == call.machine.host_ref), None)
    if config is None:
        raise Failure("SR_HAS_NO_PBDS", row.ref)
    facts = _facts(END, row.uuid, row.type, config)
    with volumes.named_by_reference(row), call.machine.intents.declared(f"{END}.{row.uuid}", facts) as note:
        driver = call.machine.open_storage(row.type, row.uuid, secret.resolved(call.db, config))
        driver.attach()
        try:
            driver.destroy(lambda: note("began", "yes"))
        except BaseException:
            driver.detach()
            raise
        blobs = forget_records(call.db, row)
        call.pipeline.durability.block()
    blob.remove(call.machine, blobs)


@message("SR.forget", holds="forget")
def forget(call: Call, sr: str) -> None:
    """Forget an SR that is unplugged everywhere; what it holds stays. Raises SR_HAS_PBD [sr]."""
    blob.remove(call.machine, forget_records(call.db, call.db.get(SR, sr)))


def forget_records(db: Database, sr: SR) -> list[str]:
    """Remove an SR's record and those of its VDIs, PBDs and their secrets; nobody's default is an SR that is gone.

    Returns the uuids of its blobs, whose bytes are to be removed.
    """
    return _forget_records(db, sr, secrets=True)


def _forget_records(db: Database, sr: SR, *, secrets: bool) -> list[str]:
    with db.transaction():
        for vdi in (db.get(VDI, ref) for ref in sr.VDIs):
            volumes.forget(db, vdi)
        for pbd in [db.get(PBD, ref) for ref in sr.PBDs]:
            db.delete(pbd)
            if secrets:
                secret.forget(db, pbd.device_config)
        for row, fields in [
            *((pool, _OF_POOL) for pool in db.all(Pool)),
            *((h, _OF_HOST) for h in db.all(Host)),
        ]:
            db.write(row, {name: NULL for name in fields if row.stored()[name] == sr.ref})
        blobs = blob.forget(db, sr)
        db.delete(sr)
    return blobs


@message("SR.get_supported_types")
def get_supported_types(call: Call) -> tuple[str, ...]:
    """The types of SR that this pool can have."""
    return tuple(dict.fromkeys(row.type for row in call.db.all(SM)))
