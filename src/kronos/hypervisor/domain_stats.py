"""What VMs have used, as libvirt tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import libvirt

from kronos.datamodel.errors import Failure
from kronos.hypervisor.disk_facts import DiskStatistics
from kronos.hypervisor.usage import Usage

GROUPS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
"""Interfaces are not among them: all their counters are in one file of the kernel's, which libvirt would read again for
each. Nor is memory, of which libvirt tells by an event, and for which it would ask every guest."""


def all_at_once(handle: libvirt.virConnect, clock: Callable[[], float]) -> list[Usage]:
    """Of all VMs of a libvirt that can tell it in one call, which does not wait for those that are busy: of these it
    tells less. Raises libvirtError."""
    flags = (
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    found = handle.getAllDomainStats(GROUPS, flags)
    moment = clock()
    return [told(domain.UUIDString(), domain.ID(), moment, said) for domain, said in found]


def told(uuid: str, domid: int, moment: float, said: Mapping[str, Any]) -> Usage:
    """One VM's, from what libvirt says of it."""
    vcpus = {
        number: said[f"vcpu.{number}.time"]
        for number in range(said.get("vcpu.maximum", 0))
        if f"vcpu.{number}.time" in said
    }
    disks: dict[int, DiskStatistics] = {}
    for index in range(said.get("block.count", 0)):
        number = disk_number(said.get(f"block.{index}.name", ""))
        if number is not None and f"block.{index}.rd.reqs" in said:
            disks[number] = _disk(f"block.{index}", said)
    return Usage(
        uuid,
        domid,
        said.get("state.state") == libvirt.VIR_DOMAIN_RUNNING,
        moment,
        said.get("cpu.time", 0),
        vcpus,
        disks,
    )


def _disk(prefix: str, said: Mapping[str, Any]) -> DiskStatistics:
    names = ("rd.bytes", "rd.reqs", "rd.times", "wr.bytes", "wr.reqs", "wr.times", "fl.reqs", "fl.times")
    return DiskStatistics(*(said.get(f"{prefix}.{name}", 0) for name in names))


def disk_number(target: str) -> int | None:
    """The device number behind a name such as `vda`, `sdb` or `xvdaa`, as the renderers make it."""
    letters = target[3:] if target.startswith("xvd") else target[2:]
    if not letters or not (letters.isascii() and letters.isalpha() and letters.islower()):
        return None
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def one_by_one(
    domains: Iterable[libvirt.virDomain],
    clock: Callable[[], float],
    disks: Callable[[str], Mapping[int, DiskStatistics]],
) -> list[Usage]:
    """Of VMs of a libvirt that has no such call. `disks` tells of one VM's. A VM that ends meanwhile is left out."""
    found = []
    for domain in domains:
        with suppress(libvirt.libvirtError):
            uuid = domain.UUIDString()
            state, _, memory, _, processor = domain.info()
            each = {number: nanoseconds for number, _, nanoseconds, _ in domain.vcpus()[0]}
            used: Mapping[int, DiskStatistics] = {}
            with suppress(Failure):
                used = disks(uuid)
            running = state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
            found.append(Usage(uuid, domain.ID(), running, clock(), processor, each, used, memory << 10))
    return found
