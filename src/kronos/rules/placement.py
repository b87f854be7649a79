"""Placement: on which host a VM can run, and on which it will."""

from __future__ import annotations

from collections.abc import Callable

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import (
    PBD,
    PIF,
    VBD,
    VDI,
    VIF,
    VM,
    VUSB,
    Host,
    Host_metrics,
    Network,
    VM_group,
)
from kronos.rules import devices, memory, passthrough
from kronos.rules.surroundings import domain_type, is_true

Check = Callable[[Database, VM, Host], None]


def choose(db: Database, vm: VM) -> str:
    """The host that the VM is to start or resume on: the one it prefers, else the one with fewest VMs of its
    anti-affinity groups, and of those the one with most memory to spare.

    Raises what is wrong with the VM itself, HOST_NOT_ENOUGH_FREE_MEMORY [needed, available] where that alone is in
    the way on some host, and else NO_HOSTS_AVAILABLE.
    """
    assert_parameters(db, vm)
    fitting: list[Host] = []
    short_of_memory: list[Failure] = []
    for host in db.all(Host):
        found = _impediment(db, vm, host)
        if found is None:
            fitting.append(host)
        elif found.code == "HOST_NOT_ENOUGH_FREE_MEMORY":
            short_of_memory.append(found)
    if fitting:
        return min(fitting, key=lambda host: _rank(db, vm, host)).ref
    if short_of_memory:
        raise max(short_of_memory, key=lambda failure: int(failure.params[1]))
    raise Failure("NO_HOSTS_AVAILABLE")


def possible_hosts(db: Database, vm: VM) -> tuple[str, ...]:
    """VM.get_possible_hosts: every host that the VM could run on now."""
    return tuple(ref for ref, found in impediments(db, vm).items() if found is None)


def impediments(db: Database, vm: VM) -> dict[str, Failure | None]:
    """For each host what keeps the VM from running there, None where nothing does."""
    return {host.ref: _impediment(db, vm, host) for host in db.all(Host)}


def assert_can_boot_here(db: Database, vm: VM, host: Host, *, with_memory: bool = True) -> None:
    """Whether the VM can run on a host; `with_memory` False leaves out whether there is room for it now.

    Raises what is wrong with the VM itself, HOST_NOT_LIVE, HOST_DISABLED [host], VM_REQUIRES_SR [vm, sr],
    VM_REQUIRES_NETWORK [vm, network], VM_HVM_REQUIRED [vm], HOST_NOT_ENOUGH_FREE_MEMORY [needed, available],
    HOST_NOT_ENOUGH_PCPUS [vcpus, pcpus], VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION,
    OPERATION_NOT_ALLOWED.
    """
    assert_parameters(db, vm)
    for check in _CHECKS:
        check(db, vm, host)
    if with_memory:
        _memory(db, vm, host)
    _processors(db, vm, host)


def _impediment(db: Database, vm: VM, host: Host) -> Failure | None:
    if "evacuate" in host.current_operations.values():
        return Failure("HOST_DISABLED", host.ref)
    try:
        assert_can_boot_here(db, vm, host)
    except Failure as failure:
        return failure
    return None


def _rank(db: Database, vm: VM, host: Host) -> tuple[bool, int, int]:
    return (vm.affinity != host.ref, _neighbours(db, vm, host), -memory.free(db, host, ignoring=vm.ref))


def _neighbours(db: Database, vm: VM, host: Host) -> int:
    """How many VMs that this one is to be apart from are on the host, or about to be."""
    others: set[str] = set()
    for ref in vm.groups:
        group = db.find(VM_group, ref)
        if group is not None and group.placement == "anti_affinity":
            others.update(group.VMs)
    members = [other for ref in others - {vm.ref} if (other := db.find(VM, ref)) is not None]
    return sum(host.ref in (other.resident_on, other.scheduled_to_be_resident_on) for other in members)


# --- the VM itself ---------------------------------------------------------------------------------------------------


def assert_parameters(db: Database, vm: VM) -> None:
    """Whether the VM's record describes something that can run anywhere.

    Raises INVALID_VALUE [field, value], VALUE_NOT_SUPPORTED [field, value, reason], MEMORY_CONSTRAINT_VIOLATION.
    """
    most, at_startup = vm.VCPUs_max, vm.VCPUs_at_startup
    if most < 1:
        raise Failure("INVALID_VALUE", "VCPUs_max", str(most))
    if at_startup < 1:
        raise Failure("INVALID_VALUE", "VCPUs-at-startup", str(at_startup))
    if at_startup > most:
        raise Failure(
            "VALUE_NOT_SUPPORTED", "VCPUs-at-startup", str(at_startup), "value greater than VCPUs-max"
        )
    memory.Limits.of(vm).coerced()
    if vm.HVM_shadow_multiplier < 1.0:
        raise Failure("INVALID_VALUE", "HVM_shadow_multiplier", f"{vm.HVM_shadow_multiplier:g}")
    action = vm.actions_after_crash
    if action == "rename_restart":
        reason = "option would leak a domain; VMs and not domains are managed by this API"
        raise Failure("VALUE_NOT_SUPPORTED", "VM.actions_after_crash", action, reason)
    if action.startswith("coredump_") and domain_type(db, vm) != "pv":
        reason = "cannot invoke a coredump of an HVM, PVH or PV-in-PVH domain"
        raise Failure("VALUE_NOT_SUPPORTED", "VM.actions_after_crash", action, reason)


