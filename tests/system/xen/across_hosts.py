"""Guests move to a second Xen host with disks that were changed while they ran. A program for the control domains of
two hosts that share a network and a disk (`harness.xen.machine.Pair`): `there` on the second, then `here` on the first.

The shared disk has logical volumes with qcow2 in them. libvirt moves the memory; docs/live-disks.md tells the rest.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4
from xmlrpc.client import ServerProxy
from xmlrpc.server import SimpleXMLRPCServer

import libvirt

from harness.guests import CACHE
from harness.recorder import Recorder, check, prepare
from harness.xen import control_domain
from kronos.boot.tiny_guest import tiny_guest
from kronos.hypervisor.base import DirectKernel, Disk, Domain, Platform
from kronos.hypervisor.claims import Claims, identity, openers
from kronos.hypervisor.qdisk import QdiskDisks
from kronos.hypervisor.xen import URI, Xen

RUN, SR = Path("/run/across"), Path("/dev/across")
SECOND, PORT = "10.9.0.2", 8999
KINDS = ("pv", "pvh")
TARGETS = ("xvda", "xvdb")
MIB = 1 << 20
SIZE = "8M"
PATIENCE = 180.0
HASTY = "bs=64k count=16 2>/dev/null"
"""What a guest writes and does not flush."""


def command(*argv: str | Path) -> str:
    # The first use of LVM takes a minute on a machine that has hardly any processor.
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=2 * PATIENCE).stdout


def volume(kind: str, target: str, layer: str) -> Path:
    return SR / f"{kind}-{target}-{layer}.qcow2"


def overlay(kind: str, target: str, base: str, layer: str) -> Path:
    made = volume(kind, target, layer)
    words = ("-b", volume(kind, target, base).name, "-F", "qcow2", made, SIZE)
    command("qemu-img", "create", "-q", "-f", "qcow2", "-u", *words)
    return made


class Second:
    """What the host does that guests come to, when the first one asks for it."""

    def __init__(self) -> None:
        RUN.mkdir(exist_ok=True)
        self.hypervisor = Xen(URI, RUN)
        claims = Claims(RUN, lambda uuid: RUN / uuid, self.hypervisor.runs)
        self.disks = QdiskDisks(lambda uuid: RUN / uuid / "monitor", claims)
        self.recorders: dict[str, Recorder] = {}

    def expect(self, uuid: str) -> None:
        """Make what the guest's document names: the directory for its sockets, and an empty disk in place of each."""
        command("vgchange", "-ay", SR.name)
        (RUN / uuid).mkdir()
        for target in TARGETS:
            empty = RUN / uuid / f"{target}.qcow2"
            command("qemu-img", "create", "-q", "-f", "qcow2", empty, SIZE)
            self.disks.claims.claim(uuid, target, empty, "write")

    def take_over(self, uuid: str, images: dict[str, str]) -> None:
        """Give a guest that has come its disks, and let it go on."""
        for target, image in images.items():
            self.disks.take_over(uuid, target, Path(image), "qcow2")
            (RUN / uuid / f"{target}.qcow2").unlink()
        self.hypervisor.unpause(uuid)
        self.recorders[uuid] = Recorder.on_socket(self.hypervisor.serial(uuid).socket, PATIENCE)
        for records in (1, 5):  # the first one that it says, and some more
            self.recorders[uuid].advance("xvda", records, PATIENCE)

    def ask(self, uuid: str, line: str) -> str:
        return self.recorders[uuid].ask(line, PATIENCE)

    def verify(self, uuid: str, image: str, old: str, heard: int) -> int:
        """All must be there that the guest was told is written, here or, up to `heard`, where it came from."""
        recorder = self.recorders[uuid]
        last = recorder.last("xvda")
        assert last > heard and not recorder.failed("xvda"), (last, heard, recorder.failed("xvda"))
        self.hypervisor.pause(uuid)
        try:
            check(Path(image), "xvda", last, old, live=True)
        finally:
            self.hypervisor.unpause(uuid)
        return last

    def change(self, uuid: str, kind: str) -> None:
        """A snapshot here, and its merge."""
        later = overlay(kind, "xvda", "top", "later")
        self.hypervisor.snapshot_disks(uuid, {0: later})
        self.recorders[uuid].advance("xvda", 5, PATIENCE)
        self.hypervisor.commit_disk(uuid, 0, later)
        self.recorders[uuid].advance("xvda", 5, PATIENCE)

    def end(self, uuid: str, kind: str) -> None:
        self.hypervisor.destroy(uuid)
        until = time.monotonic() + PATIENCE
        for target in TARGETS:
            top = volume(kind, target, "top")
            while any(openers(identity(top))):
                assert time.monotonic() < until
                time.sleep(0.2)
            command("qemu-img", "check", "-q", top)


