"""Reconcile: after a start the records are made to say what runs, whatever happened while this daemon was away.

Guests may have ended or lost a device by themselves, and a crash may have fallen between a step on the machine and the
record of it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence

from kronos.api.vm import booting, checkpointing, guest, passing, state
from kronos.api.vm.backing import port_of
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VIF, VM, VUSB
from kronos.dispatch.machine import Machine
from kronos.hypervisor.base import DeviceId, State, Status
from kronos.network.names import port_name
from kronos.rules.devices import disk_name, disk_number, usb_number
from kronos.system.commands import CommandFailed

log = logging.getLogger(__name__)


def reconcile(db: Database, machine: Machine) -> None:
    """Find the VMs that run on, and write down those that ended meanwhile."""
    here = [db.get(VM, ref) for ref in db.referrers("VM", "resident_on", machine.host_ref)]
    for row in here:
        if row.suspend_VDI != NULL:
            machine.hypervisor.abandon_suspend(row.uuid)
    checkpointing.let_go_on(db, machine)
    running = _running(machine, here)
    # What loaders made for starts that a crash cut short: guests that did begin have read it.
    shutil.rmtree(booting.place(machine), ignore_errors=True)
    for ref in db.referrers("VM", "scheduled_to_be_resident_on", machine.host_ref):
        # Whoever reserved memory here for it is no more.
        db.get(VM, ref).scheduled_to_be_resident_on = NULL
    _write_ended(db, machine, here, running)
    vms = [vm for status in running.values() if (vm := _adopted(db, machine, status)) is not None]
    passing.settle(db)
    for vm in vms:
        _compare_devices(db, machine, vm)
        guest.refresh_later(db, machine, vm)
    try:
        _compare_rules(db, machine, vms)
    except CommandFailed as error:
        # A daemon without root's rights has no such ports; where it is a defect, VMs must still be within reach.
        log.error("The rules of guests' ports are not seen to: %s", error)


def _running(machine: Machine, here: Sequence[VM]) -> dict[str, Status]:
    """What runs here. A guest that somebody who is no more has begun to start is waited for."""
    statuses = machine.hypervisor.statuses()
    paused = {row.uuid for row in here if row.power_state == "Paused"}
    starting = [each for each in statuses if each.state is State.PAUSED and each.uuid not in paused]
    for each in starting:
        machine.hypervisor.await_start(each.uuid)
    if starting:
        statuses = machine.hypervisor.statuses()
    return {status.uuid: status for status in statuses}


def _write_ended(db: Database, machine: Machine, here: Sequence[VM], running: Mapping[str, Status]) -> None:
    for row in here:
        if row.uuid in running or row.is_control_domain:
            continue
        image = db.find(VDI, row.suspend_VDI)
        if image is not None and _holds_memory(db, machine, image):
            log.info("VM %s was suspended by a call that a crash cut short", row.uuid)
            state.suspended(db, machine, row, image)
        elif row.uuid in machine.hypervisor.ended():
            log.info("VM %s ended while this daemon was away, and is kept to tell why", row.uuid)
        else:
            log.info("VM %s ended while this daemon was away", row.uuid)
            state.halted(db, machine, row)


def _holds_memory(db: Database, machine: Machine, image: VDI) -> bool:
    """Whether all of a guest's memory was written to its suspend image."""
    sr = db.find(SR, image.SR)
    driver = machine.storage.get(sr.uuid) if sr is not None else None
    if driver is None:
        return False
    try:
        return machine.hypervisor.is_saved(driver.volume_attach(image.uuid, False).path)
    except Failure as failure:
        log.warning("Suspend image %s: %s", image.uuid, failure)
        return False


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
        fields = {
            "power_state": "Paused" if paused else "Running",
            "domid": status.domid,
            "suspend_VDI": NULL,
        }
        db.write(row, fields)
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
        for vusb in (db.get(VUSB, ref) for ref in vm.VUSBs):
            vusb.currently_attached = DeviceId("usb", usb_number(vusb.uuid)) in present


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
