"""Storage at the start: what types there are, what a crash left, SRs plugged in again, and a first SR."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kronos.api.sr import lifecycle
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import PBD, SM, SR, VDI, Host, Pool
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Hypervisor
from kronos.storage import registry

log = logging.getLogger(__name__)

DEFAULT_TYPE = "file"
DEFAULT_NAME = "Local storage"


def refresh(pipeline: Pipeline, drivers: Iterable[str], default_location: Path | None) -> None:
    """Make the SM records say what `drivers` there are, settle what a crash left, and plug in what was plugged in.

    Where the pool has no SR yet, one is made at `default_location`. Storage that is out of reach stops nothing.
    """
    db, machine = pipeline.db, pipeline.machine
    describe_drivers(db, machine.hypervisor, drivers)
    _settle_srs(pipeline)
    for pbd in [db.get(PBD, ref) for ref in db.get(Host, machine.host_ref).PBDs]:
        if pbd.currently_attached:
            _plug_again(pipeline, pbd)
    if default_location is not None and not db.all(SR):
        try:
            _first_sr(pipeline, default_location)
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
    """SRs that were being made when the daemon was killed. Volumes are settled as their SR is plugged in."""
    machine = pipeline.machine
    for name, facts in machine.intents.left().items():
        if facts.get("kind") == "sr":
            try:
                lifecycle.settle(pipeline.db, machine, facts)
            except Failure as failure:
                log.warning("Settling SR %s: %s", facts["uuid"], failure)
            machine.intents.settle(name)


def settle_disks(pipeline: Pipeline) -> None:
    """Disks made for a VM, or for its memory, by a call that a crash cut short: those that no VM refers to go.

    Once the VMs' records say what runs, and so which memory is still needed.
    """
    machine = pipeline.machine
    for name, facts in machine.intents.left().items():
        uuids = [uuid for uuid in facts.get("vdis", "").split(",") if uuid]
        if facts.get("kind") == "disks" and all(_drop(pipeline, uuid) for uuid in uuids):
            machine.intents.settle(name)


def _drop(pipeline: Pipeline, uuid: str) -> bool:
    """Destroy a disk unless it is in use. False: not now, since its SR is out of reach."""
    db = pipeline.db
    ref = db.tables["VDI"].by_uuid(uuid)
    if ref is None or db.get(VDI, ref).VBDs or db.referrers("VM", "suspend_VDI", ref):
        return True
    log.warning("VDI %s was made for a VM by a call that a crash cut short", uuid)
    try:
        pipeline.perform_internal("VDI.destroy", ref)
    except Failure as failure:
        log.warning("Destroying VDI %s: %s", uuid, failure)
        return failure.code != "SR_HAS_NO_PBDS"
    return True


# --- plugging in -----------------------------------------------------------------------------------------------------


def _plug_again(pipeline: Pipeline, pbd: PBD) -> None:
    try:
        pipeline.perform_internal("PBD.plug", pbd.ref)
    except Failure as failure:
        log.error("PBD %s could not be plugged in at the start: %s", pbd.uuid, failure)
        pbd.currently_attached = False
        _tell(pipeline, pbd, failure)


def _tell(pipeline: Pipeline, pbd: PBD, failure: Failure) -> None:
    """Leave a message for whoever looks after the host."""
    host = pipeline.db.get(Host, pbd.host)
    body = f"PBD {pbd.uuid}: {failure}"
    try:
        pipeline.perform_internal(
            "message.create", "PBD_PLUG_FAILED_ON_SERVER_START", 3, "Host", host.uuid, body
        )
    except Failure as refused:
        log.debug("No message was left: %s", refused)


# --- the first SR ----------------------------------------------------------------------------------------------------


def _first_sr(pipeline: Pipeline, location: Path) -> None:
    """A local SR for a host that has none: made anew, or taken over where an earlier installation left one."""
    location.parent.mkdir(parents=True, exist_ok=True)
    config = {"location": str(location)}
    found = pipeline.perform_internal("SR.probe_ext", pipeline.machine.host_ref, config, DEFAULT_TYPE, {})
    uuid = next((each["sr"]["uuid"] for each in found if "sr" in each), "")
    ref = _take_over(pipeline, uuid, config) if uuid else _make(pipeline, config)
    db = pipeline.db
    with db.transaction():
        db.write(db.get(SR, ref), {"other_config": {"i18n-key": "local-storage"}})
        pool = db.all(Pool)[0]
        db.write(pool, {"default_SR": ref, "suspend_image_SR": ref, "crash_dump_SR": ref})
        host = db.get(Host, pipeline.machine.host_ref)
        db.write(host, {"suspend_image_sr": ref, "crash_dump_sr": ref})
    log.info("The SR %s is at %s", json.dumps(DEFAULT_NAME), location)


def _make(pipeline: Pipeline, config: dict[str, str]) -> str:
    host = pipeline.machine.host_ref
    ref: str = pipeline.perform_internal(
        "SR.create", host, config, 0, DEFAULT_NAME, "", DEFAULT_TYPE, "user", False, {}
    )
    return ref


def _take_over(pipeline: Pipeline, uuid: str, config: dict[str, str]) -> str:
    ref: str = pipeline.perform_internal(
        "SR.introduce", uuid, DEFAULT_NAME, "", DEFAULT_TYPE, "user", False, {}
    )
    record = {"host": pipeline.machine.host_ref, "SR": ref, "device_config": config}
    pipeline.perform_internal("PBD.plug", pipeline.perform_internal("PBD.create", record))
    return ref
