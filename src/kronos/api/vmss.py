"""VMSS: schedules that snapshot their VMs and keep the newest of those snapshots."""

from __future__ import annotations

import logging
import threading

from kronos.api.message import tell
from kronos.api.vm.cloning import SCHEDULER
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import NULL, at, now
from kronos.db.database import Database
from kronos.db.records import VBD, VDI, VM, VMSS, Message
from kronos.dispatch.call import INTERNAL, Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.pipeline import Pipeline
from kronos.dispatch.registry import message
from kronos.rules import schedules

log = logging.getLogger(__name__)

_removed: dict[tuple[str, str], str] = {}
"""Settings taken out last, by schedule and key: `xe vmss-param-set` takes one out before it adds the new value, and
a value that is refused is to leave the old one."""

_guard = threading.Lock()
_running: set[str] = set()


# --- what a schedule says --------------------------------------------------------------------------------------------


@message("VMSS.create")
def create(call: Call, args: dict[str, object]) -> str:
    """A schedule without VMs. Raises INVALID_VALUE."""
    fields = constructor_fields("VMSS", args)
    frequency, schedule = fields["frequency"], fields["schedule"]
    _assert_type(call.db, fields["type"], ())
    good = schedules.checked(schedule, schedules.KEYS[frequency])
    schedules.assert_retained(fields["retained_snapshots"])
    return call.db.create(VMSS, **fields | {"schedule": schedules.completed(frequency, good)}).ref


@message("VMSS.destroy")
def destroy(call: Call, self: str) -> None:
    """Raises VMSS_HAS_VM. What was told about the schedule goes with it."""
    row = call.db.get(VMSS, self)
    with call.db.transaction():
        if row.VMs:
            raise Failure("VMSS_HAS_VM")
        for told in call.db.all(Message):
            if told.obj_uuid == row.uuid:
                call.db.delete(told)
        call.db.delete(row)


@message("VMSS.set_frequency")
def set_frequency(call: Call, self: str, value: str) -> None:
    """The settings follow: those that the frequency does not know go, those that it lacks get their default."""
    row = call.db.get(VMSS, self)
    call.db.write(row, {"frequency": value, "schedule": schedules.completed(value, row.schedule)})


@message("VMSS.set_schedule")
def set_schedule(call: Call, self: str, value: dict[str, str]) -> None:
    """Change the settings that are named. Raises INVALID_VALUE ["schedule:<key>", value]."""
    row = call.db.get(VMSS, self)
    row.schedule = row.schedule | schedules.checked(value)


@message("VMSS.add_to_schedule")
def add_to_schedule(call: Call, self: str, key: str, value: str) -> None:
    """Raises INVALID_VALUE ["schedule:<key>", value], MAP_DUPLICATE_KEY."""
    row = call.db.get(VMSS, self)
    before = _removed.pop((self, key), None)
    if key in row.schedule:
        raise Failure("MAP_DUPLICATE_KEY", "VMSS", "schedule", self, key)
    try:
        row.schedule = row.schedule | schedules.checked({key: value})
    except Failure:
        if before is not None:
            row.schedule = row.schedule | {key: before}
        raise


@message("VMSS.remove_from_schedule")
def remove_from_schedule(call: Call, self: str, key: str) -> None:
    """Take a setting out: its default counts."""
    row = call.db.get(VMSS, self)
    if key in row.schedule:
        _removed[(self, key)] = row.schedule[key]
        row.schedule = {name: value for name, value in row.schedule.items() if name != key}


@message("VMSS.set_retained_snapshots")
def set_retained_snapshots(call: Call, self: str, value: int) -> None:
    """How many snapshots of each VM are kept, 1 to 10. Raises INVALID_VALUE."""
    row = call.db.get(VMSS, self)
    schedules.assert_retained(value)
    row.retained_snapshots = value


@message("VMSS.set_type")
def set_type(call: Call, self: str, value: str) -> None:
    """Raises VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED [vm, reason]."""
    row = call.db.get(VMSS, self)
    _assert_type(call.db, value, row.VMs)
    row.type = value


@message("VMSS.set_last_run_time")
def set_last_run_time(call: Call, self: str, value: str) -> None:
    call.db.get(VMSS, self).last_run_time = value


def _assert_type(db: Database, kind: str, vms: tuple[str, ...]) -> None:
    if kind == "snapshot_with_quiesce":
        for vm in vms:
            raise _no_quiescing(db.get(VM, vm))


