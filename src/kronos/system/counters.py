"""What the kernel counts of the machine: processors, memory, network devices, and this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


class Traffic(NamedTuple):
    """Of a network device since it was made; errors are packets."""

    rx: int = 0
    tx: int = 0
    rx_errors: int = 0
    tx_errors: int = 0


class Counters(NamedTuple):
    """All at one moment. `idle` is the time in seconds that each CPU has been idle, by number; memory is in KiB."""

    idle: Mapping[int, float]
    load: float
    memory_total: int
    memory_available: int
    memory_free: int
    traffic: Mapping[str, Traffic]
    own_memory: int
    own_files: int


def read() -> Counters:
    """Raises OSError where /proc is not there."""
    memory = _memory((PROC / "meminfo").read_text())
    return Counters(
        idle=_idle((PROC / "stat").read_text()),
        load=float((PROC / "loadavg").read_text().split()[0]),
        memory_total=memory["MemTotal"],
        memory_available=memory.get("MemAvailable", memory["MemFree"]),
        memory_free=memory["MemFree"],
        traffic=_traffic((PROC / "net/dev").read_text()),
        own_memory=int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        own_files=len(os.listdir(PROC / "self/fd")),
    )


def _idle(stat: str) -> dict[int, float]:
    """Waiting for a disk is idling too: another could run meanwhile."""
    found = {}
    for line in stat.splitlines():
        if not line.startswith("cpu"):
            break
        name, *times = line.split()
        if name != "cpu":
            found[int(name[3:])] = (int(times[3]) + int(times[4])) / _TICKS
    return found


def _memory(meminfo: str) -> dict[str, int]:
    lines = (line.partition(":") for line in meminfo.splitlines()[:3])
    return {name: int(value.split()[0]) for name, _, value in lines}


def _traffic(devices: str) -> dict[str, Traffic]:
    found = {}
    for line in devices.splitlines()[2:]:
        name, _, counted = line.partition(":")
        numbers = counted.split()
        found[name.strip()] = Traffic(int(numbers[0]), int(numbers[8]), int(numbers[2]), int(numbers[10]))
    return found
