"""What the machine has and its VMs have used, as the layer below counts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kronos.hypervisor.disk_facts import DiskStatistics


class PhysicalMemory(NamedTuple):
    """The machine's memory in bytes: all of it, and what no VM and nothing else has now."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of a VM has used since it began, at a moment in seconds of the monotonic clock.

    `vcpus` is the processor time of each virtual CPU, `processor` that of the VM as a whole, in nanoseconds; `memory`
    is in bytes, None where the layer below is not asked for it; `disks` are by device number. What a driver cannot tell
    is left out, or 0.
    """

    uuid: str
    domid: int
    running: bool
    moment: float
    processor: int = 0
    vcpus: Mapping[int, int] = field(default_factory=dict)
    disks: Mapping[int, DiskStatistics] = field(default_factory=dict)
    memory: int | None = None
