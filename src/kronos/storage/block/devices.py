"""What is known of a disk before anything is written to it; nothing here changes a disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.storage.faults import Fault
from kronos.system import commands
from kronos.system.commands import CommandFailed

BEGINNING: Final = 1 << 20
"""Bytes at a disk's beginning that are looked at."""
# NAME makes a tree of it: without that column what is made of a disk stands beside it.
_COLUMNS: Final = "NAME,PATH,TYPE,SIZE,RO,RM,HOTPLUG,TRAN,MODEL,WWN,MOUNTPOINTS"
_LIST: Final = ("lsblk", "--all", "--json", "--bytes", "--output", _COLUMNS)
# A physical volume of LVM whose label `pvremove` has wiped: nothing, then the header of where its metadata were.
_LABELS: Final = 4096
_METADATA: Final = b" LVM2 x[5A%r0N*>"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Disk:
    """A block device, whole or a partition. `size` is in bytes."""

    name: str
    """As it was asked for."""
    path: str
    """The kernel's name, links followed."""
    kind: str
    """lsblk's TYPE: disk, part, loop, rom, lvm, crypt, raid1, mpath, …"""
    size: int
    model: str = ""
    number: str = ""
    """That of the disk itself (WWN), whatever paths lead to it; empty for partitions, and where it tells none."""
    read_only: bool = False
    removable: bool = False
    """Can be taken away while the host runs: a USB stick, a card."""
    mounted: tuple[str, ...] = ()
    """Where it, or what is made of it, is mounted; [SWAP] for swap."""
    made_of_it: tuple[str, ...] = ()
    """Devices of the kernel: partitions, RAIDs, logical volumes, …, with their kind."""
    signatures: tuple[str, ...] = ()
    """What wipefs finds: partition tables, file systems, members of something."""
    busy: bool = False
    """The kernel or a program has it for itself."""
    blank: bool = True
    """Nothing is written at its beginning, or what LVM leaves of a physical volume that it was told to remove."""
    unreadable: str = ""
    """Why it could not be looked at: then the rest is not known."""


def examine(name: str) -> Disk:
    """What a device is and holds.

    Raises SR_BACKEND_FAILURE_19 (there is none), 91 (it is no block device), CommandFailed.
    """
    real = resolved(name)
    said = commands.run([*_LIST, real])
    (row,) = json.loads(said)["blockdevices"]
    return _described(name, row, content(real))


def resolved(name: str) -> str:
    """The kernel's name of a block device. Raises SR_BACKEND_FAILURE_19, 91."""
    real = Path(name).resolve()
    try:
        mode = real.stat().st_mode
    except OSError as error:
        raise Fault.NO_SUCH_DEVICE.failure(f"{name}: {error.strerror}") from error
    if not stat.S_ISBLK(mode):
        raise Fault.DEVICE_INVALID.failure(f"{name} is no block device")
    return str(real)


def whole_disks() -> Iterator[Disk]:
    """The host's disks that stay where they are: no partitions, nothing removable. Raises CommandFailed."""
    said = commands.run([*_LIST, "--nodeps"])
    for row in json.loads(said)["blockdevices"]:
        if row["type"] != "disk" or not row["size"]:
            continue
        try:
            disk = examine(row["path"])
        except (CommandFailed, Failure) as why:  # it is gone meanwhile, say
            log.warning("%s: %s", row["path"], why)
            continue
        if not disk.removable:
            yield disk


@dataclass(frozen=True)
class Content:
    """What a device says when it is read."""

    signatures: tuple[str, ...] = ()
    busy: bool = False
    blank: bool = False
    unreadable: str = ""


def content(path: str) -> Content:
    """What a device holds, as far as it can be read."""
    try:
        found = json.loads(commands.run(["wipefs", "--json", path]) or "{}").get("signatures", [])
        signatures = tuple(dict.fromkeys(str(each["type"]) for each in found))
        busy = _claimed(path)
        with Path(path).open("rb", buffering=0) as file:
            beginning = file.read(BEGINNING) or b""
    except (CommandFailed, OSError, ValueError, KeyError, TypeError) as error:
        return Content(unreadable=str(error))
    return Content(signatures, busy, is_blank(beginning))


def _claimed(path: str) -> bool:
    """A device that is mounted, swap or part of another has an owner, and takes no second one."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return True
    return False


def is_blank(beginning: bytes) -> bool:
    """Whether nothing is written there, or what `pvremove` leaves."""
    if not beginning.strip(b"\0"):
        return True
    labels, metadata = beginning[:_LABELS], beginning[_LABELS:]
    return not labels.strip(b"\0") and metadata[4:].startswith(_METADATA)


def _described(name: str, row: Mapping[str, Any], held: Content) -> Disk:
    below = list(_below(row))
    mounted = [place for each in (row, *below) for place in each.get("mountpoints") or () if place]
    return Disk(
        name=name,
        path=str(row["path"]),
        kind=str(row["type"]),
        size=int(row["size"] or 0),
        model=" ".join(str(row["model"] or "").split()),
        number=str(row["wwn"] or "") if row["type"] == "disk" else "",
        read_only=bool(row["ro"]),
        removable=bool(row["rm"] or row["hotplug"] or row["tran"] == "usb"),
        mounted=tuple(dict.fromkeys(mounted)),
        made_of_it=tuple(dict.fromkeys(f"{each['path']} ({each['type']})" for each in below)),
        signatures=held.signatures,
        busy=held.busy,
        blank=held.blank,
        unreadable=held.unreadable,
    )


def _below(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    children: Sequence[Mapping[str, Any]] = row.get("children") or ()
    for child in children:
        yield child
        yield from _below(child)
