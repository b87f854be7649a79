"""The whole load: from a guest's disk to a kernel, a ramdisk and the arguments that its boot loader would use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class BootUnreadable(Exception):
    """The guest's disk holds nothing that this program can boot; the text says in plain words why."""


@dataclass(frozen=True)
class Loaded:
    """What to boot: files of our own in the destination, and the kernel's command line."""

    kernel: Path
    ramdisk: Path | None
    arguments: str


def load(image: Path, form: str, destination: Path, *, arguments: str = "") -> Loaded:
    """Copy what the guest's disk would boot into the existing, empty directory `destination`.

    `image` is a file or block device, `form` one of raw, qcow2, vpc. `arguments` is VM.PV_bootloader_args in the form
    of pygrub's options. Raises BootUnreadable, at the latest after 10 s.
    """
    raise BootUnreadable("reading guests' disks is being written")
