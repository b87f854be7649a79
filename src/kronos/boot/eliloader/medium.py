"""The CD in a guest's drive as a repository: files taken out of it by the reader that the guest's disks have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kronos.boot.eliloader.plan import Candidate
from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.worker import KERNEL_LIMIT, RAMDISK_LIMIT
from kronos.boot.guest_disk.jail import Jail, ReaderFailed
from kronos.boot.guest_disk.unreadable import BootUnreadable

_SECONDS = 120.0
"""For half a gigabyte out of a slow file share."""


def take(image: Path, form: str, candidates: Sequence[Candidate], destination: Path) -> Candidate | None:
    """The first candidate that is on the CD, copied to `kernel` and `ramdisk`; None where it has none of them.

    Raises INVALID_SOURCE [path, reason].
    """
    if not candidates:
        return None
    try:
        with Jail(image, form, _SECONDS) as jail:
            for candidate in candidates:
                if not _copied(jail, candidate.kernel, destination / "kernel", KERNEL_LIMIT):
                    continue
                ramdisk = candidate.ramdisk
                if ramdisk and not _copied(jail, ramdisk, destination / "ramdisk", RAMDISK_LIMIT):
                    raise InstallFailed("INVALID_SOURCE", ramdisk, "The CD has the kernel and not this")
                return candidate
    except BootUnreadable as error:
        raise InstallFailed("INVALID_SOURCE", "cdrom", str(error)) from error
    return None


def _copied(jail: Jail, path: str, to: Path, limit: int) -> bool:
    with to.open("wb") as output:
        try:
            jail.read(["cat", f"(loop0)/{path}"], output.fileno(), limit)
        except ReaderFailed:
            size = 0
        else:
            size = to.stat().st_size
    if size == 0:
        to.unlink()
    return size > 0
