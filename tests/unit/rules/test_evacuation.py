"""To which other host each VM of a host can move."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import Host_metrics
from kronos.rules.evacuation import plan

GIB = 1 << 30
FEATURES = {"feature-suspend": "1", "feature-shutdown": "1"}


def running(world, **fields):
    vm = world.vm("Running", **fields)
    world.agent(vm, other=FEATURES)
    return vm


def planned(world):
    found = plan(world.db, world.host)
    return {vm: each.description if isinstance(each, Failure) else each for vm, each in found.items()}


def test_a_pool_of_one_host_has_no_other(world):
    vm = running(world)
    world.vm("Running", is_control_domain=True)
    world.vm("Halted")
    assert planned(world) == {vm.ref: ["NO_HOSTS_AVAILABLE", vm.ref]}


def test_a_disabled_host_takes_none(world):
    world.new_host(enabled=False)
    vm = running(world)
    assert planned(world) == {vm.ref: ["NO_HOSTS_AVAILABLE", vm.ref]}


def test_vms_are_spread_over_the_hosts_that_have_room(world):
    others = [world.new_host(), world.new_host()]
    vms = [running(world), running(world)]
    assert planned(world).keys() == {vm.ref for vm in vms}
    assert set(planned(world).values()) == {other.ref for other in others}


def test_what_keeps_a_vm_from_every_other_host_is_told(world):
    world.new_host()
    vm = running(world)
    world.vbd(vm, world.vdi())  # on an SR that this host alone has
    assert planned(world) == {vm.ref: ["VM_REQUIRES_SR", vm.ref, world.sr.ref]}


def test_a_vm_that_is_busy_cannot_move(world):
    world.new_host()
    vm = running(world, current_operations={"OpaqueRef:task": "snapshot"})
    assert planned(world)[vm.ref][0] == "OTHER_OPERATION_IN_PROGRESS"


def test_a_host_is_not_promised_more_than_it_has(world):
    small = world.new_host()
    metrics = world.db.get(Host_metrics, small.metrics)
    world.db.write(metrics, {"memory_total": 4 * GIB, "memory_free": 4 * GIB})
    memory = {f"memory_{name}": 2 * GIB for name in ("static_max", "dynamic_max", "dynamic_min")}
    vms = [running(world, **memory), running(world, **memory)]
    found = planned(world)
    (left,) = (vm for vm in vms if found[vm.ref] != small.ref)
    assert found[left.ref] == ["HOST_NOT_ENOUGH_FREE_MEMORY", left.ref]
