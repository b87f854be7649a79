"""Disks that a real QEMU block layer has open: what may be done to them, and that no write is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.storage.file import FileDriver
from kronos.storage.images.image import in_use
from kronos.system.commands import run

pytestmark = pytest.mark.integration
MIB = 1 << 20


class Guest:
    """A qemu-storage-daemon that writes to one disk, as a running VM's QEMU does."""

    def __init__(self, place: Path, disk: Path, read_only: bool = False) -> None:
        self._control, self._nbd = place / "qmp", place / "nbd"
        node = {
            "driver": "qcow2",
            "node-name": "n0",
            "read-only": read_only,
            "file": {"driver": "file", "filename": str(disk)},
        }
        server = {"addr": {"type": "unix", "path": str(self._nbd)}}
        export = {"type": "nbd", "id": "e0", "node-name": "n0", "name": "disk", "writable": not read_only}
        arguments = [
            "--chardev",
            f"socket,id=c,path={self._control},server=on,wait=off",
            "--monitor",
            "chardev=c",
        ]
        arguments += ["--blockdev", json.dumps(node), "--nbd-server", json.dumps(server)]
        arguments += ["--export", json.dumps(export)]
        self._process = subprocess.Popen(["qemu-storage-daemon", *arguments])
        deadline = time.monotonic() + 20
        while not self._nbd.exists():
            assert time.monotonic() < deadline and self._process.poll() is None
            time.sleep(0.01)
        self._nodes = 0

    def write(self, block: int, pattern: int) -> None:
        target = f"nbd+unix:///disk?socket={self._nbd}"
        run(["qemu-io", "-f", "raw", "-c", f"write -q -P {pattern} {block * 65536} 65536", target])

    def switch(self, uuid: str, overlay: Path) -> None:
        """As libvirt's virDomainSnapshotCreateXML with an existing file does."""
        top = f"n{self._nodes}"
        self._nodes += 1
        node = f"n{self._nodes}"
        file = {"driver": "file", "filename": str(overlay)}
        self._qmp("blockdev-add", driver="qcow2", **{"node-name": node, "file": file, "backing": None})
        self._qmp("blockdev-snapshot", node=top, overlay=node)

    def _qmp(self, command: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._control))
            with connection.makefile("rw") as stream:
                stream.readline()
                for name, values in (("qmp_capabilities", {}), (command, arguments)):
                    stream.write(json.dumps({"execute": name, "arguments": values}) + "\n")
                    stream.flush()
                    while "event" in (answer := json.loads(stream.readline())):
                        pass
                    assert "return" in answer, answer

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(20)


@pytest.fixture
def driver(tmp_path: Path) -> FileDriver:
    made = FileDriver(str(uuids.uuid4()), location=str(tmp_path / "sr"))
    made.create(0)
    made.attach()
    return made


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Any]:
    running: list[Guest] = []

    def start(disk: Path, read_only: bool = False) -> Guest:
        place = tmp_path / f"guest{len(running)}"
        place.mkdir()
        running.append(Guest(place, disk, read_only))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def holds(driver: FileDriver, uuid: str, block: int, pattern: int) -> bool:
    path = driver.volume_attach(uuid, False).path
    out = run(
        ["qemu-io", "-r", "-U", "-f", "qcow2", "-c", f"read -P {pattern} {block * 65536} 65536", str(path)]
    )
    return "Pattern verification failed" not in out


def code(call: Any, *args: Any) -> str:
    with pytest.raises(Failure) as caught:
        call(*args)
    return caught.value.code


