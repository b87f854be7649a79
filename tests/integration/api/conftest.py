"""A host with a real database and real storage; what runs VMs and networks is in memory."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from kronos.api import catalogue
from kronos.background.inventory import storage as storage_inventory
from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import SR, VDI, Host, Pool
from kronos.dispatch import roles
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.rules import operations
from kronos.storage import registry
from kronos.system.intents import Intents

MIB = 1 << 20


class StorageHost:
    """What the daemon is of storage, from its start on `directory`."""

    def __init__(self, directory: Path) -> None:
        catalogue.load()
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.journal = Journal(directory / "state.db")
        self.db = Database(self.journal)
        self.db.load()
        self.db.derive(operations.derive)
        pool = next(iter(self.db.all(Pool)), None)
        self.host = self.db.get(Host, pool.master) if pool is not None else self.db.create(Host)
        if pool is None:
            self.db.create(Pool, master=self.host.ref)
        self.machine = Machine(
            hypervisor=Fake(directory / "run"),
            network=FakeNetwork(),
            state=directory,
            intents=Intents(directory / "intents"),
            open_storage=registry.build,
            host_ref=self.host.ref,
        )
        self.pipeline = Pipeline(self.db, self.machine, self.loop)
        roles.seed(self.db)
        storage_inventory.refresh(self.pipeline, sorted(registry.drivers()), directory / "local")

    def __call__(self, name: str, *args: object):
        return self.pipeline.perform_internal(name, *args)

    @property
    def local(self) -> SR:
        return self.db.get(SR, self.db.all(Pool)[0].default_SR)

    def sr(self, name: str) -> SR:
        config = {"location": str(self.directory / name)}
        ref = self("SR.create", self.host.ref, config, 0, name, "", "file", "user", False, {})
        return self.db.get(SR, ref)

    def vdi(self, sr: SR, size: int = 16 * MIB, **fields: object) -> VDI:
        record = {"name_label": "disk", "SR": sr.ref, "virtual_size": size}
        return self.db.get(VDI, self("VDI.create", record | fields))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.pipeline.close()
        for driver in self.machine.storage.values():
            driver.detach()
        self.journal.close()


@pytest.fixture
def host(tmp_path):
    made = StorageHost(tmp_path)
    yield made
    made.close()


@pytest.fixture
def start(tmp_path):
    """Starts the host again on what an earlier one left."""
    started: list[StorageHost] = []

    def again() -> StorageHost:
        started.append(StorageHost(tmp_path))
        return started[-1]

    yield again
    for each in started:
        each.close()
