"""What is measured of the host, and of its control domain: from two readings of the kernel's counters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.metrics.archive import NAN
from kronos.rules.metrics.rates import of_disk, rate, storage_names, together
from kronos.system.counters import Counters


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else is known. `nics` are network devices with a PIF, those that are not `physical` are bonds; memory is in
    KiB. `processors` and `guest_processors` are only given where the kernel does not see the machine's own CPUs (Xen):
    how many there are, and the parts of one that VMs used."""

    memory_total: int
    memory_free: int
    nics: Collection[str] = ()
    physical: Collection[str] = ()
    sessions: int = 0
    tasks: int = 0
    running_domains: int = 1
    reclaimed: int = 0
    reclaimable: int = 0
    processors: int | None = None
    guest_processors: float = 0.0
    disks: Mapping[str, Mapping[str, tuple[DiskStatistics, DiskStatistics]]] = field(default_factory=dict)
    """By SR uuid, its disks' readings before and now."""


def values(before: Counters | None, after: Counters, seconds: float, known: Surroundings) -> dict[str, float]:
    """All data sources of the host, by name."""
    used = processors(before, after, seconds)
    count, busy = len(used), sum(used.values())
    if known.processors is not None:
        count, busy, used = known.processors, busy + known.guest_processors, {}
    average = min(busy / max(count, 1), 1.0)
    found = used | {
        "cpu_avg": average,
        "loadavg": after.load,
        "hostload": average,
        "running_vcpus": busy,
        "running_domains": known.running_domains,
        "memory_total_kib": known.memory_total,
        "memory_free_kib": known.memory_free,
        "memory_reclaimed": known.reclaimed,
        "memory_reclaimed_max": known.reclaimable,
        "xapi_memory_usage_kib": after.own_memory,
        "xapi_open_fds": after.own_files,
        "pool_session_count": known.sessions,
        "pool_task_count": known.tasks,
    }
    found.update(_network(before, after, seconds, known))
    for sr, disks in known.disks.items():
        found.update(zip(storage_names(sr), of_disk(*together(disks), seconds), strict=True))
    return found


def processors(before: Counters | None, after: Counters, seconds: float) -> dict[str, float]:
    """The part of the time that each CPU was busy."""
    found = {}
    for number, idle in after.idle.items():
        old = before.idle.get(number) if before is not None else None
        # The kernel counts in hundredths, and each CPU in its own time: a little less than nothing is nothing.
        busy = NAN if old is None or seconds <= 0 else 1.0 - max(idle - old, 0.0) / seconds
        found[f"cpu{number}"] = min(max(busy, 0.0), 1.0) if busy == busy else NAN
    return found


def _network(
    before: Counters | None, after: Counters, seconds: float, known: Surroundings
) -> dict[str, float]:
    found = {}
    received = sent = 0.0
    for name in known.nics:
        now = after.traffic.get(name)
        if now is None:
            continue
        old = before.traffic.get(name) if before is not None else None
        rates = [NAN] * 4 if old is None else [rate(a, b, seconds) for a, b in zip(old, now, strict=True)]
        for key, value in zip(("rx", "tx", "rx_errors", "tx_errors"), rates, strict=True):
            found[f"pif_{name}_{key}"] = value
        if name in known.physical:
            received += rates[0]
            sent += rates[1]
    return found | {"pif_aggr_rx": received, "pif_aggr_tx": sent}


def control_domain(
    before: Counters | None, after: Counters, seconds: float, memory: int, target: int
) -> dict[str, float]:
    """All data sources of the control domain as a VM; memory is in bytes."""
    used = processors(before, after, seconds)
    return used | {
        "cpu_usage": sum(used.values()) / max(len(used), 1),
        "memory": memory,
        "memory_target": target,
        "memory_internal_free": after.memory_available,
    }
