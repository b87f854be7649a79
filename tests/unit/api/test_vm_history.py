"""A VM's history: each call that changed what it does leaves a message, and one that failed leaves none."""

from __future__ import annotations

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Message


def told(host, vm) -> list[tuple[str, int, str]]:
    """Name, priority and the end of the text of each message about a VM."""
    start = f"VM '{vm.name_label}' (uuid: {vm.uuid}) "
    about = [row for row in host.db.all(Message) if row.obj_uuid == vm.uuid]
    assert all(row.cls == "VM" and row.body.startswith(start) for row in about)
    return [(row.name, row.priority, row.body.removeprefix(start)) for row in about]


@pytest.fixture
def vm(host):
    return host.halted_vm(host.vdi(host.storage))


def test_a_vms_runs_are_told_with_the_host(host, vm):
    host("VM.start", vm.ref, False, False)
    host("VM.pause", vm.ref)
    host("VM.unpause", vm.ref)
    host("VM.hard_reboot", vm.ref)
    host("VM.hard_shutdown", vm.ref)
    where = f"on host: {host.host.name_label} (uuid: {host.host.uuid})"
    assert told(host, vm) == [
        ("VM_STARTED", 5, f"started {where}"),
        ("VM_PAUSED", 5, "paused"),
        ("VM_UNPAUSED", 5, "unpaused"),
        ("VM_REBOOTED", 5, "rebooted forcibly"),
        ("VM_SHUTDOWN", 5, "shutdown forcibly"),
    ]


def test_a_suspended_vm_and_its_return_are_told(host, vm):
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    host("VM.resume", vm.ref, False, False)
    assert [name for name, _, _ in told(host, vm)] == ["VM_STARTED", "VM_SUSPENDED", "VM_RESUMED"]


def test_what_is_made_of_a_vm_is_named_in_its_own_messages(host, vm):
    clone = host.db.get(VM, host("VM.clone", vm.ref, "another"))
    snapshot = host.db.get(VM, host("VM.snapshot", vm.ref, "before", ()))
    host("VM.revert", snapshot.ref)
    assert told(host, vm) == [
        ("VM_CLONED", 5, f"cloned (new uuid: {clone.uuid})"),
        ("VM_SNAPSHOTTED", 5, "snapshotted, snapshot name: before"),
        ("VM_SNAPSHOT_REVERTED", 5, f"reverted to snapshot: before (uuid {snapshot.uuid})"),
    ]
    assert told(host, clone) == told(host, snapshot) == []


def test_a_call_that_failed_is_not_told(host, vm):
    with pytest.raises(Failure):
        host("VM.pause", vm.ref)
    assert told(host, vm) == []


def test_a_name_with_braces_is_told_as_it_is(host, vm):
    vm.name_label = "{host.uuid} %s"
    host("VM.start", vm.ref, False, False)
    assert [name for name, _, _ in told(host, vm)] == ["VM_STARTED"]
