"""Guest metrics: what the agent inside a guest tells of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.database import Database
from kronos.db.records import VIF, VM, Network, VM_guest_metrics
from kronos.dispatch.appointments import Appointments
from kronos.dispatch.machine import Machine
from kronos.hypervisor.base import GuestInfo
from kronos.rules import guest_metrics

log = logging.getLogger(__name__)

# An agent answers before the guest has its addresses: look again after these seconds, then leave it alone.
LOOKS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)

# An agent that hangs takes seconds, and a thousand guests may be asked at once after a start of the daemon.
_appointments = Appointments("guest", hands=8)


# What needs no help from inside the guest here: the power button, PCI hot plug and saving its memory.
ABILITIES = dict.fromkeys(("feature-suspend", "feature-shutdown", "feature-reboot", "feature-poweroff"), "1")

QEMU_AGENT = {"major": "1", "minor": "0", "micro": "0", "build": "0"}
"""The version of drivers that a guest with QEMU's agent is said to have."""


def born(db: Database, vm: VM) -> None:
    """A run begins: nothing is known of the inside, but what the virtual hardware alone can do."""
    old = db.find(VM_guest_metrics, vm.guest_metrics)
    if old is not None:
        db.delete(old)
    row = db.create(
        VM_guest_metrics,
        other=ABILITIES,
        can_use_hotplug_vbd="yes",
        can_use_hotplug_vif="yes",
        live=False,
        last_updated=now(),
    )
    vm.guest_metrics = row.ref


def refresh_later(db: Database, machine: Machine, vm: VM) -> None:
    """Ask the agent now and a few times more until every interface has an address, without waiting for it here."""
    _appointments.make(LOOKS[0], _look, db, machine, vm, vm.domid, 1)


def goes_on(db: Database, machine: Machine, vm: VM) -> None:
    """A guest is resumed: it does not know, so it says nothing again. What it said over its channel is kept; its agent
    is asked, since the news that it is there came before the VM was Running, if at all."""
    heard(db, vm, vm.channel_data)
    refresh_later(db, machine, vm)


def _look(db: Database, machine: Machine, vm: VM, domid: int, nth: int) -> None:
    """Ask the agent of one run of a VM for the nth time, and make an appointment for the next time if need be."""
    if vm.ref not in db.rows or vm.power_state not in ("Running", "Paused") or vm.domid != domid:
        return
    try:
        tree = machine.hypervisor.guest_tree(vm.uuid)
        if tree is not None:
            heard(db, vm, tree)
            return  # each change of it is told
        write(db, vm, machine.hypervisor.guest_info(vm.uuid))
        if _is_addressed(db, vm):
            return
    except Failure as failure:
        log.debug("Agent of %s: %s", vm.uuid, failure)
    if nth < len(LOOKS):
        _appointments.make(LOOKS[nth], _look, db, machine, vm, domid, nth + 1)


def _is_addressed(db: Database, vm: VM) -> bool:
    """Whether all interfaces have addresses; the guest's own, such as its loopback, do not count."""
    row = db.find(VM_guest_metrics, vm.guest_metrics)
    plugged = [vif.device for vif in (db.get(VIF, ref) for ref in vm.VIFs) if vif.currently_attached]
    return row is None or all(f"{device}/ip" in row.networks for device in plugged)


def write(db: Database, vm: VM, info: GuestInfo) -> None:
    """Put what an agent told into the VM's guest metrics record."""
    with db.transaction():  # interfaces may come and go, and other guests tell their addresses
        row = db.find(VM_guest_metrics, vm.guest_metrics)
        if row is not None:
            db.write(
                row,
                {
                    "os_version": dict(info.os),
                    "networks": _addresses(db, vm, info),
                    "live": True,
                    "last_updated": now(),
                    "PV_drivers_detected": True,
                    "PV_drivers_up_to_date": True,
                    "PV_drivers_version": QEMU_AGENT,
                },
            )


def heard(db: Database, vm: VM, tree: Mapping[str, str]) -> None:
    """Put what an agent wrote in xenstore's layout, wherever it did, into the VM's guest metrics record; QEMU's agent,
    where there is one, knows better."""
    fields = guest_metrics.fields(tree)
    if fields is None:
        return
    with db.transaction():
        row = db.find(VM_guest_metrics, vm.guest_metrics)
        if row is None or (row.live and row.PV_drivers_version == QEMU_AGENT):
            return
        # What the virtual hardware can do needs no word of the guest's.
        fields["other"] = {**ABILITIES, **fields["other"]}
        for name in ("can_use_hotplug_vbd", "can_use_hotplug_vif"):
            if fields[name] == "unspecified":
                del fields[name]
        db.write(row, {**fields, "last_updated": now()})
        for vif in (db.get(VIF, ref) for ref in vm.VIFs):
            address = fields["networks"].get(f"{vif.device}/ip")
            if address is not None:
                _assign(db, vif, address)


def _addresses(db: Database, vm: VM, info: GuestInfo) -> dict[str, str]:
    """The guest's addresses by the names that clients look for; each VIF's network is told the first."""
    by_mac = {db.get(VIF, ref).MAC.lower(): db.get(VIF, ref) for ref in vm.VIFs}
    networks: dict[str, str] = {}
    for mac, addresses in info.networks.items():
        vif = by_mac.get(mac)
        if vif is None:
            continue
        four = [address for address in addresses if ":" not in address]
        six = [address for address in addresses if ":" in address]
        networks |= {f"{vif.device}/ipv4/{i}": address for i, address in enumerate(four)}
        networks |= {f"{vif.device}/ipv6/{i}": address for i, address in enumerate(six)}
        if four:
            networks[f"{vif.device}/ip"] = four[0]
            _assign(db, vif, four[0])
    return networks


def _assign(db: Database, vif: VIF, address: str) -> None:
    network = db.find(Network, vif.network)
    if network is not None and network.assigned_ips.get(vif.ref) != address:
        network.assigned_ips = network.assigned_ips | {vif.ref: address}


def forget(db: Database, vm: VM) -> None:
    """The agent is gone, and with it what is known of the inside."""
    with db.transaction():
        if vm.guest_metrics != NULL:
            born(db, vm)
