"""Storage with real files: qemu-img copies, and a daemon that is killed at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import VBD, VDI, VM, Task
from kronos.system.commands import run

pytestmark = pytest.mark.integration
MIB = 1 << 20
CHURN = Path(__file__).with_name("storage_churn.py")


def write(host, vdi: VDI, pattern: int, at: int = 0, length: int = MIB) -> None:
    attachment = host.machine.storage[host.local.uuid].volume_attach(vdi.uuid, True)
    run(
        [
            "qemu-io",
            "-f",
            attachment.format,
            "-c",
            f"write -q -P {pattern} {at} {length}",
            str(attachment.path),
        ]
    )


def reads(host, sr, vdi: VDI, pattern: int, at: int = 0, length: int = MIB) -> bool:
    attachment = host.machine.storage[sr.uuid].volume_attach(vdi.uuid, False)
    command = f"read -q -P {pattern} {at} {length}"
    return "failed" not in run(
        ["qemu-io", "-r", "-f", attachment.format, "-c", command, str(attachment.path)]
    )


def test_the_first_start_makes_a_local_sr(host):
    assert (host.local.name_label, host.local.type) == ("Local storage", "file")
    assert host.local.physical_size > 0 and (host.directory / "local" / "sr.json").exists()


def test_a_copy_has_the_content_of_the_whole_chain_and_shares_none_of_it(host):
    source, sr = host.vdi(host.local, name_label="original", other_config={"a": "1"}), host.sr("second")
    write(host, source, 1)
    host("VDI.snapshot", source.ref)
    write(host, source, 2, at=4 * MIB)
    copy = host.db.get(VDI, host("VDI.copy", source.ref, sr.ref))
    assert (copy.SR, copy.name_label, copy.other_config) == (sr.ref, "original", {"a": "1"})
    assert "vhd-parent" in source.sm_config and "vhd-parent" not in copy.sm_config
    assert (copy.virtual_size, copy.is_a_snapshot, copy.snapshot_of) == (source.virtual_size, False, NULL)
    write(host, source, 3)
    assert reads(host, sr, copy, 1) and reads(host, sr, copy, 2, at=4 * MIB)
    assert reads(host, sr, copy, 0, at=8 * MIB)
    assert copy.physical_utilisation < 4 * MIB


def test_a_copy_over_a_disk_leaves_nothing_of_what_it_held(host):
    source, target = host.vdi(host.local), host.vdi(host.local, 32 * MIB)
    write(host, source, 1)
    write(host, target, 9, at=0, length=8 * MIB)
    assert host("VDI.copy", source.ref, NULL, NULL, target.ref) == target.ref
    assert reads(host, host.local, target, 1) and reads(host, host.local, target, 0, at=MIB)
    assert target.virtual_size == 32 * MIB and target.current_operations == {}


def test_a_disk_that_a_guest_reads_can_be_copied_and_stays_attached(host):
    source = host.vdi(host.local)
    write(host, source, 1)
    vm = host.db.create(VM, power_state="Running", resident_on=host.host.ref)
    fields = {"mode": "RO", "type": "Disk", "userdevice": "0", "currently_attached": True}
    host.db.create(VBD, VM=vm.ref, VDI=source.ref, **fields)
    copy = host.db.get(VDI, host("VDI.copy", source.ref, host.local.ref))
    assert reads(host, host.local, copy, 1)


def test_a_cancelled_copy_leaves_nothing(host):
    source = host.vdi(host.local, 512 * MIB)
    write(host, source, 1, length=512 * MIB)
    before = set(host.local.VDIs)
    failed: list[Failure] = []

    def copy() -> None:
        try:
            host("Async.VDI.copy", source.ref, host.local.ref)
        except Failure as failure:
            failed.append(failure)

    thread = threading.Thread(target=copy)
    thread.start()
    while not (tasks := [row for row in host.db.all(Task) if row.progress > 0.0]):
        assert thread.is_alive()
        time.sleep(0.001)
    host("task.cancel", tasks[0].ref)
    thread.join(20)
    assert [failure.code for failure in failed] == ["TASK_CANCELLED"]
    assert set(host.local.VDIs) == before and source.current_operations == {}
    assert len(list((host.directory / "local").glob("*.qcow2"))) == 1
    assert host.machine.intents.left() == {}


def test_what_was_answered_survives_a_start(start):
    first = start()
    vdi = first.vdi(first.local, name_label="kept")
    first("VDI.snapshot", vdi.ref)
    second_sr = first.sr("second")
    first("PBD.unplug", second_sr.PBDs[0])
    first.close()
    second = start()
    again = second.db.get(VDI, vdi.ref)
    assert (again.name_label, len(again.snapshots)) == ("kept", 1)
    assert list(second.machine.storage) == [second.local.uuid]
    assert second.db.get(VDI, again.snapshots[0]).snapshot_of == vdi.ref


def churned(directory: Path, delay: float) -> set[str]:
    """Kill a busy daemon after `delay` seconds; the disks that clients were told of and did not ask to destroy."""
    process = subprocess.Popen(
        [sys.executable, str(CHURN), str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(delay)
    assert process.poll() is None
    process.kill()
    said = [line.split() for line in process.communicate()[0].splitlines() if " OpaqueRef:" in line]
    going = {line[1] for line in said if line[0] == "going"}
    return {line[1] for line in said if line[0] == "made"} - going


def recorded(directory: Path) -> set[str]:
    """The disks of which the database has a record."""
    journal = Journal(directory / "state.db")
    db = Database(journal)
    db.load()
    uuids = {row.uuid for row in db.all(VDI)}
    journal.close()
    return uuids


@pytest.mark.parametrize("delay", [random.Random(seed).uniform(0.1, 1.2) for seed in range(6)])
def test_after_a_kill_disks_and_records_are_the_same(start, tmp_path, delay):
    promised = churned(tmp_path, delay)
    before = recorded(tmp_path)
    host = start()
    volumes = {each.uuid: each for each in host.machine.storage[host.local.uuid].scan()}
    rows = {row.uuid: row for row in (host.db.get(VDI, ref) for ref in host.local.VDIs)}
    assert promised <= set(host.local.VDIs)
    assert {uuid: each.virtual_size for uuid, each in volumes.items()} == {
        uuid: row.virtual_size for uuid, row in rows.items()
    }
    # A volume left behind by the crash would now have a record that no call has made.
    assert {uuid for uuid, row in rows.items() if row.managed} <= before
    assert host.machine.intents.left() == {}
    assert len(list((tmp_path / "local").glob("*.qcow2"))) == len(volumes)
