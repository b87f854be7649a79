"""A host's API in a process of its own: database, journal, pipeline, doors. Run by bench.process.Child.

Options: `directory`; `vms` to make; `disks`, `interfaces` and `metrics` a VM; `load` to start from the database that
is there; `derive` (true) to keep allowed_operations; `hypervisor` fake, simulated, or qemu with its `uri`; `attachable`
for disks that VMs can start with; `pinned` (true) to one core; `memory` in bytes that the host is to have.
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
from kronos.db.records import SR, VDI, VM, Host
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
from kronos.storage.fake import FakeDriver
from kronos.system import hardware
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
        )
        if options.get("derive", True):
            self.db.derive(operations.derive)
        self.pipeline = Pipeline(self.db, self.machine, loop)
        roles.seed(self.db)
        self._populate()
        self.machine.host_ref = self.db.all(Host)[0].ref
        self.follow = Follow(self.db, self.machine)
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

    def _make_attachable(self, sr: SR) -> None:
        """Volumes behind the VDIs, for VMs that are to be started."""
        driver = FakeDriver(sr.uuid)
        driver.create(1 << 44)
        driver.attach()
        self.machine.storage[sr.uuid] = driver
        for vdi in self.db.all(VDI):
            driver.volume_create(vdi.uuid, 1 << 20)

    async def serve(self) -> dict[str, Any]:
        """Open the doors; what a client has to know."""
        socket = self.directory / "socket"
        await self.server.start([TcpListener("127.0.0.1", 0), UnixListener(socket)])
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
            "socket": str(socket),
            "session": session.ref,
            "vm": vms[0].ref if vms else "",
            "vms": [vm.ref for vm in vms[: self.options.get("refs", 1)]],
        }

    # What the parent asks

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
        for name in ("dirty", "used", "watch_pauses", "longest_pause", "update", "documents")
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
