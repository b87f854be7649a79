"""Storage at the start: what types there are, what a crash left, SRs plugged in again, and a first SR."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kronos.api.sr import lifecycle
from kronos.api.vdi import branching
from kronos.api.vm import importing
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PBD, SM, SR, VDI, Host, Message, Pool
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Hypervisor
from kronos.storage import registry

log = logging.getLogger(__name__)

FOLDER_TYPE, DISKS_TYPE = "file", "ext"
DEFAULT_NAME = "Local storage"
_FIRST = "first-sr"
"""The intent of the first SR, until it is the pool's default."""
_CLOSING = 10.0
"""Seconds that a program of the daemon that was killed gets to close a disk."""


def refresh(
    pipeline: Pipeline, drivers: Iterable[str], default_location: Path | None, local_disks: Sequence[str] = ()
) -> None:
    """Make the SM records say what `drivers` there are, settle what a crash left, and plug in what was plugged in.

    Where the pool has no SR yet, one is made over `local_disks`, or else at `default_location`. Storage that is out of
    reach stops nothing.
    """
    db, machine = pipeline.db, pipeline.machine
    describe_drivers(db, machine.hypervisor, drivers)
    _settle_srs(pipeline)
    for pbd in [db.get(PBD, ref) for ref in db.get(Host, machine.host_ref).PBDs]:
        if pbd.currently_attached:
            _plug_again(pipeline, pbd)
    cut_short = _FIRST in machine.intents.left()
    if default_location is None or (db.all(SR) and not cut_short):
        return
    if local_disks:
        _first_sr_over(pipeline, local_disks)
        return
    try:
        default_location.parent.mkdir(parents=True, exist_ok=True)
        _first_sr(pipeline, FOLDER_TYPE, {"location": str(default_location)})
    except (Failure, OSError) as error:
        log.error("There is no local SR at %s: %s", default_location, error)


# --- types -----------------------------------------------------------------------------------------------------------


def describe_drivers(db: Database, hypervisor: Hypervisor, drivers: Iterable[str]) -> None:
    """One SM record for each SR type; those of types that are gone go."""
    known = {row.type: row for row in db.all(SM)}
    with db.transaction():
        for name in drivers:
            fields = _description(registry.describe(name), hypervisor)
            row = known.pop(name, None)
            if row is None:
                db.create(SM, **fields)
            else:
                db.write(row, fields)
        for row in known.values():
            db.delete(row)


def _description(info: registry.DriverInfo, hypervisor: Hypervisor) -> dict[str, Any]:
    features = dict(info.features)
    if "VDI_RESIZE" in features and type(hypervisor).resize_disk is not Hypervisor.resize_disk:
        # Growing a disk that a guest has open is the hypervisor's work, not the driver's.
        features["VDI_RESIZE_ONLINE"] = 1
    return {
        "name_label": info.name,
        "name_description": info.description,
        "type": info.type,
        "vendor": info.vendor,
        "copyright": info.copyright,
        "version": info.version,
        "required_api_version": info.required_api_version,
        "configuration": dict(info.configuration),
        "capabilities": tuple(sorted(features)),
        "features": features,
        "supported_image_formats": info.supported_image_formats,
    }


# --- after a crash ---------------------------------------------------------------------------------------------------


def _settle_srs(pipeline: Pipeline) -> None:
    """SRs that were being made or destroyed when the daemon was killed. Volumes are settled with their SR's plug."""
    machine = pipeline.machine
    for name, facts in machine.intents.left().items():
        if facts.get("kind") in (lifecycle.INTENT, lifecycle.END):
            try:
                lifecycle.settle(pipeline.db, machine, facts)
            except Failure as failure:
                log.warning("Settling SR %s: %s", facts["uuid"], failure)
            machine.intents.settle(name)


def settle_disks(pipeline: Pipeline) -> None:
    """Disks made for a VM, or for its memory, or replaced in one, by a call that a crash cut short: those that no VM
    refers to go. VMs whose import was cut short go before.

    Once the VMs' records say what runs, and so which memory is still needed.
    """
    machine = pipeline.machine
    for name, facts in machine.intents.left().items():
        uuids = facts.get("vdis", "").split(",")
        successors = facts.get("successors", "").split(",")
        if facts.get("kind") == importing.INTENT:
            importing.settle(pipeline.db, machine, facts)
        elif facts.get("kind") != "disks":
            continue
        pairs = zip_longest(uuids, successors, fillvalue="")
        if all(_drop(pipeline, uuid, successor) for uuid, successor in pairs if uuid):
            machine.intents.settle(name)


def _drop(pipeline: Pipeline, uuid: str, successor: str) -> bool:
    """Destroy a disk unless a VM has it. False: not now, since its SR is out of reach, or somebody holds it open."""
    db = pipeline.db
    ref = db.tables["VDI"].by_uuid(uuid)
    if ref is None or db.get(VDI, ref).VBDs or db.referrers("VM", "suspend_VDI", ref):
        return True
    heir = db.find(VDI, db.tables["VDI"].by_uuid(successor) or NULL)
    if heir is not None:
        branching.succeed(db, pipeline.machine, db.get(VDI, ref), heir)
    log.warning("VDI %s was made for a VM, or taken from one, by a call that a crash cut short", uuid)
    deadline = time.monotonic() + _CLOSING
    while True:
        try:
            pipeline.perform_internal("VDI.destroy", ref)
        except Failure as failure:
            # The program that wrote it ends when it sees that the daemon is gone; that may take it a moment.
            if failure.code == "VDI_IN_USE" and time.monotonic() < deadline:
                time.sleep(_CLOSING / 20)
                continue
            log.warning("Destroying VDI %s: %s", uuid, failure)
            return failure.code not in ("SR_HAS_NO_PBDS", "VDI_IN_USE")
        return True


