"""Live disk operations on a QEMU like the one that Xen starts, under a guest that writes all the time.

The QEMU here is a whole machine, with nodes named as Xen's back end names them, an iothread for each disk, and images
opened without locks; what differs is who owns the guest's memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from harness.guests import CACHE
from harness.recorder import Recorder, check, prepare
from kronos.boot.tiny_guest import tiny_guest
from kronos.datamodel.errors import Failure
from kronos.hypervisor.base import Limits
from kronos.hypervisor.claims import Claims, identity, openers
from kronos.hypervisor.qdisk import QdiskDisks
from kronos.hypervisor.qmp import Monitor

pytestmark = pytest.mark.integration

MIB = 1 << 20


class Guest:
    """A running VM with qcow2 disks, its QEMU ours to drive."""

    def __init__(self, directory: Path, *, disks: int = 1, form: str = "qcow2") -> None:
        self.uuid = str(uuid4())
        self.run = directory / "run"
        self.sr = directory / "sr"
        self.sr.mkdir(exist_ok=True)
        (self.run / self.uuid).mkdir(parents=True)
        self.form = form
        self.claims = Claims(self.run, lambda uuid: self.run / uuid, lambda uuid: self.process.poll() is None)
        self.disks = QdiskDisks(lambda uuid: self.run / uuid / "monitor", self.claims)
        self.targets = [f"xvd{letter}" for letter in "abc"[:disks]]
        self.old: dict[str, str] = {}
        self.heads: dict[str, Path] = {}
        for target in self.targets:
            self.heads[target] = self.sr / f"{target}-base.{form}"
            self.old[target] = prepare(self.heads[target], form)
        self.starts = 0
        self.start()

    def start(self) -> None:
        """As Xen starts a QEMU: each disk by the name that it was given."""
        self.starts += 1
        tiny = tiny_guest(CACHE / "tiny-guest")
        serial, monitor = self.run / self.uuid / "serial", self.run / self.uuid / "monitor"
        command = [
            *("qemu-system-x86_64", "-machine", "pc", "-m", "128", "-nodefaults", "-display", "none"),
            *("-kernel", tiny.kernel, "-initrd", tiny.ramdisk, "-append", f"{tiny.cmdline} console=ttyS0"),
            *("-chardev", f"socket,id=s,path={serial},server=on,wait=off", "-serial", "chardev:s"),
            *("-chardev", f"socket,id=m,path={monitor},server=on,wait=off", "-mon", "chardev=m,mode=control"),
        ]
        for target in self.targets:
            name = self.disks.claim(self.uuid, target, self.heads[target], "write", form=self.form)
            device = f"virtio-blk-pci,id={target},drive={target}-{self.form},iothread={target}"
            # Where such a thread polls, virtio (not Xen's back end) may miss a guest's kick while a node is replaced:
            # QEMU 7.2 then leaves that write waiting for ever, once in some hundred snapshots.
            thread = f"iothread,id={target},poll-max-ns=0"
            command += ["-object", thread, "-blockdev", json.dumps(self.node(target, name))]
            command += ["-device", device]
        for left in (serial, monitor):
            left.unlink(missing_ok=True)
        self.process = subprocess.Popen(command)
        self.recorder = Recorder.on_socket(serial)

    def node(self, target: str, name: Path) -> dict[str, object]:
        file = {"driver": "file", "filename": os.fspath(name), "locking": "off", "discard": "unmap"}
        return {"driver": self.form, "node-name": f"{target}-{self.form}", "discard": "unmap", "file": file}

    def booted(self) -> Guest:
        self.recorder.log_in()
        return self

    def recording(self) -> Guest:
        self.booted().recorder.record(*self.devices)
        return self

    @property
    def devices(self) -> list[str]:
        """The disks' names in the guest."""
        return [f"vd{target[-1]}" for target in self.targets]

    def overlay(self, target: str) -> Path:
        """A new file over the disk's present one, named as storage drivers do: without a path."""
        head = self.heads[target]
        new = self.sr / f"{target}-{uuid4().hex[:8]}.qcow2"
        backing = ["-u", "-b", head.name, "-F", head.suffix[1:]]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, new, "8M"], check=True)
        return new

    def snapshot(self, *targets: str, bitmaps: dict[str, str] | None = None) -> dict[str, Path]:
        overlays = {target: self.overlay(target) for target in targets or self.targets}
        self.disks.snapshot(self.uuid, overlays, bitmaps)
        self.heads |= overlays
        return overlays

    def open_files(self) -> set[str]:
        """The images that the QEMU has open."""
        found = set()
        for image in self.sr.iterdir():
            if any(pid == self.process.pid for pid, _ in openers(identity(image))):
                found.add(image.name)
        return found

    def monitor(self) -> Monitor:
        return Monitor(self.run / self.uuid / "monitor")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.recorder.close()

    def verify(self) -> None:
        """End the guest as a power cut does: all that it was told is written must be in the files."""
        for device in self.devices:
            self.recorder.advance(device)
        last = {device: self.recorder.last(device) for device in self.devices}
        self.kill()
        for target, device in zip(self.targets, self.devices, strict=True):
            head = self.heads[target]
            check(head, device, last[device], self.old[target], form=head.suffix[1:])


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kq-") as made:  # short: unix sockets lie below
        yield Path(made)


