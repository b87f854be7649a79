"""Which images the VMs of this host use, told by links: one directory for each disk of a VM.

Xen and libvirt know a disk by the file name that they were given at first, and open that again at every reboot and
resume; a snapshot or copy of a live disk changes the file. So they are given a link, `<run>/<uuid>/disks/<target>/top`.
Beside it are links with the names of the files beneath, since QEMU looks for those where it found the top.

Xen's disk back end takes no locks on its images, so these links are also the guard against two writers. They stay when
the daemon ends, and are worth nothing once their VM has ended.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import Limits

Mode = Literal["write", "read", "shared"]
TOP = "top"

_MODE = "mode"
_LIMITS = "limits"
_MODES: tuple[Mode, ...] = ("write", "read", "shared")
_LONGEST_CHAIN = 256
_QCOW2 = struct.Struct(">4sIQI")  # magic, version, where the backing file's name is, its length
_LONGEST_NAME = 1023  # QEMU's own bound
_NOTES = (_MODE, _LIMITS)
_OURS = (TOP, *_NOTES)


class Identity(NamedTuple):
    """A file or block device, however it is called."""

    device: int
    number: int


class Claim(NamedTuple):
    """One disk of a VM uses one image."""

    uuid: str
    target: str
    image: Identity
    mode: Mode


class Claims:
    """The links below `directory(uuid)`, which is the VM's own; `runs` tells whether a VM has a domain now."""

    def __init__(self, root: Path, directory: Callable[[str], Path], runs: Callable[[str], bool]) -> None:
        self._root = root
        self._directory = directory
        self._runs = runs
        self._guard = threading.Lock()
        self._fresh: set[tuple[str, str]] = set()

    def source(self, uuid: str, target: str) -> Path:
        """The name by which Xen knows a disk as long as the VM runs."""
        return self._of(uuid, target) / TOP

    def claim(self, uuid: str, target: str, top: Path, mode: Mode, *, form: str = "qcow2") -> Path:
        """Make the links for a disk whose image nobody else uses; the name to give to Xen.

        Raises INTERNAL_ERROR for an image that another disk or another program writes to, or that this one would
        write to while another uses it.
        """
        with self._guard:
            self._check(uuid, target, top, mode, form)
            self._check_processes(top, mode)
            place = self._of(uuid, target)
            place.mkdir(mode=0o750, parents=True, exist_ok=True)
            (place / _MODE).write_text(mode)
            (place / _LIMITS).unlink(missing_ok=True)
            self._fresh.add((uuid, target))
            self._point(place, top, form)
            return place / TOP

    def flip(self, uuid: str, target: str, top: Path, *, form: str = "qcow2") -> Path:
        """Have the disk's name mean another image, in one step; what it meant before. Raises as claim does."""
        with self._guard:
            place = self._of(uuid, target)
            self._check(uuid, target, top, self._mode(place), form)
            before = (place / TOP).readlink()
            self._point(place, top, form)
            return before

    def check_merge(self, uuid: str, target: str, into: Path) -> None:
        """Refuse to write to an image that another disk reads, as the base of a clone. Raises INTERNAL_ERROR."""
        with self._guard:
            wanted = identity(into)
            for claim in self._others(uuid, target):
                if claim.image == wanted:
                    raise _in_use(into, f"VM {claim.uuid} as {claim.target}")

    def tidy(self, uuid: str, target: str, keep: Collection[str] = ()) -> None:
        """Drop the links to images that are no longer beneath the top, but for those with the names `keep`."""
        place = self._of(uuid, target)
        with self._guard, suppress(FileNotFoundError):
            top = (place / TOP).readlink()
            if top.suffix != ".qcow2":
                return
            wanted = {name for name, _ in beneath(top)}
            for entry in os.listdir(place):
                if entry not in _OURS and entry not in wanted and entry not in keep:
                    (place / entry).unlink(missing_ok=True)

    def release(self, uuid: str, target: str) -> None:
        """The disk is gone from the VM; without effect when nothing was claimed."""
        with self._guard:
            self._fresh.discard((uuid, target))
            self._remove(self._of(uuid, target))

    def release_all(self, uuid: str) -> None:
        """The VM has ended."""
        for target in self.targets(uuid):
            self.release(uuid, target)

    def targets(self, uuid: str) -> list[str]:
        """The disks of a VM that have claims."""
        try:
            return sorted(os.listdir(self._directory(uuid) / "disks"))
        except FileNotFoundError:
            return []

    def top(self, uuid: str, target: str) -> Path:
        """The image that a disk's name means now. Raises DEVICE_ALREADY_DETACHED."""
        try:
            return (self._of(uuid, target) / TOP).readlink()
        except FileNotFoundError:
            raise Failure("DEVICE_ALREADY_DETACHED", uuid) from None

    def keep_limits(self, uuid: str, target: str, limits: Limits) -> None:
        """Write down a disk's limits, which its VM's next QEMU has to be told again, maybe by another daemon."""
        place = self._of(uuid, target) / _LIMITS
        with self._guard, suppress(FileNotFoundError):  # the VM may have ended
            if limits == Limits():
                place.unlink(missing_ok=True)
            else:
                place.write_text(f"{limits.bytes_per_second} {limits.requests_per_second}")

    def limits(self, uuid: str) -> dict[str, Limits]:
        """The limits that the VM's disks have, by target."""
        found = {}
        for target in self.targets(uuid):
            with suppress(FileNotFoundError, ValueError):  # none, or a daemon that was killed while it wrote
                rate, requests = (self._of(uuid, target) / _LIMITS).read_text().split()
                found[target] = Limits(int(rate), int(requests))
        return found

    def _of(self, uuid: str, target: str) -> Path:
        if not target.isalnum():
            raise ValueError(f"{target!r} is no disk's name")
        return self._directory(uuid) / "disks" / target

    def _mode(self, place: Path) -> Mode:
        try:
            found = (place / _MODE).read_text()
        except FileNotFoundError:
            return "write"
        return next((mode for mode in _MODES if mode == found), "write")

    def _point(self, place: Path, top: Path, form: str) -> None:
        for name, image in beneath(top) if form == "qcow2" else ():
            _link(place / name, image)
        _link(place / TOP, top)

    def _remove(self, place: Path) -> None:
        with suppress(FileNotFoundError):
            for entry in os.listdir(place):
                (place / entry).unlink(missing_ok=True)
            place.rmdir()

    def _check(self, uuid: str, target: str, top: Path, mode: Mode, form: str) -> None:
        own = identity(top)
        lower = {identity(image) for _, image in (beneath(top) if form == "qcow2" else ())}
        for claim in self._others(uuid, target):
            both_may = claim.mode == mode and mode != "write"
            if (claim.image == own and not both_may) or (claim.image in lower and claim.mode != "read"):
                raise _in_use(top, f"VM {claim.uuid} as {claim.target}")

    def _others(self, uuid: str, target: str) -> Iterator[Claim]:
        """What all disks but this one use; claims of VMs that have ended are dropped on the way."""
        for disks in self._root.glob("*/disks"):
            owner = disks.parent.name
            names = [name for name in _entries(disks) if (owner, name) != (uuid, target)]
            fresh = [name for name in names if (owner, name) in self._fresh]
            alive = bool(names) and (len(fresh) == len(names) or self._runs(owner))
            for name in names:
                if not alive and name not in fresh:
                    self._remove(disks / name)
                else:
                    yield from self._claims(owner, name, disks / name)

    def _claims(self, owner: str, target: str, place: Path) -> Iterator[Claim]:
        mode = self._mode(place)
        for entry in _entries(place):
            if entry not in _NOTES:
                with suppress(OSError):
                    yield Claim(owner, target, identity(place / entry), mode if entry == TOP else "read")

    def _check_processes(self, image: Path, mode: Mode) -> None:
        """The last resort: what the links do not tell, the kernel does."""
        if mode == "shared":
            return
        for pid, writes in openers(identity(image)):
            if writes or mode == "write":
                raise _in_use(image, f"process {pid}")


