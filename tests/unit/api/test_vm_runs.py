"""A VM's runs against what happens at the same time: guests that end, late news, disks and memory that others want."""

from __future__ import annotations

import threading
import time

import pytest

from kronos.api.vm import state
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VBD, VDI, VM, Host_metrics, Task
from kronos.dispatch import roles
from kronos.dispatch.call import Origin
from kronos.hypervisor.base import DeviceId, EventKind, Reason
from kronos.rules import placement

MIB = 1 << 20


def until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def slow_start(host, monkeypatch) -> tuple[threading.Event, threading.Event]:
    """Starts wait in the hypervisor: for whether one has come that far, and to let them go on."""
    arrived, go_on = threading.Event(), threading.Event()
    start = host.hypervisor.start

    def slow(domain, *, paused=False):
        arrived.set()
        assert go_on.wait(10)
        return start(domain, paused=paused)

    monkeypatch.setattr(host.hypervisor, "start", slow)
    return arrived, go_on


def test_late_news_of_an_earlier_run_do_not_end_the_present_one(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host.hypervisor._announce(vm.uuid, EventKind.HALTED, reason=Reason.DESTROYED)
    assert not until(lambda: vm.power_state != "Running", 0.2)


@pytest.mark.parametrize(("news", "now"), [(EventKind.PAUSED, "Running"), (EventKind.RESUMED, "Paused")])
def test_late_news_of_a_pause_do_not_count_against_what_the_vm_does_now(host, news, now):
    vm = host.halted_vm()
    host("VM.start", vm.ref, now == "Paused", False)
    host.hypervisor._announce(vm.uuid, news)
    assert not until(lambda: vm.power_state != now, 0.2)


def test_a_pause_behind_our_back_is_seen(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host.hypervisor.pause(vm.uuid)
    assert until(lambda: vm.power_state == "Paused")
    host.hypervisor.unpause(vm.uuid)
    assert until(lambda: vm.power_state == "Running")


def test_news_that_waited_for_a_start_do_not_end_what_has_started(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    guest = host.hypervisor.guests.pop(vm.uuid)
    with state._turns.of(vm.uuid):
        news = threading.Thread(target=state.heard_halted, args=(host.db, host.machine, vm))
        news.start()
        assert until(lambda: state._turns._locks[vm.uuid][1] == 2)
        host.hypervisor.guests[vm.uuid] = guest  # it runs again
    news.join(60)
    assert vm.power_state == "Running"


def test_a_reboot_by_force_is_not_undone_by_the_news_of_the_power_cut(host, monkeypatch):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    arrived, go_on = slow_start(host, monkeypatch)
    task = host.db.get(Task, host("Async.VM.hard_reboot", vm.ref))
    assert arrived.wait(5)
    host.hypervisor._announce(vm.uuid, EventKind.HALTED, reason=Reason.DESTROYED)
    host.hypervisor.settle()
    go_on.set()
    assert until(lambda: task.status == "success")
    assert vm.power_state == "Running"


def test_a_guest_that_ends_before_its_start_call_does_is_halted(host):
    vm = host.halted_vm(start_delay=30)
    task = host("Async.VM.start", vm.ref, False, False)
    assert until(lambda: vm.power_state == "Running")
    host.hypervisor.power_off(vm.uuid)
    assert until(lambda: vm.power_state == "Halted", 2)
    host("task.cancel", task)


def test_a_wait_after_the_start_has_any_length_and_ends_when_it_is_cancelled(host):
    vm = host.halted_vm(start_delay=2**62)
    task = host.db.get(Task, host("Async.VM.start", vm.ref, False, False))
    assert until(lambda: vm.power_state == "Running")
    assert not until(lambda: task.status != "pending", 0.1)
    host("task.cancel", task.ref)
    assert until(lambda: task.status == "success")
    assert vm.power_state == "Running"


def test_a_crash_that_the_guest_restarts_from_does_not_halt_the_vm(host):
    vm = host.halted_vm(actions_after_crash="restart")
    host("VM.start", vm.ref, False, False)
    host.hypervisor.crash(vm.uuid)
    assert not until(lambda: vm.power_state != "Running", 0.2)


def test_what_a_guest_used_is_free_before_its_vm_is_halted(host, monkeypatch):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    seen = []
    monkeypatch.setattr(host.driver(host.storage), "volume_detach", lambda uuid: seen.append(vm.power_state))
    monkeypatch.setattr(host.network, "unsecure", lambda *ports: seen.append(vm.power_state))
    host.hypervisor.power_off(vm.uuid)
    assert until(lambda: vm.power_state == "Halted")
    assert seen == ["Running", "Running"]


def test_a_resume_that_failed_leaves_the_saved_memory(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    # libvirt makes the domain, fails to fill it, and says that it is gone
    host.hypervisor._announce(vm.uuid, EventKind.HALTED, reason=Reason.FAILED)
    assert not until(lambda: vm.power_state != "Suspended", 0.2)


def test_a_disk_that_a_running_vm_writes_is_not_given_to_another(host):
    vdi = host.vdi(host.storage)
    one, other = host.halted_vm(vdi), host.halted_vm(vdi)
    host("VM.start", one.ref, False, False)
    assert host.refused("VM.start", other.ref, False, False) == ["VDI_IN_USE", vdi.ref]
    assert (other.power_state, other.current_operations) == ("Halted", {})


def test_a_disk_whose_vm_is_being_started_is_in_use(host, monkeypatch):
    vdi = host.vdi(host.storage)
    one, other = host.halted_vm(vdi), host.halted_vm(vdi)
    arrived, go_on = slow_start(host, monkeypatch)
    task = host.db.get(Task, host("Async.VM.start", one.ref, False, False))
    assert arrived.wait(5)
    try:
        assert host.refused("VM.start", other.ref, False, False) == ["VDI_IN_USE", vdi.ref]
        assert host.refused("VBD.destroy", one.VBDs[0])[:3] == [
            "OTHER_OPERATION_IN_PROGRESS",
            "VBD",
            one.VBDs[0],
        ]
        assert "destroy" not in vdi.allowed_operations
    finally:
        go_on.set()
    assert until(lambda: task.status == "success")
    assert host.db.get(VBD, one.VBDs[0]).current_operations == {}


def test_a_disk_that_was_taken_while_its_vm_slept_is_not_shared_when_it_wakes(host):
    vdi = host.vdi(host.storage)
    one, other = host.halted_vm(vdi), host.halted_vm(vdi)
    host("VM.start", one.ref, False, False)
    host("VM.suspend", one.ref)
    host("VM.start", other.ref, False, False)
    assert host.refused("VM.resume", one.ref, False, False) == ["VDI_IN_USE", vdi.ref]
    assert one.power_state == "Suspended"


def test_a_disk_that_came_while_its_vm_was_started_is_not_called_attached(host, monkeypatch):
    vm = host.halted_vm(host.vdi(host.storage))
    arrived, go_on = slow_start(host, monkeypatch)
    task = host.db.get(Task, host("Async.VM.start", vm.ref, False, False))
    assert arrived.wait(5)
    late = host.db.create(
        VBD, VM=vm.ref, VDI=host.vdi(host.storage).ref, userdevice="7", mode="RW", type="Disk"
    )
    go_on.set()
    assert until(lambda: task.status == "success")
    assert [host.db.get(VBD, ref).currently_attached for ref in vm.VBDs] == [True, False]
    assert late.currently_attached is False


def test_two_starts_are_not_promised_the_same_memory(host, monkeypatch):
    one, other = host.halted_vm(), host.halted_vm()
    needed = 64 * MIB + int(host("VM.compute_memory_overhead", one.ref))
    host.db.write(host.db.get(Host_metrics, host.host.metrics), {"memory_total": needed + MIB})
    monkeypatch.setattr(state, "refresh_memory", lambda db, machine: None)  # this machine has more
    choose = placement.choose

    def slow(db, vm):
        found = choose(db, vm)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(placement, "choose", slow)
    tasks = [host.db.get(Task, host("Async.VM.start", vm.ref, False, False)) for vm in (one, other)]
    assert until(lambda: all(task.status != "pending" for task in tasks))
    assert sorted(task.status for task in tasks) == ["failure", "success"]


@pytest.mark.parametrize("busy", [False, True])
def test_a_disk_that_the_guest_let_go_late_is_free(host, monkeypatch, busy):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    (vbd,) = (host.db.get(VBD, ref) for ref in vm.VBDs)
    if busy:
        vbd.current_operations = {"OpaqueRef:task": "unplug"}
    freed = []
    monkeypatch.setattr(host.driver(host.storage), "volume_detach", freed.append)
    host.hypervisor._announce(vm.uuid, EventKind.DEVICE_REMOVED, device=DeviceId("disk", 0))
    assert until(lambda: not vbd.currently_attached, 0.3) is not busy
    assert until(lambda: bool(freed), 0.3) is not busy


def test_whoever_may_suspend_a_vm_needs_no_right_to_make_disks(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    operator = host.pipeline.sessions.begin(
        user="someone",
        host=host.host.ref,
        origin=Origin(),
        originator="",
        superuser=False,
        permissions=roles.permissions_of("vm-operator"),
    )
    for name, arguments in (
        ("suspend", ()),
        ("resume", (False, False)),
        ("suspend", ()),
        ("hard_shutdown", ()),
    ):
        host.raw(f"VM.{name}", operator.ref, vm.ref, *arguments)
    assert vm.power_state == "Halted"
    assert [vdi for vdi in host.db.all(VDI) if vdi.type == "suspend"] == []


def room_for_one(host, monkeypatch, vm: VM) -> None:
    """The host has memory for one VM of this size and not for two."""
    needed = 64 * MIB + int(host("VM.compute_memory_overhead", vm.ref))
    host.db.write(host.db.get(Host_metrics, host.host.metrics), {"memory_total": needed + MIB})
    monkeypatch.setattr(state, "refresh_memory", lambda db, machine: None)  # this machine has more


@pytest.mark.parametrize(("name", "afterwards"), [("hard_reboot", "restart"), ("clean_reboot", "destroy")])
def test_the_memory_of_a_vm_that_reboots_is_not_given_to_another(host, monkeypatch, name, afterwards):
    vm, other = host.halted_vm(actions_after_reboot=afterwards), host.halted_vm()
    room_for_one(host, monkeypatch, vm)
    host("VM.start", vm.ref, False, False)
    halted, refusals = state.halted, []

    def then_another_starts(db, machine, row, *states, **how):
        was_live = halted(db, machine, row, *states, **how)
        if row is vm:
            refusals.append(host.refused("VM.start", other.ref, False, False)[0])
        return was_live

    monkeypatch.setattr(state, "halted", then_another_starts)
    host(f"VM.{name}", vm.ref)
    assert until(lambda: refusals == ["HOST_NOT_ENOUGH_FREE_MEMORY"])
    assert (vm.power_state, other.power_state) == ("Running", "Halted")
    assert vm.scheduled_to_be_resident_on == NULL


def test_a_vm_that_could_not_boot_again_is_not_cut_off(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host.host.capabilities = ()
    assert host.refused("VM.hard_reboot", vm.ref) == ["VM_HVM_REQUIRED", vm.ref]
    assert (vm.power_state, host.hypervisor.runs(vm.uuid)) == ("Running", True)
    assert vm.scheduled_to_be_resident_on == NULL


def test_a_reboot_whose_boot_fails_keeps_no_memory(host, monkeypatch):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)

    def refuses(domain, *, paused=False):
        raise Failure("INTERNAL_ERROR", "no")

    monkeypatch.setattr(host.hypervisor, "start", refuses)
    assert host.refused("VM.hard_reboot", vm.ref) == ["INTERNAL_ERROR", "no"]
    assert (vm.power_state, vm.scheduled_to_be_resident_on) == ("Halted", NULL)


@pytest.mark.parametrize("answers", [True, False])
def test_a_reset_of_a_suspended_vm_leaves_no_memory_behind(host, monkeypatch, answers):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    image = host.db.get(VDI, vm.suspend_VDI)

    def fails(uuid):
        raise Failure("SR_BACKEND_FAILURE", "it does not answer", "", "")

    if not answers:
        monkeypatch.setattr(host.driver(host.storage), "volume_destroy", fails)
    host("VM.power_state_reset", vm.ref)
    assert (vm.power_state, vm.suspend_VDI) == ("Halted", NULL)
    assert (image.ref in host.db.rows) is not answers
