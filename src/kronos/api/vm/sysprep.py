"""VM.sysprep: a Windows guest is given its answer file on a disc, and its agent told to run sysprep with it.

Agents that can do that read xenstore. The answer file holds passwords, so its disc lasts no longer than it is needed.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kronos.api.vm.agents import at_once
from kronos.boot.disc import disc
from kronos.datamodel.errors import Failure
from kronos.db.records import SR, VBD, VDI, VM
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.dispatch.registry import message
from kronos.dispatch.workers import only_waiting
from kronos.rules.surroundings import LIVE
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

LIMIT = 32 * 1024
SETTLING = 5.0
"""Seconds that a guest has to find a disc in its drive."""

BEGINNING = 5.0
"""Seconds in which an agent says that it has begun."""

_PAUSE = 0.25
_WORDS = "control/sysprep"


@message("VM.sysprep")
def sysprep(call: Call, self: str, unattend: str, timeout: float) -> None:
    """Run sysprep in a running guest with this answer file, and wait until it has shut down.

    It may take `timeout` seconds twice: for sysprep, and for the shutdown. Raises INVALID_VALUE [timeout, value],
    SYSPREP [uuid, message].
    """
    row = call.db.get(VM, self)
    with at_once(call, row, "sysprep"):
        if not timeout >= 0.0:
            raise Failure("INVALID_VALUE", "timeout", str(timeout))
        if len(unattend.encode()) > LIMIT:
            raise _failed(row, "unattend.xml file too large")
        if _tree(call, row).get("control/feature-sysprep") != "1":
            raise _failed(row, "VM driver does not support sysprep")
        drive = _empty_drive(call, row)
        run = row.domid
        with _inserted(call, row, drive, unattend) as vdi:
            _wait(call, row, SETTLING, lambda: False)
            _tell(call, row, vdi)
            if not _wait(call, row, BEGINNING, lambda: _action(call, row) == "running"):
                raise _failed(row, _SILENT)
            if not _wait(call, row, timeout, lambda: _action(call, row) is None):
                raise _failed(row, _SILENT)
        if not _wait(call, row, timeout, lambda: row.power_state not in LIVE or row.domid != run):
            raise _failed(row, _SILENT)


_SILENT = "No response from sysprep within allocated time"


def _failed(vm: VM, why: str) -> Failure:
    return Failure("SYSPREP", vm.uuid, why)


def _empty_drive(call: Call, vm: VM) -> VBD:
    for vbd in (call.db.get(VBD, ref) for ref in vm.VBDs):
        if vbd.type == "CD" and vbd.empty:
            return vbd
    raise _failed(vm, "CD-ROM drive not found")


# --- the guest -------------------------------------------------------------------------------------------------------


def _tree(call: Call, vm: VM) -> Mapping[str, str]:
    """What is in the guest's xenstore; nothing once it has gone."""
    try:
        return call.machine.hypervisor.guest_tree(vm.uuid) or {}
    except Failure as failure:
        log.debug("Xenstore of VM %s: %s", vm.uuid, failure)
        return {}


def _action(call: Call, vm: VM) -> str | None:
    return _tree(call, vm).get(f"{_WORDS}/action")


def _tell(call: Call, vm: VM, vdi: VDI) -> None:
    words = {"filename": "D://unattend.xml", "vdi-uuid": vdi.uuid, "action": "sysprep"}
    call.machine.hypervisor.tell(vm.uuid, {f"{_WORDS}/{key}": value for key, value in words.items()})


def _wait(call: Call, vm: VM, seconds: float, reached: Callable[[], bool]) -> bool:
    """Wait for something, so many seconds at most; whether it came. Raises TASK_CANCELLED."""
    woken = threading.Event()
    call.task.on_cancel(woken.set)
    deadline = time.monotonic() + seconds
    while not reached():
        call.task.check()
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        with only_waiting():
            woken.wait(min(_PAUSE, left))
    return True


# --- the disc --------------------------------------------------------------------------------------------------------


def folder(machine: Machine) -> Path:
    """Where the discs are."""
    return machine.state / "sysprep"


def tidy(pipeline: Pipeline) -> None:
    """Remove what a crash left, at the start of the daemon. The disc comes out of its drive first: a VM that has it
    could not be started without the file."""
    db, left = pipeline.db, {path.name: path for path in folder(pipeline.machine).glob("*")}
    if not left:
        return
    discs = [vdi for vdi in db.all(VDI) if vdi.location in left and db.get(SR, vdi.SR).type == "iso"]
    for ref in [ref for each in discs for ref in each.VBDs]:
        _try(pipeline, "VBD.eject", ref)
    for path in left.values():
        path.unlink(missing_ok=True)
    for ref in {each.SR for each in discs}:
        _try(pipeline, "SR.scan", ref)


def _try(pipeline: Pipeline, name: str, ref: str) -> None:
    try:
        pipeline.perform_internal(name, ref)
    except Failure as failure:
        log.warning("%s of %s, after a crash: %s", name, ref, failure)


@contextmanager
def _inserted(call: Call, vm: VM, drive: VBD, unattend: str) -> Iterator[VDI]:
    """A disc with the answer file is in the guest's drive for as long as the block runs."""
    place = folder(call.machine)
    place.mkdir(mode=0o711, exist_ok=True)
    path = place / f"sysprep-{vm.uuid}-{time.time_ns()}.iso"
    try:
        write_whole(path, disc("SYSPREP", "UNATTEND.XML", unattend.encode()), 0o600)
        vdi = _introduced(call, path)
        try:
            call.invoke("VBD.insert", drive.ref, vdi.ref)
        except Failure as failure:
            raise _failed(vm, "VM failed to insert CD") from failure
        try:
            yield vdi
        finally:
            _eject(call, vm, drive)
    finally:
        path.unlink(missing_ok=True)
        _scan(call)


def _eject(call: Call, vm: VM, drive: VBD) -> None:
    if drive.ref not in call.db.rows or drive.empty:
        return
    try:
        call.invoke("VBD.eject", drive.ref)
    except Failure as failure:
        raise _failed(vm, "VM failed to eject CD") from failure


def _introduced(call: Call, path: Path) -> VDI:
    sr = _scan(call)
    found = [vdi for vdi in (call.db.get(VDI, ref) for ref in sr.VDIs) if vdi.location == path.name]
    if not found:
        raise Failure("INTERNAL_ERROR", f"{path.name} is not among the discs of its SR")
    return found[0]


def _scan(call: Call) -> SR:
    """The SR of these discs, made when it is first needed, with what is in it now."""
    place, name = folder(call.machine), call.host.hostname
    # A name that nobody chooses by accident.
    label = f"SYSPREP-{name}-{hashlib.sha256(name.encode()).hexdigest()[:4]}"
    known = [sr for sr in call.db.all(SR) if sr.name_label == label and sr.type == "iso"]
    if known:
        call.invoke("SR.scan", known[0].ref)
        return known[0]
    config = {"location": str(place), "legacy_mode": "true"}
    kind = "iso", "iso"
    ref = call.invoke("SR.create", call.host.ref, config, 0, label, "Sysprep ISOs", *kind, False, {})
    sr = call.db.get(SR, ref)
    call.invoke("SR.scan", sr.ref)
    return sr
