"""Snapshot schedules: what they may be told, and what a run does."""

from __future__ import annotations

import threading
import time
from datetime import datetime

import pytest

from kronos.api import vmss
from kronos.background.schedules import LATE, Schedules
from kronos.datamodel.types import NULL, at
from kronos.db.records import VBD, VDI, VM, VMSS, Message

MONDAY = datetime(2026, 3, 2, 12, 0).timestamp()
"""A Monday's noon in the host's own time."""


def record(**fields: object) -> dict[str, object]:
    return {"name_label": "nightly", "type": "snapshot", "frequency": "daily"} | fields


def schedule(xapi, **fields: object) -> VMSS:
    return xapi.db.get(VMSS, xapi("VMSS.create", record(**fields)))


def guest(xapi, row: VMSS) -> VM:
    """A halted VM with a disk, on a schedule."""
    xapi.storage = getattr(xapi, "storage", None) or xapi.sr()
    vm = xapi.vm(xapi.vdi(xapi.storage))
    xapi("VM.set_snapshot_schedule", vm.ref, row.ref)
    return vm


def told(xapi) -> list[str]:
    return [row.name for row in xapi.db.all(Message) if row.cls == "VMSS"]


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_new_schedule_has_what_its_frequency_needs(xapi):
    row = schedule(xapi, frequency="weekly", schedule={"hour": "3"})
    assert row.schedule == {"hour": "3", "min": "0", "days": "Monday"}
    assert (row.enabled, row.retained_snapshots, row.last_run_time) == (True, 7, "19700101T00:00:00Z")


def test_what_a_schedule_cannot_be_is_refused(xapi):
    assert xapi.refused("VMSS.create", record(schedule={"days": "Monday"})) == [
        "INVALID_VALUE", "schedule:days", "Monday"]  # fmt: skip
    assert xapi.refused("VMSS.create", record(retained_snapshots="11")) == [
        "INVALID_VALUE", "retained_snapshots", "11"]  # fmt: skip
    assert xapi.refused("VMSS.create", record(type="archive"))[0] == "INVALID_VALUE"
    row = schedule(xapi)
    assert xapi.refused("VMSS.set_retained_snapshots", row.ref, 0)[0] == "INVALID_VALUE"
    assert xapi.refused("VMSS.set_schedule", row.ref, {"min": "7"}) == ["INVALID_VALUE", "schedule:min", "7"]


def test_settings_follow_the_frequency(xapi):
    row = schedule(xapi, schedule={"hour": "3", "min": "15"})
    xapi("VMSS.set_frequency", row.ref, "hourly")
    assert row.schedule == {"min": "15"}
    xapi("VMSS.set_schedule", row.ref, {"min": "30"})
    assert row.schedule == {"min": "30"}


def test_a_refused_value_leaves_the_one_that_was_taken_out_for_it(xapi):
    row = schedule(xapi, schedule={"hour": "3"})
    xapi("VMSS.remove_from_schedule", row.ref, "hour")
    assert "hour" not in row.schedule
    assert xapi.refused("VMSS.add_to_schedule", row.ref, "hour", "25")[0] == "INVALID_VALUE"
    assert row.schedule["hour"] == "3"
    assert xapi.refused("VMSS.add_to_schedule", row.ref, "hour", "4")[0] == "MAP_DUPLICATE_KEY"


def test_a_vm_is_put_on_a_schedule_and_off_again(xapi):
    row = schedule(xapi)
    vm = guest(xapi, row)
    assert row.VMs == (vm.ref,)
    assert xapi.refused("VMSS.destroy", row.ref) == ["VMSS_HAS_VM"]
    xapi("VM.set_snapshot_schedule", vm.ref, NULL)
    vmss.alert(xapi.db, row, "VMSS_SNAPSHOT_FAILED", "body")
    xapi("VMSS.destroy", row.ref)
    assert xapi.db.all(VMSS) == [] and told(xapi) == []


def test_templates_the_control_domain_and_lost_schedules_are_refused(xapi):
    row, template = schedule(xapi), xapi.db.create(VM, is_a_template=True)
    control = xapi.db.create(VM, is_control_domain=True)
    assert xapi.refused("VM.set_snapshot_schedule", template.ref, row.ref) == ["VM_IS_TEMPLATE", template.ref]
    assert xapi.refused("VM.set_snapshot_schedule", control.ref, row.ref) == ["INVALID_VALUE", row.ref]
    assert xapi.refused("VM.set_snapshot_schedule", control.ref, "OpaqueRef:x") == [
        "INVALID_VALUE",
        "OpaqueRef:x",
    ]


