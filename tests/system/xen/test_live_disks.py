"""Live disk operations on a real Xen, under a guest that writes all the time: run in the control domain of one.

Seven things go wrong there if they are done in the obvious way; each has a test, which names it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from harness.guests import CACHE
from harness.recorder import Recorder, check, prepare
from harness.xen import control_domain
from kronos.boot.tiny_guest import tiny_guest
from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Disk, Domain, EventKind, Firmware, Limits, Platform
from kronos.hypervisor.claims import identity, openers
from kronos.hypervisor.xen import URI, Xen

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not control_domain.here(), reason="this is no control domain of Xen"),
]

MIB = 1 << 20
PATIENCE = 120.0


class Guest:
    """A PV or PVH guest with two qcow2 disks, 0 and 1."""

    def __init__(self, hypervisor: Xen, sr: Path) -> None:
        self.hypervisor = hypervisor
        self.sr = sr
        self.heads = {number: sr / f"base{number}.qcow2" for number in (0, 1)}
        self.old = {number: prepare(head) for number, head in self.heads.items()}
        self.events: list[EventKind] = []
        tiny = tiny_guest(CACHE / "tiny-guest")
        self.domain = Domain(
            uuid=str(uuid4()),
            name="writer",
            memory_static_max=128 * MIB,
            memory_target=128 * MIB,
            boot=DirectKernel(control_domain.KERNEL, tiny.ramdisk, "console=hvc0 quiet"),
            kind=control_domain.KIND,
            platform=Platform(vga="none", usb=False),
            disks=[Disk(number, head, format="qcow2") for number, head in self.heads.items()],
        )
        self.uuid = self.domain.uuid
        self.hypervisor.watch(lambda event: self.events.append(event.kind))
        self.hypervisor.start(self.domain)
        self.listen()

    def another_daemon(self) -> None:
        """Go on with a driver that has not seen what was done so far."""
        self.hypervisor.close()
        self.hypervisor = Xen(URI, self.hypervisor.places.root)
        self.hypervisor.watch(lambda event: self.events.append(event.kind))
        self.recorder.reconnect(self.hypervisor.serial(self.uuid).socket)

    def reboot(self) -> None:
        self.recorder.stop()
        self.events.clear()
        self.hypervisor.reboot(self.uuid)
        until = time.monotonic() + PATIENCE
        while EventKind.REBOOTED not in self.events:
            assert time.monotonic() < until, self.events
            time.sleep(0.2)
        self.listen()

    def listen(self) -> None:
        """Have the guest write, whose line is a new one after each start."""
        before = getattr(self, "recorder", None)
        self.recorder = Recorder.on_socket(self.hypervisor.serial(self.uuid).socket, PATIENCE).log_in(
            PATIENCE
        )
        if before is not None:
            self.recorder.go_on_from(before)
        self.recorder.record("xvda", "xvdb")

    def overlay(self, number: int) -> Path:
        head = self.heads[number]
        new = self.sr / f"layer-{uuid4().hex[:8]}.qcow2"
        size = str(info(head)["virtual-size"])
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", head.name, "-F", "qcow2", new, size]
        subprocess.run(command, check=True, timeout=60)
        return new

    def snapshot(self, *numbers: int, bitmaps: dict[int, str] | None = None) -> dict[int, Path]:
        overlays = {number: self.overlay(number) for number in numbers or self.heads}
        self.hypervisor.snapshot_disks(self.uuid, overlays, bitmaps)
        self.heads |= overlays
        return overlays

    def empty(self) -> Path:
        made = self.sr / f"empty-{uuid4().hex[:8]}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", made, "8M"], check=True, timeout=60)
        return made

    def open_files(self) -> set[Path]:
        """The images that some QEMU has open."""
        return {image for image in self.sr.iterdir() if any(openers(identity(image)))}

    def verify(self) -> None:
        """Stop the guest for a moment: all that it was told is written must be in the files."""
        for disk in ("xvda", "xvdb"):
            self.recorder.advance(disk)
        last = {number: self.recorder.last(f"xvd{'ab'[number]}") for number in self.heads}
        self.hypervisor.pause(self.uuid)
        try:
            for number, head in self.heads.items():
                check(head, f"xvd{'ab'[number]}", last[number], self.old[number], live=True)
        finally:
            self.hypervisor.unpause(self.uuid)
        assert not self.recorder.failed("xvda") and not self.recorder.failed("xvdb")


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Xen]:
    run = Path(tempfile.mkdtemp(prefix="kl-", dir="/run"))
    yield Xen(URI, run)
    made = Xen(URI, run)
    for status in made.statuses():
        if (run / status.uuid).exists():
            made.destroy(status.uuid)
    made.close()
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture(scope="module")
def guest(hypervisor: Xen, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One for all tests, as it takes a while to boot: whatever one test does to its disks the next goes on from."""
    made = Guest(hypervisor, tmp_path_factory.mktemp("sr"))
    yield made
    made.recorder.close()


def info(image: Path) -> dict[str, Any]:
    command = ["qemu-img", "info", "-U", "--output=json", str(image)]
    said = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def backing(image: Path) -> str:
    return str(info(image)["backing-filename"])


