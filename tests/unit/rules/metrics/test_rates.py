"""What two readings say of the time between them: of VMs, disks, interfaces and the host."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.hypervisor.usage import Usage
from kronos.metrics.sources import source
from kronos.rules.metrics import guests, host, rates
from kronos.system.counters import Counters, Traffic

SECOND = 10**9
SR = "0f1e2d3c-0000-0000-0000-000000000000"
counter = st.integers(0, (1 << 64) - 1)


def usage(moment: float, domid: int = 1, **fields) -> Usage:
    return Usage("u", domid, True, moment, **fields)


def around(**fields) -> guests.Surroundings:
    return guests.Surroundings(memory=64, memory_target=128, **fields)


def counters(idle: dict[int, float] | None = None, **traffic: Traffic) -> Counters:
    return Counters(idle or {0: 0.0, 1: 0.0}, 0.25, 1000, 600, 500, traffic, 70, 20)


@given(counter, counter, st.floats(0.01, 1000))
def test_a_counter_that_went_back_says_nothing(before, after, seconds):
    found = rates.rate(before, after, seconds)
    if after < before:
        assert math.isnan(found)
    else:
        assert found == pytest.approx((after - before) / seconds)


def test_no_time_is_no_rate():
    assert math.isnan(rates.rate(1, 2, 0.0))


def test_a_fraction_is_one_at_most():
    assert rates.fraction(0.0, 5.01, 5.0) == 1.0


def test_a_disk_s_requests_bytes_and_waits():
    before = DiskStatistics(1000, 10, 5_000_000, 2000, 20, 7_000_000)
    after = DiskStatistics(1000 + (5 << 20), 60, 55_000_000, 2000 + (10 << 20), 120, 207_000_000)
    found = dict(zip(rates.disk_names("xvda"), rates.of_disk(before, after, 5.0), strict=True))
    assert found == pytest.approx(
        {
            "vbd_xvda_read": 1 << 20,
            "vbd_xvda_write": 2 << 20,
            "vbd_xvda_read_latency": 1000.0,
            "vbd_xvda_write_latency": 2000.0,
            "vbd_xvda_latency": 250_000 / 150,
            "vbd_xvda_io_throughput_read": 1.0,
            "vbd_xvda_io_throughput_write": 2.0,
            "vbd_xvda_io_throughput_total": 3.0,
            "vbd_xvda_iops_read": 10.0,
            "vbd_xvda_iops_write": 20.0,
            "vbd_xvda_iops_total": 30.0,
            "vbd_xvda_iowait": 0.05,
            "vbd_xvda_avgqu_sz": 0.05,
        }
    )


def test_a_disk_that_rests_has_no_latency():
    same = DiskStatistics(1, 2, 3, 4, 5, 6)
    assert set(rates.of_disk(same, same, 5.0)) == {0.0}


def test_a_disk_that_was_plugged_anew_says_nothing():
    found = rates.of_disk(DiskStatistics(9, 9, 9, 9, 9, 9), DiskStatistics(), 5.0)
    assert all(each != each for each in found)


def test_disks_of_an_sr_count_together_but_for_those_that_were_reset():
    two = DiskStatistics(2, 2, 2, 2, 2, 2)
    one = DiskStatistics(1, 1, 1, 1, 1, 1)
    before, after = rates.together({"a": (one, two), "b": (two, one), "c": (one, two)})
    assert after.read_bytes - before.read_bytes == 2
    assert after.write_time - before.write_time == 2


def test_a_vm_s_processors():
    before = usage(10.0, vcpus={0: 0, 1: 5 * SECOND}, processor=9)
    after = usage(20.0, vcpus={0: 5 * SECOND, 1: 5 * SECOND}, processor=10 * SECOND)
    found = guests.values(before, after, around(), {}, {})
    assert (found["cpu0"], found["cpu1"], found["cpu_usage"]) == (0.5, 0.0, 0.25)


def test_a_vm_whose_processors_cannot_be_told_apart_has_the_sum():
    found = guests.values(usage(10.0, processor=1), usage(20.0, processor=5 * SECOND + 1), around(), {}, {})
    assert "cpu0" not in found
    assert found["cpu_usage"] == pytest.approx(0.5)


def test_a_processor_that_is_plugged_is_unknown_at_first():
    found = guests.values(usage(0.0, vcpus={0: 0}), usage(5.0, vcpus={0: 0, 1: 5}), around(), {}, {})
    assert found["cpu0"] == 0.0
    assert math.isnan(found["cpu1"])


@pytest.mark.parametrize("before", [None, usage(0.0, domid=7, vcpus={0: 9 * SECOND})])
def test_the_first_reading_of_a_run_has_no_rates(before):
    found = guests.values(
        before, usage(5.0, vcpus={0: SECOND}, disks={0: DiskStatistics()}), around(disks={0: "xvda"}), {}, {}
    )
    assert math.isnan(found["cpu0"])
    assert math.isnan(found["vbd_xvda_read"])
    assert (found["memory"], found["memory_target"]) == (64, 128)


def test_what_the_hypervisor_says_of_memory_counts_before_the_records():
    assert guests.values(None, usage(0.0, memory=32), around(free=7), {}, {})["memory"] == 32
    assert guests.values(None, usage(0.0), around(free=7), {}, {})["memory_internal_free"] == 7
    assert "memory_internal_free" not in guests.values(None, usage(0.0), around(), {}, {})


def test_what_the_host_sends_the_guest_receives():
    known = around(interfaces={"0": ("tap", "tap-emu")})
    old = {"tap": Traffic(100, 200, 1, 2), "tap-emu": Traffic(1, 1, 0, 0)}
    new = {"tap": Traffic(200, 400, 2, 4), "tap-emu": Traffic(101, 1, 0, 0)}
    found = guests.values(usage(0.0), usage(10.0), known, old, new)
    names = ("vif_0_rx", "vif_0_tx", "vif_0_rx_errors", "vif_0_tx_errors")
    assert [found[name] for name in names] == [20.0, 20.0, 0.2, 0.1]


def test_an_interface_that_is_new_is_unknown_and_one_that_is_not_there_is_no_source():
    known = around(interfaces={"0": ("tap",), "1": ("nothing",)})
    found = guests.values(usage(0.0), usage(10.0), known, {}, {"tap": Traffic(1, 1, 1, 1)})
    assert math.isnan(found["vif_0_rx"])
    assert "vif_1_rx" not in found


def test_a_disk_that_the_hypervisor_does_not_know_is_no_source():
    assert not [
        name for name in guests.values(None, usage(0.0), around(disks={3: "xvdd"}), {}, {}) if "vbd" in name
    ]


def test_a_host_s_processors_are_busy_when_they_are_not_idle():
    found = host.values(
        counters({0: 10.0, 1: 20.0}), counters({0: 12.5, 1: 25.0}), 5.0, host.Surroundings(1000, 600)
    )
    assert (found["cpu0"], found["cpu1"], found["cpu_avg"]) == (0.5, 0.0, 0.25)
    assert (found["running_vcpus"], found["hostload"]) == (0.5, 0.25)


def test_a_clock_tick_too_many_is_not_less_than_nothing():
    assert host.processors(counters({0: 10.0}), counters({0: 15.01}), 5.0) == {"cpu0": 0.0}


def test_where_the_kernel_sees_a_part_of_the_machine_its_processors_are_not_the_host_s():
    known = host.Surroundings(1000, 600, processors=8, guest_processors=3.0)
    found = host.values(counters({0: 10.0, 1: 20.0}), counters({0: 10.0, 1: 25.0}), 5.0, known)
    assert "cpu0" not in found
    assert found["cpu_avg"] == 0.5


def test_physical_interfaces_add_up_without_bonds():
    known = host.Surroundings(1, 1, nics=("eth0", "eth1", "bond0", "gone"), physical={"eth0", "eth1"})
    old = counters(eth0=Traffic(0, 0), eth1=Traffic(0, 0), bond0=Traffic(0, 0))
    new = counters(
        eth0=Traffic(50, 10, 5), eth1=Traffic(100, 20), bond0=Traffic(150, 30), other=Traffic(9, 9)
    )
    found = host.values(old, new, 5.0, known)
    assert (found["pif_eth0_rx"], found["pif_bond0_rx"], found["pif_eth0_rx_errors"]) == (10.0, 30.0, 1.0)
    assert (found["pif_aggr_rx"], found["pif_aggr_tx"]) == (30.0, 6.0)
    assert not [name for name in found if "gone" in name or "other" in name]


def test_what_vms_do_on_an_sr_is_told_of_the_host():
    pair = (DiskStatistics(), DiskStatistics(read_bytes=50, read_requests=5))
    known = host.Surroundings(1, 1, disks={SR: {"a": pair, "b": pair}})
    found = host.values(counters(), counters(), 5.0, known)
    assert (found["read_0f1e2d3c"], found["iops_read_0f1e2d3c"]) == (20.0, 2.0)


def test_the_first_reading_of_a_host_has_no_rates():
    known = host.Surroundings(1000, 600, nics=("eth0",), physical={"eth0"})
    found = host.values(None, counters(eth0=Traffic(1, 1)), 0.0, known)
    assert {name for name, each in found.items() if each != each} == {
        *("cpu0", "cpu1", "cpu_avg", "hostload", "running_vcpus", "pif_aggr_rx", "pif_aggr_tx"),
        *("pif_eth0_rx", "pif_eth0_tx", "pif_eth0_rx_errors", "pif_eth0_tx_errors"),
    }


def test_every_value_has_a_source_that_describes_it():
    pair = (DiskStatistics(), DiskStatistics())
    of_host = host.values(
        counters(eth0=Traffic()),
        counters(eth0=Traffic()),
        5.0,
        host.Surroundings(1, 1, nics=("eth0",), physical={"eth0"}, disks={SR: {"a": pair}}),
    )
    of_vm = guests.values(
        usage(0.0),
        usage(5.0, vcpus={0: 1}, disks={0: DiskStatistics()}),
        around(free=1, disks={0: "xvda"}, interfaces={"0": ("tap",)}),
        {},
        {"tap": Traffic()},
    )
    zero = host.control_domain(counters(), counters(), 5.0, 1, 1)
    for owner, values in (("host", of_host), ("vm", of_vm), ("vm", zero)):
        for name in values:
            found = source(owner, name)
            assert found is not None, name
            assert found.description and found.units and "{" not in found.description
    assert source("host", "cpu") is None
    assert source("vm", "loadavg") is None
