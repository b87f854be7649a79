"""What is measured of a VM: from two readings of what it used, and from its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kronos.hypervisor.usage import Usage
from kronos.metrics.archive import NAN
from kronos.rules.metrics.rates import disk_names, fraction, of_disk, rate
from kronos.system.counters import Traffic


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the records say of a VM. `disks` names VBD.device by device number, `interfaces` the host's network devices
    that a VIF has, by VIF.device; memory is in bytes, `free` in KiB."""

    memory: int
    memory_target: int
    free: int | None = None
    disks: Mapping[int, str] = field(default_factory=dict)
    interfaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def values(
    before: Usage | None,
    after: Usage,
    known: Surroundings,
    traffic_before: Mapping[str, Traffic],
    traffic: Mapping[str, Traffic],
) -> dict[str, float]:
    """All data sources of a VM that is here, by name; NaN for what two readings are needed for and only one is there.

    A VM whose domid changed meanwhile runs anew: what it counted before counts no more.
    """
    if before is not None and before.domid != after.domid:
        before = None
    seconds = after.moment - before.moment if before is not None else 0.0
    found = _processors(before, after, seconds)
    found["memory"] = after.memory if after.memory is not None else known.memory
    found["memory_target"] = known.memory_target
    if known.free is not None:
        found["memory_internal_free"] = known.free
    for device, names in known.interfaces.items():
        found.update(_interface(device, names, traffic_before if before else {}, traffic, seconds))
    for number, name in known.disks.items():
        used = after.disks.get(number)
        if used is not None:
            old = before.disks.get(number) if before is not None else None
            numbers = of_disk(old, used, seconds) if old is not None else (NAN,) * len(disk_names(name))
            found.update(zip(disk_names(name), numbers, strict=True))
    return found


def _processors(before: Usage | None, after: Usage, seconds: float) -> dict[str, float]:
    found = {}
    for number, time in after.vcpus.items():
        old = before.vcpus.get(number) if before is not None else None
        found[f"cpu{number}"] = NAN if old is None else fraction(old / 1e9, time / 1e9, seconds)
    count = len(after.vcpus)
    if count:
        # Not of the VM as a whole: what its emulator does is not the guest's.
        found["cpu_usage"] = sum(found.values()) / count
    elif after.processor:
        old = before.processor if before is not None else None
        found["cpu_usage"] = NAN if old is None else fraction(old / 1e9, after.processor / 1e9, seconds)
    return found


def _interface(
    device: str,
    names: tuple[str, ...],
    before: Mapping[str, Traffic],
    after: Mapping[str, Traffic],
    seconds: float,
) -> dict[str, float]:
    """What the host sends to a guest's device is what the guest receives."""
    now = [after[name] for name in names if name in after]
    if not now:
        return {}
    old = [before[name] for name in names if name in after and name in before]
    prefix = f"vif_{device}"
    if len(old) < len(now):
        return dict.fromkeys(
            (f"{prefix}_rx", f"{prefix}_tx", f"{prefix}_rx_errors", f"{prefix}_tx_errors"), NAN
        )
    rates = [
        rate(sum(a), sum(b), seconds)
        for a, b in zip(zip(*old, strict=True), zip(*now, strict=True), strict=True)
    ]
    received, sent, receive_errors, send_errors = rates
    return {
        f"{prefix}_rx": sent,
        f"{prefix}_tx": received,
        f"{prefix}_rx_errors": send_errors,
        f"{prefix}_tx_errors": receive_errors,
    }
