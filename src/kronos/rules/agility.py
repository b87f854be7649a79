"""Agility: whether a VM could run on any host of the pool, which high availability asks of those that it protects."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.records import PBD, PIF, SR, VBD, VDI, VIF, VM, Host, Network


def obstacle(db: Database, vm: VM) -> Failure | None:
    """The first thing that ties a VM to its host: VM_HAS_VGPU, VM_HAS_VUSBS [vm], HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED
    [SR], HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED [network]."""
    if vm.VGPUs:
        return Failure("VM_HAS_VGPU", vm.ref)
    if vm.VUSBs:
        return Failure("VM_HAS_VUSBS", vm.ref)
    enabled = {host.ref for host in db.all(Host) if host.enabled}
    for vbd in (db.get(VBD, ref) for ref in vm.VBDs):
        vdi = db.find(VDI, vbd.VDI)
        if not vbd.empty and vdi is not None and not _is_shared(db, db.get(SR, vdi.SR), enabled):
            return Failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", vdi.SR)
    for vif in (db.get(VIF, ref) for ref in vm.VIFs):
        network = db.find(Network, vif.network)
        if network is not None and not _is_everywhere(db, network, enabled):
            return Failure("HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED", network.ref)
    return None


def _is_shared(db: Database, sr: SR, hosts: set[str]) -> bool:
    plugged = {pbd.host for pbd in (db.get(PBD, ref) for ref in sr.PBDs) if pbd.currently_attached}
    return sr.shared and hosts <= plugged


def _is_everywhere(db: Database, network: Network, hosts: set[str]) -> bool:
    """Every host has a NIC of its own on the network; one that is part of a bond does not count."""
    nics = (db.get(PIF, ref) for ref in network.PIFs)
    return hosts <= {nic.host for nic in nics if nic.bond_slave_of == NULL}
