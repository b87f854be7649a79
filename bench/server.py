"""A host's API in a process of its own: database, journal, pipeline, doors. Run by bench.process.Child.

Options: `directory`; `vms` to make; `disks`, `interfaces` and `metrics` a VM; `load` to start from the database that
is there; `derive` (true) to keep allowed_operations; `hypervisor` fake, simulated, or qemu with its `uri`; `attachable`
for disks that VMs can start with; `images` for disks of that many bytes in files, below `directory`; `tls` for a second
port with it; `pinned` (true) to one core; `memory` in bytes that the host is to have.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import population
from bench.process import SERVER_CORE, ender, listen, pin, rss, say
from kronos.api import catalogue
from kronos.background.follow import Follow
from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import SM, SR, VBD, VDI, VM, Host
from kronos.db.records import Task as TaskRow
from kronos.dispatch import roles
from kronos.dispatch.call import INTERNAL
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Hypervisor
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.rules import operations
from kronos.rules.domain import describe
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import Server, TcpListener, UnixListener
from kronos.server.tls import ensure_certificate, server_context
from kronos.storage import registry
from kronos.storage.fake import FakeDriver
from kronos.system import hardware
from kronos.system.audit_file import AuditFile
from kronos.system.intents import Intents


class Bench:
    """The server and what the parent may ask of it."""

    def __init__(self, options: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.began = time.perf_counter()
        self.unloaded = rss(os.getpid())
        self.options = options
        self.loop = loop
        self.directory = Path(options["directory"])
        self.pauses: list[float] = []
        self._pause_began = 0.0
        self.stall = 0.0
        gc.disable()
        self.db = Database(Journal(self.directory / "state.db"))
        if options.get("load"):
            self.db.load()
        self.machine = Machine(
            hypervisor=self._hypervisor(),
            network=FakeNetwork(),
            state=self.directory,
            intents=Intents(self.directory / "intents"),
            open_storage=lambda *_: None,  # type: ignore[arg-type]
            audit=AuditFile(self.directory / "audit.log"),
        )
        if options.get("derive", True):
            self.db.derive(operations.derive)
        self.pipeline = Pipeline(self.db, self.machine, loop)
        roles.seed(self.db)
        self._populate()
        self.machine.host_ref = self.db.all(Host)[0].ref
        self.follow = Follow(self.pipeline)
        self.follow.start()
        access = Access(self.pipeline)
        self.server = Server(doors.all_doors(self.pipeline, access))

    def _hypervisor(self) -> Hypervisor:
        """libvirt is loaded only where it is needed."""
        match self.options.get("hypervisor", "fake"):
            case "simulated":
                from kronos.hypervisor.simulated import Simulated

                return Simulated(self.directory / "run")
            case "qemu":
                from kronos.hypervisor.kvm import QEMU

                return QEMU(self.options["uri"], self.directory / "run")
            case _:
                return Fake()

    def _populate(self) -> None:
        if self.options.get("load"):
            return
        options = self.options
        size = population.Size(
            options.get("disks", 3), options.get("interfaces", 2), options.get("metrics", 3)
        )
        if options.get("memory"):
            _pretend_memory(options["memory"])
        pooled = population.pool(self.db)
        population.populate(self.db, pooled, options["vms"], size)
        if options.get("attachable"):
            self._make_attachable(pooled.sr)
        if options.get("images"):
            self._make_images(pooled.sr, options["images"])

    def _make_attachable(self, sr: SR) -> None:
        """Volumes behind the VDIs, for VMs that are to be started."""
        driver = FakeDriver(sr.uuid)
        driver.create(1 << 44)
        driver.attach()
        self.machine.storage[sr.uuid] = driver
        for vdi in self.db.all(VDI):
            driver.volume_create(vdi.uuid, 1 << 20)

    def _make_images(self, sr: SR, size: int) -> None:
        """An SR of files with a disk for each VDI."""
        place = self.directory / "sr"
        place.mkdir()
        driver = registry.build("file", sr.uuid, {"location": str(place)})
        driver.create(0)
        driver.attach()
        self.machine.storage[sr.uuid] = driver
        sr.content_type = "user"
        for sm in self.db.all(SM):
            sm.features = registry.describe("file").features
        for vdi in self.db.all(VDI):
            driver.volume_create(vdi.uuid, size)
            vdi.virtual_size = size
        for vm in self.db.all(VM):
            self.db.write(vm, {"power_state": "Halted", "resident_on": "OpaqueRef:NULL"})
        for vbd in self.db.all(VBD):
            vbd.currently_attached = False

    async def serve(self) -> dict[str, Any]:
        """Open the doors; what a client has to know."""
        socket = self.directory / "socket"
        await self.server.start([TcpListener("127.0.0.1", 0), *self._secure(), UnixListener(socket)])
        session = self.pipeline.sessions.begin(
            user="root", host=self.machine.host_ref, origin=INTERNAL, originator="bench"
        )
        gc.freeze()
        gc.enable()
        gc.set_threshold(5_000, 3, 1000)
        vms = self.db.all(VM)
        return {
            "seconds": time.perf_counter() - self.began,
            "unloaded": self.unloaded,
            "port": self.server.addresses[0][1],
            "tls_port": self.server.addresses[-1][1],
            "socket": str(socket),
            "session": session.ref,
            "vm": vms[0].ref if vms else "",
            "vdis": [vdi.ref for vdi in self.db.all(VDI)[:2]],
            "sr": self.db.all(SR)[0].ref,
            "vms": [vm.ref for vm in vms[: self.options.get("refs", 1)]],
        }

    def _secure(self) -> list[TcpListener]:
        if not self.options.get("tls"):
            return []
        pem = self.directory / "pem"
        ensure_certificate(pem, "bench", ["127.0.0.1"])
        return [TcpListener("127.0.0.1", 0, server_context(pem))]

    # What the parent asks

    def tasks(self, count: int) -> dict[str, Any]:
        """So many tasks are under way."""
        with self.db.transaction():
            for number in range(count):
                self.db.create(TaskRow, name_label=f"Async.VM.clone {number}", status="pending")
        return {}

    def watch_loop(self) -> dict[str, Any]:
        """From now on note how late the loop comes to what was to happen a millisecond ago."""
        self.stall = 0.0
        self.loop.call_soon_threadsafe(self._tick, self.loop.time())
        return {}

    def _tick(self, meant: float) -> None:
        now = self.loop.time()
        self.stall = max(self.stall, now - meant)
        self.loop.call_at(now + 0.001, self._tick, now + 0.001)

    def longest_stall(self) -> dict[str, Any]:
        return {"seconds": self.stall}

    def documents(self) -> dict[str, Any]:
        """The libvirt document of each VM, as a start makes it."""
        from kronos.hypervisor.libvirt import LibvirtHypervisor

        hypervisor = self.machine.hypervisor
        assert isinstance(hypervisor, LibvirtHypervisor)
        renderer = hypervisor.renderer(hypervisor.places)
        return {"documents": [renderer.domain(describe(self.db, vm, {})) for vm in self.db.all(VM)]}

    def dirty(self) -> dict[str, Any]:
        """Every VM's record has changed, so that none has a kept form."""
        for vm in self.db.all(VM):
            self.db.touch(vm)
        return {}

    def used(self) -> dict[str, Any]:
        return {"rss": rss(os.getpid()), "cpu": time.process_time()}

    def watch_pauses(self) -> dict[str, Any]:
        """From now on note how long the garbage collector stops everything."""
        gc.callbacks.append(self._collected)
        return {}

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._pause_began = time.perf_counter()
        else:
            self.pauses.append(time.perf_counter() - self._pause_began)

    def longest_pause(self) -> dict[str, Any]:
        return {"seconds": max(self.pauses, default=0.0), "count": len(self.pauses)}

    def update(self, count: int, rate: float) -> dict[str, Any]:
        """Write the first VM's description `count` times, with the moment in it; the CPU that the whole took."""
        vm = self.db.all(VM)[0]
        before, next_at = time.process_time(), time.monotonic()
        for _ in range(count):
            next_at += 1 / rate
            time.sleep(max(0.0, next_at - time.monotonic()))
            self.db.write(vm, {"name_description": f"at {time.monotonic_ns()}"})
        time.sleep(0.3)
        return {"cpu": time.process_time() - before}


def _pretend_memory(size: int) -> None:
    """More VMs than this machine could hold are to start: read its memory as ever, and answer with another size."""
    read = hardware.memory

    def memory() -> hardware.Memory:
        read()
        return hardware.Memory(size, size)

    hardware.memory = memory


async def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("pinned", True):
        pin(SERVER_CORE)
    catalogue.load()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    bench = await loop.run_in_executor(None, Bench, options, loop)
    say(await bench.serve())
    commands = {
        name: getattr(bench, name)
        for name in (
            "dirty",
            "used",
            "watch_pauses",
            "longest_pause",
            "update",
            "documents",
            "tasks",
            "watch_loop",
            "longest_stall",
        )  # fmt: skip
    }
    listen(commands, ender(loop, ended))
    await ended.wait()
    await bench.server.stop(0)
    bench.follow.close()
    bench.pipeline.close()
    bench.machine.hypervisor.close()
    if bench.db.journal is not None:
        bench.db.journal.close()


def run(entry: Any) -> None:
    """On uvloop where it is found, as the daemon does."""
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(entry)


if __name__ == "__main__":
    run(main())
