"""Calls at random, all of the right types: the daemon stays up, finds no fault of its own, keeps its memory, and its
records hold together, before and after kill -9.

KRONOS_CALLS is their number and KRONOS_SEED the choice, which a failure prints.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import audit
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.guests import vm_record
from harness.random_calls import NULL, Caller, classes
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model

CALLS = int(os.environ.get("KRONOS_CALLS", "6000"))
CALLERS = 3
LEG = 50_000
"""Calls after which a long storm tells the memory."""
LOOK_EVERY = 20
"""Batches until a caller looks at the rows again."""
EXPLAINED = ("Missing field ", " exited with ", "[Errno 2]")
"""XenAPI's answer to a record without a field; a machine that lacks a program or file, or is without systemd."""
PATIENCE = 5.0
"""Seconds between two looks for tasks that wait; one that is seen twice is cancelled."""

pytestmark = [pytest.mark.system, pytest.mark.timeout(240 + CALLS // 20)]


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("KRONOS_SEED", secrets.randbelow(1 << 32)))


class Storm:
    """Callers that work at the same time until enough is done."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        clients = [daemon.client(timeout=120) for _ in range(CALLERS)]
        self.callers = [Caller(client, seed + number) for number, client in enumerate(clients)]
        self.done = 0
        self.troubles: list[str] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.impatient = daemon.client(timeout=120)

    def run(self, calls: int) -> None:
        self.over.clear()
        watcher = threading.Thread(target=self._cancel_what_waits)
        watcher.start()
        threads = [threading.Thread(target=self._work, args=(caller, calls)) for caller in self.callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.over.set()
        watcher.join()

    def _cancel_what_waits(self) -> None:
        """Guests without an operating system are deaf: who asks one to shut down waits for minutes, and so does
        everybody who wants something else of it."""
        known: set[str] = set()
        try:
            while not self.over.wait(PATIENCE):
                pending = set(going(self.impatient))
                for ref in pending & known:
                    with contextlib.suppress(Failure):
                        self.impatient("task.cancel", ref)
                known = pending
        except Exception as error:  # another thread is to tell it
            self.troubles.append(repr(error))

    def _work(self, caller: Caller, calls: int) -> None:
        try:
            batches = 0
            while self.done < calls and not self.troubles:
                made = caller.batch()
                with self.lock:
                    self.done += made
                batches += 1
                if batches % LOOK_EVERY == 0:
                    caller.look()
        except Exception as error:  # another thread is to tell it
            self.troubles.append(repr(error))

    def seen(self) -> Counter[str]:
        return sum((caller.seen for caller in self.callers), Counter())

    def defects(self) -> dict[str, str]:
        """Calls that were answered INTERNAL_ERROR without XenAPI's wanting that, by what was said of them."""
        told = {what: call for caller in self.callers for what, call in caller.defects.items()}
        return {what: call for what, call in told.items() if not any(each in what for each in EXPLAINED)}


def prepare(daemon: Daemon) -> None:
    """Some VMs, disks and interfaces to begin with."""
    client = daemon.client()
    (network, *_) = client("network.get_all")
    (sr, *_) = (ref for ref, row in client("SR.get_all_records").items() if row["type"] == "file")
    for number in range(5):
        vm = client("VM.create", vm_record(daemon.state, f"vm {number}"))
        vdi = {"name_label": "d", "SR": sr, "virtual_size": 1 << 20, "type": "user", "sharable": False}
        vdi |= {"read_only": False, "other_config": {}, "name_description": ""}
        disk = client("VDI.create", vdi)
        vbd = {"VM": vm, "VDI": disk, "userdevice": "0", "bootable": True, "mode": "RW", "type": "Disk"}
        vbd |= {"empty": False, "unpluggable": True, "other_config": {}}
        vbd |= {"qos_algorithm_type": "", "qos_algorithm_params": {}}
        client("VBD.create", vbd)
        vif = {"VM": vm, "network": network, "device": "0", "MAC": "", "MTU": 1500, "other_config": {}}
        client("VIF.create", vif | {"qos_algorithm_type": "", "qos_algorithm_params": {}})
    client.close()


def going(client: Client) -> dict[str, str]:
    """The names of the tasks with work behind them: what a client made by task.create ends when that client says so."""
    return {
        ref: row["name_label"]
        for ref, row in client("task.get_all_records").items()
        if row["status"] in ("pending", "cancelling") and row["name_label"].startswith("Async.")
    }


def settle(daemon: Daemon) -> None:
    """Have every task end, asked to if need be."""
    client = daemon.client(timeout=120)
    left: list[str] = []

    def over() -> bool:
        found = going(client)
        for ref in found:
            with contextlib.suppress(Failure):
                client("task.cancel", ref)
        left[:] = found.values()
        return not found

    wait_until(over, 90, lambda: f"these tasks go on: {left}", pause=0.5)
    client.close()


def stacks(daemon: Daemon) -> str:
    """Where each thread of a daemon is that does not answer any more; it ends of it."""
    os.kill(daemon.pid, signal.SIGABRT)
    wait_until(lambda: daemon.process is None or daemon.process.poll() is not None, 30, "it does not end")
    daemon.process = None
    return daemon.log_tail(400)


def rows_of(daemon: Daemon) -> int:
    return sum(map(len, everything(daemon).values()))


def everything(daemon: Daemon) -> dict[str, dict[str, dict[str, Any]]]:
    client = daemon.client(timeout=120)
    found = {cls.name: client(f"{cls.name}.get_all_records") for cls in classes()}
    client.close()
    return found


def torn(rows: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """References that are to show each other, and do not. Others may be of rows that are gone: XenAPI lets them."""
    for cls, table in rows.items():
        mirrors = {f.name: f.mirror_of for f in model().classes[cls].fields.values() if f.mirror_of}
        for ref, row in table.items():
            for name, (target, field) in mirrors.items():
                shown = row.get(name, [])
                for other in shown:
                    back = rows[target][other][field] if other in rows[target] else "not there"
                    if back != ref:
                        yield f"{cls} {ref}: {name} has {target} {other}, whose {field} is {back}"
                    if len(shown) != len(set(shown)):
                        yield f"{cls} {ref}: {name} has something twice"


def held(rows: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """What says that an operation is under way, when none is: whoever wants that object next would wait for ever."""
    for cls, table in rows.items():
        for ref, row in table.items():
            if cls != "task" and row.get("current_operations"):
                yield f"{cls} {ref}: {row['current_operations']}"


def test_a_storm_of_random_calls_is_weathered(new_daemon: Callable[..., Daemon], seed: int) -> None:
    daemon = new_daemon()
    prepare(daemon)
    storm = Storm(daemon, seed)
    storm.run(CALLS // 4)
    warm = daemon.resident()
    told = f"KRONOS_SEED={seed} KRONOS_CALLS={CALLS}"
    print(f"{told}: {storm.done} calls, memory {warm >> 20} MiB, {rows_of(daemon)} rows", flush=True)
    while storm.done < CALLS and not storm.troubles:
        storm.run(min(storm.done + LEG, CALLS))
        print(f"{storm.done} calls, {daemon.resident() >> 20} MiB, {rows_of(daemon)} rows", flush=True)
    print(storm.seen().most_common(30))
    if storm.troubles:
        busy = list(held(everything(daemon)))
        raise AssertionError(f"{told}: {busy}\n{storm.troubles}\n{stacks(daemon)}")
    settle(daemon)
    log = daemon.log.read_text(errors="replace")
    assert "Traceback" not in log, f"{told}:\n" + log[log.index("Traceback") - 500 :][:6000]
    assert storm.defects() == {}, told
    assert daemon.resident() < 1.5 * warm + (30 << 20), told
    rows = everything(daemon)
    faults = [*torn(rows), *held(rows)]
    assert not faults, f"{told}: {len(faults)}, among them\n" + "\n".join(
        random.sample(faults, min(len(faults), 20))
    )
    daemon.kill()
    daemon.start()
    again = everything(daemon)
    assert not list(torn(again)), f"{told}: after kill -9"
    client = daemon.client()
    rows = audit.records(client)
    # A client may make both by themselves.
    rows["console"] = {ref: row for ref, row in rows["console"].items() if row["VM"] != NULL}
    for row in rows["VDI"].values():
        row["type"] = "user"
    faults = audit.faults(daemon, rows)
    if faults:
        kept = Path(f"/tmp/storm-{seed}")
        shutil.copytree(daemon.storage, kept, dirs_exist_ok=True)
        shutil.copy(daemon.log, kept)
        raise AssertionError(f"{told}, log and disks in {kept}:" + "".join(f"\n{fault}" for fault in faults))
    client.close()
    assert storm.seen()[""] > storm.done / 4, "hardly a call is of any effect"
