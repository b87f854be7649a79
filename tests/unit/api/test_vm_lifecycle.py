"""A VM's life: what its records say at each turn, and that nothing is left when a turn fails."""

from __future__ import annotations

import json
import threading
import time
import uuid as uuids

import pytest

from kronos.api.vm import lifecycle, settings
from kronos.background.follow import Follow
from kronos.background.inventory import storage as storage_inventory
from kronos.background.reconcile import reconcile
from kronos.datamodel.errors import Failure
from kronos.db.records import VBD, VDI, VIF, VM, Console, Host, Host_metrics, Task, VM_metrics
from kronos.dispatch.task import Task as Shown
from kronos.dispatch.workers import Workers
from kronos.hypervisor.base import State
from kronos.network.base import LockingMode, VifPort
from kronos.network.names import port_name
from kronos.system.commands import CommandFailed

GIB = 1 << 30


def vbd_record(vm, vdi, **fields: object) -> dict[str, object]:
    return {
        "VM": vm.ref,
        "VDI": vdi.ref,
        "userdevice": "autodetect",
        "bootable": True,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    } | fields


def until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_started_vm_runs_here_with_its_devices_and_consoles(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    assert (vm.power_state, vm.resident_on, vm.domid) == ("Running", host.host.ref, 1)
    assert [host.db.get(VBD, ref).currently_attached for ref in vm.VBDs] == [True]
    consoles = [host.db.get(Console, ref) for ref in vm.consoles]
    assert {console.protocol for console in consoles} == {"rfb", "vt100"}
    assert all(console.location.startswith("https://192.0.2.1/console?uuid=") for console in consoles)
    assert {"clean_shutdown", "pause", "suspend"} <= set(vm.allowed_operations)
    assert "start" not in vm.allowed_operations
    assert vm.current_operations == {}


def test_a_start_that_the_hypervisor_refuses_lets_everything_go_again(host, monkeypatch):
    vm = host.halted_vm(host.vdi(host.storage))

    def refuse(domain, *, paused=False):
        raise Failure("INTERNAL_ERROR", "no")

    monkeypatch.setattr(host.hypervisor, "start", refuse)
    assert host.refused("VM.start", vm.ref, False, False) == ["INTERNAL_ERROR", "no"]
    assert (vm.power_state, vm.current_operations) == ("Halted", {})
    assert vm.scheduled_to_be_resident_on == "OpaqueRef:NULL"
    monkeypatch.undo()
    host("VM.start", vm.ref, False, False)
    assert vm.power_state == "Running"


def test_the_wrong_power_state_is_named_as_clients_read_it(host):
    vm = host.halted_vm()
    assert host.refused("VM.pause", vm.ref) == ["VM_BAD_POWER_STATE", vm.ref, "running", "halted"]


def test_a_guest_that_ends_by_itself_is_halted_and_its_disk_is_free(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host.hypervisor.power_off(vm.uuid)
    assert until(lambda: vm.power_state == "Halted")
    assert (vm.resident_on, vm.domid, vm.consoles) == ("OpaqueRef:NULL", -1, ())
    assert "destroy" in host.db.get(VDI, host.db.get(VBD, vm.VBDs[0]).VDI).allowed_operations


def test_a_guest_that_ends_while_it_is_started_is_halted_in_the_end(host, monkeypatch):
    vm = host.halted_vm()
    start = host.hypervisor.start

    def brief(domain, *, paused=False):
        domid = start(domain, paused=paused)
        host.hypervisor.power_off(domain.uuid)
        time.sleep(0.2)  # its end is heard before its start is written
        return domid

    monkeypatch.setattr(host.hypervisor, "start", brief)
    host("VM.start", vm.ref, False, False)
    assert until(lambda: vm.power_state == "Halted")


def test_pause_and_unpause(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, True, False)
    assert vm.power_state == "Paused"
    host("VM.unpause", vm.ref)
    assert vm.power_state == "Running"


def test_a_vm_that_never_ran_is_not_taken_for_domain_0(host):
    vm = host.halted_vm(host.vdi(host.storage))
    assert vm.domid == -1
    assert host.db.get(VM, host("VM.clone", vm.ref, "clone")).domid == -1
    host("VM.start", vm.ref, False, False)
    assert host.db.get(VM, host("VM.snapshot", vm.ref, "snapshot", [])).domid == -1


def test_the_disks_of_a_vm_that_was_started_tell_their_names(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    assert [host.db.get(VBD, ref).device for ref in vm.VBDs] == ["xvda"]


def test_a_clean_shutdown_waits_for_the_guest(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host("VM.clean_shutdown", vm.ref)
    assert vm.power_state == "Halted"


@pytest.mark.parametrize("name", ["VM.clean_shutdown", "VM.clean_reboot"])
def test_a_guest_that_still_booted_when_it_was_asked_is_asked_again(host, monkeypatch, name):
    monkeypatch.setattr(lifecycle, "ASK_AGAIN", 0.05)
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    metrics = host.db.get(VM_metrics, vm.metrics)
    metrics.start_time = "19700101T00:00:00Z"
    guest = host.hypervisor.guests[vm.uuid]
    guest.obeys = False
    task = host.db.get(Task, host("Async." + name, vm.ref))
    assert until(lambda: vm.current_operations != {})
    guest.obeys = True
    assert until(lambda: task.status == "success")
    assert metrics.start_time != "19700101T00:00:00Z" or vm.power_state == "Halted"


def test_a_guest_that_has_rebooted_is_not_asked_again_before_its_record_says_so(host, monkeypatch):
    monkeypatch.setattr(lifecycle, "ASK_AGAIN", 0.02)
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    asked, looked, statuses = [], [], host.hypervisor.statuses
    monkeypatch.setattr(host.hypervisor, "reboot", asked.append)
    monkeypatch.setattr(host.hypervisor, "statuses", lambda: looked.append(1) or statuses())
    host("Async.VM.clean_reboot", vm.ref)
    assert until(lambda: len(asked) > 1)
    host.hypervisor.guests[vm.uuid].domid += 1
    for _ in range(2):
        before, seen = len(asked), len(looked)
        assert until(lambda seen=seen: len(looked) > seen + 2)
    assert len(asked) == before
    host("VM.hard_shutdown", vm.ref)


def test_a_hard_shutdown_ends_a_clean_one_that_waits_for_a_deaf_guest(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host.hypervisor.guests[vm.uuid].obeys = False
    task = host.db.get(Task, host("Async.VM.clean_shutdown", vm.ref))
    assert until(lambda: "clean_shutdown" in vm.current_operations.values())
    host("VM.hard_shutdown", vm.ref)
    assert until(lambda: task.status != "pending")
    assert (vm.power_state, task.status) == ("Halted", "cancelled")
    assert task.error_info[0] == "TASK_CANCELLED"


def test_deaf_guests_keep_nobody_from_forcing_them(host):
    host.pipeline.workers, host.pipeline.task_workers = Workers(2, "call"), Workers(2, "task")
    vms = [host.halted_vm() for _ in range(6)]
    for vm in vms:
        host("VM.start", vm.ref, False, False)
        host.hypervisor.guests[vm.uuid].obeys = False
    tasks = [host.db.get(Task, host("Async.VM.clean_shutdown", vm.ref)) for vm in vms]
    assert until(lambda: all("clean_shutdown" in vm.current_operations.values() for vm in vms))
    forced = [host.db.get(Task, host("Async.VM.hard_shutdown", vm.ref)) for vm in vms[:3]]
    for vm in vms[3:]:
        host("VM.hard_shutdown", vm.ref)
    assert until(lambda: all(task.status != "pending" for task in (*tasks, *forced)))
    assert {task.status for task in forced} == {"success"}
    assert {vm.power_state for vm in vms} == {"Halted"}


def test_who_waits_for_one_guest_sleeps_through_what_happens_to_others(host, monkeypatch):
    vm, other = host.halted_vm(), host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host.hypervisor.guests[vm.uuid].obeys = False
    looks = []
    check = Shown.check
    monkeypatch.setattr(Shown, "check", lambda task: looks.append(task.label) or check(task))
    task = host.db.get(Task, host("Async.VM.clean_shutdown", vm.ref))
    assert until(lambda: "Async.VM.clean_shutdown" in looks)
    for number in range(50):
        other.name_description = str(number)
        time.sleep(0.001)
    assert looks.count("Async.VM.clean_shutdown") < 5
    host("VM.hard_shutdown", vm.ref)
    assert until(lambda: task.status != "pending")


def test_a_reboot_of_the_guest_keeps_the_vm_running(host):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    metrics = host.db.get(VM_metrics, vm.metrics)
    metrics.start_time = "19700101T00:00:00Z"
    host("VM.clean_reboot", vm.ref)
    assert vm.power_state == "Running"
    assert metrics.start_time != "19700101T00:00:00Z"


def test_a_suspended_vm_comes_back_and_its_image_goes(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    assert (vm.power_state, vm.domid) == ("Suspended", -1)
    image = host.db.get(VDI, vm.suspend_VDI)
    assert image.type == "suspend"
    host("VM.resume", vm.ref, False, False)
    assert (vm.power_state, vm.suspend_VDI) == ("Running", "OpaqueRef:NULL")
    assert host.db.find(VDI, image.ref) is None


def test_a_migration_that_is_not_live_suspends_and_resumes(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    before = vm.domid
    host("VM.pool_migrate", vm.ref, vm.resident_on, {"live": "false"})
    assert (vm.power_state, vm.suspend_VDI) == ("Running", "OpaqueRef:NULL")
    assert vm.domid != before
    assert not [vdi for vdi in host.db.all(VDI) if vdi.type == "suspend"]


def test_a_vm_moves_within_its_host_though_that_takes_no_new_ones(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    before = vm.domid
    host.db.get(Host, vm.resident_on).enabled = False
    host("VM.pool_migrate", vm.ref, vm.resident_on, {"live": "false"})
    assert vm.power_state == "Running"
    assert vm.domid != before


def test_a_vm_that_could_not_be_resumed_is_not_suspended_for_a_migration(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    before = vm.domid
    host.db.get(Host_metrics, host.db.get(Host, vm.resident_on).metrics).live = False
    with pytest.raises(Failure, match="HOST_NOT_LIVE"):
        host("VM.pool_migrate", vm.ref, vm.resident_on, {"live": "false"})
    assert (vm.power_state, vm.domid) == ("Running", before)


def test_a_guest_that_cannot_move_while_it_runs_is_left_alone_and_the_way_out_is_told(host, monkeypatch):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    before = vm.domid
    monkeypatch.setattr(host.hypervisor, "live_migration_obstacle", lambda uuid: "It cannot be.")
    with pytest.raises(Failure) as raised:
        host("VM.pool_migrate", vm.ref, vm.resident_on, {"live": "true"})
    assert raised.value.code == "VM_MIGRATE_FAILED"
    assert raised.value.params[:3] == (vm.ref, vm.resident_on, vm.resident_on)
    assert "live=false" in raised.value.params[3]
    assert (vm.power_state, vm.domid) == ("Running", before)


def test_a_hard_shutdown_of_a_suspended_vm_drops_its_image(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host("VM.suspend", vm.ref)
    image = vm.suspend_VDI
    host("VM.hard_shutdown", vm.ref)
    assert (vm.power_state, host.db.find(VDI, image)) == ("Halted", None)


def test_a_clone_has_disks_addresses_and_records_of_its_own(host):
    vm = host.halted_vm(host.vdi(host.storage))
    network = host.net()
    host(
        "VIF.create",
        {
            "VM": vm.ref,
            "network": network.ref,
            "device": "0",
            "MAC": "",
            "MTU": 1500,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        },
    )
    copy = host.db.get(VM, host("VM.clone", vm.ref, "copy"))
    mine, its = host.db.get(VBD, vm.VBDs[0]), host.db.get(VBD, copy.VBDs[0])
    assert its.VDI not in (mine.VDI, "OpaqueRef:NULL")
    assert host.db.get(VIF, copy.VIFs[0]).MAC != host.db.get(VIF, vm.VIFs[0]).MAC
    assert copy.metrics != vm.metrics
    assert host.machine.intents.left() == {}


def test_a_clone_whose_second_disk_fails_leaves_nothing(host, monkeypatch):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VBD.create", vbd_record(vm, host.vdi(host.storage)))
    before = (len(host.db.all(VDI)), len(host.db.all(VM)), len(host.driver(host.storage).scan()))
    driver = host.driver(host.storage)
    clone, count = driver.volume_clone, []

    def second_fails(uuid, new_uuid, **options):
        count.append(uuid)
        if len(count) == 2:
            raise Failure("SR_BACKEND_FAILURE_44", "", "no room", "")
        return clone(uuid, new_uuid, **options)

    monkeypatch.setattr(driver, "volume_clone", second_fails)
    assert host.refused("VM.clone", vm.ref, "copy")[0] == "SR_BACKEND_FAILURE_44"
    after = (len(host.db.all(VDI)), len(host.db.all(VM)), len(driver.scan()))
    assert after == before
    assert vm.current_operations == {}


def test_a_template_is_provisioned_into_a_vm_with_the_disks_that_it_asks_for(host):
    disks = f'<provision><disk device="0" size="{GIB}" sr="{host.storage.uuid}" bootable="true"/></provision>'
    template = host.halted_vm(is_a_template=True, other_config={"disks": disks})
    vm = host.db.get(VM, host("VM.clone", template.ref, "new"))
    assert vm.is_a_template
    host.db.get(VM_metrics, vm.metrics).install_time = "19700101T00:00:00Z"
    host("VM.provision", vm.ref)
    assert not vm.is_a_template
    assert [host.db.get(VDI, host.db.get(VBD, ref).VDI).virtual_size for ref in vm.VBDs] == [GIB]
    assert "disks" not in vm.other_config
    assert host.db.get(VM_metrics, vm.metrics).install_time > "2"
    assert host.refused("VM.start", template.ref, False, False)[0] == "VM_IS_TEMPLATE"


def test_a_snapshot_can_be_reverted_to(host):
    vm = host.halted_vm(host.vdi(host.storage))
    snapshot = host.db.get(VM, host("VM.snapshot", vm.ref, "before", []))
    assert (snapshot.is_a_snapshot, snapshot.snapshot_of, vm.snapshots) == (True, vm.ref, (snapshot.ref,))
    vm.name_description = "changed"
    disk = host.db.get(VBD, vm.VBDs[0]).VDI
    host("VM.revert", snapshot.ref)
    assert vm.name_description == ""
    assert host.db.find(VDI, disk) is None
    assert host.db.get(VBD, vm.VBDs[0]).VDI != "OpaqueRef:NULL"


def test_a_snapshot_that_is_said_to_be_of_itself_is_not_reverted_to(host):
    vm = host.halted_vm(host.vdi(host.storage))
    snapshot = host("VM.snapshot", vm.ref, "before", [])
    host("VM.update_snapshot_metadata", snapshot, snapshot, "20261122T10:00:00Z", "")
    with pytest.raises(Failure) as raised:
        host("VM.revert", snapshot)
    assert raised.value.description == ["VM_REVERT_FAILED", snapshot, snapshot]
    assert host("VM.get_current_operations", snapshot) == {}


def test_destroying_a_vm_keeps_its_disks_and_takes_all_else(host):
    vm = host.halted_vm(host.vdi(host.storage))
    vdi = host.db.get(VBD, vm.VBDs[0]).VDI
    vbd, metrics = vm.VBDs[0], vm.metrics
    host("VM.destroy", vm.ref)
    assert host.db.find(VDI, vdi) is not None
    assert (host.db.find(VBD, vbd), host.db.find(VM_metrics, metrics)) == (None, None)


def test_a_restarted_daemon_finds_running_guests_and_those_that_ended(host):
    stays, ended = host.halted_vm(host.vdi(host.storage)), host.halted_vm(host.vdi(host.storage))
    for vm in (stays, ended):
        host("VM.start", vm.ref, False, False)
    host.follow.close()
    host.hypervisor.power_off(ended.uuid)
    again = Follow(host.pipeline)
    again.start()
    assert (stays.power_state, ended.power_state) == ("Running", "Halted")
    again.close()


def test_a_vm_whose_end_is_about_to_be_told_is_left_to_who_knows_the_reason(host, monkeypatch):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host.follow.close()
    host.hypervisor.power_off(vm.uuid)
    monkeypatch.setattr(host.hypervisor, "ended", lambda: {vm.uuid})
    reconcile(host.db, host.machine)
    assert vm.power_state == "Running"


def test_a_guest_whose_start_was_cut_short_is_taken_in(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host.run(vm)
    host.db.write(vm, {"power_state": "Halted", "resident_on": "OpaqueRef:NULL"})
    reconcile(host.db, host.machine)
    assert vm.power_state == "Running"
    assert host.hypervisor.guests[vm.uuid].state is State.RUNNING


def test_devices_that_came_or_went_while_the_daemon_was_away_are_written_down(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    (vbd,) = (host.db.get(VBD, ref) for ref in vm.VBDs)
    disk = host.hypervisor.guests[vm.uuid].disks.pop(int(vbd.userdevice))
    reconcile(host.db, host.machine)
    assert vbd.currently_attached is False
    host.hypervisor.guests[vm.uuid].disks[int(vbd.userdevice)] = disk
    reconcile(host.db, host.machine)
    assert (vbd.currently_attached, vbd.device) == (True, "xvda")


def test_memory_and_port_rules_of_a_start_that_was_cut_short_are_free_again(host):
    vm = host.halted_vm(host.vdi(host.storage))
    vm.scheduled_to_be_resident_on = host.host.ref
    stray, others = port_name(vm.uuid, 0), port_name(str(uuids.uuid4()), 0)
    for device in (stray, others):
        host.network.secure(VifPort(device, "02:00:00:00:00:01", LockingMode.UNLOCKED))
    reconcile(host.db, host.machine)
    assert vm.scheduled_to_be_resident_on == "OpaqueRef:NULL"
    assert host.network.secured() == {others}  # of a VM that another daemon runs here


def test_a_daemon_that_may_not_look_at_port_rules_still_finds_its_vms(host, monkeypatch):
    def refuse():
        raise CommandFailed(["nft"], 1, "Operation not permitted (you must be root)")

    vm = host.halted_vm(host.vdi(host.storage))
    host.run(vm)
    monkeypatch.setattr(host.network, "secured", refuse)
    reconcile(host.db, host.machine)
    assert vm.power_state == "Running"


@pytest.mark.parametrize("written", [True, False])
def test_a_suspend_that_was_cut_short_counts_if_all_memory_was_written(host, written):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    host.follow.close()
    image = host.vdi(host.storage, type="suspend", sm_config={"type": "raw"})
    vm.suspend_VDI = image.ref
    intents = host.machine.intents
    (intents.directory / "vm-suspend").write_text(json.dumps({"kind": "disks", "vdis": image.uuid}))
    path = host.driver(host.storage).volume_attach(image.uuid, True).path
    host.hypervisor.suspend(vm.uuid, path)
    if not written:
        path.write_text("half")
    reconcile(host.db, host.machine)
    storage_inventory.settle_disks(host.pipeline)
    assert vm.power_state == ("Suspended" if written else "Halted")
    assert vm.suspend_VDI == (image.ref if written else "OpaqueRef:NULL")
    assert (image.ref in host.db.rows) is written
    assert intents.left() == {}


def test_memory_of_a_vm_that_has_come_back_goes_at_the_next_start_if_a_crash_kept_it(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    image = host.vdi(host.storage, type="suspend", sm_config={"type": "raw"})
    vm.suspend_VDI = image.ref
    intents = host.machine.intents
    (intents.directory / "vm-resume").write_text(json.dumps({"kind": "disks", "vdis": image.uuid}))
    reconcile(host.db, host.machine)
    storage_inventory.settle_disks(host.pipeline)
    assert (vm.power_state, vm.suspend_VDI) == ("Running", "OpaqueRef:NULL")
    assert host.db.find(VDI, image.ref) is None


def test_two_starts_of_one_vm_do_not_both_run(host):
    vm = host.halted_vm(host.vdi(host.storage))
    outcomes: list[object] = []

    def start():
        try:
            outcomes.append(host("VM.start", vm.ref, False, False))
        except Failure as failure:
            outcomes.append(failure.code)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, outcomes)) == ["", "VM_BAD_POWER_STATE"]


def test_a_disk_can_be_plugged_into_a_running_vm_and_taken_out(host):
    vm = host.halted_vm(host.vdi(host.storage))
    host("VM.start", vm.ref, False, False)
    ref = host("VBD.create", vbd_record(vm, host.vdi(host.storage)))
    vbd = host.db.get(VBD, ref)
    host("VBD.plug", ref)
    assert (vbd.currently_attached, vbd.device) == (True, "xvdb")
    assert host.refused("VBD.destroy", ref)[0] == "OPERATION_NOT_ALLOWED"
    host("VBD.unplug", ref)
    host("VBD.destroy", ref)
    assert host.db.find(VBD, ref) is None


def test_a_bridge_is_there_for_as_long_as_a_vm_needs_it(host):
    network = host.net()
    one, other = host.halted_vm(), host.halted_vm()
    for vm in (one, other):
        host(
            "VIF.create",
            {
                "VM": vm.ref,
                "network": network.ref,
                "device": "0",
                "MAC": "",
                "MTU": 1500,
                "other_config": {},
                "qos_algorithm_type": "",
                "qos_algorithm_params": {},
            },
        )
        host("VM.start", vm.ref, False, False)

    def bridges():
        return {bridge.name for bridge in host.network.bridges()}

    host("VM.hard_shutdown", one.ref)
    assert network.bridge in bridges()
    host("VM.hard_shutdown", other.ref)
    assert network.bridge not in bridges()


def test_a_vm_with_a_local_disk_is_not_agile(host):
    vm = host.halted_vm(host.vdi(host.storage))
    sr = host.db.get(VDI, host.db.get(VBD, vm.VBDs[0]).VDI).SR
    assert host.refused("VM.assert_agile", vm.ref) == ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr]


def test_who_waits_for_memory_goes_on_when_the_guest_has_given_it(host, monkeypatch):
    vm = host.halted_vm()
    host("VM.start", vm.ref, False, False)
    host("VM.wait_memory_target_live", vm.ref)
    metrics = host.db.get(VM_metrics, vm.metrics)
    metrics.memory_actual = vm.memory_target + (8 << 20)
    monkeypatch.setattr(settings, "MEMORY_PATIENCE", 0.0)
    assert host.refused("VM.wait_memory_target_live", vm.ref)[0] == "VM_MEMORY_TARGET_WAIT_TIMEOUT"
    monkeypatch.setattr(settings, "MEMORY_PATIENCE", 60.0)
    given = threading.Timer(0.1, lambda: host.db.write(metrics, {"memory_actual": vm.memory_target}))
    given.start()
    host("VM.wait_memory_target_live", vm.ref)
    given.join()
