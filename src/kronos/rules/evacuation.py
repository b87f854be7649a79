"""Evacuation: to which other host each VM of a host can move, or what keeps it."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import VM, Host
from kronos.rules import memory, operations, placement


def residents(db: Database, host: Host) -> list[VM]:
    """The VMs that run on a host, its control domain left out, in the order of their uuids."""
    vms = [db.get(VM, ref) for ref in db.referrers("VM", "resident_on", host.ref)]
    return sorted((vm for vm in vms if not vm.is_control_domain), key=lambda vm: vm.uuid)


def plan(db: Database, host: Host) -> dict[str, str | Failure]:
    """For each VM on the host the one that it is to move to, or why it cannot: NO_HOSTS_AVAILABLE [vm] where no other
    host takes VMs, what VM.pool_migrate would refuse, what keeps it from each of the others, and
    HOST_NOT_ENOUGH_FREE_MEMORY [vm] where only room is missing."""
    targets = [each for each in db.all(Host) if each.enabled and each.ref != host.ref]
    room = {each.ref: memory.free(db, each) for each in targets}
    found: dict[str, str | Failure] = {}
    # The largest first: small ones fit into what is left.
    for vm in sorted(residents(db, host), key=lambda vm: -memory.needed(db, vm, host)):
        found[vm.ref] = _target(db, vm, targets, room)
    return found


def _target(db: Database, vm: VM, targets: list[Host], room: dict[str, int]) -> str | Failure:
    if not targets:
        return Failure("NO_HOSTS_AVAILABLE", vm.ref)
    refusal = operations.refusal(db, vm, "pool_migrate")
    if refusal is not None:
        return refusal
    fitting: list[Host] = []
    for target in targets:
        try:
            placement.assert_can_boot_here(db, vm, target, with_memory=False)
        except Failure as failure:
            refusal = failure
        else:
            fitting.append(target)
    if not fitting:
        assert refusal is not None
        return refusal
    best = max(fitting, key=lambda target: room[target.ref])
    needed = memory.needed(db, vm, best)
    if room[best.ref] < needed:
        return Failure("HOST_NOT_ENOUGH_FREE_MEMORY", vm.ref)
    room[best.ref] -= needed
    return best.ref
