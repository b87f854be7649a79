"""VM.checkpoint: a snapshot of a running VM with its memory, both of one moment, and the VM goes on.

Where the hypervisor can write a paused guest's memory beside it, the guest waits paused meanwhile and never ends. Where
it cannot (libxl), the VM is suspended and resumed, and the checkpoint keeps the memory image.
"""

from __future__ import annotations

import logging
import uuid as uuids
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kronos.api.vm import cloning, firmware, guest, lifecycle, state
from kronos.api.vm.backing import attach
from kronos.api.vm.naming import named_by_reference
from kronos.api.vm.new_disks import NewDisks, new_disks
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VM
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.dispatch.registry import message
from kronos.hypervisor.base import State
from kronos.rules.surroundings import LIVE, features

log = logging.getLogger(__name__)

INTENT = "checkpoint"
"""A VM that ran stands still, or is suspended, for a checkpoint, and is to go on."""


@message("VM.checkpoint", holds="checkpoint")
def checkpoint(call: Call, vm: str, new_name: str) -> str:
    """A VM's disks, settings and memory as they are now; of one that is paused, as in the reference, without memory.

    Raises SR_OPERATION_NOT_SUPPORTED [sr] for a disk whose SR has no snapshots, VM_NO_SUSPEND_SR [vm].
    """
    row = call.db.get(VM, vm)
    if row.power_state != "Running":
        return cloning.duplicate(call, row, new_name, "checkpoint", NewDisks.snapshot)
    _assert_snapshots(call.db, row)
    facts = {"kind": INTENT, "vm": row.uuid}
    with call.machine.intents.declared(f"checkpoint-{row.uuid}", facts):
        if call.machine.hypervisor.saves_beside:
            return _beside(call, row, new_name)
        return _in_between(call, row, new_name)


def _assert_snapshots(db: Database, vm: VM) -> None:
    """So that no guest stands still for what cannot be done."""
    for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
        vdi = db.find(VDI, vbd.VDI)
        sr = db.find(SR, vdi.SR) if vdi is not None and vbd.type == "Disk" else None
        if sr is not None and "VDI_SNAPSHOT" not in features(db, sr):
            raise Failure("SR_OPERATION_NOT_SUPPORTED", sr.ref)


def _beside(call: Call, vm: VM, name: str) -> str:
    """Disks and memory of a guest that stands still meanwhile. The disks first: once QEMU has written its memory it
    lets go of its disks until it goes on."""
    uuid = str(uuids.uuid4())
    with new_disks(call, uuid) as disks, named_by_reference(vm):
        image = lifecycle.new_image(call, vm, disks)
        with ExitStack() as image_open:
            attachment = attach(call, image, writable=True, undo=image_open)
            with _standing_still(call, vm):
                made = cloning.made_of(call, vm, disks, NewDisks.snapshot)
                call.task.check()
                call.machine.hypervisor.save_memory(vm.uuid, attachment.path)
                firmware.refresh(call, vm)
        return cloning.add_records(call, vm, uuid, name, "checkpoint", made, image, "Running")


@contextmanager
def _standing_still(call: Call, vm: VM) -> Iterator[None]:
    """A running guest is paused for as long as the block runs."""
    hypervisor = call.machine.hypervisor
    hypervisor.pause(vm.uuid)
    try:
        state.look(call.db, call.machine, vm)
        yield
    finally:
        try:
            hypervisor.unpause(vm.uuid)
        except Failure as failure:
            if failure.code != "VM_BAD_POWER_STATE":  # it has ended, or others have let it go on
                raise
        state.look(call.db, call.machine, vm)
    guest.refresh_later(call.db, call.machine, vm)


def _in_between(call: Call, vm: VM, name: str) -> str:
    """Suspended, copied, resumed. It stays Suspended, with its memory kept, if it cannot be resumed."""
    uuid = str(uuids.uuid4())
    with ExitStack() as undo:
        lifecycle.reserve(call, vm, bool, undo)  # it has its memory already, and keeps it
        lifecycle.save(call, vm)
        try:
            image = call.db.get(VDI, vm.suspend_VDI)
            with new_disks(call, uuid) as disks:
                made = cloning.made_of(call, vm, disks, NewDisks.snapshot)
                # One image for both: what resumes does not change it, and who drops it looks whether another has it.
                return cloning.add_records(call, vm, uuid, name, "checkpoint", made, image, "Running")
        finally:
            if vm.power_state == "Suspended":
                lifecycle.wake(call, vm, bool, paused=False)


# --- after a crash ---------------------------------------------------------------------------------------------------


def left(db: Database, machine: Machine) -> dict[str, VM | None]:
    """The VMs whose checkpoints a crash cut short, by their intents; None for one that is no more."""
    by_uuid = db.tables["VM"].by_uuid
    return {
        name: db.find(VM, by_uuid(facts["vm"]) or NULL)
        for name, facts in machine.intents.left().items()
        if facts.get("kind") == INTENT
    }


def let_go_on(db: Database, machine: Machine) -> None:
    """Guests that stand still for a checkpoint whose call is no more go on. Before records are compared with them."""
    for vm in left(db, machine).values():
        if vm is None or vm.power_state not in LIVE or vm.suspend_VDI != NULL:
            continue  # suspended, or on its way there: `settle` resumes it
        machine.hypervisor.abandon_suspend(vm.uuid)
        try:
            if machine.hypervisor.state(vm.uuid) is State.PAUSED:
                log.info("VM %s stood still for a checkpoint that a crash cut short", vm.uuid)
                machine.hypervisor.unpause(vm.uuid)
        except Failure as failure:
            log.warning("VM %s stands still after a checkpoint: %s", vm.uuid, failure)


def settle(pipeline: Pipeline) -> None:
    """VMs that were suspended for a checkpoint are resumed, each by a worker: it can take long. The last thing of a
    start: these calls have intents of their own, which are not to be taken for what a crash left."""
    machine = pipeline.machine
    for name, vm in left(pipeline.db, machine).items():
        if vm is not None and vm.power_state == "Suspended":
            pipeline.task_workers.submit(_resume, pipeline, name, vm)
        else:
            machine.intents.settle(name)


def _resume(pipeline: Pipeline, name: str, vm: VM) -> None:
    log.info("VM %s was suspended for a checkpoint that a crash cut short", vm.uuid)
    try:
        pipeline.perform_internal("VM.resume", vm.ref, False, False)
    except Failure as failure:
        log.error("VM %s stays suspended: %s", vm.uuid, failure)
    pipeline.machine.intents.settle(name)
