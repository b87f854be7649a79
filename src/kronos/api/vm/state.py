"""Power states: what the records say once a VM runs, halts or is suspended, whoever caused it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any

from kronos.api.vm import firmware, guest, passing
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.database import Database
from kronos.db.records import (
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    VUSB,
    Console,
    Host_metrics,
    Network,
    VM_guest_metrics,
    VM_metrics,
)
from kronos.db.records import Host as HostRow
from kronos.dispatch.machine import Machine
from kronos.hypervisor.turns import Turns
from kronos.network.names import port_name
from kronos.rules import boot
from kronos.rules.devices import disk_name, disk_number
from kronos.rules.surroundings import domain_type, is_true
from kronos.system import hardware

log = logging.getLogger(__name__)

INTERNAL = "is_host_internal_management_network"
LIVE = ("Running", "Paused")
COMES_BACK = ("clean_reboot", "hard_reboot", "pool_migrate", "checkpoint")

_turns = Turns()


def started(
    db: Database, machine: Machine, vm: VM, domid: int, *, paused: bool, devices: Iterable[str] = ()
) -> None:
    """The VM runs here, with these VBDs and VIFs. If it ended before this could be written, it is Halted again."""
    resumed = vm.power_state == "Suspended"
    with _turns.of(vm.uuid), db.transaction():
        _write_started(db, machine, vm, domid, paused=paused)
        passing.started(db, vm)
        for row in (db.rows.get(ref) for ref in devices):
            if isinstance(row, VBD | VIF | VUSB):
                row.currently_attached = True
            if isinstance(row, VBD) and (number := disk_number(row.userdevice)) is not None:
                row.device = disk_name(number)
        _consoles(db, vm, _authority(db, machine))
    if not _runs(machine, vm, otherwise=True):
        halted(db, machine, vm)
    elif resumed:
        guest.goes_on(db, machine, vm)
    refresh_memory(db, machine)


def _write_started(db: Database, machine: Machine, vm: VM, domid: int, *, paused: bool) -> None:
    fields: dict[str, Any] = {
        "power_state": "Paused" if paused else "Running",
        "resident_on": machine.host_ref,
        "scheduled_to_be_resident_on": NULL,
        "suspend_VDI": NULL,
        "domid": domid,
        "memory_target": vm.memory_dynamic_max,
        "last_boot_CPU_flags": {},
        "requires_reboot": False,
    }
    if vm.ha_restart_priority == "restart":
        fields["ha_always_run"] = True
    # A resumed guest goes on with the boot that it had, on the machine that it knows.
    booted = vm.power_state == "Halted"
    advanced = boot.advanced(db, vm) if booted else []
    asked = {"nomigrate": "nomigrate", "nested_virt": "nested-virt"} if booted else {}
    machines = {name: is_true(vm.platform.get(key)) for name, key in asked.items()}
    for row, changes in [(vm, fields), *advanced]:
        db.write(row, changes)
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
            **machines,
        },
    )


def metrics_of(db: Database, vm: VM) -> VM_metrics:
    """The VM's metrics record, made where a client created the VM without one."""
    row = db.find(VM_metrics, vm.metrics)
    if row is None:
        row = db.create(VM_metrics)
        vm.metrics = row.ref
    return row


def place_consoles(db: Database, machine: Machine) -> None:
    """Say where the consoles of this host's VMs are, at the address that it has by now."""
    for vm in db.all(VM):
        if vm.consoles and vm.resident_on == machine.host_ref and not vm.is_control_domain:
            _consoles(db, vm, _authority(db, machine))


def _authority(db: Database, machine: Machine) -> str:
    address = db.get(HostRow, machine.host_ref).address
    return address if machine.https_port == 443 else f"{address}:{machine.https_port}"


def _consoles(db: Database, vm: VM, authority: str) -> None:
    """A screen and a serial line for a running VM, at addresses that clients can open."""
    present = {db.get(Console, ref).protocol: db.get(Console, ref) for ref in vm.consoles}
    for protocol in ("rfb", "vt100"):
        if protocol == "rfb" and vm.platform.get("vga") == "none":
            continue
        row = present.get(protocol) or db.create(Console, VM=vm.ref, protocol=protocol)
        location = f"https://{authority}/console?uuid={row.uuid}"
        db.write(row, {"location": location})


def look(db: Database, machine: Machine, vm: VM) -> None:
    """Write down whether a live VM runs or is paused now. News of that may be older than what a call has done since, so
    nobody writes what they say, or what was asked for, but what is. Raises INTERNAL_ERROR."""
    with _turns.of(vm.uuid):
        seen = machine.hypervisor.state(vm.uuid)
        if seen is not None and vm.power_state in LIVE:
            vm.power_state = seen.value


def heard_halted(db: Database, machine: Machine, vm: VM) -> bool:
    """Somebody says that the VM is gone; whether it is. It may be of an earlier run that they speak: what runs now is
    what counts."""
    if vm.power_state not in LIVE or _runs(machine, vm, otherwise=False):
        return False
    # Suspended it may be by now: reverted to a checkpoint, which begins with a power cut.
    return halted(db, machine, vm, LIVE, heard=True)