@pytest.fixture
def guest(directory: Path) -> Iterator[Guest]:
    made = Guest(directory).recording()
    yield made
    made.kill()


@pytest.fixture
def pair(directory: Path) -> Iterator[Guest]:
    made = Guest(directory, disks=2).recording()
    yield made
    made.kill()


def test_a_snapshot_of_two_disks_leaves_their_old_files_alone_and_loses_nothing(pair: Guest) -> None:
    bases = dict(pair.heads)

    pair.snapshot()
    then = {base: base.read_bytes() for base in bases.values()}
    pair.recorder.advance("vda", 10)
    pair.recorder.advance("vdb", 10)

    assert {base: base.read_bytes() for base in bases.values()} == then
    pair.verify()


def test_the_active_layer_is_merged_into_the_one_that_xen_opened(guest: Guest) -> None:
    base = guest.heads["xvda"]
    layer = guest.snapshot()["xvda"]
    guest.recorder.advance("vda", 5)

    guest.disks.commit(guest.uuid, "xvda", layer)

    guest.heads["xvda"] = base
    assert guest.open_files() == {base.name}
    guest.verify()


def test_a_middle_layer_is_merged_and_the_one_above_names_the_one_beneath(guest: Guest) -> None:
    base = guest.heads["xvda"]
    middle = guest.snapshot()["xvda"]
    guest.recorder.advance("vda", 5)
    top = guest.snapshot()["xvda"]
    guest.recorder.advance("vda", 5)

    guest.disks.commit(guest.uuid, "xvda", middle)

    assert guest.open_files() == {base.name, top.name}
    middle.unlink()
    said = subprocess.run(["qemu-img", "info", "-U", "--output=json", top], check=True, capture_output=True)
    assert json.loads(said.stdout)["backing-filename"] == base.name
    guest.verify()


def test_snapshots_and_merges_in_turns_lose_nothing(guest: Guest) -> None:
    for _ in range(4):
        first = guest.snapshot()["xvda"]
        guest.recorder.advance("vda")
        guest.snapshot()
        guest.recorder.advance("vda")
        guest.disks.commit(guest.uuid, "xvda", first)
        first.unlink()
        guest.recorder.advance("vda")
    top = guest.heads["xvda"]
    chain = json.loads(
        subprocess.run(
            ["qemu-img", "info", "-U", "--backing-chain", "--output=json", top],
            check=True,
            capture_output=True,
        ).stdout
    )
    assert len(chain) == 5
    guest.verify()


