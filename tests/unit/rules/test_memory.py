from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.db.records import Host_metrics
from kronos.rules import memory
from kronos.rules.memory import MIB, Limits

GIB = 1 << 30
size = st.integers(0, 64)


@given(size, size, size, size)
def test_limits_to_start_with_are_always_in_order_or_refused(static_min, low, high, static_max):
    limits = Limits(static_min, low, high, static_max)
    try:
        found = limits.coerced()
    except Failure as failure:
        assert failure.description == ["MEMORY_CONSTRAINT_VIOLATION"]
        assert static_min > static_max or low > high
    else:
        assert found.static_min <= found.dynamic_min <= found.dynamic_max <= found.static_max
        assert (found.static_min, found.static_max) == (static_min, static_max)


@given(st.lists(size, min_size=4, max_size=4))
def test_limits_that_are_in_order_stay_as_they_are(sizes):
    limits = Limits(*sorted(sizes))
    assert limits.coerced() == limits


def test_a_client_may_set_limits_in_order_only(world):
    vm = world.vm()
    Limits(1, 2, 3, 4).assert_valid(vm)
    with pytest.raises(Failure) as caught:
        Limits(1, 3, 2, 4).assert_valid(vm)
    assert caught.value.description == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"is_control_domain": True}, "control domain"), ({"platform": {"nested-virt": "true"}}, "nested virt")],
)
def test_memory_that_cannot_change_is_pinned_to_its_maximum(world, fields, reason):
    vm = world.vm(**fields)
    Limits(1, 4, 4, 4).assert_valid(vm)
    with pytest.raises(Failure) as caught:
        Limits(1, 2, 4, 4).assert_valid(vm)
    assert caught.value.description == ["MEMORY_CONSTRAINT_VIOLATION_MAXPIN", reason]


def test_xen_keeps_shadow_memory_and_a_shim_as_xenserver_counts_them(world):
    """Worked out by hand: 256 pages a processor and 2 for each MiB are 10 MiB of shadow; 76 pages make 1 MiB."""
    vm = world.vm(memory_static_max=GIB, VCPUs_max=2)
    assert memory.overhead(vm, "XEN", "hvm") == (1 + 1 + 10 + 1) * MIB
    assert memory.overhead(vm, "XEN", "pv") == (1 + 10 + 1) * MIB
    assert memory.overhead(vm, "XEN", "pv_in_pvh") == (1 + 1 + 10 + 1 + 23 + 1024 // 90) * MIB


def test_the_shadow_multiplier_counts_for_hvm_guests(world):
    vm = world.vm(memory_static_max=GIB, VCPUs_max=2, HVM_shadow_multiplier=4.0)
    assert memory.overhead(vm, "XEN", "hvm") == (1 + 1 + 40 + 1) * MIB
    assert memory.overhead(vm, "XEN", "pv") == (1 + 10 + 1) * MIB


def test_qemus_own_memory_grows_with_the_guest(world):
    small, big = world.vm(memory_static_max=GIB), world.vm(memory_static_max=64 * GIB)
    assert memory.overhead(small, "KVM", "hvm") < 64 * MIB
    assert memory.overhead(big, "KVM", "hvm") > 256 * MIB


def test_a_host_has_left_what_its_vms_were_not_promised(world):
    before = memory.free(world.db, world.host)
    vm = world.vm("Running")
    assert before - memory.free(world.db, world.host) == GIB + memory.overhead(vm, "KVM", "hvm")


def test_a_vm_counts_as_small_as_the_policy_says(world):
    world.vm("Running")
    least, most = memory.free(world.db, world.host, memory.dynamic_min), memory.free(world.db, world.host)
    assert least - most == GIB // 2


def test_a_vm_that_is_about_to_start_counts_but_not_for_itself(world):
    before = memory.free(world.db, world.host)
    vm = world.vm(scheduled_to_be_resident_on=world.host.ref)
    assert memory.free(world.db, world.host) < before
    assert memory.free(world.db, world.host, ignoring=vm.ref) == before


def test_a_vm_that_migrates_within_its_host_counts_once(world):
    vm = world.vm("Running")
    once = memory.free(world.db, world.host)
    vm.scheduled_to_be_resident_on = world.host.ref
    assert memory.free(world.db, world.host) == once


def test_what_other_programs_use_is_not_free_either(world):
    world.db.get(Host_metrics, world.host.metrics).memory_free = 3 * GIB
    assert memory.free(world.db, world.host) == 3 * GIB


def test_the_control_domain_counts_by_what_the_host_reports(world):
    vm = world.vm("Running", is_control_domain=True, memory_dynamic_max=16 * GIB, memory_static_max=16 * GIB)
    world.host.control_domain = vm.ref
    assert memory.free(world.db, world.host) == 16 * GIB


def test_on_xen_the_control_domains_memory_is_not_for_others(world):
    world.host.software_version = {"hypervisor": "XEN"}
    own = {"memory_dynamic_min": 2 * GIB, "memory_dynamic_max": 2 * GIB, "memory_static_max": 2 * GIB}
    world.host.control_domain = world.vm("Running", is_control_domain=True, **own).ref
    world.host.memory_overhead = GIB
    assert memory.free(world.db, world.host) == 13 * GIB


def test_a_host_that_promised_too_much_has_nothing_left(world):
    world.vm("Running", memory_static_max=64 * GIB, memory_dynamic_max=64 * GIB)
    assert memory.free(world.db, world.host) == 0


def test_a_host_without_metrics_has_nothing_to_give(world):
    world.host.metrics = "OpaqueRef:NULL"
    assert memory.free(world.db, world.host) == 0
