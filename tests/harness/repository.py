"""A distribution's repository on the machine, and a small installer of our own making to put there."""

from __future__ import annotations

import functools
import gzip
import hashlib
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.guests import MIB
from harness.xen import control_domain
from kronos.boot.initramfs import Archive
from kronos.boot.tiny_guest import TinyGuest

INSTALLED = "this guest boots from its own disk"
INSTALLING = "the installer begins"
DISK, CONSOLE, ARGUMENTS = (
    ("xvda", "hvc0", "console=hvc0 quiet")
    if control_domain.here()
    else ("vda", "ttyS0", "console=ttyS0,115200 quiet no_timer_check")
)
"""What a guest's first disk and its line are called here, and a kernel's arguments for them."""

_BEGIN = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe virtio_pci
modprobe virtio_blk
modprobe xen_blkfront
modprobe button
"""
# Partitions the disk and fills it, as any installer does, less the questions.
_INSTALLER = (
    _BEGIN
    + """\
echo "{installing}: $(cat /proc/cmdline)" > /dev/console
until [ -b /dev/{disk} ]; do sleep 0.1; done
printf 'n\\np\\n1\\n2048\\n\\nw\\n' | fdisk /dev/{disk} > /dev/null
until [ -b /dev/{disk}1 ]; do sleep 0.1; done
gunzip -c /system.gz > /dev/{disk}1
sync
reboot -f
"""
)
_SYSTEM = (
    _BEGIN
    + """\
echo "{installed}: $(cat /proc/cmdline)" > /dev/console

while :; do
    read -r word < /dev/console && case "$word" in reboot) reboot -f ;; poweroff) poweroff -f ;; esac
done
"""
)
_GRUB = f"""\
set timeout=0
set default=0
menuentry "installed" {{
    linux /boot/vmlinuz root=/dev/{DISK}1 {ARGUMENTS}
    initrd /boot/initrd.img
}}
"""


class Repository:
    """Files served over http, to the hosts of the tests as well; `asked` has the paths that were asked for."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.asked: list[str] = []
        handler = functools.partial(_Handler, directory=str(directory), asked=self.asked)
        self.server = ThreadingHTTPServer((address, 0), handler)
        self.url = f"http://{address}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, path: str, content: bytes | Path) -> None:
        """A file of the repository: given, or linked to one of the machine."""
        place = self.directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            place.symlink_to(content)

    def sums(self, directory: str) -> None:
        """SHA256SUMS of all that is below a directory, as Debian's archive has it beside its installers."""
        place = self.directory / directory
        files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
        lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  ./{f.relative_to(place)}\n" for f in files]
        (place / "SHA256SUMS").write_text("".join(lines))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, asked: list[str], **named: Any) -> None:
        self.asked = asked
        super().__init__(*args, **named)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.asked.append(self.path)

    def log_message(self, *args: Any) -> None:
        """Nothing: `asked` says it."""


def installer(tiny: TinyGuest, work: Path) -> bytes:
    """The RAM disk of an installer for the tiny guest's kernel: it puts a system on the first disk and reboots."""
    archive = Archive()
    archive.file("init", _INSTALLER.format(installing=INSTALLING, disk=DISK).encode(), executable=True)
    archive.file("system.gz", gzip.compress(_file_system(tiny, work).read_bytes(), 1))
    return tiny.ramdisk.read_bytes() + gzip.compress(archive.packed(), 1)


def _file_system(tiny: TinyGuest, work: Path) -> Path:
    """An ext4 with a kernel, a RAM disk that says that it runs, and GRUB's configuration."""
    boot = work / "root" / "boot"
    (boot / "grub").mkdir(parents=True)
    shutil.copy(tiny.kernel, boot / "vmlinuz")
    archive = Archive()
    archive.file("init", _SYSTEM.format(installed=INSTALLED).encode(), executable=True)
    (boot / "initrd.img").write_bytes(tiny.ramdisk.read_bytes() + gzip.compress(archive.packed()))
    (boot / "grub" / "grub.cfg").write_text(_GRUB)
    image = work / "system"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    argv = ["mkfs.ext4", "-q", "-F", "-d", str(work / "root"), str(image)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return image
