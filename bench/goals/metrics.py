"""G16: a round of metrics, which comes every five seconds, and what a client's question about all of them takes."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Final

from bench.process import rss
from bench.report import Row
from bench.run import Run
from kronos.background.metrics import Metrics
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VIF, VM, Host, Host_metrics
from kronos.dispatch.machine import Machine
from kronos.hypervisor.base import Disk, Domain, Firmware
from kronos.hypervisor.fake import Fake
from kronos.metrics import documents
from kronos.metrics.archive import STEP
from kronos.network.fake import FakeNetwork
from kronos.rules.metrics import selection
from kronos.storage import registry
from kronos.system.intents import Intents

MEMORY: Final = 256 << 20
BEGIN: Final = 1_800_000_000


def measure(run: Run) -> list[Row]:
    count = run.scaled(1000)
    before = rss(os.getpid())
    metrics = _host(run.directory, count)
    filled = rss(os.getpid())
    now = BEGIN
    taken = []
    for number in range(24):
        now += STEP
        began = time.process_time()
        metrics.round(now)
        taken.append(time.process_time() - began)
        if number == 0:
            taken.clear()  # it makes the archives
    each = sum(taken) / len(taken)
    grown = rss(os.getpid()) - filled
    answer, size = _asked(metrics, now)
    began = time.process_time()
    metrics.keeping.backup()
    saved = time.process_time() - began
    return [
        Row("G16", f"a round of metrics, {count} VMs, minutes among them", each * 1000, "ms", STEP * 1000.0,
            "the time to the next one", limit=0.05, note="the hypervisor's own part is a fake's"),
        Row("G16", "memory of a VM's archive", grown / count / 1e6, "MB",
            note=f"the records take {(filled - before) / count / 1e6:.2f}"),
        Row("G16", f"/rrd_updates, {count} VMs, two minutes, JSON", answer * 1000, "ms", note=f"{size / 1e6:.1f} MB"),
        Row("G16", "all archives into their files", saved * 1000, "ms"),
    ]  # fmt: skip


def _asked(metrics: Metrics, now: float) -> tuple[float, int]:
    """Seconds for the rows of two minutes, of everything, and their bytes."""
    began = time.process_time()
    asked = selection.Request(int(now) - 120, "AVERAGE", STEP, True)
    keys = selection.wanted(asked, sorted(metrics.keeping.measured()))
    export = selection.export(asked, metrics.keeping.archives(keys, asked.level))
    text = documents.xport_json(export)
    return time.process_time() - began, len(text)


def _host(directory: Path, count: int) -> Metrics:
    """A host on fake drivers whose VMs run, each with a disk and an interface."""
    db = Database()
    host = db.create(Host, hostname="h", metrics=db.create(Host_metrics, live=True).ref)
    hypervisor = Fake(directory / "run")
    machine = Machine(
        hypervisor=hypervisor,
        network=FakeNetwork(),
        state=directory,
        intents=Intents(directory / "intents"),
        open_storage=registry.build,
        host_ref=host.ref,
    )
    sr = db.create(SR, name_label="sr", type="file")
    for _ in range(count):
        vm = db.create(
            VM, uuid=str(uuid.uuid4()), memory_target=MEMORY, power_state="Running", resident_on=host.ref
        )
        disk = db.create(VDI, SR=sr.ref)
        db.create(VBD, VM=vm.ref, VDI=disk.ref, userdevice="0", device="xvda", currently_attached=True)
        db.create(VIF, VM=vm.ref, device="0", currently_attached=True)
        hypervisor.start(Domain(vm.uuid, "vm", MEMORY, MEMORY, Firmware(), disks=(Disk(0, Path("/disk")),)))
    return Metrics(db, machine)
