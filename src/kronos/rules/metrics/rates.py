"""Rates: what two readings of a counter say of the time between them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.metrics.archive import NAN
from kronos.metrics.sources import INPUT_OUTPUT

MEBIBYTE = 1 << 20
_KEYS = tuple(key for key, *_ in INPUT_OUTPUT)


def rate(before: float, after: float, seconds: float) -> float:
    """How much a counter grew in a second; NaN where it went back: it was reset or wrapped, and nobody knows which."""
    grown = after - before
    return grown / seconds if grown >= 0 and seconds > 0 else NAN


def fraction(before: float, after: float, seconds: float) -> float:
    """The part of the time that a counter of seconds grew by, from 0 to 1; clocks that were read one after the other
    differ by a little."""
    return min(rate(before, after, seconds), 1.0)


@lru_cache(maxsize=4096)
def disk_names(device: str) -> tuple[str, ...]:
    """The data sources of a VM's disk, in the order of `of_disk`."""
    return tuple(f"vbd_{device}_{key}" for key in _KEYS)


@lru_cache(maxsize=1024)
def storage_names(sr_uuid: str) -> tuple[str, ...]:
    """The host's data sources about an SR, in the order of `of_disk`."""
    return tuple(f"{key}_{sr_uuid[:8]}" for key in _KEYS)


def of_disk(before: DiskStatistics, after: DiskStatistics, seconds: float) -> tuple[float, ...]:
    """What a disk did in that time, a value for each of INPUT_OUTPUT. Latencies are 0 where there was no request."""
    read_bytes = rate(before.read_bytes, after.read_bytes, seconds)
    write_bytes = rate(before.write_bytes, after.write_bytes, seconds)
    reads = rate(before.read_requests, after.read_requests, seconds)
    writes = rate(before.write_requests, after.write_requests, seconds)
    read_time = rate(before.read_time, after.read_time, seconds)
    write_time = rate(before.write_time, after.write_time, seconds)
    waited = (read_time + write_time) / 1e9
    return (
        read_bytes,
        write_bytes,
        _each(read_time, reads),
        _each(write_time, writes),
        _each(read_time + write_time, reads + writes),
        read_bytes / MEBIBYTE,
        write_bytes / MEBIBYTE,
        (read_bytes + write_bytes) / MEBIBYTE,
        reads,
        writes,
        reads + writes,
        waited,
        waited,  # of a queue, the time waited in it per second is how long it is
    )


def _each(nanoseconds: float, requests: float) -> float:
    """Microseconds for each request."""
    return nanoseconds / requests / 1000 if requests else 0.0 if requests == requests else NAN


NOTHING = DiskStatistics()


def together(
    disks: Mapping[str, tuple[DiskStatistics, DiskStatistics]],
) -> tuple[DiskStatistics, DiskStatistics]:
    """The readings of several disks as of one: those of disks that were reset in between are left out."""
    before, after = [0] * len(NOTHING), [0] * len(NOTHING)
    for old, new in disks.values():
        if all(a <= b for a, b in zip(old, new, strict=True)):
            before = [a + b for a, b in zip(before, old, strict=True)]
            after = [a + b for a, b in zip(after, new, strict=True)]
    return DiskStatistics(*before), DiskStatistics(*after)