def _no_quiescing(vm: VM) -> Failure:
    """No guest can be quiesced: the agents that could are gone, here as in the reference."""
    return Failure("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref, "There is no guest agent that quiesces")


@message("VM.set_snapshot_schedule")
def set_snapshot_schedule(call: Call, self: str, value: str) -> None:
    """Put a VM on a schedule, or with NULL on none.

    Raises INVALID_VALUE [schedule], VM_IS_TEMPLATE [vm], VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED [vm, reason].
    """
    vm = call.db.get(VM, self)
    with call.db.transaction():
        schedule = call.db.find(VMSS, value)
        if schedule is None and value not in (NULL, ""):
            raise Failure("INVALID_VALUE", value)
        if schedule is not None:
            if vm.is_control_domain:
                raise Failure("INVALID_VALUE", value)
            if vm.is_a_template:
                raise Failure("VM_IS_TEMPLATE", self)
            _assert_type(call.db, schedule.type, (self,))
        vm.snapshot_schedule = value or NULL


# --- what it does ----------------------------------------------------------------------------------------------------


@message("VMSS.snapshot_now")
def snapshot_now(call: Call, vmss: str) -> str:
    """Snapshot the schedule's VMs now, enabled or not; returns the new snapshots' uuids, a space between them.

    What goes wrong with one VM is told by a message about the schedule, and the others have their turn.
    """
    return " ".join(run(call.pipeline, call.db.get(VMSS, vmss)))


def run(pipeline: Pipeline, schedule: VMSS) -> list[str]:
    """One run of a schedule; returns the new snapshots' uuids. Two runs at a time are one too many: the second one
    is told of by a message VMSS_SNAPSHOT_LOCK_FAILED."""
    with _guard:
        free = schedule.ref not in _running
        _running.add(schedule.ref)
    if not free:
        alert(pipeline.db, schedule, "VMSS_SNAPSHOT_LOCK_FAILED", "The last run has not ended yet")
        return []
    try:
        return _run(pipeline, schedule)
    finally:
        _running.discard(schedule.ref)


def alert(db: Database, schedule: VMSS, name: str, body: str) -> None:
    """Leave a message about a schedule, with the priority that this kind of message has."""
    tell(db, name, model().message_types[name], "VMSS", schedule.uuid, body)


def _run(pipeline: Pipeline, schedule: VMSS) -> list[str]:
    db, started, made = pipeline.db, now(), []
    vms = [vm for vm in (db.find(VM, ref) for ref in schedule.VMs) if vm is not None]
    session = pipeline.sessions.begin(
        user=SCHEDULER, host=pipeline.machine.host_ref, origin=INTERNAL, originator="vmss", pool=True
    )
    try:
        for vm in vms:
            name = f"{schedule.name_label} {vm.name_label} {started}".strip()
            try:
                if schedule.type == "snapshot_with_quiesce":
                    raise _no_quiescing(vm)
                ref = pipeline.perform(INTERNAL, session, f"Async.VM.{schedule.type}", (vm.ref, name))
                made.append(db.get(VM, ref).uuid)
                _keep_newest(pipeline, vm, schedule.retained_snapshots)
            except Failure as failure:
                log.warning("Schedule %s, VM %s: %s", schedule.uuid, vm.uuid, failure)
                alert(db, schedule, "VMSS_SNAPSHOT_FAILED", f"{vm.name_label} ({vm.uuid}): {failure}")
    finally:
        pipeline.sessions.end(session)
    db.write(schedule, {"last_run_time": started})
    if len(made) == len(vms):
        alert(db, schedule, "VMSS_SNAPSHOT_SUCCEEDED", f"Snapshots: {len(made)}")
    return made


def _keep_newest(pipeline: Pipeline, vm: VM, number: int) -> None:
    """Destroy the oldest of a VM's scheduled snapshots beyond a number, with their disks."""
    db = pipeline.db
    taken = [row for row in (db.find(VM, ref) for ref in vm.snapshots) if row is not None]
    scheduled = sorted((row for row in taken if row.is_vmss_snapshot), key=lambda row: row.snapshot_time)
    for old in scheduled[:-number]:
        vbds = [db.get(VBD, ref) for ref in old.VBDs]
        disks = [vbd.VDI for vbd in vbds if vbd.type == "Disk"]
        if old.power_state == "Suspended":
            # A checkpoint: its memory goes, and its disks are no longer in use, not even in name.
            pipeline.perform_internal("VM.hard_shutdown", old.ref)
        # The disks first: should this be cut short, the snapshot is still the oldest when the next run looks.
        for vdi in (db.find(VDI, ref) for ref in (*disks, old.suspend_VDI)):
            if vdi is not None and set(vdi.VBDs) <= set(old.VBDs):
                pipeline.perform_internal("VDI.destroy", vdi.ref)
        pipeline.perform_internal("VM.destroy", old.ref)


def due(schedule: VMSS, after: float, moment: float) -> float | None:
    """When a run of the schedule was due between two moments, the second included; None where none was."""
    if not schedule.enabled or not schedule.VMs:
        return None
    last = schedules.last_due(schedule.frequency, schedule.schedule, moment)
    # A run in the future is one of a clock that was wrong: it does not count.
    was_done = at(last) <= schedule.last_run_time <= at(moment)
    return last if last > after and not was_done else None