# --- the host --------------------------------------------------------------------------------------------------------


def _live(db: Database, vm: VM, host: Host) -> None:
    metrics = db.find(Host_metrics, host.metrics)
    if metrics is None or not metrics.live:
        raise Failure("HOST_NOT_LIVE")


def _affinity(db: Database, vm: VM, host: Host) -> None:
    if vm.is_control_domain and db.find(Host, vm.affinity) not in (None, host):
        text = "Cannot boot a control domain on a host different from its affinity"
        raise Failure("OPERATION_NOT_ALLOWED", text)


def _enabled(db: Database, vm: VM, host: Host) -> None:
    # One that reboots keeps its place while it is down.
    moves_within = vm.power_state == "Running" and vm.resident_on == host.ref
    moves_within = moves_within or vm.scheduled_to_be_resident_on == host.ref
    # A system domain is part of what makes a host work, and may be needed before the host is enabled.
    serves = vm.is_control_domain or is_true(vm.other_config.get("is_system_domain"))
    if not (host.enabled or serves or moves_within):
        raise Failure("HOST_DISABLED", host.ref)


def _virtual_hardware(db: Database, vm: VM, host: Host) -> None:
    versions = host.virtual_hardware_platform_versions or (0,)
    if vm.hardware_platform_version not in versions:
        shown = f"[{'; '.join(str(version) for version in versions)}]"
        code = "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION"
        raise Failure(code, host.ref, shown, vm.ref, str(vm.hardware_platform_version))


def _storage(db: Database, vm: VM, host: Host) -> None:
    refs = [vbd.VDI for ref in vm.VBDs if (vbd := db.find(VBD, ref)) is not None and not vbd.empty]
    if vm.power_state == "Suspended":
        refs.append(vm.suspend_VDI)
    pbds = [pbd for ref in host.PBDs if (pbd := db.find(PBD, ref)) is not None]
    reachable = {pbd.SR for pbd in pbds if pbd.currently_attached}
    for ref in refs:
        vdi = db.find(VDI, ref)
        if vdi is not None and vdi.SR not in reachable:
            raise Failure("VM_REQUIRES_SR", vm.ref, vdi.SR)


def _networks(db: Database, vm: VM, host: Host) -> None:
    for ref in vm.VIFs:
        vif = db.find(VIF, ref)
        network = db.find(Network, vif.network) if vif is not None else None
        if network is not None and not _reaches(db, network, host):
            raise Failure("VM_REQUIRES_NETWORK", vm.ref, network.ref)


def _reaches(db: Database, network: Network, host: Host) -> bool:
    """Whether the network is on the host. One without a PIF is where its running VMs are, as it joins them alone."""
    pifs = [pif for ref in network.PIFs if (pif := db.find(PIF, ref)) is not None]
    if pifs:
        return any(pif.host == host.ref for pif in pifs)
    if not network.managed or network.other_config.get("assume_network_is_shared") == "true":
        return True
    if len(db.tables["host"].rows) == 1:
        return True  # wherever they run, it is here
    elsewhere = False
    for ref in network.VIFs:
        vif = db.find(VIF, ref)
        vm = db.find(VM, vif.VM) if vif is not None else None
        if vm is not None and vm.power_state == "Running":
            if vm.resident_on == host.ref:
                return True
            elsewhere = True
    return not elsewhere


def _usb(db: Database, vm: VM, host: Host) -> None:
    for ref in vm.VUSBs:
        vusb = db.find(VUSB, ref)
        if vusb is not None:
            devices.usb_of(db, vusb, host)


def _passed_through(db: Database, vm: VM, host: Host) -> None:
    passthrough.passed(db, vm, host)


def _hardware_virtualisation(db: Database, vm: VM, host: Host) -> None:
    if domain_type(db, vm) != "pv" and not any(text.startswith("hvm") for text in host.capabilities):
        raise Failure("VM_HVM_REQUIRED", vm.ref)


def _memory(db: Database, vm: VM, host: Host) -> None:
    needed = memory.needed(db, vm, host)
    available = memory.free(db, host, ignoring=vm.ref)
    if available < needed:
        raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(available))


def _processors(db: Database, vm: VM, host: Host) -> None:
    count = host.cpu_info.get("cpu_count", "")
    if not count.isdecimal() or is_true(vm.platform.get("vcpu-unrestricted")):
        return
    if vm.VCPUs_max > int(count):
        raise Failure("HOST_NOT_ENOUGH_PCPUS", str(vm.VCPUs_max), count)


# In the reference's order: a client is told of the first.
_CHECKS: tuple[Check, ...] = (
    _live,
    _affinity,
    _enabled,
    _virtual_hardware,
    _storage,
    _networks,
    _passed_through,
    _usb,
    _hardware_virtualisation,
)