# --- plugging in -----------------------------------------------------------------------------------------------------


def _plug_again(pipeline: Pipeline, pbd: PBD) -> None:
    try:
        pipeline.perform_internal("PBD.plug", pbd.ref)
    except Failure as failure:
        log.error("PBD %s could not be plugged in at the start: %s", pbd.uuid, failure)
        pbd.currently_attached = False
        _tell(pipeline, "PBD_PLUG_FAILED_ON_SERVER_START", f"PBD {pbd.uuid}: {failure}")


def _tell(pipeline: Pipeline, name: str, body: str) -> None:
    """Leave a message for whoever looks after the host."""
    host = pipeline.db.get(Host, pipeline.machine.host_ref)
    try:
        pipeline.perform_internal("message.create", name, 3, "Host", host.uuid, body)
    except Failure as refused:
        log.debug("No message was left: %s", refused)


# --- the first SR ----------------------------------------------------------------------------------------------------


def _first_sr_over(pipeline: Pipeline, disks: Sequence[str]) -> None:
    """A local SR over these disks, all of them or none; what there is without it is told, once.

    No folder takes its place then: it would fill the system's own disk unasked, and the disks would not be tried
    again. As it is, they are at each start until an administrator has freed them, or made another SR.
    """
    try:
        _first_sr(pipeline, DISKS_TYPE, {"device": ",".join(disks)})
    except (Failure, OSError) as error:
        body = f"There is no local SR over {', '.join(disks)}: {error}"
        log.error("%s", body)
        if all(each.body != body for each in pipeline.db.all(Message)):
            _tell(pipeline, "LOCAL_SR_NOT_CREATED", body)


def _first_sr(pipeline: Pipeline, kind: str, config: dict[str, str]) -> None:
    """A local SR for a host that has none: made anew, or taken over where an earlier installation left one.

    One that is on some of the disks alone, or on others besides, is not what was asked for, and no disk of it is free:
    making it says so.
    """
    with pipeline.machine.intents.declared(_FIRST, {"kind": _FIRST}):
        ref = _begun(pipeline, config) or _found_or_made(pipeline, kind, config)
        _appoint(pipeline, ref)
        pipeline.durability.block()
    log.info("The SR %s is at %s", json.dumps(DEFAULT_NAME), ", ".join(config.values()))


def _begun(pipeline: Pipeline, config: dict[str, str]) -> str | None:
    """The SR that an earlier start had begun with when it was killed: nobody else could make one meanwhile."""
    rows = pipeline.db.all(SR)
    if not rows:
        return None
    _plug_in(pipeline, rows[0].ref, config)
    return rows[0].ref


def _found_or_made(pipeline: Pipeline, kind: str, config: dict[str, str]) -> str:
    found = pipeline.perform_internal("SR.probe_ext", pipeline.machine.host_ref, config, kind, {})
    whole = [
        each for each in found if "sr" in each and each["complete"] and _same(each["configuration"], config)
    ]
    if whole:
        return _take_over(pipeline, whole[0]["sr"]["uuid"], kind, config)
    return _make(pipeline, kind, config)


def _appoint(pipeline: Pipeline, ref: str) -> None:
    """Have an SR be the one that is used where none is named."""
    db = pipeline.db
    with db.transaction():
        db.write(db.get(SR, ref), {"other_config": {"i18n-key": "local-storage"}})
        pool = db.all(Pool)[0]
        db.write(pool, {"default_SR": ref, "suspend_image_SR": ref, "crash_dump_SR": ref})
        host = db.get(Host, pipeline.machine.host_ref)
        db.write(host, {"suspend_image_sr": ref, "crash_dump_sr": ref})


def _same(found: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Whether two device_configs name the same places, in whatever order."""
    return {key: set(value.split(",")) for key, value in found.items()} == {
        key: set(value.split(",")) for key, value in asked.items()
    }


def _make(pipeline: Pipeline, kind: str, config: dict[str, str]) -> str:
    host = pipeline.machine.host_ref
    ref: str = pipeline.perform_internal(
        "SR.create", host, config, 0, DEFAULT_NAME, "", kind, "user", False, {}
    )
    return ref


def _take_over(pipeline: Pipeline, uuid: str, kind: str, config: dict[str, str]) -> str:
    ref: str = pipeline.perform_internal("SR.introduce", uuid, DEFAULT_NAME, "", kind, "user", False, {})
    _plug_in(pipeline, ref, config)
    return ref


def _plug_in(pipeline: Pipeline, sr: str, config: dict[str, str]) -> None:
    record = {"host": pipeline.machine.host_ref, "SR": sr, "device_config": config}
    pbds = pipeline.db.get(SR, sr).PBDs or (pipeline.perform_internal("PBD.create", record),)
    pipeline.perform_internal("PBD.plug", pbds[0])
