"""A pipeline on fake drivers, called as a client would, with the SR types that there are."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from harness.sysfs import NAMES, Sysfs
from kronos.api import catalogue, devices
from kronos.background.follow import Follow
from kronos.background.inventory import storage as storage_inventory
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI, VM, Host, Host_metrics, Network, Pool
from kronos.dispatch import roles
from kronos.dispatch.call import Origin
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.base import Domain, Firmware
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.rules import operations
from kronos.storage import registry
from kronos.system import pci
from kronos.system.intents import Intents

catalogue.load()
LOCAL = Origin(local=True)
GIB = 1 << 30
MEMORY = ("static_min", "static_max", "dynamic_min", "dynamic_max")
HALTED = {
    "name_label": "vm",
    "name_description": "",
    "user_version": 0,
    "is_a_template": False,
    "affinity": "OpaqueRef:NULL",
    "VCPUs_params": {},
    "VCPUs_max": 1,
    "VCPUs_at_startup": 1,
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "destroy",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "cd"},
    "platform": {},
    "PCI_bus": "",
    "other_config": {},
    "recommendations": "",
}
DISK = {
    "userdevice": "autodetect",
    "bootable": True,
    "mode": "RW",
    "type": "Disk",
    "empty": False,
    "other_config": {},
    "qos_algorithm_type": "",
    "qos_algorithm_params": {},
}


class Xapi:
    """A host: its database, its drivers, and a client that is logged in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.db = Database()
        self.db.derive(operations.derive)
        self.host = self.db.create(Host, hostname="h", metrics=self.db.create(Host_metrics, live=True).ref)
        self.pool = self.db.create(Pool, master=self.host.ref)
        self.hypervisor = Fake(directory / "run")
        self.network = FakeNetwork()
        self.machine = Machine(
            hypervisor=self.hypervisor,
            network=self.network,
            state=directory,
            intents=Intents(directory / "intents"),
            open_storage=registry.build,
            host_ref=self.host.ref,
        )
        self.pipeline = Pipeline(self.db, self.machine, self.loop)
        roles.seed(self.db)
        self.types = sorted(registry.drivers(for_tests=True))
        storage_inventory.refresh(self.pipeline, self.types, None)
        self.session = self.raw("session.login_with_password", "root", "")

    def raw(self, name: str, *args: object, origin: Origin = LOCAL):
        async def serve():
            answer = self.pipeline.call(origin, name, args)
            return answer if not hasattr(answer, "__await__") else await answer

        return asyncio.run_coroutine_threadsafe(serve(), self.loop).result(30).value

    def __call__(self, name: str, *args: object):
        return self.raw(name, self.session, *args)

    def refused(self, name: str, *args: object) -> list[str]:
        with pytest.raises(Failure) as failure:
            self(name, *args)
        return failure.value.description

    def start_again(self, default: Path | None = None, disks: tuple[str, ...] = ()) -> None:
        """What the next start of the daemon does after this one was killed."""
        self.machine.storage.clear()
        storage_inventory.refresh(self.pipeline, self.types, default, disks)
        storage_inventory.settle_disks(self.pipeline)

    # Things to work with.

    def sr(self, kind: str = "fake", **config: str) -> SR:
        config = config or {"location": str(self.directory / f"sr{len(self.db.all(SR))}")}
        ref = self("SR.create", self.host.ref, config, 0, "disks", "", kind, "user", False, {})
        return self.db.get(SR, ref)

    def vdi(self, sr: SR, size: int = GIB, **fields: object) -> VDI:
        record = {
            "name_label": "disk",
            "name_description": "a disk",
            "SR": sr.ref,
            "virtual_size": str(size),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
        return self.db.get(VDI, self("VDI.create", record | fields))

    def driver(self, sr: SR):
        return self.machine.storage[sr.uuid]

    def vm(self, *vdis: VDI, running: bool = False) -> VM:
        """A VM with these disks; a running one has them open."""
        vm = self.db.create(VM, name_label="vm", domain_type="pvh", other_config={"mac_seed": "seed"})
        for number, vdi in enumerate(vdis):
            self.db.create(VBD, VM=vm.ref, VDI=vdi.ref, userdevice=str(number), mode="RW", type="Disk")
        if running:
            self.run(vm)
        return vm

    def halted_vm(self, *vdis: VDI, **fields: object) -> VM:
        """A VM of 64 MiB with these disks, made by a client."""
        memory = {f"memory_{name}": 64 << 20 for name in MEMORY}
        vm = self.db.get(VM, self("VM.create", HALTED | memory | fields))
        for vdi in vdis:
            self("VBD.create", DISK | {"VM": vm.ref, "VDI": vdi.ref})
        return vm

    def run(self, vm: VM) -> None:
        self.hypervisor.start(Domain(vm.uuid, "vm", GIB, GIB, Firmware()))
        self.db.write(vm, {"power_state": "Running", "resident_on": self.host.ref})
        for vbd in (self.db.get(VBD, ref) for ref in vm.VBDs):
            vdi = self.db.get(VDI, vbd.VDI)
            self.driver(self.db.get(SR, vdi.SR)).volume_attach(vdi.uuid, vbd.mode == "RW")
            vbd.currently_attached = True

    def net(self, **fields: object) -> Network:
        return self.db.get(
            Network, self("network.create", {"name_label": "net", "other_config": {}} | fields)
        )

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.pipeline.close()


@pytest.fixture
def xapi(tmp_path):
    made = Xapi(tmp_path)
    yield made
    made.close()


@pytest.fixture
def host(xapi):
    """A host that takes VMs, with an SR, and whose hypervisor is followed."""
    xapi.db.write(
        xapi.host, {"enabled": True, "address": "192.0.2.1", "software_version": {"hypervisor": "QEMU"}}
    )
    xapi.host.capabilities = ("hvm-3.0-x86_64",)
    metrics = xapi.db.get(Host_metrics, xapi.host.metrics)
    xapi.db.write(metrics, {"memory_total": 8 * GIB, "memory_free": 8 * GIB})
    xapi.storage = xapi.sr("file")
    xapi.db.all(Pool)[0].default_SR = xapi.storage.ref
    xapi.follow = Follow(xapi.pipeline)
    xapi.follow.start()
    yield xapi
    xapi.follow.close()


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    names = tmp_path / "pci.ids"
    names.write_text(NAMES)
    monkeypatch.setattr(pci.Names.__init__, "__defaults__", ((names,),))
    monkeypatch.setattr(pci, "USB_NAMES", ())
    return Sysfs(tmp_path / "sys")


@pytest.fixture
def look(xapi, sysfs):
    return lambda: devices.refresh(xapi.db, xapi.host, sysfs.root)