def test_a_chain_that_qemu_describes_only_in_part_is_known_to_its_end(guest: Guest) -> None:
    heads = [guest.heads["xvda"], *(guest.snapshot()["xvda"] for _ in range(30))]

    guest.disks.commit(guest.uuid, "xvda", heads[15])

    assert guest.open_files() == {head.name for head in heads} - {heads[15].name}
    guest.verify()


def test_a_raw_disk_is_snapshot_and_merged_back(directory: Path) -> None:
    guest = Guest(directory, form="raw").recording()
    try:
        base = guest.heads["xvda"]
        layer = guest.snapshot()["xvda"]
        guest.recorder.advance("vda", 5)
        guest.disks.commit(guest.uuid, "xvda", layer)
        guest.heads["xvda"] = base
        assert guest.open_files() == {base.name}
        guest.verify()
    finally:
        guest.kill()


def test_a_disk_moves_to_another_file_as_a_whole(guest: Guest) -> None:
    guest.snapshot()
    target = guest.sr / "elsewhere.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "8M"], check=True)
    seen: list[tuple[int, int]] = []

    guest.disks.mirror(guest.uuid, "xvda", target, progress=lambda *now: seen.append(now))

    guest.heads["xvda"] = target
    assert guest.open_files() == {target.name}
    guest.verify()


def test_the_top_layer_alone_moves_onto_a_copy_of_what_is_beneath(guest: Guest) -> None:
    base = guest.heads["xvda"]
    guest.snapshot()
    copy = guest.sr / "copy.qcow2"
    subprocess.run(["cp", base, copy], check=True)
    target = guest.sr / "new-top.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", copy.name, "-F", "qcow2", target, "8M"],
        check=True,
        cwd=guest.sr,
    )

    guest.disks.mirror(guest.uuid, "xvda", target, shallow=True)

    guest.heads["xvda"] = target
    assert guest.open_files() == {target.name, copy.name}
    guest.verify()


def test_a_disk_that_waited_empty_takes_over_what_was_written_on_another_host(directory: Path) -> None:
    guest = Guest(directory)
    empty, base = guest.heads["xvda"], guest.sr / "written-there.qcow2"
    guest.old["xvda"] = prepare(base)
    guest.heads["xvda"] = base
    guest.heads["xvda"] = top = guest.overlay("xvda")
    bitmap = ["qemu-img", "bitmap", "--add", "-f", "qcow2", top, "cbt"]
    subprocess.run(bitmap, check=True)
    then = base.read_bytes()

    guest.disks.take_over(guest.uuid, "xvda", top, "qcow2")

    assert guest.open_files() == {top.name, base.name} and guest.claims.top(guest.uuid, "xvda") == top
    assert [one.usable for one in guest.disks.bitmaps(guest.uuid, "xvda")] == [True]
    empty.unlink()
    guest.recording()
    guest.snapshot()
    assert base.read_bytes() == then
    guest.verify()


def test_a_copy_that_is_called_off_leaves_the_disk_where_it_was(guest: Guest) -> None:
    base = guest.heads["xvda"]
    target = guest.sr / "elsewhere.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "8M"], check=True)

    def call_off(done: int, whole: int) -> None:
        raise Failure("TASK_CANCELLED", "t")

    with pytest.raises(Failure) as caught:
        guest.disks.mirror(guest.uuid, "xvda", target, progress=call_off)

    assert caught.value.code == "TASK_CANCELLED"
    assert guest.open_files() == {base.name}
    assert guest.claims.top(guest.uuid, "xvda") == base
    guest.verify()


