"""network: a bridge of each host that VMs and NICs join."""

from __future__ import annotations

from typing import Any

from kronos.api import blob
from kronos.api.vm.backing import bring_up, bring_up_networks
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PIF, VIF, VM, Host, Network, VIF_metrics
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.registry import message
from kronos.network.names import check_bridge, check_mtu, invalid

# Bridges of these names are the toolstack's own, or would be taken for guests' ports.
_RESERVED = ("xen", "xapi", "vif", "tap", "eth")
_INTERNAL = "is_host_internal_management_network"
_CONFLICTS = {"nbd": "insecure_nbd", "insecure_nbd": "nbd"}


@message("network.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """A new network. Its bridge comes up on a host when a VM or a NIC joins it; `bridge` may be empty for a new name.

    Raises INVALID_VALUE [field, value] for a bridge or MTU that cannot be, BRIDGE_NAME_EXISTS [bridge].
    """
    fields = constructor_fields("network", {"other_config": {}} | args)
    db = call.db
    if fields["MTU"] <= 0:  # whoever has no opinion says so with it
        fields["MTU"] = 1500
    check_mtu(fields["MTU"])
    others = {bridge.name for bridge in call.machine.network.bridges()}
    with db.transaction():
        fields["bridge"] = _bridge(db, fields["bridge"], others, managed=fields["managed"])
        return db.create(Network, **fields).ref


def _bridge(db: Database, untrusted_name: str, others: set[str], *, managed: bool) -> str:
    """The bridge of a new network: as given, or the first xapi<n> that neither a network nor this host has."""
    taken = {row.bridge for row in db.all(Network)}
    if not untrusted_name and managed:
        number = 0
        while (name := f"xapi{number}") in taken | others:
            number += 1
        return name
    if managed and untrusted_name.startswith(_RESERVED):
        raise invalid("bridge", untrusted_name)
    name = check_bridge(untrusted_name)
    if name in taken:
        raise Failure("BRIDGE_NAME_EXISTS", name)
    return name


@message("network.destroy")
def destroy(call: Call, self: str) -> None:
    """Remove a network that no NIC and no running VM has joined, its bridge, and the interfaces that VMs have in it.

    Raises NETWORK_CONTAINS_VIF [vifs], NETWORK_CONTAINS_PIF [pifs], CANNOT_DESTROY_SYSTEM_NETWORK [network].
    """
    db = call.db
    row = db.get(Network, self)
    _check_unused(db, row)
    if _INTERNAL in row.other_config:
        raise Failure("CANNOT_DESTROY_SYSTEM_NETWORK", row.ref)
    if row.managed:
        call.machine.network.destroy_bridge(row.bridge)
    with db.transaction():
        # Somebody may have joined meanwhile; the bridge comes back when they need it.
        _check_unused(db, row)
        for vif in [db.get(VIF, ref) for ref in row.VIFs]:
            metrics = db.find(VIF_metrics, vif.metrics)
            if metrics is not None:
                db.delete(metrics)
            db.delete(vif)
        blobs = blob.forget(db, row)
        db.delete(row)
    blob.remove(call.machine, blobs)


def _check_unused(db: Database, row: Network) -> None:
    joined = [vif.ref for vif in (db.get(VIF, ref) for ref in row.VIFs) if _is_joined(db, vif)]
    if joined:
        raise Failure("NETWORK_CONTAINS_VIF", *joined)
    if row.PIFs:
        raise Failure("NETWORK_CONTAINS_PIF", *row.PIFs)


def _is_joined(db: Database, vif: VIF) -> bool:
    vm = db.find(VM, vif.VM)
    # Of a VM on its way up the records say nothing yet.
    on_its_way = vm is not None and vm.scheduled_to_be_resident_on != NULL
    return vif.currently_attached or vif.reserved or bool(vif.current_operations) or on_its_way


@message("network.pool_introduce")
def pool_introduce(
    call: Call,
    name_label: str,
    name_description: str,
    mtu: int,
    other_config: dict[str, str],
    bridge: str,
    managed: bool,
    purpose: tuple[str, ...],
) -> str:
    """A record for a network as another host of the pool has it."""
    row = call.db.create(
        Network,
        name_label=name_label,
        name_description=name_description,
        MTU=mtu,
        other_config=other_config,
        bridge=check_bridge(bridge),
        managed=managed,
        purpose=purpose,
    )
    return row.ref


# --- on a host -------------------------------------------------------------------------------------------------------


@message("network.attach", holds="attaching")
def attach(call: Call, network: str, host: str) -> None:
    """Bring a network's bridge up on a host."""
    _check_here(call, host)
    bring_up(call, call.db.get(Network, network))


@message("network.attach_for_vm")
def attach_for_vm(call: Call, host: str, vm: str) -> None:
    """Bring the bridges of all of a VM's networks up on a host."""
    _check_here(call, host)
    bring_up_networks(call, call.db.get(VM, vm))


@message("network.detach_for_vm")
def detach_for_vm(call: Call, host: str, vm: str) -> None:
    """Take the bridges of a VM's networks down on a host where nothing else uses them."""
    _check_here(call, host)
    db = call.db
    vifs = [db.get(VIF, ref) for ref in db.get(VM, vm).VIFs]
    for network in dict.fromkeys(db.get(Network, vif.network) for vif in vifs):
        if network.managed and not _used(db, network, host):
            call.machine.network.destroy_bridge(network.bridge)


def _used(db: Database, network: Network, host: str) -> bool:
    if any(db.get(PIF, ref).host == host for ref in network.PIFs):
        return True
    return any(db.get(VIF, ref).currently_attached for ref in network.VIFs)


def _check_here(call: Call, host: str) -> None:
    row = call.db.get(Host, host)
    if row.ref != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", row.ref)


# --- fields ----------------------------------------------------------------------------------------------------------


@message("network.set_default_locking_mode")
def set_default_locking_mode(call: Call, network: str, value: str) -> None:
    """What VIFs let through that leave it to their network. Raises VIF_IN_USE [network, vif] while one is plugged."""
    db = call.db
    with db.transaction():
        row = db.get(Network, network)
        for ref in row.VIFs:
            if db.get(VIF, ref).currently_attached:
                raise Failure("VIF_IN_USE", row.ref, ref)
        row.default_locking_mode = value


@message("network.add_purpose")
def add_purpose(call: Call, self: str, value: str) -> None:
    """Say what a network is for. Raises NETWORK_INCOMPATIBLE_PURPOSES [new, conflicting] if the pool has the other."""
    db = call.db
    with db.transaction():
        row = db.get(Network, self)
        conflict = _CONFLICTS[value]
        if any(conflict in each.purpose for each in db.all(Network)):
            raise Failure("NETWORK_INCOMPATIBLE_PURPOSES", value, conflict)
        if value not in row.purpose:
            row.purpose = (*row.purpose, value)


@message("network.remove_purpose")
def remove_purpose(call: Call, self: str, value: str) -> None:
    """The network is no longer for that; harmless when it never was."""
    with call.db.transaction():
        row = call.db.get(Network, self)
        row.purpose = tuple(each for each in row.purpose if each != value)
