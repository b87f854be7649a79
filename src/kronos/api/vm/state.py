"""Power states: what the records say once a VM runs, halts or is suspended, whoever caused it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from kronos.api.vm import guest
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.database import Database
from kronos.db.records import (
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    Console,
    Host_metrics,
    Network,
    VM_guest_metrics,
    VM_metrics,
)
from kronos.db.records import Host as HostRow
from kronos.dispatch.machine import Machine
from kronos.network.names import port_name
from kronos.rules.surroundings import domain_type
from kronos.system import hardware

log = logging.getLogger(__name__)

INTERNAL = "is_host_internal_management_network"
STARTING = frozenset({"start", "start_on", "resume", "resume_on", "hard_reboot"})

_turn = threading.Lock()
_early: set[str] = set()


def starting(vm: VM) -> None:
    """A start begins: what was heard of an earlier run of this VM no longer counts."""
    with _turn:
        _early.discard(vm.uuid)


def started(
    db: Database, machine: Machine, vm: VM, domid: int, *, paused: bool, devices: bool = True
) -> None:
    """The VM runs here. If it ended before this could be written, it is Halted again at once."""
    host = db.get(HostRow, machine.host_ref)
    with _turn:
        with db.transaction():
            _write_started(db, machine, vm, domid, paused=paused)
            if devices:
                for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
                    vbd.currently_attached = True
                for vif in (db.get(VIF, ref) for ref in vm.VIFs):
                    vif.currently_attached = True
            _consoles(
                db, vm, host.address if machine.https_port == 443 else f"{host.address}:{machine.https_port}"
            )
        ended_early = vm.uuid in _early
        _early.discard(vm.uuid)
    if ended_early:
        halted(db, machine, vm)
    refresh_memory(db, machine)


def _write_started(db: Database, machine: Machine, vm: VM, domid: int, *, paused: bool) -> None:
    fields: dict[str, Any] = {
        "power_state": "Paused" if paused else "Running",
        "resident_on": machine.host_ref,
        "scheduled_to_be_resident_on": NULL,
        "domid": domid,
        "memory_target": vm.memory_dynamic_max,
        "last_boot_CPU_flags": {},
        "requires_reboot": False,
    }
    if vm.ha_restart_priority == "restart":
        fields["ha_always_run"] = True
    db.write(vm, fields)
    guest.born(db, vm)
    metrics = metrics_of(db, vm)
    db.write(
        metrics,
        {
            "memory_actual": vm.memory_dynamic_max,
            "VCPUs_number": vm.VCPUs_at_startup,
            "start_time": now(),
            "last_updated": now(),
            "hvm": domain_type(db, vm) == "hvm",
            "current_domain_type": domain_type(db, vm),
            "state": (),
        },
    )


def metrics_of(db: Database, vm: VM) -> VM_metrics:
    """The VM's metrics record, made where a client created the VM without one."""
    row = db.find(VM_metrics, vm.metrics)
    if row is None:
        row = db.create(VM_metrics)
        vm.metrics = row.ref
    return row


def _consoles(db: Database, vm: VM, authority: str) -> None:
    """A screen and a serial line for a running VM, at addresses that clients can open."""
    present = {db.get(Console, ref).protocol: db.get(Console, ref) for ref in vm.consoles}
    for protocol in ("rfb", "vt100"):
        if protocol == "rfb" and vm.platform.get("vga") == "none":
            continue
        row = present.get(protocol) or db.create(Console, VM=vm.ref, protocol=protocol)
        location = f"https://{authority}/console?uuid={row.uuid}"
        db.write(row, {"location": location})


def heard_halted(db: Database, machine: Machine, vm: VM) -> None:
    """The hypervisor says that the VM is gone. While it is being started, the starter is told instead."""
    with _turn:
        if STARTING & set(vm.current_operations.values()):
            _early.add(vm.uuid)
            return
    halted(db, machine, vm)


def halted(db: Database, machine: Machine, vm: VM) -> None:
    """The VM is gone: its records say so, and what it used is free. Harmless when it was Halted before."""
    with db.transaction():
        if vm.power_state == "Halted" or vm.is_a_template or vm.is_a_snapshot:
            return
        disks = _attached_disks(db, vm)
        for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
            db.write(vbd, {"currently_attached": False, "current_operations": {}})
        taps = interfaces_of(db, vm)
        for vif in (db.get(VIF, ref) for ref in vm.VIFs):
            db.write(vif, {"currently_attached": False, "current_operations": {}})
        _forget_run(db, vm, "Halted")
    release(machine, disks, taps)
    take_down(db, machine, vm)
    refresh_memory(db, machine)