def test_the_guest_sees_a_disk_grow(guest: Guest) -> None:
    guest.disks.resize(guest.uuid, "xvda", 16 * MIB)

    assert guest.recorder.ask("cat /sys/block/vda/size") == str(16 * MIB // 512)
    guest.snapshot()
    guest.disks.resize(guest.uuid, "xvda", 24 * MIB)
    assert guest.recorder.ask("cat /sys/block/vda/size") == str(24 * MIB // 512)


def test_a_limited_disk_takes_that_many_requests_a_second(guest: Guest) -> None:
    guest.disks.limit(guest.uuid, "xvda", Limits(requests_per_second=4))
    guest.recorder.advance("vda")
    before, began = guest.disks.statistics(guest.uuid)["xvda"], time.monotonic()
    guest.recorder.advance("vda", 10)
    after, passed = guest.disks.statistics(guest.uuid)["xvda"], time.monotonic() - began

    done = after.read_requests + after.write_requests - before.read_requests - before.write_requests
    assert 10 <= done <= 4 * passed + 8  # a second's worth may be taken at once; flushes do not count


def test_what_the_guest_does_is_counted(guest: Guest) -> None:
    before = guest.disks.statistics(guest.uuid)["xvda"]
    guest.recorder.advance("vda", 11)  # the first may have been written by then, and not been told
    after = guest.disks.statistics(guest.uuid)["xvda"]

    assert after.write_requests - before.write_requests >= 10
    assert after.write_bytes - before.write_bytes >= 10 * 512
    assert after.write_time > before.write_time
    assert after.flush_requests - before.flush_requests >= 10


def test_figures_are_told_while_a_copy_is_under_way(guest: Guest) -> None:
    target = guest.sr / "elsewhere.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "8M"], check=True)
    asked: list[int] = []

    def ask(done: int, whole: int) -> None:
        thread = threading.Thread(target=lambda: asked.append(len(guest.disks.statistics(guest.uuid))))
        thread.start()
        thread.join(20)

    guest.disks.mirror(guest.uuid, "xvda", target, progress=ask)

    assert asked and set(asked) == {1}


def test_a_bitmap_begins_with_a_snapshot_and_notes_what_the_guest_writes(pair: Guest) -> None:
    pair.snapshot(bitmaps={"xvda": "cbt"})
    pair.recorder.advance("vda", 5)

    (found,) = pair.disks.bitmaps(pair.uuid, "xvda")

    assert found.name == "cbt" and found.usable
    assert 65536 <= found.dirty <= 4 * MIB
    assert pair.disks.bitmaps(pair.uuid, "xvdb") == []
    pair.disks.bitmap_remove(pair.uuid, "xvda", "cbt")
    assert pair.disks.bitmaps(pair.uuid, "xvda") == []


def test_a_bitmap_outlives_snapshots_merges_and_moves(guest: Guest) -> None:
    base = guest.heads["xvda"]
    guest.disks.bitmap_add(guest.uuid, "xvda", "cbt")
    guest.recorder.ask(
        f"dd if=/dev/zero of=/dev/vda bs=65536 seek={3 * MIB // 65536} count=2 conv=fsync 2>/dev/null"
    )
    middle = guest.snapshot()["xvda"]
    guest.recorder.advance("vda", 5)
    top = guest.snapshot()["xvda"]
    guest.recorder.advance("vda", 5)
    assert guest.disks.bitmaps(guest.uuid, "xvda")[0].dirty <= 2 * 65536  # the part since the last snapshot

    guest.disks.commit(guest.uuid, "xvda", middle)
    guest.disks.commit(guest.uuid, "xvda", top)

    (found,) = guest.disks.bitmaps(guest.uuid, "xvda")
    assert found.name == "cbt" and found.usable
    assert found.dirty >= 3 * 65536  # what was written at both places
    target = guest.sr / "elsewhere.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "8M"], check=True)
    guest.disks.mirror(guest.uuid, "xvda", target)
    (moved,) = guest.disks.bitmaps(guest.uuid, "xvda")
    assert moved.name == "cbt" and found.dirty <= moved.dirty < 8 * MIB
    assert base.name not in guest.open_files()
    guest.heads["xvda"] = target
    guest.verify()


def test_a_frozen_layers_bitmap_is_in_its_file(guest: Guest) -> None:
    base = guest.heads["xvda"]
    guest.disks.bitmap_add(guest.uuid, "xvda", "cbt")
    guest.recorder.advance("vda", 5)
    guest.snapshot()

    said = subprocess.run(["qemu-img", "info", "-U", "--output=json", base], check=True, capture_output=True)

    (found,) = json.loads(said.stdout)["format-specific"]["data"]["bitmaps"]
    assert (found["name"], found["granularity"], found["flags"]) == ("cbt", 65536, ["auto"])


def test_a_disk_name_follows_so_that_a_reboot_finds_everything(guest: Guest) -> None:
    guest.snapshot()
    last = guest.recorder.advance("vda", 5)
    guest.kill()

    # Xen's part: a new QEMU opens what the name means now.
    guest.heads["xvda"] = guest.claims.top(guest.uuid, "xvda")
    guest.start()
    guest.booted()
    guest.recorder._last["vda"] = last
    guest.recorder.record("vda")
    for _ in range(2):  # down to what QEMU itself found beneath, and once more from there
        layer = guest.snapshot()["xvda"]
        guest.recorder.advance("vda")
        guest.disks.commit(guest.uuid, "xvda", layer)
        if guest.claims.top(guest.uuid, "xvda").name != "xvda-base.qcow2":
            guest.disks.commit(guest.uuid, "xvda", guest.claims.top(guest.uuid, "xvda"))
        guest.disks.reconcile(guest.uuid)
    guest.heads["xvda"] = guest.claims.top(guest.uuid, "xvda")
    assert guest.open_files() == {guest.heads["xvda"].name} == {"xvda-base.qcow2"}
    guest.verify()


def test_what_xen_leaves_behind_after_a_snapshot_is_cleaned_so_that_the_disk_can_come_again(
    pair: Guest,
) -> None:
    pair.snapshot("xvdb")
    pair.recorder.stop()
    with pair.monitor() as monitor:
        monitor.execute("device_del", {"id": "xvdb"})

    pair.disks.unplugged(pair.uuid, "xvdb")

    assert pair.open_files() == {pair.heads["xvda"].name}
    assert pair.claims.targets(pair.uuid) == ["xvda"]
    name = pair.disks.claim(pair.uuid, "xvdb", pair.heads["xvdb"], "write", form="qcow2")
    with pair.monitor() as monitor:
        monitor.execute("blockdev-add", pair.node("xvdb", name))  # "Duplicate nodes" otherwise
        monitor.execute("device_add", {"driver": "virtio-blk-pci", "id": "xvdb", "drive": "xvdb-qcow2"})
    pair.disks.await_plugged(pair.uuid, "xvdb")


def test_a_disk_that_qemu_did_not_make_is_told(guest: Guest) -> None:
    with pytest.raises(Failure) as caught:
        guest.disks.await_plugged(guest.uuid, "xvdz", timeout=0.5)
    assert "has not made the disk xvdz" in caught.value.params[0]


def test_an_image_that_a_running_guest_writes_to_is_refused_to_every_other_disk(guest: Guest) -> None:
    base = guest.heads["xvda"]
    overlay = guest.snapshot()["xvda"]
    other = str(uuid4())

    for image in (base, overlay):
        with pytest.raises(Failure) as caught:
            guest.disks.claim(other, "xvda", image, "write", form="qcow2")
        assert "is in use by" in caught.value.params[0]
    clone = guest.sr / "clone.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base.name, "-F", "qcow2", clone, "8M"],
        check=True,
    )
    guest.disks.claim(other, "xvda", clone, "write", form="qcow2")  # what is beneath may be shared
    guest.disks.claims.release(other, "xvda")


def test_an_image_that_another_program_holds_is_refused_though_no_link_tells(guest: Guest) -> None:
    base = guest.heads["xvda"]
    fresh = Claims(guest.run / "none", lambda uuid: guest.run / "none" / uuid, lambda uuid: False)

    with pytest.raises(Failure) as caught:
        fresh.claim(str(uuid4()), "xvda", base, "write")

    assert caught.value.params[0] == f"{base} is in use by process {guest.process.pid}"


def test_a_layer_that_another_disk_reads_is_not_merged_into(guest: Guest) -> None:
    base = guest.heads["xvda"]
    layer = guest.snapshot()["xvda"]
    clone = guest.sr / "clone.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base.name, "-F", "qcow2", clone, "8M"],
        check=True,
    )
    guest.disks.claim(str(uuid4()), "xvda", clone, "write", form="qcow2")

    with pytest.raises(Failure) as caught:
        guest.disks.commit(guest.uuid, "xvda", layer)

    assert "is in use by" in caught.value.params[0]
    guest.verify()


