"""Data sources through XenAPI, and what is measured of the records' objects, on fake drivers."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from kronos.background.metrics import Metrics
from kronos.db.records import SR, VBD, VM
from kronos.dispatch.call import Origin
from kronos.metrics.archive import STEP
from kronos.metrics.keeping import Keeping, Key

LOCAL = Origin(local=True)
NOON = 1_800_000_000.0


class Clock:
    """A daemon's rounds, one step after the other."""

    def __init__(self, host) -> None:
        self.metrics = Metrics(host.db, host.machine)
        self.now = NOON

    def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += STEP
            self.metrics.round(self.now)


@pytest.fixture
def clock(host):
    return Clock(host)


def running(host) -> VM:
    vm = host.halted_vm(host.vdi(host.storage, 1 << 20))
    host("VM.start", vm.ref, False, False)
    return vm


def sources(host, cls: str, ref: str) -> dict[str, dict]:
    return {row["name_label"]: row for row in host(f"{cls}.get_data_sources", ref)}


def recorded(archive, name: str, count: int) -> list[float]:
    """The newest values of a source, oldest first, math.nan where it is unknown."""
    rows = archive.levels[0].rings[0].last(count)
    values = rows[archive.names.index(name) :: len(archive.names)]
    return [value if value == value else math.nan for value in values]


def test_a_host_has_what_its_kernel_counts(host, clock) -> None:
    clock.rounds(2)
    found = sources(host, "host", host.host.ref)
    assert {
        "cpu0",
        "cpu_avg",
        "loadavg",
        "memory_total_kib",
        "memory_free_kib",
        "pif_aggr_rx",
    } <= found.keys()
    assert 0 <= host("host.query_data_source", host.host.ref, "cpu_avg") <= 1
    free, total = (
        host("host.query_data_source", host.host.ref, f"memory_{name}_kib") for name in ("free", "total")
    )
    assert 0 < free < total
    assert found["memory_total_kib"] | {"value": 0} == {
        "name_label": "memory_total_kib",
        "name_description": "Memory of the host",
        "enabled": True,
        "standard": True,
        "units": "KiB",
        "min": 0.0,
        "max": math.inf,
        "value": 0,
    }


def test_json_has_null_for_what_is_no_number(host, clock) -> None:
    clock.rounds()
    answer = answered(host, "host.get_data_sources", host.host.ref)
    found = {row["name_label"]: row for row in json.loads(answer.json(), parse_constant=pytest.fail)}
    assert (found["loadavg"]["min"], found["loadavg"]["max"]) == (None, None)
    assert found["cpu_avg"]["value"] is None
    assert b"<double>NaN</double>" in answer.xml()
    assert answered(host, "host.query_data_source", host.host.ref, "cpu_avg").json() == b"null"


def answered(host, name: str, *args: object):
    """The answer before it is written."""

    async def serve():
        answer = host.pipeline.call(LOCAL, name, (host.session, *args))
        return answer if not hasattr(answer, "__await__") else await answer

    return asyncio.run_coroutine_threadsafe(serve(), host.loop).result(30)


def test_a_vm_has_its_processors_memory_and_disks_while_it_runs(host, clock) -> None:
    vm = running(host)
    clock.rounds(2)
    found = sources(host, "VM", vm.ref)
    assert {
        "cpu0",
        "cpu_usage",
        "memory",
        "memory_target",
        "vbd_xvda_read",
        "vbd_xvda_iops_write",
    } <= found.keys()
    assert host("VM.query_data_source", vm.ref, "memory") == 64 << 20
    host("VM.hard_shutdown", vm.ref)
    assert host.refused("VM.query_data_source", vm.ref, "memory") == [
        *("VM_BAD_POWER_STATE", vm.ref, "running;paused", "halted")
    ]
    assert host.refused("VM.get_data_sources", vm.ref)[0] == "VM_BAD_POWER_STATE"


def test_an_sr_has_its_sizes_while_it_is_plugged(host, clock) -> None:
    clock.rounds()
    sr: SR = host.storage
    assert sources(host, "SR", sr.ref).keys() == {
        *("physical_size", "physical_utilisation", "virtual_allocation")
    }
    assert host("SR.query_data_source", sr.ref, "physical_size") == sr.physical_size
    host("PBD.unplug", sr.PBDs[0])
    clock.rounds()
    assert not host("SR.get_data_sources", sr.ref)


