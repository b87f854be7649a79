"""File systems that are mounted for storage repositories, where guests' processes see them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kronos.storage.block.turn import Run

BASE: Path = Path("/run/sr-mount")
OPTIONS: Final = "noatime,nodev,nosuid,noexec"
# systemd unmounts at the host's shutdown what it has mounted, in the opposite order: after whatever runs guests.
_USERS: Final = " ".join(
    f"{name}.service"
    for name in ("libvirtd", "virtqemud", "virtxend", "libvirt-guests", "xapi", "xapi-domains")
)


def mount(run: Run, device: str, where: Path) -> None:
    """Mount an ext4 file system. Raises CommandFailed, OSError."""
    where.mkdir(mode=0o711, parents=True, exist_ok=True)
    if apart():
        # A mount of our own would be seen by nobody else.
        how = ["--quiet", "--no-ask-password", "--collect", "--fsck=no", f"--property=Before={_USERS}"]
        run(["systemd-mount", *how, "--type=ext4", f"--options={OPTIONS}", device, str(where)])
    else:
        run(["mount", "-t", "ext4", "-o", OPTIONS, device, str(where)])


def unmount(run: Run, where: Path) -> None:
    """Raises CommandFailed while somebody uses it."""
    run(["systemd-mount", "--umount", str(where)] if apart() else ["umount", str(where)])


def apart() -> bool:
    """Whether what this process mounts is hidden from the host, as systemd arranges for services with limits."""
    try:
        ours, theirs = Path("/proc/self/ns/mnt").readlink(), Path("/proc/1/ns/mnt").readlink()
    except OSError:
        return False
    return ours != theirs and Path("/run/systemd/system").is_dir()


def device_at(where: Path) -> str:
    """The number (major:minor) of the device that is mounted there; empty where none is."""
    found = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(where):  # the last one hides those before it
            found = words[2]
    return found


def number_of(device: str) -> str:
    """A block device's number as `device_at` has it. Raises OSError."""
    number = os.stat(device).st_rdev  # noqa: PTH116  # a device's name, as others here have it
    return f"{os.major(number)}:{os.minor(number)}"
