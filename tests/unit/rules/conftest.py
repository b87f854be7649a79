"""A small pool in memory: one live host with one plugged SR, and VMs as a test asks for them."""

from __future__ import annotations

from typing import Any

import pytest

from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import (
    PBD,
    PIF,
    SM,
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    Host,
    Host_metrics,
    Network,
    Pool,
    VM_guest_metrics,
    VM_metrics,
)
from kronos.rules import operations

GIB = 1 << 30
FEATURES = (
    "VDI_CREATE VDI_DELETE VDI_RESIZE VDI_RESIZE_ONLINE VDI_SNAPSHOT VDI_CLONE VDI_UPDATE VDI_INTRODUCE"
    " VDI_CONFIG_CBT VDI_GENERATE_CONFIG SR_UPDATE VDI_MIRROR VDI_RESET_ON_BOOT VDI_REVERT".split()
)


class World:
    def __init__(self) -> None:
        self.db = Database()
        self.db.derive(operations.derive)
        self.pool = self.db.create(Pool)
        self.host = self.new_host()
        self.pool.master = self.host.ref
        self.sm = self.db.create(SM, type="ext", features=dict.fromkeys(FEATURES, 1))
        self.sr = self.db.create(SR, type="ext")
        self.pbd = self.db.create(PBD, SR=self.sr.ref, host=self.host.ref, currently_attached=True)
        self.network = self.db.create(Network, bridge="xenbr0", MTU=1500)
        self.pif = self.db.create(PIF, network=self.network.ref, host=self.host.ref, currently_attached=True)

    def new_host(self, **fields: Any) -> Host:
        metrics = self.db.create(Host_metrics, memory_total=16 * GIB, memory_free=16 * GIB, live=True)
        return self.db.create(
            Host,
            **{
                "enabled": True,
                "metrics": metrics.ref,
                "capabilities": ("hvm-3.0-x86_64",),
                "cpu_info": {"cpu_count": "8"},
                "virtual_hardware_platform_versions": (0, 1, 2),
                "software_version": {"hypervisor": "KVM"},
            }
            | fields,
        )

    def vm(self, power_state: str = "Halted", **fields: Any) -> VM:
        live = power_state in ("Running", "Paused")
        metrics = self.db.create(VM_metrics, current_domain_type=fields.get("domain_type", "hvm"))
        return self.db.create(
            VM,
            **{
                "name_label": "vm",
                "power_state": power_state,
                "domain_type": "hvm",
                "HVM_boot_policy": "BIOS order",
                "metrics": metrics.ref,
                "resident_on": self.host.ref if live else "OpaqueRef:NULL",
                "memory_static_min": GIB // 4,
                "memory_dynamic_min": GIB // 2,
                "memory_dynamic_max": GIB,
                "memory_static_max": GIB,
                "VCPUs_max": 2,
                "VCPUs_at_startup": 1,
                "HVM_shadow_multiplier": 1.0,
            }
            | fields,
        )

    def agent(self, vm: VM, **fields: Any) -> VM_guest_metrics:
        """A guest whose agent has told something."""
        row = self.db.create(VM_guest_metrics, **fields)
        vm.guest_metrics = row.ref
        return row

    def vdi(self, **fields: Any) -> VDI:
        return self.db.create(VDI, **{"SR": self.sr.ref, "managed": True, "type": "user"} | fields)

    def vbd(self, vm: VM, vdi: VDI | None = None, **fields: Any) -> VBD:
        filled = (
            {"VDI": vdi.ref, "empty": False} if vdi is not None else {"VDI": "OpaqueRef:NULL", "empty": True}
        )
        plain = {"type": "Disk", "mode": "RW", "unpluggable": True, "userdevice": str(len(vm.VBDs))}
        return self.db.create(VBD, **{"VM": vm.ref} | plain | filled | fields)

    def cd(self, vm: VM, vdi: VDI | None = None, **fields: Any) -> VBD:
        return self.vbd(vm, vdi, **{"type": "CD", "mode": "RO"} | fields)

    def vif(self, vm: VM, **fields: Any) -> VIF:
        plain = {"network": self.network.ref, "device": str(len(vm.VIFs)), "MAC": "02:00:00:00:00:01"}
        return self.db.create(VIF, **{"VM": vm.ref} | plain | fields)

    def refused(self, row: Record, operation: str) -> list[str] | None:
        """What a client is told that starts `operation`, None where it may."""
        failure = operations.refusal(self.db, row, operation)
        return failure.description if failure is not None else None


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def world_factory() -> type[World]:
    """A fresh world for each example of a property."""
    return World