def test_a_disk_that_a_guest_writes_to_is_not_touched_behind_its_back(
    driver: FileDriver, guests: Any
) -> None:
    uuid = driver.volume_create(str(uuids.uuid4()), 8 * MIB).uuid
    path = driver.volume_attach(uuid, True).path
    guest = guests(path)
    other = str(uuids.uuid4())
    assert in_use(path, for_writing=True)
    assert code(driver.volume_destroy, uuid) == "VDI_IN_USE"
    assert code(driver.volume_resize, uuid, 16 * MIB) == "VDI_IN_USE"
    assert code(driver.volume_snapshot, uuid, other) == "VDI_IN_USE"
    assert code(driver.volume_clone, uuid, other) == "VDI_IN_USE"
    guest.stop()
    assert not in_use(path, for_writing=False)
    driver.volume_snapshot(uuid, other)
    driver.volume_destroy(uuid)


def test_a_disk_that_is_read_can_be_cloned_but_not_destroyed(driver: FileDriver, guests: Any) -> None:
    uuid = driver.volume_create(str(uuids.uuid4()), 8 * MIB).uuid
    guests(driver.volume_attach(uuid, False).path, read_only=True)
    driver.volume_clone(uuid, str(uuids.uuid4()))
    assert code(driver.volume_destroy, uuid) == "VDI_IN_USE"


def test_snapshots_of_a_running_guest_hold_what_it_had_written(driver: FileDriver, guests: Any) -> None:
    uuid = driver.volume_create(str(uuids.uuid4()), 8 * MIB).uuid
    guest = guests(driver.volume_attach(uuid, True).path)
    kept = []
    for pattern in (1, 2, 3):
        guest.write(0, pattern)
        kept.append(driver.volume_snapshot(uuid, str(uuids.uuid4()), live=guest.switch).uuid)
    guest.write(0, 4)
    for pattern, each in enumerate(kept, 1):
        assert holds(driver, each, 0, pattern)
    guest.stop()
    assert holds(driver, uuid, 0, 4)
    for each in driver.scan():
        if each.managed:
            run(["qemu-img", "check", "-q", "-f", "qcow2", str(driver.volume_attach(each.uuid, False).path)])


def test_a_guest_killed_after_an_unfinished_snapshot_lost_nothing(driver: FileDriver, guests: Any) -> None:
    """The daemon dies between the switch and the end of the snapshot, then the guest's QEMU dies too."""
    uuid = driver.volume_create(str(uuids.uuid4()), 8 * MIB).uuid
    guest = guests(driver.volume_attach(uuid, True).path)
    guest.write(0, 1)
    child = os.fork()
    if child == 0:
        # The lock and the intents' locks must be the child's own, as a daemon's are.
        daemon = FileDriver(driver.sr_uuid, location=str(driver.root))
        daemon.attach()

        def switch_and_die(uuid: str, overlay: Path) -> None:
            guest.switch(uuid, overlay)
            guest.write(1, 2)
            os.kill(os.getpid(), signal.SIGKILL)

        daemon.volume_snapshot(uuid, str(uuids.uuid4()), live=switch_and_die)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    driver.detach()
    driver.attach()
    guest.write(2, 3)
    guest.stop(signal.SIGKILL)
    assert [each.uuid for each in driver.scan() if each.managed] == [uuid]
    for block, pattern in ((0, 1), (1, 2), (2, 3)):
        assert holds(driver, uuid, block, pattern)


def test_a_guest_that_did_not_switch_is_still_seen(driver: FileDriver, guests: Any) -> None:
    """The snapshot failed for an unknown reason, so the disk moved on without its guest."""
    uuid = driver.volume_create(str(uuids.uuid4()), 8 * MIB).uuid
    guest = guests(driver.volume_attach(uuid, True).path)
    guest.write(0, 1)

    def fail(uuid: str, overlay: Path) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        driver.volume_snapshot(uuid, str(uuids.uuid4()), live=fail)
    assert code(driver.volume_clone, uuid, str(uuids.uuid4())) == "VDI_IN_USE"
    guest.write(0, 2)
    kept = driver.volume_snapshot(uuid, str(uuids.uuid4()), live=guest.switch).uuid
    guest.write(0, 3)
    guest.stop()
    assert holds(driver, kept, 0, 2) and holds(driver, uuid, 0, 3)
