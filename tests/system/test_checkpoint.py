"""A guest that counts, in its memory and on its disk, is checkpointed: both of one moment, whatever comes after."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness import audit, guests
from harness.client import NoAnswer
from harness.console import Shell
from harness.daemon import Daemon, wait_until
from harness.host import PASSWORD
from kronos.datamodel.errors import Failure

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

XE = Path(__file__).resolve().parents[2] / "src" / "kronos" / "xe" / "xe"
COUNTING = """
n=0; printf %08d $n > /dev/vdb; sync
while :; do
  echo 1 > /proc/sys/vm/drop_caches; was=$(head -c 8 /dev/vdb)
  [ "$was" = $(printf %08d $n) ] || echo "$n in memory, $was on disk" >> /tmp/torn
  n=$((n+1)); printf %08d $n > /dev/vdb; sync; echo $n > /tmp/count; sleep 0.05
done
"""


class Counting:
    """A tiny guest that counts to a disk and compares what is there with what it knows."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client = daemon.client(timeout=120)
        self.vm = guests.tiny_vm(self.client, "counting")
        self.uuid = self.client("VM.get_uuid", self.vm)
        vdi = guests.new_disk(self.client, "count")
        guests.add_disk(self.client, self.vm, vdi, "1")
        self.client("VM.start", self.vm, False, False)
        shell = self.shell()
        lines = COUNTING.strip().splitlines()
        shell.run("rm -f /tmp/c; " + "; ".join(f"echo '{line}' >> /tmp/c" for line in lines))
        shell.run("(sh /tmp/c > /dev/null 2>&1 &) ; true")
        shell.close()

    def shell(self) -> Shell:
        return Shell(self.daemon, self.client.session, self.vm).log_in(120)

    def count(self) -> int:
        shell = self.shell()
        counted = shell.run("cat /tmp/count 2>/dev/null; true")
        shell.close()
        return int(counted or 0)

    def counts_on(self) -> int:
        """What it has counted to, once it is known that it counts and that its disk is as it remembers."""
        before = self.count()
        wait_until(lambda: self.count() > before, 60, "it does not count")
        shell = self.shell()
        assert shell.run("cat /tmp/torn 2>/dev/null; true") == ""
        shell.close()
        return self.count()

    def reach(self, number: int) -> None:
        wait_until(lambda: self.count() >= number, 90, f"it does not count to {number}")

    def mark(self) -> None:
        """Leave something in its memory."""
        shell = self.shell()
        shell.run("echo later > /tmp/mark")
        shell.close()

    def is_marked(self) -> bool:
        shell = self.shell()
        found = shell.run("cat /tmp/mark 2>/dev/null; true")
        shell.close()
        return found == "later"

    def state(self) -> str:
        return str(self.client("VM.get_power_state", self.vm))


@pytest.fixture(scope="module")
def counting(daemon: Daemon) -> Iterator[Counting]:
    made = Counting(daemon)
    yield made
    made.client.close()


def images(counting: Counting) -> set[str]:
    rows = counting.client("VDI.get_all_records")
    return {ref for ref, row in rows.items() if row["type"] == "suspend"}


def test_it_counts_on_from_its_checkpoint_after_a_revert(counting: Counting) -> None:
    client, vm = counting.client, counting.vm
    counting.reach(5)
    pid = counting.daemon.guest_pids()[counting.uuid]
    made = client("VM.checkpoint", vm, "early")
    assert counting.state() == "Running"
    assert counting.daemon.guest_pids()[counting.uuid] == pid
    then = counting.counts_on()
    counting.reach(then + 30)
    counting.mark()
    assert counting.is_marked()
    for _ in range(2):
        client("VM.revert", made)
        assert counting.state() == "Suspended"
        client("VM.resume", vm, False, False)
        assert counting.state() == "Running"
        assert not counting.is_marked()  # how far it has counted again by now is the machine's affair
        counting.counts_on()
    client("VM.hard_shutdown", made)
    client("VM.destroy", made)
    assert images(counting) == set()


