"""Guests to run: the tiny Linux, made once on each machine, and a guest of one page that does as it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness.client import Client
from harness.xen import control_domain
from kronos.boot.tiny_guest import tiny_guest

CACHE = Path("/var/cache/kronos/tests")
OBEDIENT = Path(__file__).resolve().parents[1] / "integration" / "hypervisor" / "obedient.S"
MIB = 1 << 20


class Images:
    """What a daemon finds made in its state directory, so that it does not spend half a minute on making it."""

    def __init__(self, cache: Path = CACHE) -> None:
        self.cache = cache
        self.tiny = tiny_guest(cache / "tiny-guest")
        self._obedient = control_domain.obedient(cache) if control_domain.here() else _obedient(cache)

    def install(self, state: Path) -> None:
        """Put the images, and what an earlier daemon found out about this machine, into a new state directory."""
        (state / "guest").mkdir()
        shutil.copy(self._obedient, state / "guest" / self._obedient.name)
        if control_domain.here():
            shutil.copy(control_domain.KERNEL, state / "guest" / "vmlinux")
        shutil.copytree(self.cache / "tiny-guest", state / "tiny-guest")
        if self._hypervisor.exists():
            shutil.copy(self._hypervisor, state / "hypervisor.json")

    def keep(self, state: Path) -> None:
        """Remember which hypervisor this machine has: the trial guest takes seconds."""
        found = state / "hypervisor.json"
        if found.exists() and not self._hypervisor.exists():
            part = self._hypervisor.with_suffix(f".{os.getpid()}")
            shutil.copy(found, part)
            part.rename(self._hypervisor)

    @property
    def _hypervisor(self) -> Path:
        return self.cache / "hypervisor.json"


def _obedient(cache: Path) -> Path:
    made = cache / "obedient"
    if not made.exists() or made.stat().st_mtime < OBEDIENT.stat().st_mtime:
        objects, image = cache / f"obedient.{os.getpid()}.o", cache / f"obedient.{os.getpid()}"
        subprocess.run(["as", "--32", OBEDIENT, "-o", objects], check=True, timeout=30)
        link = ["ld", "-m", "elf_i386", "-Ttext", "0x100000", "-e", "0x100000", "--oformat", "binary"]
        subprocess.run([*link, objects, "-o", image], check=True, timeout=30)
        objects.unlink()
        image.rename(made)
    return made


def vm_record(state: Path, name: str, **fields: Any) -> dict[str, Any]:
    """What VM.create takes for a VM that boots the obedient guest: 16 MiB, no screen, no cost while it waits."""
    memory = 16 * MIB
    return (
        {
            "name_label": name,
            "name_description": "",
            "user_version": 1,
            "is_a_template": False,
            "affinity": "OpaqueRef:NULL",
            "memory_static_min": memory,
            "memory_static_max": memory,
            "memory_dynamic_min": memory,
            "memory_dynamic_max": memory,
            "VCPUs_params": {},
            "VCPUs_max": 1,
            "VCPUs_at_startup": 1,
            "actions_after_shutdown": "destroy",
            "actions_after_reboot": "restart",
            "actions_after_crash": "destroy",
            "PV_bootloader": "",
            "PV_kernel": str(state / "guest" / "obedient"),
            "PV_ramdisk": "",
            "PV_args": "",
            "PV_bootloader_args": "",
            "PV_legacy_args": "",
            "HVM_boot_policy": "",
            "HVM_boot_params": {},
            "platform": {"vga": "none", "usb": "false"},
            "PCI_bus": "",
            "other_config": {},
            "recommendations": "",
            "domain_type": "pvh",
        }
        | (_on_xen(state) if control_domain.here() else {})
        | fields
    )


def _on_xen(state: Path) -> dict[str, Any]:
    """The obedient guest of Xen is a Linux."""
    memory = ("memory_static_min", "memory_static_max", "memory_dynamic_min", "memory_dynamic_max")
    return dict.fromkeys(memory, control_domain.MEMORY) | {
        "PV_kernel": str(state / "guest" / "vmlinux"),
        "PV_ramdisk": str(state / "guest" / "obedient-initrd"),
        "PV_args": control_domain.COMMAND_LINE,
        "domain_type": control_domain.KIND,
    }


def tiny_vm(client: Client, name: str, *, network: bool = True, start: bool = False) -> str:
    """A VM made from the tiny guest's template, with an interface on the host-internal network."""
    (template,) = client("VM.get_by_name_label", "Kronos tiny guest")
    vm = clone_and_provision(client, template, name)
    if control_domain.here():
        client("VM.set_domain_type", vm, control_domain.KIND)
    if network:
        add_interface(client, vm, internal_network(client))
    if start:
        client("VM.start", vm, False, False)
    return vm


def clone_and_provision(client: Client, template: str, name: str) -> str:
    """A VM made from a template, with its disks on the default SR."""
    vm = str(client("VM.clone", template, name))
    _fill_in_sr(client, vm)
    client("VM.provision", vm)
    return vm


def _fill_in_sr(client: Client, vm: str) -> None:
    """Say where the disks that the template asks for are to be, as every client must before VM.provision."""
    disks = client("VM.get_other_config", vm).get("disks")
    if disks is not None:
        uuid = client("SR.get_uuid", default_sr(client))
        client("VM.remove_from_other_config", vm, "disks")
        client("VM.add_to_other_config", vm, "disks", disks.replace('sr=""', f'sr="{uuid}"'))


def default_sr(client: Client) -> str:
    (pool,) = client("pool.get_all")
    return str(client("pool.get_default_SR", pool))


def internal_network(client: Client) -> str:
    """The network between the host and its guests, with addresses served by the host."""
    rows = client("network.get_all_records")
    mark = "is_host_internal_management_network"
    return next(ref for ref, row in rows.items() if row["other_config"].get(mark) == "true")


def add_interface(client: Client, vm: str, network: str, device: str = "0") -> str:
    """A new VIF, with a MAC of the server's choosing."""
    record = {
        "device": device,
        "network": network,
        "VM": vm,
        "MAC": "",
        "MTU": 1500,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    return str(client("VIF.create", record))


def add_disk(client: Client, vm: str, vdi: str, device: str = "autodetect", **fields: Any) -> str:
    """A new VBD for a VDI, writable."""
    record = {
        "VM": vm,
        "VDI": vdi,
        "userdevice": device,
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
        "unpluggable": True,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    } | fields
    return str(client("VBD.create", record))


def new_disk(client: Client, name: str, size: int = 8 * MIB, **fields: Any) -> str:
    """A new VDI on the default SR."""
    record = {
        "name_label": name,
        "name_description": "",
        "SR": default_sr(client),
        "virtual_size": size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    } | fields
    return str(client("VDI.create", record))
