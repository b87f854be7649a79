"""The whole load: from a guest's disk to a kernel, a ramdisk and the arguments that its boot loader would use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kronos.boot.guest_disk import options, pace
from kronos.boot.guest_disk.disk import Device, Disk, JailedDisk, NotThere
from kronos.boot.guest_disk.jail import Jail
from kronos.boot.guest_disk.menu import Entry, Menu, joined
from kronos.boot.guest_disk.search import Found, Search
from kronos.boot.guest_disk.unreadable import BootUnreadable, shown

__all__ = ["BootUnreadable", "Loaded", "load"]

LARGEST_KERNEL = 64 << 20
LARGEST_RAMDISK = 512 << 20
_MOST_ATTEMPTS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What to boot: files of our own in the destination, and the kernel's command line."""

    kernel: Path
    ramdisk: Path | None
    arguments: str


def load(image: Path, form: str, destination: Path, *, arguments: str = "") -> Loaded:
    """Copy what the guest's disk would boot into the existing, empty directory `destination`.

    `image` is a file or block device, `form` one of raw, qcow2, vpc (a VHD that depends on no other). `arguments` is
    VM.PV_bootloader_args in the form of pygrub's options; its paths are the guest's. The files are `kernel` and
    `ramdisk`, with mode 0600. Raises BootUnreadable, at the latest after the seconds that `pace` allows (10), and
    leaves nothing behind then.
    """
    wanted = options.parse(arguments)
    with Jail(image, form, pace.of_this_host()) as jail:
        loaded = _load(JailedDisk(jail), wanted, destination)
    _log.debug("loaded from %s: %s", image, loaded.arguments)
    return loaded


def _load(disk: Disk, wanted: options.Options, destination: Path) -> Loaded:
    devices = _at_offset(disk.devices(), wanted.offset)
    if not devices:
        raise BootUnreadable("no file system that can be read was found on the disk")
    search = Search(disk, devices)
    problems: list[str] = []
    for count, (found, entry) in enumerate(_candidates(search, wanted)):
        if count == _MOST_ATTEMPTS:
            break
        try:
            return _copied(search, found, entry, wanted, destination)
        except NotThere as problem:
            problems.append(str(problem))
    reasons = "; ".join([*problems, *search.problems][:4])
    raise BootUnreadable(
        f"no kernel to boot on the disk: {reasons or 'no boot loader and no kernel was found'}"
    )


def _at_offset(devices: list[Device], offset: int | None) -> list[Device]:
    """The file system that begins there; 0 is a disk without partitions. Raises BootUnreadable."""
    if offset is None:
        return devices
    found = [device for device in devices if (device.start or 0) == offset and "/" not in device.name]
    if not found:
        raise BootUnreadable(f"no file system begins {offset} bytes into the disk")
    return found


def _candidates(search: Search, wanted: options.Options) -> Iterator[tuple[Found, Entry]]:
    """What to try, in turn: what the record names, or what each configuration would boot, then what it else could."""
    if wanted.kernel:
        ramdisks = (wanted.ramdisk,) if wanted.ramdisk else ()
        entry = Entry("", "", wanted.kernel, ramdisks)
        yield Found(search.devices[0], "", "", Menu([entry], entry)), entry
        return
    configurations = list[Found]()
    for found in search.configurations():
        configurations.append(found)
        chosen = found.menu.chosen(wanted.entry)
        if chosen is not None:
            yield found, chosen
    if wanted.entry:
        if not any(found.menu.chosen(wanted.entry) for found in configurations):
            raise BootUnreadable(f"the guest's boot loader has no entry {shown(wanted.entry)}")
        return
    for found in configurations:
        for entry in found.menu.entries:
            if entry != found.menu.chosen(""):
                yield found, entry
    for found in search.newest():
        yield found, found.menu.entries[0]


def _copied(search: Search, found: Found, entry: Entry, wanted: options.Options, destination: Path) -> Loaded:
    """The entry's files, all of them. Raises NotThere."""
    arguments = joined([entry.arguments, wanted.args])
    ramdisks = (wanted.ramdisk,) if wanted.ramdisk else entry.ramdisks
    kernel, ramdisk = destination / "kernel", destination / "ramdisk"
    made: list[Path] = []
    try:
        made.append(kernel)
        _copy(search, found, entry, (entry.kernel,), kernel, LARGEST_KERNEL)
        if ramdisks:
            made.append(ramdisk)
            _copy(search, found, entry, ramdisks, ramdisk, LARGEST_RAMDISK)
    except BaseException as error:
        if not isinstance(error, FileExistsError):
            for path in made:
                path.unlink(missing_ok=True)
        raise
    return Loaded(kernel, ramdisk if ramdisks else None, arguments)


def _copy(
    search: Search, found: Found, entry: Entry, untrusted_paths: tuple[str, ...], target: Path, limit: int
) -> None:
    """Write the files one behind another, as boot loaders lay ramdisks in memory. Raises NotThere."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    output = os.open(target, flags, 0o600)
    try:
        for untrusted_path in untrusted_paths:
            start = os.lseek(output, 0, os.SEEK_END)
            start += os.write(
                output, bytes(-start % 4)
            )  # each archive of a ramdisk begins at a multiple of 4
            _copy_one(search, found, entry, untrusted_path, output, start, limit)
    finally:
        os.close(output)


def _copy_one(
    search: Search, found: Found, entry: Entry, untrusted_path: str, output: int, start: int, limit: int
) -> None:
    problems = dict[str, None]()
    for device, path in search.places(found, entry, untrusted_path):
        try:
            search.disk.copy(device, path, output, limit)
        except NotThere as problem:
            problems[str(problem)] = None
        else:
            if os.fstat(output).st_size > start:
                return
            problems[f"{path} is empty"] = None
        os.ftruncate(output, start)
        os.lseek(output, start, os.SEEK_SET)
    raise NotThere(f"{shown(untrusted_path)}: {'; '.join(list(problems)[:3])}")