def test_a_snapshot_of_two_disks_leaves_their_old_files_alone_and_loses_nothing(guest: Guest) -> None:
    bases = list(guest.heads.values())

    guest.snapshot()
    then = [base.read_bytes() for base in bases]
    guest.recorder.advance("xvda", 10)
    guest.recorder.advance("xvdb", 10)

    assert [base.read_bytes() for base in bases] == then
    guest.verify()


def test_the_active_layer_is_merged_into_the_one_beneath(guest: Guest) -> None:
    base = guest.heads[0]
    layer = guest.snapshot(0)[0]
    guest.recorder.advance("xvda", 5)

    guest.hypervisor.commit_disk(guest.uuid, 0, layer)

    guest.heads[0] = base
    assert layer not in guest.open_files()
    guest.verify()


def test_a_middle_layer_is_merged_and_the_one_above_names_the_one_beneath(guest: Guest) -> None:
    base = guest.heads[0]
    middle = guest.snapshot(0)[0]
    guest.recorder.advance("xvda", 5)
    top = guest.snapshot(0)[0]

    guest.hypervisor.commit_disk(guest.uuid, 0, middle)

    assert middle not in guest.open_files()
    middle.unlink()
    assert backing(top) == base.name
    guest.verify()


def test_a_disk_moves_to_another_file(guest: Guest) -> None:
    old = guest.open_files()
    target = guest.empty()

    guest.hypervisor.mirror_disk(guest.uuid, 0, target)

    guest.heads[0] = target
    left = {image for image in old if image.name.startswith(("base0", "layer"))} & guest.open_files()
    assert all(image in (guest.heads[1], guest.sr / "base1.qcow2") for image in left)
    guest.verify()