class Mover:
    """A guest with two disks of two layers each, which writes to the first one all the time."""

    def __init__(self, hypervisor: Xen, kind: str) -> None:
        self.hypervisor = hypervisor
        self.kind = kind
        self.uuid = str(uuid4())
        bases = [volume(kind, target, "base") for target in TARGETS]
        self.old = [prepare(base) for base in bases][0]
        tiny = tiny_guest(CACHE / "tiny-guest")
        domain = Domain(
            uuid=self.uuid,
            name=f"a {kind} guest that moves",
            memory_static_max=128 * MIB,
            memory_target=128 * MIB,
            boot=DirectKernel(control_domain.KERNEL, tiny.ramdisk, "console=hvc0 quiet"),
            kind=kind,
            platform=Platform(vga="none", usb=False),
            disks=[Disk(number, base, format="qcow2") for number, base in enumerate(bases)],
        )
        hypervisor.start(domain)
        line = hypervisor.serial(self.uuid).socket
        self.recorder = Recorder.on_socket(line, PATIENCE).log_in(PATIENCE)
        self.recorder.record("xvda")

    def change(self) -> None:
        """Snapshots of both disks; the first one is merged once, and made again."""
        first = overlay(self.kind, "xvda", "base", "top")
        self.hypervisor.snapshot_disks(self.uuid, {0: first})
        self.recorder.advance("xvda", 5)
        self.hypervisor.commit_disk(self.uuid, 0, first)
        self.recorder.advance("xvda", 5)
        tops = {number: overlay(self.kind, target, "base", "top") for number, target in enumerate(TARGETS)}
        self.hypervisor.snapshot_disks(self.uuid, tops)
        self.recorder.advance("xvda", 5)

    def hurry(self) -> str:
        """Write to the second disk, and flush nothing of it; what it is."""
        self.recorder.ask(
            f"dd if=/dev/urandom of=/tmp/hasty {HASTY}; dd if=/tmp/hasty of=/dev/xvdb oflag=direct {HASTY}"
        )
        return self.recorder.ask("md5sum </tmp/hasty")

    def move(self, second: ServerProxy) -> None:
        """Only when the QEMU here has ended all that the guest wrote is in the images: it is not asked to write before.
        Until then the QEMU there must not look."""
        tops = {target: volume(self.kind, target, "top") for target in TARGETS}
        here = {pid for top in tops.values() for pid, _ in openers(identity(top))}
        assert len(here) == 1, here
        second.expect(self.uuid)
        flags = libvirt.VIR_MIGRATE_PAUSED | (libvirt.VIR_MIGRATE_LIVE if self.kind == "pvh" else 0)
        to = libvirt.open(f"xen+tcp://{SECOND}/system")
        domain = libvirt.open(URI).lookupByUUIDString(self.uuid)
        domain.migrate3(to, {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{SECOND}"}, flags)
        until = time.monotonic() + PATIENCE
        while any(pid in here for top in tops.values() for pid, _ in openers(identity(top))):
            assert time.monotonic() < until, "the QEMU that the guest came from does not end"
            time.sleep(0.1)
        second.take_over(self.uuid, {target: str(top) for target, top in tops.items()})


def here() -> None:
    RUN.mkdir(exist_ok=True)
    command("pvcreate", "-qq", "-y", "/dev/vdb")
    command("vgcreate", "-qq", SR.name, "/dev/vdb")
    for kind in KINDS:
        for target, layer in (*((t, n) for t in TARGETS for n in ("base", "top")), ("xvda", "later")):
            command("lvcreate", "-qq", "-y", "-L", "16m", "-n", volume(kind, target, layer).name, SR.name)
    hypervisor, second = Xen(URI, RUN), ServerProxy(f"http://{SECOND}:{PORT}", allow_none=True)
    for kind in KINDS:
        began = time.monotonic()
        guest = Mover(hypervisor, kind)
        guest.change()
        hasty, ready = guest.hurry(), time.monotonic()
        guest.move(second)
        moved, heard = time.monotonic(), guest.recorder.last("xvda")
        top = str(volume(kind, "xvda", "top"))
        last = second.verify(guest.uuid, top, guest.old, heard)
        found = second.ask(guest.uuid, f"dd if=/dev/xvdb iflag=direct {HASTY} | md5sum")
        assert found == hasty, f"what the {kind} guest wrote last and did not flush is {found}, not {hasty}"
        assert guest.uuid not in {status.uuid for status in hypervisor.statuses()}
        second.change(guest.uuid, kind)
        second.verify(guest.uuid, top, guest.old, last)
        second.end(guest.uuid, kind)
        times = (ready - began, moved - ready, time.monotonic() - moved)
        print(f"{kind}: changed in {times[0]:.0f} s, moved in {times[1]:.0f} s,", end=" ")
        print(f"changed and ended there in {times[2]:.0f} s; {last} records, {heard} of them from here")
    hypervisor.close()


def there() -> None:
    server = SimpleXMLRPCServer((SECOND, PORT), allow_none=True, logRequests=False)
    server.register_instance(Second())
    server.serve_forever()


if __name__ == "__main__":
    {"here": here, "there": there}[sys.argv[1]]()