def test_a_suspended_guest_is_checkpointed_and_its_clone_counts_on_beside_it(counting: Counting) -> None:
    client, vm = counting.client, counting.vm
    client("VM.suspend", vm)
    clone = client("VM.csvm", vm)
    made = client("VM.checkpoint", vm, "asleep")
    assert (counting.state(), client("VM.get_power_state", made)) == ("Suspended", "Suspended")
    client("VM.resume", clone, False, False)
    assert client("VM.get_power_state", clone) == "Running"
    client("VM.resume", vm, False, False)
    counting.counts_on()
    other = Shell(counting.daemon, client.session, clone).log_in(60)
    assert other.run("cat /tmp/torn 2>/dev/null; true") == ""
    assert int(other.run("cat /tmp/count")) > 0
    other.close()
    client("VM.hard_shutdown", clone)
    client("VM.revert", made)
    client("VM.resume", vm, False, False)
    counting.counts_on()
    client("VM.hard_shutdown", made)
    client("VM.destroy", made)


def test_a_guest_is_checkpointed_again_and_again(counting: Counting) -> None:
    for number in range(3):
        made = counting.client("VM.checkpoint", counting.vm, f"no {number}")
        counting.counts_on()
        counting.client("VM.hard_shutdown", made)
        counting.client("VM.destroy", made)


def test_administrators_do_it_with_xe(counting: Counting) -> None:
    def xe(*words: str) -> str:
        argv = [str(XE), "-s", counting.daemon.host.address, "-u", "root", "-pw", PASSWORD, *words]
        home = {"HOME": str(counting.daemon.directory), "PATH": os.defpath}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=home)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    made = xe("vm-checkpoint", f"uuid={counting.uuid}", "new-name-label=by hand")
    assert xe("snapshot-list", f"uuid={made}", "params=power-state", "--minimal") == "suspended"
    xe("snapshot-revert", f"snapshot-uuid={made}")
    assert counting.state() == "Suspended"
    xe("vm-resume", f"uuid={counting.uuid}")
    counting.counts_on()
    xe("snapshot-uninstall", f"snapshot-uuid={made}", "--force")
    assert images(counting) == set()
    before = counting.client("VM.get_domid", counting.vm)
    xe("vm-restart-device-models", f"uuid={counting.uuid}")
    assert counting.client("VM.get_domid", counting.vm) != before
    counting.counts_on()


def test_a_daemon_that_is_killed_meanwhile_leaves_the_guest_counting_and_nothing_half(
    counting: Counting,
) -> None:
    daemon, vm = counting.daemon, counting.vm
    chance = random.Random(7)
    pid = daemon.guest_pids()[counting.uuid]
    started = time.monotonic()
    counting.client("VM.checkpoint", vm, "how long")
    length = time.monotonic() - started
    for number in range(8):
        name = f"killed {number}"
        client = daemon.client(timeout=60)

        def attempt(client=client, name=name) -> None:  # type: ignore[no-untyped-def]
            with suppress(NoAnswer, OSError, Failure):
                client("VM.checkpoint", vm, name)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        time.sleep(chance.uniform(0.05, length))
        daemon.kill()
        thread.join(60)
        daemon.start()
        counting.client = daemon.client(timeout=120)
        wait_until(lambda: counting.state() == "Running", 60, "it does not run")
        assert daemon.guest_pids()[counting.uuid] == pid
        counting.counts_on()
        rows = audit.records(counting.client)
        assert audit.faults(daemon, rows) == []
        whole = {row["suspend_VDI"] for row in rows["VM"].values() if row["is_a_snapshot"]}
        assert images(counting) == whole
    snapshots = counting.client("VM.get_snapshots", vm)
    (first,) = counting.client("VM.get_by_name_label", "how long")
    assert first in snapshots
    last = max(snapshots, key=lambda ref: counting.client("VM.get_snapshot_time", ref))
    counting.client("VM.revert", last)
    counting.client("VM.resume", vm, False, False)
    counting.counts_on()