def identity(path: Path) -> Identity:
    """Raises INTERNAL_ERROR for what is not there."""
    try:
        return _identity(path.stat())
    except OSError as error:
        raise Failure("INTERNAL_ERROR", f"{path}: {error.strerror}") from error


def _identity(status: os.stat_result) -> Identity:
    if stat.S_ISBLK(status.st_mode):
        return Identity(-1, status.st_rdev)
    return Identity(status.st_dev, status.st_ino)


def beneath(top: Path) -> list[tuple[str, Path]]:
    """The images beneath a qcow2 image, nearest first: the name that the one above has for it, and where it is.

    Only names of files in the same directory count; QEMU finds what has a path without help. What is not called .qcow2
    has nothing beneath, whatever its guest wrote at its start. Raises INTERNAL_ERROR for a chain that leads elsewhere
    by a relative path, that has no end, or whose files are missing.
    """
    found: list[tuple[str, Path]] = []
    image = top
    while name := _backing_name(image) if image is top or image.suffix == ".qcow2" else "":
        if name.startswith("/"):
            image = Path(name)
        elif "/" in name or ":" in name or name in ("..", *_OURS):
            raise Failure("INTERNAL_ERROR", f"{image} has an unusable backing file")
        else:
            image = image.parent / name
            found.append((name, image))
        if len(found) > _LONGEST_CHAIN:
            raise Failure("INTERNAL_ERROR", f"{top} has an endless chain of backing files")
    return found


def _backing_name(image: Path) -> str:
    """What a qcow2 header says; nothing for other files."""
    try:
        with image.open("rb") as file:
            raw = file.read(_QCOW2.size)
            if len(raw) < _QCOW2.size:
                return ""
            magic, _, place, length = _QCOW2.unpack(raw)
            if magic != b"QFI\xfb" or not place:
                return ""
            if not 0 < length <= _LONGEST_NAME:
                raise Failure("INTERNAL_ERROR", f"{image} has an unusable backing file")
            file.seek(place)
            return os.fsdecode(file.read(length))
    except OSError as error:
        raise Failure("INTERNAL_ERROR", f"{image}: {error.strerror}") from error


def openers(image: Identity) -> Iterator[tuple[int, bool]]:
    """The QEMUs of this host that have an image open: the process, and whether it may write."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        process = Path("/proc", entry)
        with suppress(OSError):  # it may have ended
            if "qemu" not in (process / "comm").read_text() or int(entry) == os.getpid():
                continue
            for descriptor in os.listdir(process / "fd"):
                with suppress(OSError):
                    if _identity((process / "fd" / descriptor).stat()) == image:
                        yield int(entry), _writes(process / "fdinfo" / descriptor)


def _writes(info: Path) -> bool:
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "flags":
            return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return True


def _entries(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _link(place: Path, image: Path) -> None:
    part = place.with_name(f"{place.name}.new")
    part.unlink(missing_ok=True)
    part.symlink_to(image)
    part.replace(place)


def _in_use(image: Path, who: str) -> Failure:
    return Failure("INTERNAL_ERROR", f"{image} is in use by {who}")
