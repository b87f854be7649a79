"""VGPU: the graphics adapters that VMs have. Whole ones alone: parts of adapters need their vendors' own programs."""

from __future__ import annotations

from pathlib import Path

from kronos.api import devices
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db import records
from kronos.db.records import PCI, PGPU, VGPU, Host, VGPU_type
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import passthrough
from kronos.rules.surroundings import LIVE
from kronos.system import pci


@message("VGPU.create")
def create(
    call: Call,
    VM: str,
    GPU_group: str,
    device: str,
    other_config: dict[str, str],
    type: str,
) -> str:
    """Give a halted VM any adapter of a group, from its next start on.

    Raises VM_BAD_POWER_STATE [vm, expected, actual], INVALID_VALUE ["type", ref], VGPU_TYPE_NOT_COMPATIBLE [type],
    INVALID_DEVICE [device], DEVICE_ALREADY_EXISTS [device], VM_PCI_BUS_FULL [vm].
    """
    db = call.db
    with db.transaction():
        vm, group = db.get(records.VM, VM), db.get(records.GPU_group, GPU_group)
        if vm.power_state != "Halted" and not vm.is_a_snapshot:
            raise Failure("VM_BAD_POWER_STATE", vm.ref, "halted", vm.power_state.lower())
        kind = devices.whole(db) if type == NULL else db.find(VGPU_type, type)
        if kind is None:
            raise Failure("INVALID_VALUE", "type", type)
        passthrough.assert_compatible(db, vm, kind)
        place = passthrough.place(db, vm, device)
        fields = {"VM": vm.ref, "GPU_group": group.ref, "device": place, "type": kind.ref}
        return db.create(VGPU, **fields, other_config=other_config).ref


@message("VGPU.destroy")
def destroy(call: Call, self: str) -> None:
    """Take an adapter away from a VM. Raises OPERATION_NOT_ALLOWED while the VM is on."""
    row = call.db.get(VGPU, self)
    with call.db.transaction():
        vm = call.db.find(records.VM, row.VM)
        if vm is not None and (vm.power_state in LIVE or row.scheduled_to_be_resident_on != NULL):
            raise Failure("OPERATION_NOT_ALLOWED", "vGPU currently attached to a running VM")
        call.db.delete(row)


@message("VGPU.atomic_set_resident_on")
def atomic_set_resident_on(call: Call, self: str, value: str) -> None:
    """Write down which adapter a VGPU has, in one step with that it waits for none."""
    row = call.db.get(VGPU, self)
    if value != NULL:
        call.db.get(PGPU, value)
    call.db.write(row, {"resident_on": value, "scheduled_to_be_resident_on": NULL})


# --- parts of adapters -----------------------------------------------------------------------------------------------


@message("host.mxgpu_vf_setup")
def mxgpu_vf_setup(call: Call, host: str) -> None:
    """Look at the parts of AMD's adapters. Raises OPERATION_NOT_ALLOWED without the module that makes them."""
    row = _here(call, host)
    if not (call.machine.root / "sys/module/gim").exists():
        raise Failure(
            "OPERATION_NOT_ALLOWED", "The module gim, with which AMD's adapters have parts, is not loaded"
        )
    _look(call, row)


@message("host.nvidia_vf_setup")
def nvidia_vf_setup(call: Call, host: str, pf: str, enable: bool) -> None:
    """Look at the parts of an NVIDIA adapter, which its own programs have made.

    Raises NVIDIA_SRIOV_MISCONFIGURED [host, device] where it has none.
    """
    row, device = _here(call, host), call.db.get(PCI, pf)
    parts = _number(call.machine.root / "sys/bus/pci/devices" / device.pci_id / "sriov_numvfs")
    if not parts:
        raise Failure("NVIDIA_SRIOV_MISCONFIGURED", row.ref, device.device_name)
    _look(call, row)


def _look(call: Call, host: Host) -> None:
    devices.refresh_pci(call.db, host, pci.devices(call.machine.root / pci.DEVICES.relative_to("/")))


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _here(call: Call, host: str) -> Host:
    row = call.db.get(Host, host)
    if host != call.machine.host_ref:
        raise Failure("HOST_OFFLINE", host)
    return row
