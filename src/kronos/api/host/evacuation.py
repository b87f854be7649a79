"""host: moving its VMs to the pool's other hosts, and what keeps them."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.together import all_of
from kronos.rules import evacuation

_AT_ONCE = 10


@message("host.assert_can_evacuate")
def assert_can_evacuate(call: Call, host: str) -> None:
    """Raises CANNOT_EVACUATE_HOST [errors]: one for each VM that cannot move, its parts joined by commas, and these by
    bars."""
    kept = _kept(call, host)
    if kept:
        raise Failure("CANNOT_EVACUATE_HOST", "|".join(",".join(error) for error in kept.values()))


@message("host.get_vms_which_prevent_evacuation")
def get_vms_which_prevent_evacuation(call: Call, self: str) -> dict[str, tuple[str, ...]]:
    """The VMs that cannot move, and why: the error's code and its parameters."""
    return _kept(call, self)


@message("host.get_uncooperative_resident_VMs")
def get_uncooperative_resident_VMs(call: Call, self: str) -> tuple[str, ...]:
    """VMs that do not give back memory: none is known as such any more."""
    call.db.get(Host, self)
    return ()


def _kept(call: Call, host: str) -> dict[str, tuple[str, ...]]:
    plan = evacuation.plan(call.db, call.db.get(Host, host))
    return {vm: tuple(found.description) for vm, found in plan.items() if isinstance(found, Failure)}


@message("host.evacuate", holds="evacuate")
def evacuate(call: Call, host: str, network: str, evacuate_batch_size: int) -> None:
    """Move all VMs to other hosts, some at a time, or none of them where one cannot move.

    Raises what keeps the first such VM: NO_HOSTS_AVAILABLE [vm] in a pool of one host.
    """
    plan = evacuation.plan(call.db, call.db.get(Host, host))
    for found in plan.values():
        if isinstance(found, Failure):
            raise found
    options = {"live": "true"} | ({"network": network} if call.db.rows.get(network) else {})
    moves = [(vm, str(target), options) for vm, target in plan.items()]
    size = evacuate_batch_size if evacuate_batch_size > 0 else _AT_ONCE
    for start in range(0, len(moves), size):
        for outcome in all_of(call, "VM.pool_migrate", moves[start : start + size]):
            if isinstance(outcome, Failure) and outcome.code != "VM_BAD_POWER_STATE":
                raise outcome
        call.task.progress(min(1.0, (start + size) / len(moves)))


@message("host.retrieve_wlb_evacuate_recommendations")
def retrieve_wlb_evacuate_recommendations(call: Call, self: str) -> dict[str, tuple[str, ...]]:
    """What workload balancing advises. Raises WLB_NOT_INITIALIZED: there is no such server."""
    call.db.get(Host, self)
    raise Failure("WLB_NOT_INITIALIZED")
