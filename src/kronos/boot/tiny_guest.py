"""The tiny guest: a Linux of a few megabytes, from the distribution's kernel and busybox, to try a host with.

It logs root in without a password on serial port and screen, asks DHCP for addresses, obeys the power button and
answers the guest agent's protocol. It boots by direct kernel boot and needs no disk. See docs/tiny-guest.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kronos.boot import kernel_source
from kronos.boot.bzimage import TooLarge, UnusableKernel, repack
from kronos.boot.compression import UnreadableData, compress_xz
from kronos.boot.initramfs import Archive
from kronos.boot.kernel_modules import MissingModule, closure, indexes
from kronos.boot.kernel_source import Kernel
from kronos.datamodel.errors import Failure
from kronos.system.commands import CommandFailed, run
from kronos.system.files import write_whole
from kronos.system.locks import FileLock, LockHeld

MEMORY = 96 << 20
"""Bytes that the guest needs to boot and run; docs/tiny-guest.md says how this was measured."""

COMMAND_LINE = "console=hvc0 console=tty0 console=ttyS0,115200 quiet no_timer_check"
"""What it boots with; `hostname=<name>` may be added."""

_REQUIRED_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "button", "evdev")
_WANTED_MODULES = (
    *("virtio_balloon", "virtio_rng", "e1000", "xen_blkfront", "xen_netfront"),
    *("ext4", "crc32c_generic"),  # ext4 asks for the checksum by an alias, not as a dependency
)
_REQUIRED_APPLETS = {
    "acpid",
    "awk",
    "findfs",
    "getty",
    "httpd",
    "ip",
    "linuxrc",
    "login",
    "mkfifo",
    "modprobe",
    "udhcpc",
    "uevent",
    "xargs",
}
_GUEST_FILES = {
    "init": "init.sh",
    "bin/say": "say.sh",
    "etc/agent": "agent.sh",
    "etc/channel": "channel.sh",
    "etc/devices": "devices.sh",
    "etc/lease": "lease.sh",
    "etc/profile": "profile.sh",
    "etc/xenstore": "xenstore.sh",
    "etc/system": "system.sh",
}
_GUEST_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root::0:0:99999:7:::\n",  # no password; an empty one in passwd hides the name of user 0
    "etc/group": "root:x:0:\n",
    "etc/issue": "Kronos tiny guest\n\n",
    "etc/filesystems": "ext4\n",  # what mount tries, and so what it has the kernel load
}
_HERE = Path(__file__).parent
_MAKERS = ("bzimage", "compression", "initramfs", "kernel_modules", "tiny_guest", "unpacker")
_BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/usr/sbin/busybox", "/usr/lib/busybox/busybox-static")
_LOCK_LIMIT = 900.0  # seconds: as long as another process may take to fetch a kernel

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TinyGuest:
    """The guest as files of this host, for PV_kernel, PV_ramdisk and PV_args."""

    kernel: Path
    ramdisk: Path
    cmdline: str = COMMAND_LINE

    @property
    def size(self) -> int:
        """Bytes of the image: kernel and RAM disk."""
        return self.kernel.stat().st_size + self.ramdisk.stat().st_size


def made(directory: Path) -> TinyGuest | None:
    """The tiny guest in `directory` if it is there and up to date, at the price of a few look-ups."""
    guest = TinyGuest(directory / "tiny-guest-vmlinuz", directory / "tiny-guest-initrd")
    try:
        inputs = {"recipe": _recipe(), "busybox": _identity(_busybox())}
    except (Failure, OSError):
        return None
    return guest if _fresh(guest, directory / "tiny-guest.json", inputs) else None


def tiny_guest(
    directory: Path, *, cache: Path | None = None, progress: Progress = lambda line: None
) -> TinyGuest:
    """The tiny guest in `directory`, made there when it is missing or when kernel, busybox or this program changed.

    The host's own kernel is used; a host without one (a container) fetches Debian's into `cache`. One process makes
    it, others wait. The names of the files never change, so a VM record may keep them.

    Raises Failure INTERNAL_ERROR.
    """
    guest = TinyGuest(directory / "tiny-guest-vmlinuz", directory / "tiny-guest-initrd")
    stamp = directory / "tiny-guest.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        busybox = _busybox()
        inputs = {"recipe": _recipe(), "busybox": _identity(busybox)}
        if not _fresh(guest, stamp, inputs):
            with alone(directory / "tiny-guest.lock"):
                if not _fresh(guest, stamp, inputs):
                    _make(guest, stamp, inputs, busybox, cache or _cache(), progress)
    except (OSError, UnusableKernel, UnreadableData, MissingModule, CommandFailed) as error:
        raise Failure("INTERNAL_ERROR", f"the tiny guest cannot be made: {error!r}") from error
    return guest


def _make(
    guest: TinyGuest, stamp: Path, inputs: dict[str, str], busybox: Path, cache: Path, progress: Progress
) -> None:
    with ExitStack() as stack:
        kernel = kernel_source.installed()
        inputs = {**inputs, "kernel": _kernel_identity(kernel)}
        if kernel is None:
            kernel = stack.enter_context(kernel_source.downloaded(cache, progress))
        progress(f"repacking kernel {kernel.release}")
        image = kernel.image.read_bytes()
        try:
            image = repack(image)
        except TooLarge as why:  # Debian 13's; it boots as well, and later where it is emulated
            progress(f"it stays as it is: {why}")
        progress("packing the RAM disk")
        ramdisk = _ramdisk(kernel, busybox)
    # Without its stamp a half-changed pair is not taken for a whole one.
    stamp.unlink(missing_ok=True)
    write_whole(guest.kernel, image)
    write_whole(guest.ramdisk, ramdisk)
    write_whole(stamp, json.dumps({**inputs, "release": kernel.release}, indent=1).encode() + b"\n")
    progress(f"made {guest.kernel.name} ({len(image)} bytes) and {guest.ramdisk.name} ({len(ramdisk)} bytes)")


def _fresh(guest: TinyGuest, stamp: Path, inputs: dict[str, str]) -> bool:
    try:
        made_from = json.loads(stamp.read_bytes())
    except (OSError, ValueError):
        return False
    wanted = {**inputs, "kernel": _kernel_identity(kernel_source.installed())}
    return (
        isinstance(made_from, dict)
        and all(made_from.get(name) == value for name, value in wanted.items())
        and guest.kernel.is_file()
        and guest.ramdisk.is_file()
    )


def _ramdisk(kernel: Kernel, busybox: Path) -> bytes:
    archive = Archive()
    archive.device("dev/console", 5, 1)
    for empty in ("proc", "sys", "root", "tmp", "mnt", "run"):
        archive.directory(empty)
    archive.file("bin/busybox", busybox.read_bytes(), executable=True)
    for applet in _applets(busybox):
        archive.link(f"bin/{applet}", "busybox")
    archive.link("sbin", "bin")  # where the kernel looks for modprobe, and busybox's init for its own
    for path, source in _GUEST_FILES.items():
        archive.file(path, (_HERE / "guest" / source).read_bytes(), executable=True)
    for path, text in _GUEST_TEXTS.items():
        archive.file(path, text.encode())
    archive.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nexec poweroff\n", executable=True)
    modules = closure(kernel.modules, _REQUIRED_MODULES, _WANTED_MODULES)
    tree = f"lib/modules/{kernel.release}"
    for module in modules:
        archive.file(f"{tree}/{module.name}.ko", module.content)
    for name, index in indexes(modules).items():
        archive.file(f"{tree}/{name}", index.encode())
    return compress_xz(archive.packed())


def _applets(busybox: Path) -> list[str]:
    applets = sorted(set(run([str(busybox), "--list"]).split()) - {"busybox"})
    missing = _REQUIRED_APPLETS.difference(applets)
    if missing:
        raise Failure("INTERNAL_ERROR", f"{busybox} lacks {', '.join(sorted(missing))}")
    return applets


def _busybox() -> Path:
    for place in map(Path, _BUSYBOX_PLACES):
        # A dynamic one names its interpreter, and would want libraries that the guest has not.
        if place.is_file() and b"/ld-linux" not in place.read_bytes()[:4096]:
            return place
    raise Failure("INTERNAL_ERROR", "the tiny guest needs a static busybox (Debian: busybox-static)")


def _recipe() -> str:
    """What this program would make of the same inputs; another one after an upgrade that changes it."""
    digest = hashlib.sha256()
    makers = [_HERE / f"{name}.py" for name in _MAKERS]
    for path in [*makers, *sorted((_HERE / "guest").glob("*.sh"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


def _kernel_identity(kernel: Kernel | None) -> str:
    # A fetched kernel is not fetched anew for each update: the guest is for trying things, on any kernel.
    return "downloaded" if kernel is None else _identity(kernel.image)


def _cache() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/kronos")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kronos"


@contextmanager
def alone(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    deadline = time.monotonic() + _LOCK_LIMIT
    while True:
        try:
            lock.acquire()
            break
        except LockHeld as held:
            if time.monotonic() > deadline:
                raise Failure("INTERNAL_ERROR", f"the tiny guest is being made elsewhere: {held}") from held
            time.sleep(0.2)
    try:
        yield
    finally:
        lock.release()
