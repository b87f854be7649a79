"""The data sources that there are: what each name means, by the names that XenAPI's clients know."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from kronos.metrics.archive import Column, Kind

Owner = Literal["host", "vm", "sr"]


@dataclass(frozen=True, slots=True)
class Source:
    """A data source. One that is not `standard` is recorded only once that is asked for."""

    name: str
    description: str
    units: str
    kind: Kind
    standard: bool = True
    minimum: float = 0.0
    maximum: float = math.inf

    @property
    def column(self) -> Column:
        return Column(self.name, self.kind, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class _Row:
    """Sources with names of a pattern, whose parts the description may name."""

    pattern: str
    description: str
    units: str
    kind: Kind = "GAUGE"
    standard: bool = True
    minimum: float = 0.0
    maximum: float = math.inf


FRACTION: Final = "(fraction)"

INPUT_OUTPUT: Final[tuple[tuple[str, str, str, Kind], ...]] = (
    ("read", "Bytes read per second", "B/s", "DERIVE"),
    ("write", "Bytes written per second", "B/s", "DERIVE"),
    ("read_latency", "Time that a read takes", "μs", "GAUGE"),
    ("write_latency", "Time that a write takes", "μs", "GAUGE"),
    ("latency", "Time that a request takes", "μs", "GAUGE"),
    ("io_throughput_read", "Data read per second", "MiB/s", "ABSOLUTE"),
    ("io_throughput_write", "Data written per second", "MiB/s", "ABSOLUTE"),
    ("io_throughput_total", "Data read and written per second", "MiB/s", "ABSOLUTE"),
    ("iops_read", "Reads per second", "requests/s", "ABSOLUTE"),
    ("iops_write", "Writes per second", "requests/s", "ABSOLUTE"),
    ("iops_total", "Requests per second", "requests/s", "ABSOLUTE"),
    ("iowait", "Time that requests waited, of all of them together, per second", "s/s", "ABSOLUTE"),
    ("avgqu_sz", "Requests under way at a time, on average", "requests", "GAUGE"),
)
"""What is measured of a disk, or of all disks of an SR: a part of the name, what it is, units, kind."""


def _of_interface(prefix: str, what: str) -> tuple[_Row, ...]:
    return (
        _Row(rf"{prefix}_rx", f"Bytes received per second on {what}", "B/s", "DERIVE"),
        _Row(rf"{prefix}_tx", f"Bytes sent per second on {what}", "B/s", "DERIVE"),
        _Row(rf"{prefix}_rx_errors", f"Failed receptions per second on {what}", "err/s", "DERIVE", False),
        _Row(rf"{prefix}_tx_errors", f"Failed transmissions per second on {what}", "err/s", "DERIVE", False),
    )


_ROWS: Final[dict[Owner, tuple[_Row, ...]]] = {
    "host": (
        _Row(r"cpu(\d+)", "Use of physical CPU {0}", FRACTION, "DERIVE", maximum=1.0),
        _Row("cpu_avg", "Use of all physical CPUs, on average", FRACTION, "DERIVE", maximum=1.0),
        _Row("loadavg", "Load of the control domain over a minute", FRACTION, minimum=-math.inf),
        _Row("hostload", "Virtual CPUs that run at a time, for each physical one", FRACTION),
        _Row("running_vcpus", "Virtual CPUs that run at a time, on average", "count"),
        _Row("running_domains", "VMs that run, the control domain among them", "count"),
        _Row("memory_total_kib", "Memory of the host", "KiB"),
        _Row("memory_free_kib", "Memory that VMs could still have", "KiB"),
        _Row("memory_reclaimed", "Memory that ballooning has taken from VMs", "B", minimum=-math.inf),
        _Row("memory_reclaimed_max", "Memory that it could still take", "B", minimum=-math.inf),
        _Row("pif_aggr_rx", "Bytes received per second on all physical interfaces", "B/s", "DERIVE"),
        _Row("pif_aggr_tx", "Bytes sent per second on all physical interfaces", "B/s", "DERIVE"),
        *_of_interface(r"pif_(.+)", "physical interface {0}"),
        _Row("xapi_memory_usage_kib", "Memory of the toolstack", "KiB"),
        _Row("xapi_open_fds", "Files and connections that the toolstack has open", "count", "GAUGE", False),
        _Row("pool_session_count", "Sessions in the pool", "count"),
        _Row("pool_task_count", "Tasks in the pool", "count"),
        *(
            _Row(rf"{name}_([0-9a-f]{{8}})", f"{what}, by the VMs on SR {{0}}", units, kind)
            for name, what, units, kind in INPUT_OUTPUT
        ),
    ),
    "vm": (
        _Row(r"cpu(\d+)", "Use of virtual CPU {0}", FRACTION, "DERIVE", maximum=1.0),
        _Row("cpu_usage", "Use of all virtual CPUs, on average", FRACTION, "DERIVE", maximum=1.0),
        _Row("memory", "Memory that the VM has", "B"),
        _Row("memory_target", "Memory that the VM is to have", "B"),
        _Row("memory_internal_free", "Memory that is free inside, as the guest tells", "KiB"),
        *_of_interface(r"vif_(\d+)", "virtual interface {0}"),
        *(
            _Row(rf"vbd_([a-z]+)_{name}", f"{what}, on disk {{0}}", units, kind)
            for name, what, units, kind in INPUT_OUTPUT
        ),
    ),
    "sr": (
        _Row("physical_size", "Size of the SR", "B"),
        _Row("physical_utilisation", "What is used of the SR", "B"),
        _Row("virtual_allocation", "What its disks may grow to, together", "B"),
    ),
}


@lru_cache(maxsize=20_000)
def source(owner: Owner, name: str) -> Source | None:
    """What a name means for a host, VM or SR; None for one that nothing is measured under."""
    for row in _ROWS[owner]:
        found = re.fullmatch(row.pattern, name)
        if found is not None:
            said = row.description.format(*found.groups())
            return Source(name, said, row.units, row.kind, row.standard, row.minimum, row.maximum)
    return None