def test_no_guest_is_quiesced(xapi):
    row = schedule(xapi)
    vm = guest(xapi, row)
    refused = xapi.refused("VMSS.set_type", row.ref, "snapshot_with_quiesce")
    assert refused[:2] == ["VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref]
    assert row.type == "snapshot"


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_snapshots_every_vm_and_says_so(xapi):
    row = schedule(xapi, enabled=False)
    vms = [guest(xapi, row), guest(xapi, row)]
    uuids = xapi("VMSS.snapshot_now", row.ref).split()
    made = [xapi.db.by_uuid(VM, uuid) for uuid in uuids]
    assert [each.snapshot_of for each in made] == [vm.ref for vm in vms]
    assert all(each.is_vmss_snapshot and each.is_a_snapshot for each in made)
    assert row.last_run_time > "2026" and told(xapi) == ["VMSS_SNAPSHOT_SUCCEEDED"]
    assert not xapi.db.get(VM, xapi("VM.snapshot", vms[0].ref, "by hand", [])).is_vmss_snapshot


def test_the_oldest_of_its_own_snapshots_go_with_their_disks(xapi):
    row = schedule(xapi, retained_snapshots="2")
    vm = guest(xapi, row)
    by_hand = xapi("VM.snapshot", vm.ref, "by hand", [])
    taken = []
    for number in range(3):
        taken += xapi("VMSS.snapshot_now", row.ref).split()
        xapi.db.by_uuid(VM, taken[-1]).snapshot_time = at(1e9 + number)
    left = {xapi.db.get(VM, ref).uuid for ref in vm.snapshots}
    assert left == {taken[1], taken[2], xapi.db.get(VM, by_hand).uuid}
    assert len(xapi.db.all(VDI)) == 1 + 3 and len(xapi.db.all(VBD)) == 1 + 3


def test_a_disk_of_a_snapshot_that_another_vm_has_stays(xapi):
    row = schedule(xapi, retained_snapshots="1")
    guest(xapi, row)
    first = xapi.db.by_uuid(VM, xapi("VMSS.snapshot_now", row.ref))
    first.snapshot_time = at(1e9)
    disk = xapi.db.get(VDI, xapi.db.get(VBD, first.VBDs[0]).VDI)
    xapi.vm(disk)
    xapi("VMSS.snapshot_now", row.ref)
    assert xapi.db.find(VM, first.ref) is None and xapi.db.find(VDI, disk.ref) is disk


def test_one_vm_that_fails_is_told_of_and_the_others_have_their_turn(xapi):
    row = schedule(xapi)
    bad, good = guest(xapi, row), guest(xapi, row)
    xapi("VM.add_to_blocked_operations", bad.ref, "snapshot", "no")
    (uuid,) = xapi("VMSS.snapshot_now", row.ref).split()
    assert xapi.db.by_uuid(VM, uuid).snapshot_of == good.ref
    (message,) = (row for row in xapi.db.all(Message) if row.cls == "VMSS")
    assert (message.name, message.priority, message.cls) == ("VMSS_SNAPSHOT_FAILED", 3, "VMSS")
    assert bad.uuid in message.body and "OPERATION_BLOCKED" in message.body


def test_a_run_that_has_not_ended_keeps_the_next_from_beginning(xapi, monkeypatch):
    row = schedule(xapi)
    guest(xapi, row)
    begun, on = threading.Event(), threading.Event()
    run = vmss._run
    monkeypatch.setattr(vmss, "_run", lambda *a: (begun.set(), on.wait(10), run(*a))[-1])
    first = threading.Thread(target=xapi, args=("VMSS.snapshot_now", row.ref))
    first.start()
    assert begun.wait(10)
    assert xapi("VMSS.snapshot_now", row.ref) == ""
    on.set()
    first.join()
    assert told(xapi) == ["VMSS_SNAPSHOT_LOCK_FAILED", "VMSS_SNAPSHOT_SUCCEEDED"]


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(xapi, tmp_path, monkeypatch):
    """A daemon's look at a moment; `again` is a daemon that was started anew."""
    runs = []
    monkeypatch.setattr(vmss, "run", lambda pipeline, row: runs.append(row) or write(row))
    monkeypatch.setattr(xapi.pipeline.task_workers, "submit", lambda function, *args: function(*args))
    daemons = [Schedules(xapi.pipeline, tmp_path)]

    def write(row):
        row.last_run_time = at(look.moment)

    def look(moment: float, *, again: bool = False) -> int:
        if again:
            daemons.append(Schedules(xapi.pipeline, tmp_path))
        look.moment = moment
        before = len(runs)
        daemons[-1].look(moment)
        return len(runs) - before

    return look


def test_a_run_is_begun_once_when_it_falls_due(xapi, clock):
    row = schedule(xapi, schedule={"hour": "12", "min": "30"})
    guest(xapi, row)
    assert [clock(MONDAY + 60 * minute) for minute in (0, 29, 30, 31, 45, 60)] == [0, 0, 1, 0, 0, 0]
    assert clock(MONDAY + 1800 + 86400) == 1


def test_a_schedule_that_is_off_or_empty_is_not_run(xapi, clock):
    schedule(xapi, schedule={"hour": "12", "min": "30"})
    guest(xapi, schedule(xapi, schedule={"hour": "12", "min": "30"}, enabled=False))
    assert clock(MONDAY) + clock(MONDAY + 1800) == 0


def test_a_run_that_fell_due_while_the_daemon_was_down_is_done(xapi, clock):
    guest(xapi, schedule(xapi, schedule={"hour": "12", "min": "30"}))
    clock(MONDAY + 1700)
    assert clock(MONDAY + 1800 + LATE - 1, again=True) == 1
    assert told(xapi) == []


def test_one_that_is_long_over_is_told_as_missed(xapi, clock):
    guest(xapi, schedule(xapi, schedule={"hour": "12", "min": "30"}))
    clock(MONDAY + 1700)
    assert clock(MONDAY + 1800 + LATE, again=True) == 0
    assert told(xapi) == ["VMSS_SNAPSHOT_MISSED_EVENT"]
    assert clock(MONDAY + 1800 + LATE + 60, again=True) == 0
    assert told(xapi) == ["VMSS_SNAPSHOT_MISSED_EVENT"]


def test_a_schedule_made_at_noon_has_not_missed_the_morning(xapi, clock):
    assert clock(MONDAY - 60) == 0
    guest(xapi, schedule(xapi, schedule={"hour": "3"}))
    assert clock(MONDAY) == 0
    assert clock(MONDAY + 60, again=True) == 0
    assert told(xapi) == []


def test_a_clock_that_is_set_back_repeats_nothing(xapi, clock):
    guest(xapi, schedule(xapi, schedule={"hour": "12", "min": "30"}))
    clock(MONDAY)
    assert clock(MONDAY + 1860) == 1
    assert clock(MONDAY + 1200) == 0 and clock(MONDAY + 1860) == 0
    assert clock(MONDAY + 1860 + 86400) == 1


def test_a_run_that_a_crash_cut_short_is_taken_up(xapi, tmp_path):
    row = schedule(xapi)
    vm = guest(xapi, row)
    due = time.time() - 60
    left = xapi.machine.intents.declared(
        f"vmss-{row.uuid}-{int(due)}", {"kind": "vmss", "schedule": row.uuid, "due": str(due)})  # fmt: skip
    left.__enter__()
    Schedules(xapi.pipeline, tmp_path).take_up(time.time())
    deadline = time.monotonic() + 60
    while not told(xapi) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(vm.snapshots) == 1 and told(xapi) == ["VMSS_SNAPSHOT_SUCCEEDED"]


def test_checkpoints_are_taken_and_the_oldest_go_with_their_memory(host):
    row = schedule(host, type="checkpoint", retained_snapshots=1)
    vm = host.halted_vm(host.vdi(host.storage, 1 << 20))
    host("VM.set_snapshot_schedule", vm.ref, row.ref)
    host("VM.start", vm.ref, False, False)
    for _ in range(2):
        host("VMSS.snapshot_now", row.ref)
    (kept,) = (host.db.get(VM, ref) for ref in vm.snapshots)
    assert (vm.power_state, kept.power_state) == ("Running", "Suspended")
    assert {vdi.ref for vdi in host.db.all(VDI) if vdi.type == "suspend"} == {kept.suspend_VDI}