def suspended(db: Database, machine: Machine, vm: VM) -> None:
    """The VM's memory is in its suspend VDI. Its devices stay attached in name, as XenAPI has it."""
    with db.transaction():
        disks, taps = _attached_disks(db, vm), interfaces_of(db, vm)
        _forget_run(db, vm, "Suspended")
    release(machine, disks, taps)
    take_down(db, machine, vm)
    refresh_memory(db, machine)


def _forget_run(db: Database, vm: VM, state: str) -> None:
    metrics = db.find(VM_guest_metrics, vm.guest_metrics)
    fields: dict[str, Any] = {
        "power_state": state,
        "resident_on": NULL,
        "scheduled_to_be_resident_on": NULL,
        "domid": -1,
        "guest_metrics": NULL,
        "requires_reboot": False,
        "pending_guidances": (),
    }
    db.write(vm, fields)
    if metrics is not None:
        db.delete(metrics)
    for console in (db.get(Console, ref) for ref in vm.consoles):
        db.delete(console)
    db.write(metrics_of(db, vm), {"memory_actual": 0, "VCPUs_number": 0, "last_updated": now()})


def _attached_disks(db: Database, vm: VM) -> list[tuple[str, str]]:
    """SR uuid and VDI uuid of every disk that the VM has open and no other VM has."""
    found = []
    for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
        vdi = db.find(VDI, vbd.VDI)
        if vbd.currently_attached and vdi is not None and not open_elsewhere(db, vdi, vm):
            found.append((db.get(SR, vdi.SR).uuid, vdi.uuid))
    return found


def open_elsewhere(db: Database, vdi: VDI, vm: VM) -> bool:
    """Does another live VM have this disk open? A sharable disk, or a CD in several drives."""
    for vbd in (db.get(VBD, ref) for ref in vdi.VBDs):
        other = db.find(VM, vbd.VM)
        if other is None or other is vm or not vbd.currently_attached:
            continue
        if other.power_state in ("Running", "Paused"):
            return True
    return False


def interfaces_of(db: Database, vm: VM) -> list[str]:
    """The host's ends of the VM's network interfaces."""
    return [port_name(vm.uuid, int(db.get(VIF, ref).device)) for ref in vm.VIFs]


def release(machine: Machine, disks: list[tuple[str, str]], taps: list[str]) -> None:
    """Let go of disks and ports that no running VM uses any more. What fails is logged: the VM is gone anyway."""
    for sr_uuid, vdi_uuid in disks:
        driver = machine.storage.get(sr_uuid)
        if driver is None:
            continue
        try:
            driver.volume_detach(vdi_uuid)
        except (Failure, OSError) as error:
            log.warning("Detaching VDI %s: %s", vdi_uuid, error)
    try:
        machine.network.unsecure(*taps)
    except Exception as error:  # noqa: BLE001  # nft's errors have no type of their own
        log.warning("Removing the rules of %s: %s", ", ".join(taps), error)


def take_down(db: Database, machine: Machine, vm: VM) -> None:
    """Remove the bridges that only this VM needed. One with a NIC in it stays, and so does the host-internal one."""
    for network in {db.find(Network, db.get(VIF, ref).network) for ref in vm.VIFs}:
        if network is None or not network.managed or INTERNAL in network.other_config:
            continue
        with machine.bridging:
            if _needed(db, network):
                continue
            try:
                if not any(b.name == network.bridge and b.members for b in machine.network.bridges()):
                    machine.network.destroy_bridge(network.bridge)
            except Exception as error:  # noqa: BLE001  # netlink's errors have no type of their own
                log.warning("Removing bridge %s: %s", network.bridge, error)


def _needed(db: Database, network: Network) -> bool:
    """Is a VM on this network, or about to be?"""
    vms = [db.find(VM, db.get(VIF, ref).VM) for ref in network.VIFs]
    return any(
        vm is not None and (vm.power_state in ("Running", "Paused") or vm.scheduled_to_be_resident_on != NULL)
        for vm in vms
    )


def refresh_memory(db: Database, machine: Machine) -> None:
    """Read the host's free memory again: after each VM that comes or goes, so that nothing has to poll."""
    metrics = db.find(Host_metrics, db.get(HostRow, machine.host_ref).metrics)
    if metrics is not None:
        memory = hardware.memory()
        db.write(
            metrics, {"memory_free": memory.available, "memory_total": memory.total, "last_updated": now()}
        )
