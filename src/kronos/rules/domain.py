"""Domain: a VM's records as a hypervisor is to run them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import VBD, VDI, VIF, VM, Host, Network
from kronos.hypervisor.base import (
    GUEST_CHANNEL,
    Action,
    Channel,
    DirectKernel,
    Disk,
    Domain,
    Firmware,
    Interface,
    Kind,
    Limits,
)
from kronos.hypervisor.hardware import HostUSB, Kept
from kronos.network.names import port_name
from kronos.rules import boot, platform
from kronos.rules.devices import disk_number
from kronos.rules.memory import Limits as MemoryLimits
from kronos.rules.placement import assert_parameters
from kronos.rules.surroundings import domain_type

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_WEIGHTS = range(1, 65536)
_CAPS = range(1, 1_000_000)
_MTUS = range(68, 65536)

_FORMATS: dict[str, Literal["raw", "qcow2"]] = {"raw": "raw", "qcow2": "qcow2"}
_KINDS: dict[str, Kind] = {"hvm": "hvm", "pv": "pv", "pvh": "pvh", "pv_in_pvh": "pv_in_pvh"}


class Attached(Protocol):
    """Where an attached VDI's content lies on this host, and in which format: raw or qcow2."""

    @property
    def path(self) -> Path: ...

    @property
    def format(self) -> str: ...


def describe(
    db: Database,
    vm: VM,
    attached: Mapping[str, Attached],
    *,
    kernels: Sequence[Path] = boot.GUEST_KERNELS,
    resolve: boot.Resolve | None = None,
    loaded: DirectKernel | None = None,
    nvram: Path | None = None,
    host: Host | None = None,
    usb: Sequence[HostUSB] = (),
    pci: Sequence[str] = (),
    kept: Kept | None = None,
) -> Domain:
    """The VM as its hypervisor is to start it on `host`.

    `attached` has every VDI of its VBDs, by reference. For `kernels`, `resolve` and `loaded` see `boot.kernel`;
    `nvram` is where UEFI keeps its variables, and `kept` what its firmware begins with; `usb` is what its VUSBs stand
    for, and `pci` are the addresses of devices that it has to itself.

    Raises INVALID_VALUE [field, value], VALUE_NOT_SUPPORTED [field, value, reason], MEMORY_CONSTRAINT_VIOLATION,
    VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE, INVALID_DEVICE [device], BOOTLOADER_FAILED [vm, text].
    """
    assert_parameters(db, vm)
    limits = MemoryLimits.of(vm).coerced()
    kind = _KINDS[domain_type(db, vm)]
    start: Firmware | DirectKernel
    if kind == "hvm":
        start = boot.firmware(db, vm, nvram)
    else:
        start = boot.kernel(vm, kernels, resolve=resolve, loaded=loaded)
    on_poweroff, on_reboot, on_crash = _endings(db, vm)
    vbds = [vbd for ref in vm.VBDs if (vbd := db.find(VBD, ref)) is not None]
    vifs = [vif for ref in vm.VIFs if (vif := db.find(VIF, ref)) is not None]
    return Domain(
        uuid=vm.uuid,
        name=vm.name_label,
        memory_static_max=limits.static_max,
        memory_target=limits.dynamic_max,
        boot=start,
        kind=kind,
        vcpus_max=vm.VCPUs_max,
        vcpus=vm.VCPUs_at_startup,
        cores_per_socket=platform.cores_per_socket(vm),
        weight=_parameter(vm, "weight", _WEIGHTS),
        cap=_parameter(vm, "cap", _CAPS),
        mask=_mask(vm, host),
        disks=sorted((disk(db, vbd, attached.get(vbd.VDI)) for vbd in vbds), key=lambda each: each.device),
        interfaces=sorted((interface(db, vif) for vif in vifs), key=lambda each: each.device),
        usb=usb,
        pci=pci,
        tpm=bool(vm.VTPMs),
        kept=kept or Kept(),
        channels=(Channel(GUEST_CHANNEL),) if platform.flag(vm.platform, "channel", True) else (),
        platform=platform.describe(vm),
        on_poweroff=on_poweroff,
        on_reboot=on_reboot,
        on_crash=on_crash,
        clock_offset=_clock_offset(db, vm, vbds),
        xenstore={key: value for key, value in vm.xenstore_data.items() if key.startswith("vm-data/")},
    )


def _endings(db: Database, vm: VM) -> tuple[Action, Action, Action]:
    """What the hypervisor does when the guest shuts down, reboots and crashes.

    A guest that a loader found the kernel of ends at each: the same kernel again would be an installer's a second time.
    """
    on_poweroff: Action = "restart" if vm.actions_after_shutdown == "restart" else "destroy"
    on_reboot: Action = "destroy" if vm.actions_after_reboot == "destroy" else "restart"
    on_crash = boot.AFTER_CRASH[vm.actions_after_crash]
    if boot.by_loader(db, vm):
        return "destroy", "destroy", "preserve" if on_crash == "preserve" else "destroy"
    return on_poweroff, on_reboot, on_crash


