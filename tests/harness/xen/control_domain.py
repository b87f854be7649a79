"""A control domain seen from inside: the tests that run in one find here what they have on other machines."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from kronos.boot.compression import compress_xz
from kronos.boot.initramfs import Archive
from kronos.boot.kernel_modules import closure

KIND = os.environ.get("KRONOS_TEST_KIND", "pv")
"""What the guests of a test run are: pv or pvh."""

KERNEL = Path("/var/lib/kronos-tests/vmlinux")
MEMORY = 96 << 20
"""Bytes that an obedient guest has here: it is a Linux."""

COMMAND_LINE = "console=hvc0 loglevel=0"
_OBEDIENT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
stty raw -echo <>/dev/hvc0
exec <>/dev/hvc0 >&0 2>/dev/null
echo ready
while read -r -N 1 character || read -r -n 1 character; do
    case $character in
    q) poweroff -f ;;
    r) reboot -f ;;
    p) echo c >/proc/sysrq-trigger ;;
    *) printf %s "$character" ;;
    esac
done
"""


def here() -> bool:
    """Whether this is the control domain of a Xen host."""
    try:
        return "control_d" in Path("/proc/xen/capabilities").read_text()
    except OSError:
        return False


def obedient(cache: Path) -> Path:
    """The RAM disk of a guest that prints "ready", echoes what it is sent, and does what it is told."""
    made = cache / "obedient-initrd"
    text = _OBEDIENT.encode()
    if made.exists() and made.stat().st_mtime > Path(__file__).stat().st_mtime:
        return made
    archive = Archive()
    archive.device("dev/console", 5, 1)
    for empty in ("proc", "sys", "sbin"):
        archive.directory(empty)
    archive.file("bin/busybox", Path("/bin/busybox").read_bytes(), executable=True)
    archive.link("bin/sh", "busybox")
    for name in ("poweroff", "reboot"):  # what the kernel runs when the toolstack asks for one
        archive.file(f"sbin/{name}", f"#!/bin/sh\n/bin/busybox {name} -f\n".encode(), executable=True)
    modules = closure(Path("/lib/modules", os.uname().release), ("xen_blkfront", "xen_netfront"))
    for module in modules:
        archive.file(f"modules/{module.name}.ko", module.content)
    archive.file("modules/order", "".join(f"{module.name}.ko\n" for module in modules).encode())
    archive.file("init", text, executable=True)
    cache.mkdir(parents=True, exist_ok=True)
    made.write_bytes(compress_xz(archive.packed()))
    return made


class ControlDomain:
    """The machine that the tests run on, with the interface of `harness.host.Host`."""

    name = "dom0"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="krs", dir="/tmp"))
        self.hostname = os.uname().nodename
        self.address = self.gateway = _address()

    def command(self, *argv: str) -> list[str]:
        return list(argv)

    def run(self, *argv: str, timeout: float = 30) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def succeeds(self, *argv: str, timeout: float = 30) -> bool:
        return subprocess.run(argv, capture_output=True, timeout=timeout).returncode == 0

    def links(self) -> dict[str, str]:
        listed = json.loads(self.run("ip", "-json", "-details", "link", "show"))
        return {link["ifname"]: link.get("linkinfo", {}).get("info_kind", "") for link in listed}

    def close(self) -> None:
        """Destroy the guests, and remove what the daemon made of the network."""
        for uuid in self.guests():
            subprocess.run([*VIRSH, "destroy", uuid], capture_output=True, timeout=60)
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if (
                    os.fsencode(self.directory) in place.read_bytes()
                ):  # address services, and what a test left running
                    os.kill(int(place.parent.name), signal.SIGKILL)
        for name, kind in self.links().items():
            if kind == "bridge" and name != "pair":
                subprocess.run(["ip", "link", "del", name], capture_output=True, timeout=30)
        subprocess.run(["nft", "delete", "table", "bridge", "kronos"], capture_output=True, timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)

    def guests(self) -> list[str]:
        """The uuids of the guests that run."""
        words = subprocess.run(
            [*VIRSH, "list", "--uuid"], capture_output=True, text=True, timeout=60
        ).stdout.split()
        return [word for word in words if not word.startswith("00000000-0000-0000")]

    def guest_pids(self) -> dict[str, int]:
        """The QEMU process of each guest, by the uuid of its VM."""
        found = {}
        for uuid in self.guests():
            domid = self.run(*VIRSH, "domid", uuid).strip()
            path = f"/local/domain/{domid}/image/device-model-pid"
            told = subprocess.run(["xenstore-read", path], capture_output=True, text=True, timeout=30).stdout
            if told.strip().isdigit():
                found[uuid] = int(told)
        return found


VIRSH = ("virsh", "-q", "-c", "xen:///system")


def _address() -> str:
    listed = json.loads(subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, check=True).stdout)
    found = [
        info["local"] for link in listed for info in link.get("addr_info", ()) if info["local"][:4] != "127."
    ]
    assert found, "this control domain has no address"
    return str(found[0])
