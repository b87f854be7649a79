"""Live disk operations through libvirt on QEMU, under a guest that writes all the time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.guests import CACHE
from harness.recorder import Recorder, check, prepare
from kronos.boot.tiny_guest import tiny_guest
from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import DirectKernel, Disk, Domain, Limits, Platform

pytestmark = pytest.mark.integration

MIB = 1 << 20


class Writer:
    """A VM that writes to its disks, whose images lie in one directory."""

    def __init__(self, world: Any, directory: Path, disks: int = 1) -> None:
        self.world = world
        self.hypervisor = world.hypervisor
        self.sr = directory
        self.heads = {number: directory / f"base{number}.qcow2" for number in range(disks)}
        self.old = {number: prepare(head) for number, head in self.heads.items()}
        self.domain = self._domain()
        self.uuid = self.domain.uuid
        self._begin()

    def _domain(self) -> Domain:
        tiny = tiny_guest(CACHE / "tiny-guest")
        domain: Domain = self.world.domain(
            boot=DirectKernel(tiny.kernel, tiny.ramdisk, tiny.cmdline),
            memory_static_max=128 * MIB,
            memory_target=128 * MIB,
            platform=Platform(vga="none", usb=False, agent=False, hotplug=False),
            disks=tuple(Disk(number, head, format="qcow2") for number, head in self.heads.items()),
        )
        return domain

    def _begin(self) -> None:
        self.hypervisor.start(self.domain)
        self.recorder = Recorder.on_socket(self.hypervisor.serial(self.uuid).socket).log_in()
        self.recorder.record(*(self.device(number) for number in self.heads))

    @staticmethod
    def device(number: int) -> str:
        return f"vd{'abc'[number]}"

    def overlay(self, number: int) -> Path:
        head = self.heads[number]
        new = self.sr / f"layer{len(list(self.sr.iterdir()))}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", head.name, "-F", "qcow2", new, "8M"]
        subprocess.run(command, check=True)
        return new

    def snapshot(self, *numbers: int, bitmaps: dict[int, str] | None = None) -> dict[int, Path]:
        overlays = {number: self.overlay(number) for number in numbers or self.heads}
        self.hypervisor.snapshot_disks(self.uuid, overlays, bitmaps)
        self.heads |= overlays
        return overlays

    def empty(self, name: str = "elsewhere.qcow2") -> Path:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.sr / name, "8M"], check=True)
        return self.sr / name

    def verify(self) -> None:
        """A power cut, and all that the guest was told is written must be in the files."""
        last = {number: self.recorder.advance(self.device(number)) for number in self.heads}
        last = {number: self.recorder.last(self.device(number)) for number in last}
        self.hypervisor.destroy(self.uuid)
        for number, head in self.heads.items():
            check(head, self.device(number), last[number], self.old[number])


@pytest.fixture
def writing(world: Any, tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def make(disks: int = 1) -> Writer:
        made.append(Writer(world, tmp_path, disks))
        return made[-1]

    yield make
    for writer in made:
        writer.recorder.close()


@pytest.fixture
def writer(writing: Callable[..., Writer]) -> Writer:
    return writing()


def info(image: Path) -> Any:
    command = ["qemu-img", "info", "-U", "--output=json", os.fspath(image)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_a_snapshot_of_two_disks_leaves_their_old_files_alone_and_loses_nothing(
    writing: Callable[..., Writer],
) -> None:
    pair = writing(2)
    bases = list(pair.heads.values())

    pair.snapshot()
    then = [base.read_bytes() for base in bases]
    for number in pair.heads:
        pair.recorder.advance(pair.device(number), 10)

    assert [base.read_bytes() for base in bases] == then
    pair.verify()


def test_the_active_layer_is_merged_into_the_one_beneath(writer: Writer) -> None:
    base = writer.heads[0]
    layer = writer.snapshot()[0]
    writer.recorder.advance("vda", 5)

    writer.hypervisor.commit_disk(writer.uuid, 0, layer)

    layer.unlink()
    writer.heads[0] = base
    writer.verify()


def test_a_middle_layer_is_merged_and_the_one_above_keeps_a_bare_name_for_the_one_beneath(
    writer: Writer,
) -> None:
    base = writer.heads[0]
    middle = writer.snapshot()[0]
    writer.recorder.advance("vda", 5)
    top = writer.snapshot()[0]
    seen: list[tuple[int, int]] = []

    writer.hypervisor.commit_disk(writer.uuid, 0, middle, lambda *now: seen.append(now))

    middle.unlink()
    assert info(top)["backing-filename"] == base.name
    writer.verify()


def test_what_is_no_layer_of_the_disk_is_not_merged(writer: Writer) -> None:
    for layer, reason in ((writer.sr / "none.qcow2", "is no part"), (writer.heads[0], "nothing beneath")):
        with pytest.raises(Failure) as caught:
            writer.hypervisor.commit_disk(writer.uuid, 0, layer)
        assert reason in caught.value.params[0]


def test_a_disk_moves_to_another_file_as_a_whole(writer: Writer) -> None:
    writer.snapshot()
    target = writer.empty()

    writer.hypervisor.mirror_disk(writer.uuid, 0, target)

    for image in writer.sr.glob("*"):
        if image != target:
            image.unlink()
    writer.heads[0] = target
    writer.verify()


def test_the_top_layer_alone_moves_onto_a_copy_of_what_is_beneath(writer: Writer) -> None:
    base = writer.heads[0]
    writer.snapshot()
    copy = writer.sr / "copy.qcow2"
    subprocess.run(["cp", base, copy], check=True)
    writer.heads[0] = copy
    target = writer.overlay(0)

    writer.hypervisor.mirror_disk(writer.uuid, 0, target, shallow=True)

    base.unlink()
    writer.heads[0] = target
    writer.verify()


def test_a_copy_that_is_called_off_leaves_the_disk_where_it_was(writer: Writer) -> None:
    target = writer.empty()

    def call_off(done: int, whole: int) -> None:
        raise Failure("TASK_CANCELLED", "t")

    with pytest.raises(Failure) as caught:
        writer.hypervisor.mirror_disk(writer.uuid, 0, target, progress=call_off)

    assert caught.value.code == "TASK_CANCELLED"
    target.unlink()
    writer.hypervisor.mirror_disk(writer.uuid, 0, writer.empty("second.qcow2"))  # nothing is in its way
    writer.heads[0] = writer.sr / "second.qcow2"
    writer.verify()


def test_a_vm_that_ends_takes_its_copy_with_it(writer: Writer) -> None:
    target = writer.empty()

    def cut(done: int, whole: int) -> None:
        writer.hypervisor.destroy(writer.uuid)

    with pytest.raises(Failure) as caught:
        writer.hypervisor.mirror_disk(writer.uuid, 0, target, progress=cut)

    assert caught.value.code == "VM_BAD_POWER_STATE"


def test_the_guest_sees_a_disk_grow(writer: Writer) -> None:
    writer.snapshot()

    writer.hypervisor.resize_disk(writer.uuid, 0, 16 * MIB)

    assert writer.recorder.ask("cat /sys/block/vda/size") == str(16 * MIB // 512)


def test_what_the_guest_does_is_counted(writer: Writer) -> None:
    before = writer.hypervisor.disk_statistics(writer.uuid)[0]
    writer.recorder.advance("vda", 11)  # the first may have been written by then, and not been told
    after = writer.hypervisor.disk_statistics(writer.uuid)[0]

    assert after.write_requests - before.write_requests >= 10
    assert after.write_bytes - before.write_bytes >= 10 * 512
    assert after.write_time > before.write_time
    assert after.flush_requests - before.flush_requests >= 10


def test_a_limit_can_be_set_and_lifted(writer: Writer) -> None:
    writer.hypervisor.limit_disk(writer.uuid, 0, Limits(requests_per_second=4))
    writer.recorder.advance("vda")
    writer.hypervisor.limit_disk(writer.uuid, 0, Limits())
    writer.recorder.advance("vda", 10)


def test_a_bitmap_begins_with_a_snapshot_and_notes_what_the_guest_writes(
    writing: Callable[..., Writer],
) -> None:
    pair = writing(2)
    pair.snapshot(bitmaps={0: "cbt"})
    pair.recorder.advance("vda", 5)

    (found,) = pair.hypervisor.bitmaps(pair.uuid, 0)

    assert found.name == "cbt" and found.usable
    assert 65536 <= found.dirty <= 4 * MIB
    assert pair.hypervisor.bitmaps(pair.uuid, 1) == []
    pair.hypervisor.bitmap_remove(pair.uuid, 0, "cbt")
    assert pair.hypervisor.bitmaps(pair.uuid, 0) == []


def test_a_bitmap_outlives_snapshots_and_merges(writer: Writer) -> None:
    base = writer.heads[0]
    writer.hypervisor.bitmap_add(writer.uuid, 0, "cbt")
    writer.recorder.ask(f"dd if=/dev/zero of=/dev/vda bs=65536 seek={3 * MIB // 65536} count=2 conv=fsync")
    middle = writer.snapshot()[0]
    writer.recorder.advance("vda", 5)
    top = writer.snapshot()[0]
    writer.recorder.advance("vda", 5)

    writer.hypervisor.commit_disk(writer.uuid, 0, middle)
    writer.hypervisor.commit_disk(writer.uuid, 0, top)

    (found,) = writer.hypervisor.bitmaps(writer.uuid, 0)
    assert found.name == "cbt" and found.usable and found.dirty >= 3 * 65536
    writer.heads[0] = base
    writer.verify()


def test_a_bitmap_of_an_earlier_run_is_known_and_can_be_removed(writer: Writer) -> None:
    writer.hypervisor.bitmap_add(writer.uuid, 0, "cbt")
    writer.recorder.advance("vda", 5)
    writer.recorder.stop()
    writer.hypervisor.suspend(writer.uuid, writer.sr / "memory")  # QEMU ends in good order, and stores it
    writer.hypervisor.resume(writer.domain, writer.sr / "memory")

    (found,) = writer.hypervisor.bitmaps(writer.uuid, 0)
    assert found.name == "cbt" and found.usable and found.dirty >= 65536
    writer.hypervisor.bitmap_remove(writer.uuid, 0, "cbt")

    assert writer.hypervisor.bitmaps(writer.uuid, 0) == []


def test_a_snapshot_that_fails_leaves_no_bitmap(writer: Writer) -> None:
    with pytest.raises(Failure):
        writer.hypervisor.snapshot_disks(writer.uuid, {0: writer.sr / "absent.qcow2"}, {0: "cbt"})

    assert writer.hypervisor.bitmaps(writer.uuid, 0) == []
    writer.verify()


def test_a_disk_that_is_not_there_is_told_as_such(writer: Writer) -> None:
    call = writer.hypervisor
    for attempt in (
        lambda: call.commit_disk(writer.uuid, 5, writer.heads[0]),
        lambda: call.mirror_disk(writer.uuid, 5, writer.heads[0]),
        lambda: call.bitmap_add(writer.uuid, 5, "b"),
        lambda: call.bitmaps(writer.uuid, 5),
    ):
        with pytest.raises(Failure) as caught:
            attempt()
        assert caught.value.code == "DEVICE_ALREADY_DETACHED"