def test_what_is_not_standard_is_recorded_when_it_is_asked_for(host, clock) -> None:
    clock.rounds()
    assert not sources(host, "host", host.host.ref)["xapi_open_fds"]["enabled"]
    unknown = ["INVALID_VALUE", "data_source", "xapi_open_fds"]
    assert host.refused("host.query_data_source", host.host.ref, "xapi_open_fds") == unknown
    host("host.record_data_source", host.host.ref, "xapi_open_fds")
    clock.rounds()
    assert sources(host, "host", host.host.ref)["xapi_open_fds"]["enabled"]
    assert host("host.query_data_source", host.host.ref, "xapi_open_fds") > 3
    host("host.forget_data_source_archives", host.host.ref, "xapi_open_fds")
    clock.rounds()
    assert host.refused("host.query_data_source", host.host.ref, "xapi_open_fds") == unknown


def test_a_standard_source_that_is_forgotten_begins_anew(host, clock) -> None:
    clock.rounds(3)
    key = Key("host", host.host.uuid)
    host("host.forget_data_source_archives", host.host.ref, "loadavg")
    clock.rounds()
    archive = host.machine.metrics.archive(key)
    index = archive.names.index("loadavg")
    ring = archive.levels[0].rings[0]
    assert ring.row(0)[index] >= 0
    assert math.isnan(ring.row(1)[index])


def test_what_is_not_measured_cannot_be_recorded(host, clock) -> None:
    clock.rounds()
    for name in ("nothing", "cpu99999"):
        assert host.refused("host.record_data_source", host.host.ref, name) == [
            *("INVALID_VALUE", "data_source", name)
        ]
    host("host.forget_data_source_archives", host.host.ref, "nothing")


def test_archives_of_vms_that_ended_are_on_disk_and_go_with_them(host, clock) -> None:
    vm = running(host)
    clock.rounds(2)
    host("VM.set_name_label", vm.ref, "another name")
    host("VM.hard_shutdown", vm.ref)
    clock.rounds()
    key = Key("vm", vm.uuid)
    keeping = host.machine.metrics
    assert key not in keeping.measured()
    assert keeping.archive(key).newest("memory") == 64 << 20
    host("VM.start", vm.ref, False, False)
    clock.rounds()
    assert recorded(keeping.archive(key), "memory", 4) == [64 << 20, 64 << 20, math.nan, 64 << 20]
    host("VM.hard_shutdown", vm.ref)
    host("VM.destroy", vm.ref)
    clock.rounds(12)
    assert keeping.archive(key) is None


def test_archives_outlive_the_daemon(host, clock) -> None:
    clock.rounds(3)
    host("host.backup_rrds", host.host.ref, 0.0)
    key = Key("host", host.host.uuid)
    before = host.machine.metrics.archive(key)
    host.machine.metrics = Keeping(host.machine.state / "metrics")
    again = Clock(host)
    again.now = clock.now
    again.rounds()
    after = host.machine.metrics.archive(key)
    assert after.last == before.last + STEP
    column = before.names.index("memory_total_kib")
    assert after.levels[0].rings[0].row(1)[column] == before.levels[0].rings[0].row(0)[column]


def test_a_backup_may_be_asked_for_later(host, clock) -> None:
    clock.rounds()
    host("host.backup_rrds", host.host.ref, 1e300)
    clock.rounds()
    assert not list((host.machine.state / "metrics").glob("*"))
    host("host.backup_rrds", host.host.ref, -1.0)
    assert (host.machine.state / "metrics" / f"host.{host.host.uuid}").exists()


def test_a_reading_of_a_vm_that_runs_anew_does_not_count_from_the_old_one(host, clock) -> None:
    vm = running(host)
    clock.rounds(2)
    host("VM.hard_reboot", vm.ref)
    clock.rounds()
    assert math.isnan(host("VM.query_data_source", vm.ref, "cpu_usage"))
    assert host("VM.query_data_source", vm.ref, "memory") == 64 << 20


def test_the_pool_may_want_the_extremes_of_new_vms(host, clock) -> None:
    host("pool.add_to_other_config", host.pool.ref, "create_min_max_in_new_VM_RRDs", "true")
    vm = running(host)
    clock.rounds()
    functions = [ring.function for ring in host.machine.metrics.archive(Key("vm", vm.uuid)).levels[1].rings]
    assert functions == ["AVERAGE", "MIN", "MAX"]


def test_the_control_domain_is_a_vm_too(host, clock) -> None:
    zero = host.db.create(
        VM, name_label="zero", is_control_domain=True, power_state="Running", memory_target=5
    )
    host.host.control_domain = zero.ref
    clock.rounds(2)
    assert host("VM.query_data_source", zero.ref, "memory_target") == 5
    assert host("VM.query_data_source", zero.ref, "memory_internal_free") > 0


def test_a_disk_that_is_not_plugged_is_not_measured(host, clock) -> None:
    vm = running(host)
    for vbd in (host.db.get(VBD, ref) for ref in vm.VBDs):
        vbd.currently_attached = False
    clock.rounds()
    assert not [name for name in sources(host, "VM", vm.ref) if name.startswith("vbd_")]