def _runs(machine: Machine, vm: VM, *, otherwise: bool) -> bool:
    """Does the VM run? `otherwise` is what to go by where the hypervisor cannot be asked."""
    try:
        return machine.hypervisor.runs(vm.uuid)
    except Failure as failure:
        log.warning("Whether VM %s runs: %s", vm.uuid, failure)
        return otherwise


def halted(
    db: Database,
    machine: Machine,
    vm: VM,
    states: Collection[str] = (*LIVE, "Suspended"),
    *,
    heard: bool = False,
) -> bool:
    """The VM is gone: what it used is let go, and then its records say so, if it was in one of these states. Whether.

    In this order, as the next start may come as soon as the records say Halted, and takes the same disks and ports.
    What was only `heard` is looked up once nobody else changes the VM: it may have been started again meanwhile.
    """
    with _turns.of(vm.uuid):
        if vm.ref not in db.rows or vm.power_state not in states:
            return False
        if heard and _runs(machine, vm, otherwise=False):
            return False
        kept = firmware.taken(machine, vm)
        if not vm.is_a_snapshot:  # a checkpoint's devices are attached in name only
            with db.transaction():
                disks, taps = _attached_disks(db, vm), interfaces_of(db, vm)
            release(machine, disks, taps)
        with db.transaction():
            for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
                db.write(vbd, {"currently_attached": False, "current_operations": {}})
            for vif in (db.get(VIF, ref) for ref in vm.VIFs):
                db.write(vif, {"currently_attached": False, "current_operations": {}})
            for vusb in (db.get(VUSB, ref) for ref in vm.VUSBs):
                db.write(vusb, {"currently_attached": False, "current_operations": {}})
            firmware.keep(db, vm, kept)
            _forget_run(db, vm, "Halted")
            passing.ended(db, vm)
    if not vm.is_a_snapshot:
        take_down(db, machine, vm)
        refresh_memory(db, machine)
    return True


def suspended(db: Database, machine: Machine, vm: VM, image: VDI) -> None:
    """The VM's memory is in its suspend VDI. Its devices stay attached in name, as XenAPI has it."""
    kept = firmware.taken(machine, vm)
    with db.transaction():
        disks, taps = _attached_disks(db, vm), interfaces_of(db, vm)
        firmware.keep(db, vm, kept)
        _forget_run(db, vm, "Suspended")
        vm.suspend_VDI = image.ref
    release(machine, [*disks, (db.get(SR, image.SR).uuid, image.uuid)], taps)
    take_down(db, machine, vm)
    refresh_memory(db, machine)


def device_gone(db: Database, machine: Machine, vm: VM, device: VBD | VIF | VUSB) -> None:
    """A device is gone from the guest, unless a call has it in hand that will say so: what was behind it is free."""
    disks: list[tuple[str, str]] = []
    taps: list[str] = []
    with db.transaction():
        if not device.currently_attached or device.current_operations:
            return
        if isinstance(device, VIF):
            taps = [port_name(vm.uuid, int(device.device))]
        elif isinstance(device, VBD):
            disks = _attached_disks(db, vm, (device.ref,))
        device.currently_attached = False
    release(machine, disks, taps)


def _forget_run(db: Database, vm: VM, state: str) -> None:
    metrics = db.find(VM_guest_metrics, vm.guest_metrics)
    # Its memory is its own while it reboots: another start is not to take it meanwhile.
    comes_back = any(operation in COMES_BACK for operation in vm.current_operations.values())
    fields: dict[str, Any] = {
        "power_state": state,
        "resident_on": NULL,
        "scheduled_to_be_resident_on": vm.scheduled_to_be_resident_on if comes_back else NULL,
        "domid": -1,
        "guest_metrics": NULL,
        "requires_reboot": False,
        "pending_guidances": (),
    }
    if state == "Halted":
        fields["suspend_VDI"] = NULL
    db.write(vm, fields)
    if metrics is not None:
        db.delete(metrics)
    for console in (db.get(Console, ref) for ref in vm.consoles):
        db.delete(console)
    db.write(metrics_of(db, vm), {"memory_actual": 0, "VCPUs_number": 0, "last_updated": now()})


def _attached_disks(db: Database, vm: VM, vbds: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """SR uuid and VDI uuid of every disk, or of those of `vbds`, that the VM has open and no other VM has."""
    found = []
    for vbd in (db.get(VBD, ref) for ref in (vm.VBDs if vbds is None else vbds)):
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
        if other.power_state in LIVE:
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
    for ref in reversed(network.VIFs):  # many VMs are most often shut down in their order
        vm = db.find(VM, db.get(VIF, ref).VM)
        if vm is not None and (vm.power_state in LIVE or vm.scheduled_to_be_resident_on != NULL):
            return True
    return False


def refresh_memory(db: Database, machine: Machine) -> None:
    """Read the host's free memory again: after each VM that comes or goes, so that nothing has to poll."""
    metrics = db.find(Host_metrics, db.get(HostRow, machine.host_ref).metrics)
    if metrics is None:
        return
    try:
        physical = machine.hypervisor.physical_memory()
    except Failure as failure:  # the VM has come or gone all the same
        log.warning("How much memory is free: %s", failure)
        return
    if physical is None:
        kernel = hardware.memory()
        total, free = kernel.total, kernel.available
    else:
        total, free = physical
    db.write(metrics, {"memory_free": free, "memory_total": total, "last_updated": now()})
