"""Appliances: the order in which their VMs start and end, and what is told of those that do not."""

from __future__ import annotations

import threading

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.records import PBD, VM, Task, VM_appliance

MEMORY = ("static_min", "static_max", "dynamic_min", "dynamic_max")


@pytest.fixture
def appliance(host):
    record = {"name_label": "shop", "name_description": ""}
    return host.db.get(VM_appliance, host("VM_appliance.create", record))


def member(host, appliance, order=0, **fields: object) -> VM:
    memory = {f"memory_{name}": 64 << 20 for name in MEMORY}
    given = {"HVM_boot_policy": "BIOS order", "domain_type": "hvm", "VCPUs_max": 1, "VCPUs_at_startup": 1}
    return host.db.create(
        VM, name_label="vm", appliance=appliance.ref, order=order, **memory | given | fields
    )


@pytest.fixture
def order_of(host, monkeypatch):
    """The uuids of the VMs in the order in which the hypervisor starts and ends them."""
    seen: list[tuple[str, str]] = []
    for name in ("start", "destroy"):
        function = getattr(host.hypervisor, name)

        def noted(first, *rest, _function=function, _name=name, **named):
            seen.append((_name, getattr(first, "uuid", first)))
            return _function(first, *rest, **named)

        monkeypatch.setattr(host.hypervisor, name, noted)
    return lambda kind: [uuid for name, uuid in seen if name == kind]


def test_vms_start_from_the_lowest_order_and_end_from_the_highest(host, appliance, order_of):
    last, first = member(host, appliance, 5), member(host, appliance, 1)
    host("VM_appliance.start", appliance.ref, False)
    assert order_of("start") == [first.uuid, last.uuid]
    host("VM_appliance.hard_shutdown", appliance.ref)
    assert order_of("destroy") == [last.uuid, first.uuid]
    assert {first.power_state, last.power_state} == {"Halted"}


def test_vms_may_start_paused(host, appliance):
    vm = member(host, appliance)
    host("VM_appliance.start", appliance.ref, True)
    assert vm.power_state == "Paused"


def test_those_of_one_order_start_together(host, appliance, monkeypatch):
    meeting, start = threading.Barrier(2, timeout=60), host.hypervisor.start
    for _ in range(2):
        member(host, appliance)

    def met(*args, **named):
        meeting.wait()
        return start(*args, **named)

    monkeypatch.setattr(host.hypervisor, "start", met)
    host("VM_appliance.start", appliance.ref, False)
    assert {host.db.get(VM, ref).power_state for ref in appliance.VMs} == {"Running"}


def test_one_that_fails_is_named_and_the_others_start(host, appliance):
    broken = member(host, appliance, 0, memory_static_max=1 << 50, memory_dynamic_max=1 << 50)
    broken.memory_dynamic_min = broken.memory_static_min = 1 << 50
    good = member(host, appliance, 1)
    refused = host.refused("VM_appliance.start", appliance.ref, False)
    assert refused == ["OPERATION_PARTIALLY_FAILED", "VM_appliance.start", broken.ref]
    assert good.power_state == "Running"


def test_what_an_appliance_may_do_follows_its_vms(host, appliance):
    assert host.refused("VM_appliance.start", appliance.ref, False)[0] == "OPERATION_NOT_ALLOWED"
    member(host, appliance)
    assert appliance.allowed_operations == ("start",)
    host("VM_appliance.start", appliance.ref, False)
    assert set(appliance.allowed_operations) == {"clean_shutdown", "hard_shutdown", "shutdown"}
    assert host.refused("VM_appliance.start", appliance.ref, False)[0] == "OPERATION_NOT_ALLOWED"


def test_while_it_starts_its_operation_and_subtasks_are_seen(host, appliance, monkeypatch):
    member(host, appliance)
    start, seen = host.hypervisor.start, {}

    def watched(*args, **named):
        seen["operations"] = list(appliance.current_operations.values())
        seen["subtasks"] = [row.name_label for row in host.db.all(Task) if row.subtask_of == task]
        return start(*args, **named)

    monkeypatch.setattr(host.hypervisor, "start", watched)
    ready = threading.Event()
    begin = host.pipeline.run_task
    monkeypatch.setattr(host.pipeline, "run_task", lambda *a: (ready.wait(10), begin(*a))[1])
    task = host("Async.VM_appliance.start", appliance.ref, False)
    ready.set()
    row = host.db.get(Task, task)
    ended = threading.Event()
    with host.db.watching(ended.set, row):
        while row.status == "pending":
            ended.wait(5)
    assert row.status == "success"
    assert seen == {"operations": ["start"], "subtasks": ["Async.VM.start"]}
    assert appliance.current_operations == {}


def test_a_cancellation_ends_the_shutdown_that_is_waited_for(host, appliance, monkeypatch):
    vm = member(host, appliance)
    host("VM_appliance.start", appliance.ref, False)
    asked = threading.Event()
    monkeypatch.setattr(host.hypervisor, "shutdown", lambda uuid: asked.set())
    task = host("Async.VM_appliance.clean_shutdown", appliance.ref)
    assert asked.wait(10)
    row = host.db.get(Task, task)
    ended = threading.Event()
    with host.db.watching(ended.set, row):
        host("task.cancel", task)
        while row.status == "pending":
            assert ended.wait(10)
            ended.clear()
    assert row.status == "cancelled" and vm.power_state == "Running"


def test_the_next_order_waits_for_the_delay_of_those_before(host, appliance, monkeypatch):
    waited = []
    monkeypatch.setattr("kronos.api.vm.lifecycle.linger", lambda call, seconds: waited.append(seconds))
    member(host, appliance, 0, start_delay=7, shutdown_delay=9)
    host("VM_appliance.start", appliance.ref, False)
    host("VM_appliance.hard_shutdown", appliance.ref)
    assert waited == [7, 9]


def test_recovery_needs_the_storage_and_finds_nothing_newer(host, appliance):
    vm = member(host, appliance)
    vdi = host.vdi(host.storage)
    host.db.create(host.db.tables["VBD"].kind, VM=vm.ref, VDI=vdi.ref, type="Disk", mode="RW")
    (pbd,) = host.storage.PBDs
    assert host("VM_appliance.get_SRs_required_for_recovery", appliance.ref, host.session) == ()
    host("VM_appliance.assert_can_be_recovered", appliance.ref, host.session)
    assert host.refused("VM_appliance.recover", appliance.ref, host.session, True) == [
        "VM_TO_IMPORT_IS_NOT_NEWER_VERSION",
        vm.ref,
        "0",
        "0",
    ]
    host.db.get(PBD, pbd).currently_attached = False
    missing = ["VM_REQUIRES_SR", vm.ref, host.storage.ref]
    assert host("VM_appliance.get_SRs_required_for_recovery", appliance.ref, host.session) == (
        host.storage.ref,
    )
    assert host("VM.get_SRs_required_for_recovery", vm.ref, host.session) == (host.storage.ref,)
    assert host.refused("VM_appliance.recover", appliance.ref, host.session, False) == missing
    assert host.refused("VM.assert_can_be_recovered", vm.ref, host.session) == missing
    assert host.refused("VM.recover", vm.ref, "OpaqueRef:none", False)[0] == "SESSION_INVALID"


def test_only_who_may_open_a_database_recovers(host, appliance):
    member(host, appliance)
    row = host.db.tables["session"].rows[host.session]
    row.is_local_superuser = False
    try:
        with pytest.raises(Failure, match="RBAC_PERMISSION_DENIED"):
            host.pipeline.perform_internal("VM_appliance.recover", appliance.ref, host.session, False)
    finally:
        row.is_local_superuser = True
