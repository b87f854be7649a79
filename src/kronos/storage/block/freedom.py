"""Whether a disk may become part of a storage repository: only one that nobody has written anything to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from kronos.storage.block import devices
from kronos.storage.block.devices import Disk
from kronos.storage.faults import Fault

SMALLEST: Final = 1 << 30
"""Bytes. Smaller ones are boot loaders' partitions, memory cards and the like."""
_KINDS: Final = {"disk", "part", "loop"}
"""Whole disks and partitions; loop devices for who names one. What is made of other devices is not taken."""

Objection = tuple[Fault, str]


def objections(disk: Disk) -> list[Objection]:
    """Why this disk is not to be written to, the gravest reason first; nothing where it is free."""
    return list(_objections(disk))


def _objections(disk: Disk) -> Iterator[Objection]:
    if "/" in disk.mounted:
        yield Fault.ROOT_DEVICE, "holds the system"
    elif disk.mounted:
        yield Fault.SR_IN_USE, f"is mounted: {', '.join(disk.mounted)}"
    if disk.kind not in _KINDS:
        yield Fault.DEVICE_INVALID, f"is neither a disk nor a partition: {disk.kind}"
    if disk.made_of_it:
        yield Fault.SR_IN_USE, f"is part of {', '.join(disk.made_of_it)}"
    if disk.signatures:
        yield Fault.SR_IN_USE, f"has data: {', '.join(disk.signatures)}"
    if disk.busy and not disk.mounted and not disk.made_of_it:
        yield Fault.SR_IN_USE, "is in use by another program"
    if disk.size == 0:
        yield Fault.DEVICE_INVALID, "has no medium, or no size"
    elif disk.size < SMALLEST:
        yield Fault.SR_NO_SPACE, f"has {disk.size} bytes, less than {SMALLEST}"
    elif disk.unreadable:
        yield Fault.SR_IN_USE, f"cannot be looked at: {disk.unreadable}"
    elif not disk.blank and not disk.signatures:
        yield (
            Fault.SR_IN_USE,
            "has data of an unknown kind at its beginning; if it is of no use, "
            f"`blkdiscard --zeroout --length 1MiB {disk.path}` removes it",
        )
    if disk.read_only:
        yield Fault.DEVICE_INVALID, "is read-only"


def free_disks() -> list[Disk]:
    """The host's disks that may be taken, but for removable ones. Raises CommandFailed.

    One that several paths lead to is left out: multipath has to be set up first.
    """
    found = list(devices.whole_disks())
    paths = Counter(disk.number for disk in found if disk.number)
    return [disk for disk in found if paths[disk.number] < 2 and not objections(disk)]


def check(disks: Sequence[Disk]) -> None:
    """Raises for disks that are not free, and for one that is named twice, what is wrong with each of them.

    SR_BACKEND_FAILURE_105 (the system's own disk), 16 (in use, or with data), 91 (read-only, not a disk, named twice),
    44 (too small).
    """
    found: list[Objection] = []
    seen: dict[str, str] = {}
    for disk in disks:
        if first := seen.get(disk.path) or seen.get(disk.number):
            found.append((Fault.DEVICE_INVALID, f"{disk.name} is {first} once more"))
            continue
        seen |= {key: disk.name for key in (disk.path, disk.number) if key}
        found += [(fault, f"{disk.name} {text}") for fault, text in objections(disk)]
    if found:
        raise found[0][0].failure("; ".join(text for _, text in found))
