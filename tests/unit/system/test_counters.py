"""The kernel's counters, as it writes them."""

from __future__ import annotations

import os

from kronos.system import counters
from kronos.system.counters import Traffic

STAT = """cpu  200 0 60 3000 50 0 3 0 0 0
cpu0 100 0 30 1000 20 0 3 0 0 0
cpu2 100 0 30 2000 30 0 0 0 0 0
intr 33 1 2 3
ctxt 5
"""
MEMINFO = """MemTotal:       24684092 kB
MemFree:        19191708 kB
MemAvailable:   20345452 kB
Buffers:          123456 kB
"""
DEVICES = """Inter-|   Receive                       |  Transmit
 face |bytes    packets errs drop fifo |bytes    packets errs drop fifo colls carrier compressed
    lo:   10      1    0    0    0     0          0         0       10       1    0    0    0     0       0          0
  eth0:12345678901234  20  3 4 5 6 7 8 98765432109876  40  5 6 7 8 9 10
"""


def proc(directory, stat: str = STAT, meminfo: str = MEMINFO):
    (directory / "net").mkdir()
    (directory / "self").mkdir()
    (directory / "self" / "fd").mkdir()
    (directory / "self" / "fd" / "0").touch()
    (directory / "stat").write_text(stat)
    (directory / "meminfo").write_text(meminfo)
    (directory / "loadavg").write_text("0.25 0.50 1.00 2/345 6789\n")
    (directory / "net" / "dev").write_text(DEVICES)
    (directory / "self" / "statm").write_text("500 100 50 1 0 200 0\n")
    return directory


def test_everything_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(counters, "PROC", proc(tmp_path))
    found = counters.read()
    tick = os.sysconf("SC_CLK_TCK")
    assert found.idle == {0: 1020 / tick, 2: 2030 / tick}
    assert found.load == 0.25
    assert (found.memory_total, found.memory_free, found.memory_available) == (24684092, 19191708, 20345452)
    assert found.traffic == {
        "lo": Traffic(10, 10, 0, 0),
        "eth0": Traffic(12345678901234, 98765432109876, 3, 5),
    }
    assert (found.own_memory, found.own_files) == (100 * os.sysconf("SC_PAGE_SIZE") // 1024, 1)


def test_a_kernel_that_does_not_tell_what_is_available_tells_what_is_free(tmp_path, monkeypatch):
    old = "MemTotal: 100 kB\nMemFree: 40 kB\nBuffers: 5 kB\n"
    monkeypatch.setattr(counters, "PROC", proc(tmp_path, meminfo=old))
    assert counters.read().memory_available == 40


def test_this_machine_can_be_read():
    found = counters.read()
    assert 0 < found.memory_available <= found.memory_total
    assert found.idle
    assert "lo" in found.traffic
    assert found.own_files > 2