def test_the_guest_sees_a_disk_grow_at_once(guest: Guest) -> None:
    guest.hypervisor.resize_disk(guest.uuid, 1, 16 * MIB)

    until = time.monotonic() + 20
    while guest.recorder.ask("cat /sys/block/xvdb/size") != str(16 * MIB // 512):
        assert time.monotonic() < until
        time.sleep(0.5)
    guest.verify()


def test_a_limit_slows_the_guest_and_what_it_does_is_counted(guest: Guest) -> None:
    guest.hypervisor.limit_disk(guest.uuid, 0, Limits(requests_per_second=2))
    guest.recorder.advance("xvda")
    before, began = guest.hypervisor.disk_statistics(guest.uuid)[0], time.monotonic()
    guest.recorder.advance("xvda", 8)
    after, passed = guest.hypervisor.disk_statistics(guest.uuid)[0], time.monotonic() - began
    guest.hypervisor.limit_disk(guest.uuid, 0, Limits())

    assert after.write_bytes - before.write_bytes >= 8 * 512
    done = after.read_requests + after.write_requests - before.read_requests - before.write_requests
    assert 8 <= done <= 2 * passed + 4
    guest.recorder.advance("xvda", 8)


def test_a_bitmap_begins_with_a_snapshot_and_goes_on_after_a_merge(guest: Guest) -> None:
    first = guest.snapshot(0, bitmaps={0: "cbt"})[0]
    guest.recorder.advance("xvda", 5)
    (begun,) = guest.hypervisor.bitmaps(guest.uuid, 0)
    second = guest.snapshot(0)[0]
    guest.recorder.advance("xvda", 5)
    guest.hypervisor.commit_disk(guest.uuid, 0, second)
    guest.heads[0] = first

    (found,) = guest.hypervisor.bitmaps(guest.uuid, 0)

    assert found.name == "cbt" and found.usable and found.dirty >= begun.dirty >= 65536
    guest.hypervisor.bitmap_remove(guest.uuid, 0, "cbt")
    assert guest.hypervisor.bitmaps(guest.uuid, 0) == []
    guest.verify()


def test_trap_1_a_frozen_layer_is_read_by_nbd_without_the_guests_qemu(guest: Guest) -> None:
    """An NBD server in the guest's own QEMU kills it when the first client leaves."""
    frozen = guest.heads[0]
    guest.snapshot(0)
    place = guest.sr / "nbd"
    server = subprocess.Popen(["qemu-nbd", "-r", "-f", "qcow2", "-x", "disk", "-k", place, frozen])
    try:
        until = time.monotonic() + 20
        while not place.exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        copy = guest.sr / "copy.raw"
        url = f"nbd+unix:///disk?socket={place}"
        subprocess.run(["qemu-img", "convert", "-O", "raw", url, copy], check=True, timeout=60)
        copy.unlink()
    finally:
        server.terminate()
        server.wait(10)
        place.unlink(missing_ok=True)
    guest.verify()


def test_trap_2_a_guest_that_reboots_finds_what_it_wrote(guest: Guest) -> None:
    """Xen opens the file again that it was told of at first, which is by now beneath others."""
    guest.snapshot()

    guest.reboot()

    guest.verify()
    layer, base = guest.heads[0], guest.sr / backing(guest.heads[0])
    guest.hypervisor.commit_disk(guest.uuid, 0, layer)
    guest.heads[0] = base
    guest.verify()


def test_a_limit_holds_after_a_reboot_that_another_daemon_sees(guest: Guest) -> None:
    """It ends with the guest's QEMU."""
    guest.hypervisor.limit_disk(guest.uuid, 0, Limits(requests_per_second=2))
    guest.another_daemon()

    guest.reboot()

    guest.recorder.advance("xvda")
    before, began = guest.hypervisor.disk_statistics(guest.uuid)[0], time.monotonic()
    guest.recorder.advance("xvda", 8)
    after, passed = guest.hypervisor.disk_statistics(guest.uuid)[0], time.monotonic() - began
    done = after.read_requests + after.write_requests - before.read_requests - before.write_requests
    assert 8 <= done <= 2 * passed + 4
    guest.hypervisor.limit_disk(guest.uuid, 0, Limits())
    guest.verify()


def test_trap_2_a_guest_that_is_resumed_finds_what_it_wrote(guest: Guest) -> None:
    guest.snapshot(bitmaps={0: "kept"})
    guest.recorder.advance("xvda", 5)
    memory = guest.sr.parent / "memory"
    guest.hypervisor.suspend(guest.uuid, memory)
    disks = [replace(disk, path=guest.heads[disk.device]) for disk in guest.domain.disks]

    guest.hypervisor.resume(replace(guest.domain, disks=disks), memory)

    memory.unlink()
    guest.recorder.reconnect(guest.hypervisor.serial(guest.uuid).socket)
    (found,) = guest.hypervisor.bitmaps(guest.uuid, 0)
    assert found.name == "kept" and found.usable and found.dirty >= 65536
    guest.hypervisor.bitmap_remove(guest.uuid, 0, "kept")
    guest.verify()
    layer = guest.snapshot(0)[0]
    base = guest.sr / backing(layer)
    guest.hypervisor.commit_disk(guest.uuid, 0, layer)
    guest.heads[0] = base
    guest.verify()


def test_trap_3_a_disk_can_come_again_after_a_snapshot(guest: Guest) -> None:
    """Xen leaves nodes behind that hold the files open, and that make the next plug fail without a word."""
    guest.snapshot(1)
    guest.recorder.stop()

    guest.hypervisor.unplug_disk(guest.uuid, 1)
    assert guest.heads[1] not in guest.open_files()
    guest.hypervisor.plug_disk(guest.uuid, Disk(1, guest.heads[1], format="qcow2"))

    until = time.monotonic() + 30
    while not guest.recorder.ask("cat /sys/block/xvdb/size 2>/dev/null"):
        assert time.monotonic() < until
        time.sleep(0.5)
    guest.recorder.record("xvda", "xvdb")
    guest.verify()
    guest.snapshot()
    guest.verify()


def test_trap_4_an_image_is_not_opened_twice(guest: Guest) -> None:
    """Xen's back end takes no locks."""
    for image in (guest.heads[0], guest.sr / "base1.qcow2"):
        other = replace(guest.domain, uuid=str(uuid4()), disks=[Disk(0, image, format="qcow2")])
        with pytest.raises(Failure) as caught:
            guest.hypervisor.start(other)
        assert "is in use by" in caught.value.params[0]
    guest.verify()


def test_trap_5_a_guest_without_disks_can_be_given_one(guest: Guest) -> None:
    """A PV guest has a QEMU only if it begins with something that needs one."""
    bare = replace(guest.domain, uuid=str(uuid4()), disks=[])
    guest.hypervisor.start(bare)
    try:
        disk = guest.empty()
        guest.hypervisor.plug_disk(bare.uuid, Disk(0, disk, format="qcow2"))
        assert disk in guest.open_files()
    finally:
        guest.hypervisor.destroy(bare.uuid)


def test_trap_6_the_disks_of_a_paused_guest_change_under_it(guest: Guest) -> None:
    """To unplug and plug a disk while its guest is paused would hang it for good."""
    guest.hypervisor.pause(guest.uuid)
    try:
        guest.snapshot()
    finally:
        guest.hypervisor.unpause(guest.uuid)
    guest.verify()


def test_trap_7_a_disk_that_an_emulated_pc_has_twice_is_left_alone(guest: Guest) -> None:
    """Two nodes write to one file until the guest takes up the paravirtual disk."""
    disk = guest.empty()
    machine = replace(
        guest.domain,
        uuid=str(uuid4()),
        kind="hvm",
        boot=Firmware(),
        platform=Platform(usb=False, videoram=16),
        disks=[Disk(0, disk, format="qcow2")],
    )
    guest.hypervisor.start(machine)
    try:
        overlay = guest.sr / "twice.qcow2"
        command = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            disk.name,
            "-F",
            "qcow2",
            overlay,
            "8M",
        ]
        subprocess.run(command, check=True, timeout=60)
        with pytest.raises(Failure) as caught:
            guest.hypervisor.snapshot_disks(machine.uuid, {0: overlay})
        assert caught.value.code == "VM_LACKS_FEATURE"
    finally:
        guest.hypervisor.destroy(machine.uuid)
