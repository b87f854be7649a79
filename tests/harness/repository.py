"""A distribution's repository on the machine, and a small installer of our own making to put there."""

from __future__ import annotations

import functools
import gzip
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import guests
from harness.client import Client
from harness.console import open_by_connect, serial_of
from harness.daemon import Daemon, wait_until
from harness.guests import MIB, Images
from harness.xen import control_domain
from kronos.boot.initramfs import Archive
from kronos.boot.tiny_guest import TinyGuest

INSTALLED = "this guest boots from its own disk"
INSTALLING = "the installer begins"
PATIENCE, LIMIT = (120.0, 300) if not control_domain.here() else (240.0, 900)
"""Seconds for a boot and an installation on a machine that does other things too, and for a whole test."""
DEBIAN = "dists/bookworm/main/installer-amd64/current/images"
DEBIANLIKE = {"install-distro": "debianlike", "debian-release": "bookworm", "install-arch": "amd64"}
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
    """Files served over http, to the hosts of the tests as well.

    `asked` has the paths that were asked for, `agents` what asked for each as it calls itself.
    """

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.asked: list[str] = []
        self.agents: dict[str, set[str]] = {}
        handler = functools.partial(_Handler, directory=str(directory), repository=self)
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
    def __init__(self, *args: Any, repository: Repository, **named: Any) -> None:
        self.repository = repository
        super().__init__(*args, **named)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.repository.agents.setdefault(self.path, set()).add(self.headers.get("User-Agent", ""))
        self.repository.asked.append(self.path)

    def log_message(self, *args: Any) -> None:
        """Nothing: `asked` says it."""


@contextmanager
def our_repository(daemon: Daemon, images: Images, work: Path) -> Iterator[Repository]:
    """Our installer, laid out as Debian's archive has its own, and as a tree of the EL family."""
    made = Repository(work / "files", daemon.host.gateway)
    ramdisk = installer(images.tiny, work)
    made.put(f"{DEBIAN}/netboot/debian-installer/amd64/linux", images.tiny.kernel)
    made.put(f"{DEBIAN}/netboot/debian-installer/amd64/initrd.gz", ramdisk)
    made.sums(DEBIAN)
    made.put("el/images/pxeboot/vmlinuz", images.tiny.kernel)
    made.put("el/images/pxeboot/initrd.img", ramdisk)
    try:
        yield made
    finally:
        made.close()


class Guest:
    """A VM with an empty disk that eliloader is to install."""

    def __init__(self, daemon: Daemon, client: Client, other_config: dict[str, str], **fields: Any) -> None:
        self.daemon = daemon
        self.client = client
        memory = {
            f"memory_{name}": 256 * MIB for name in ("static_min", "static_max", "dynamic_min", "dynamic_max")
        }
        wanted = {
            "PV_kernel": "",
            "PV_bootloader": "eliloader",
            "PV_args": ARGUMENTS,
            "other_config": other_config,
        }
        self.vm = client("VM.create", guests.vm_record(daemon.state, "new", **memory | wanted | fields))
        self.uuid = client("VM.get_uuid", self.vm)
        self.disk = guests.new_disk(client, "root", 128 * MIB)
        guests.add_disk(client, self.vm, self.disk, "0", bootable=True)

    def start(self) -> None:
        self.client("VM.start", self.vm, False, False)

    def says(self, text: str, patience: float = PATIENCE) -> str:
        """Wait for a line on the console that has `text` in it; the line, which is said to its end: a slow guest's
        log may hold half of it for a while."""

        def line() -> str:
            whole = [each for each in self.console().splitlines(keepends=True) if each.endswith("\n")]
            return next((each for each in whole if text in each), "")

        return str(wait_until(line, patience, lambda: f"no {text!r} in {self.console()[-2000:]}"))

    def console(self) -> str:
        log = self.daemon.directory / "run" / self.uuid / "serial.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def type(self, word: str) -> None:
        """A line on the guest's console."""
        console = serial_of(self.daemon, self.vm)
        before = self.console().count(word)
        with open_by_connect(self.daemon, f"ref={console}&session_id={self.client.session}") as connection:
            connection.settimeout(0.1)
            connection.sendall(f"{word}\n".encode())
            # A console that closes takes along what the guest has not read: it echoes what it has, or ends of it.
            wait_until(
                lambda: _has_ended(connection) or self.console().count(word) > before,
                PATIENCE,
                lambda: f"{word!r} is not heard: {self.console()[-2000:]}",
            )

    def record(self) -> dict[str, Any]:
        return dict(self.client("VM.get_record", self.vm))


def _has_ended(connection: socket.socket) -> bool:
    """Whether nothing more comes; what has come is thrown away."""
    try:
        return not connection.recv(65536)
    except (TimeoutError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


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
