"""Which operations a VIF may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import PIF, VIF, VM, Network
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, in_progress
from kronos.rules.operations.plugging import PLUGGED, going_down, hot_plug, power_state
from kronos.rules.surroundings import domain_type, is_domain_zero

OPERATIONS = LISTED = enumerated("vif_operations")
EVERY = frozenset(OPERATIONS)


def obstacles(db: Database, vif: VIF, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it."""
    vm = db.find(VM, vif.VM)
    if vm is None:
        yield bar(EVERY, "HANDLE_INVALID", "VM", vif.VM)
        return
    if vif.current_operations:
        yield in_progress("VIF", vif.ref, vif.current_operations.items(), EVERY, always_braced=True)
    if is_domain_zero(db, vm):
        yield bar({"plug"}, "OPERATION_NOT_ALLOWED", "Control domain does not support hotplug")
    if _passed_through(db, vif):
        yield bar(PLUGGED, "OPERATION_NOT_ALLOWED", "Network SR-IOV VIF plug/unplug not allowed")
    yield power_state(vm, vif.ref, attached=vif.currently_attached or vif.reserved)
    yield from going_down(vm)
    if vm.power_state == "Running" and domain_type(db, vm) == "hvm":
        yield from hot_plug(db, vm, "VIF", PLUGGED)


def _passed_through(db: Database, vif: VIF) -> bool:
    """Whether the network is made of SR-IOV virtual functions; every PIF of a network is of one kind."""
    network = db.find(Network, vif.network)
    pifs = network.PIFs if network is not None else ()
    pif = db.find(PIF, pifs[0]) if pifs else None
    return pif is not None and bool(pif.sriov_logical_PIF_of)
