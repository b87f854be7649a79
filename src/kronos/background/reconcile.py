"""Reconcile: after a start the records are made to say what runs, whatever happened while this daemon was away.

Guests may have ended or lost a device by themselves, and a crash may have fallen between a step on the machine and the
record of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from kronos.api.vm import guest, state
from kronos.api.vm.backing import port_of
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import VBD, VIF, VM
from kronos.dispatch.machine import Machine
from kronos.hypervisor.base import DeviceId, State, Status
from kronos.network.names import port_name
from kronos.rules.devices import disk_name, disk_number
from kronos.system.commands import CommandFailed

log = logging.getLogger(__name__)


def reconcile(db: Database, machine: Machine) -> None:
    """Find the VMs that run on, and write down those that ended meanwhile."""
    running = {status.uuid: status for status in machine.hypervisor.statuses()}
    for ref in db.referrers("VM", "scheduled_to_be_resident_on", machine.host_ref):
        # Whoever reserved memory here for it is no more.
        db.get(VM, ref).scheduled_to_be_resident_on = NULL
    _write_ended(db, machine, running)
    vms = [vm for status in running.values() if (vm := _adopted(db, machine, status)) is not None]
    for vm in vms:
        _compare_devices(db, machine, vm)
        guest.refresh_later(db, machine, vm)
    try:
        _compare_rules(db, machine, vms)
    except CommandFailed as error:
        # A daemon without root's rights has no such ports; where it is a defect, VMs must still be within reach.
        log.error("The rules of guests' ports are not seen to: %s", error)


def _write_ended(db: Database, machine: Machine, running: Mapping[str, Status]) -> None:
    for row in [db.get(VM, ref) for ref in db.referrers("VM", "resident_on", machine.host_ref)]:
        if row.uuid not in running and not row.is_control_domain:
            log.info("VM %s ended while this daemon was away", row.uuid)
            state.halted(db, machine, row)


def _adopted(db: Database, machine: Machine, status: Status) -> VM | None:
    """The record of a domain that runs, brought up to date."""
    try:
        row = db.by_uuid(VM, status.uuid)
    except Failure:
        log.warning("Domain %s runs here and no VM record knows it; it is left alone", status.uuid)
        return None
    paused = status.state is State.PAUSED
    if row.power_state not in ("Running", "Paused"):
        log.info("VM %s was started by a call that a crash cut short", status.uuid)
        state.started(db, machine, row, status.domid, paused=paused)
    else:
        db.write(row, {"power_state": "Paused" if paused else "Running", "domid": status.domid})
    return row


def _compare_devices(db: Database, machine: Machine, vm: VM) -> None:
    """Which disks and interfaces the guest has: one may have come or gone just before a crash, or since."""
    try:
        present = machine.hypervisor.devices(vm.uuid)
    except Failure as failure:  # it has just ended, and the event that says so is on its way
        log.info("Devices of VM %s: %s", vm.uuid, failure)
        return
    with db.transaction():
        for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
            number = disk_number(vbd.userdevice)
            if number is not None:
                attached = DeviceId("disk", number) in present
                db.write(
                    vbd,
                    {"currently_attached": attached} | ({"device": disk_name(number)} if attached else {}),
                )
        for vif in (db.get(VIF, ref) for ref in vm.VIFs):
            vif.currently_attached = DeviceId("interface", int(vif.device)) in present


def _compare_rules(db: Database, machine: Machine, vms: Sequence[VM]) -> None:
    """What the ports of guests let through is what the records say, also where somebody flushed all rules.

    Ports of VMs that this database does not know are another daemon's.
    """
    vifs = [(vm, db.get(VIF, ref)) for vm in vms for ref in vm.VIFs]
    ports = [port_of(db, vm, vif) for vm, vif in vifs if vif.currently_attached]
    if ports:
        machine.network.secure(*ports)
    ours = {port_name(uuid, 0)[:-1] for uuid in db.values(VM, "uuid")}
    stale = {name for name in machine.network.secured() if name.rpartition(".")[0] + "." in ours}
    stale -= {port.device for port in ports}
    if stale:
        log.info("%d ports of guests that are gone still had rules", len(stale))
        machine.network.unsecure(*stale)