def test_a_disk_that_is_there_twice_is_left_alone(guest: Guest) -> None:
    with guest.monitor() as monitor:
        node = guest.node("xvda", guest.heads["xvda"]) | {"node-name": "hda-qcow2", "read-only": True}
        monitor.execute("blockdev-add", node)
        monitor.execute("device_add", {"driver": "virtio-blk-pci", "id": "hda", "drive": "hda-qcow2"})

    with pytest.raises(Failure) as caught:
        guest.snapshot()

    assert caught.value.code == "VM_LACKS_FEATURE"


def test_a_refused_snapshot_changes_nothing(pair: Guest) -> None:
    bases = dict(pair.heads)
    overlays = {"xvda": pair.overlay("xvda"), "xvdb": pair.sr / "absent.qcow2"}
    overlays["xvdb"].write_bytes(b"not an image")

    with pytest.raises(Failure):
        pair.disks.snapshot(pair.uuid, overlays)

    assert {target: pair.claims.top(pair.uuid, target) for target in bases} == bases
    assert pair.open_files() == {base.name for base in bases.values()}
    pair.verify()


def test_a_daemon_that_was_killed_in_the_middle_finds_out_where_the_guest_writes(guest: Guest) -> None:
    overlay = guest.snapshot()["xvda"]
    guest.claims.flip(guest.uuid, "xvda", guest.sr / "xvda-base.qcow2")  # as if the name had not followed
    target = guest.sr / "elsewhere.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, "8M"], check=True)
    with guest.monitor() as monitor:  # and a copy was under way
        root = next(
            one["inserted"]["node-name"]
            for one in monitor.execute("query-block")
            if one["qdev"].endswith("xvda/virtio-backend")
        )
        file = {"driver": "file", "filename": os.fspath(target)}
        monitor.execute("blockdev-add", {"driver": "qcow2", "node-name": "k-xvda-left", "file": file})
        begun = {"job-id": "kronos-xvda", "device": root, "target": "k-xvda-left", "sync": "full"}
        monitor.execute("blockdev-mirror", begun)

    guest.disks.reconcile(guest.uuid)

    assert guest.claims.top(guest.uuid, "xvda") == overlay
    assert guest.open_files() == {overlay.name, "xvda-base.qcow2"}
    guest.verify()


def test_a_disk_that_is_not_there_is_told_as_such(guest: Guest) -> None:
    for call in (
        lambda: guest.disks.resize(guest.uuid, "xvdc", MIB),
        lambda: guest.disks.limit(guest.uuid, "xvdc", Limits()),
        lambda: guest.disks.bitmaps(guest.uuid, "xvdc"),
        lambda: guest.disks.snapshot(guest.uuid, {"xvdc": guest.sr / "o"}),
    ):
        with pytest.raises(Failure) as caught:
            call()
        assert caught.value.code == "DEVICE_ALREADY_DETACHED"


def test_no_command_of_ours_starts_an_nbd_server_in_a_guests_qemu() -> None:
    """QEMU 7.2 dies there when the server's first client leaves, and the guest with it."""
    import kronos.hypervisor as package

    for source in Path(package.__path__[0]).glob("*.py"):
        assert "nbd-server-start" not in source.read_text(), source