# --- disks -----------------------------------------------------------------------------------------------------------


def disk(db: Database, vbd: VBD, attached: Attached | None) -> Disk:
    """A VBD as its hypervisor is to plug it; `attached` may be None where it is empty.

    Raises INVALID_DEVICE [device], HANDLE_INVALID.
    """
    number = disk_number(vbd.userdevice)
    if number is None:
        raise Failure("INVALID_DEVICE", vbd.userdevice)
    cdrom = vbd.type == "CD"
    # A CD drive on a paravirtual bus is something no installer looks for; the hypervisor knows better.
    bus = None if cdrom else platform.disk_bus(db.get(VM, vbd.VM))
    if vbd.empty:
        return Disk(number, None, read_only=True, cdrom=cdrom, bootable=vbd.bootable, bus=bus)
    vdi = db.get(VDI, vbd.VDI)
    form = _FORMATS.get(attached.format) if attached is not None else None
    if attached is None or form is None:
        raise Failure("INTERNAL_ERROR", f"VDI {vdi.ref} is not attached in a format that hypervisors read")
    return Disk(
        device=number,
        path=attached.path,
        format=form,
        read_only=cdrom or vbd.mode == "RO" or vdi.read_only,
        cdrom=cdrom,
        bootable=vbd.bootable,
        # Disks show no more than 20 characters of it.
        serial=vdi.uuid.replace("-", "")[:20],
        limits=_limits(vbd),
        bus=bus,
        shared=vdi.sharable,
    )


def _limits(vbd: VBD) -> Limits:
    """qos_algorithm_type `ratelimit` with `kbps` (KiB/s) and `iops`, as VIFs have it; `ionice` has no meaning here."""
    if vbd.qos_algorithm_type != "ratelimit":
        return Limits()
    params = vbd.qos_algorithm_params
    return Limits(1024 * max(0, _integer(params.get("kbps"))), max(0, _integer(params.get("iops"))))


# --- interfaces ------------------------------------------------------------------------------------------------------


def interface(db: Database, vif: VIF) -> Interface:
    """A VIF as its hypervisor is to plug it. Raises INVALID_DEVICE [device], HANDLE_INVALID."""
    network, vm = db.get(Network, vif.network), db.get(VM, vif.VM)
    if not vif.device.isdecimal():
        raise Failure("INVALID_DEVICE", vif.device)
    mtu = _integer(vif.other_config.get("mtu"), network.MTU)
    return Interface(
        device=int(vif.device),
        mac=vif.MAC,
        bridge=network.bridge,
        mtu=mtu if mtu in _MTUS else network.MTU,
        tap=port_name(vm.uuid, int(vif.device)),
        model=platform.nic_model(vm),
    )


# --- processors and clock --------------------------------------------------------------------------------------------


def _integer(text: str | None, default: int = 0) -> int:
    return int(text) if text is not None and _INTEGER.fullmatch(text) else default


def _parameter(vm: VM, key: str, valid: range) -> int | None:
    """A number of VCPUs_params; what is not one counts as not set, as in the reference."""
    value = _integer(vm.VCPUs_params.get(key))
    return value if value in valid else None


def _mask(vm: VM, host: Host | None) -> Sequence[int] | None:
    """The host CPUs that the VM may use: its own mask within that of the host's guests.

    `1,2;3` gives the first virtual CPU 1 and 2 and the second 3; here each may use all that are named.
    """
    own = _cpus(vm.VCPUs_params.get("mask"))
    of_host = _cpus(host.guest_VCPUs_params.get("mask")) if host is not None else set()
    if own and of_host:
        # Outside of it there is no place at all: the host's mask wins, where the two have nothing in common.
        own = own & of_host or of_host
    return sorted(own or of_host) or None


def _cpus(text: str | None) -> set[int]:
    numbers = re.split("[,;]", text.replace(" ", "")) if text else []
    if not all(re.fullmatch("[0-9]{1,5}", number) for number in numbers):
        return set()
    return {int(number) for number in numbers}


def _clock_offset(db: Database, vm: VM, vbds: Sequence[VBD]) -> int:
    """platform:timeoffset; a disk that is reset at each boot and has an offset of its own overrides it.

    Windows keeps on its disk whether it has changed the clock for summer time: both must go back together.
    """
    vdis = [vdi for vbd in vbds if not vbd.empty and (vdi := db.find(VDI, vbd.VDI)) is not None]
    resetting = [vdi for vdi in vdis if vdi.on_boot == "reset" and "timeoffset" in vdi.other_config]
    if len(resetting) > 1:
        code = "VM_ATTACHED_TO_MORE_THAN_ONE_VDI_WITH_TIMEOFFSET_MARKED_AS_RESET_ON_BOOT"
        raise Failure(code, vm.ref, *(vdi.ref for vdi in resetting))
    source = resetting[0].other_config if resetting else vm.platform
    return _integer(source.get("timeoffset"))
