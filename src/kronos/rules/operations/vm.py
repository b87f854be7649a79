"""Which operations a VM may start.

Order and errors are those of the reference's central check; a client sees the first obstacle only, and tests for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import (
    PGPU,
    VBD,
    VDI,
    VGPU,
    VM,
    VMPP,
    VMSS,
    VGPU_type,
    VM_appliance,
    VM_guest_metrics,
    VM_metrics,
)
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, in_progress
from kronos.rules.surroundings import LIVE, has_drivers, is_domain_zero, is_true, pool, upgrading

OPERATIONS = enumerated("vm_operations")
EVERY = frozenset(OPERATIONS)

# Valid, but never shown in allowed_operations.
UNLISTED = frozenset(
    "create_template power_state_reset csvm get_boot_record send_sysrq send_trigger query_services shutdown call_plugin"
    " changing_memory_live awaiting_memory_live changing_memory_limits changing_shadow_memory_live changing_VCPUs"
    " assert_operation_valid data_source_op update_allowed_operations import reverting".split()
)
LISTED = tuple(name for name in OPERATIONS if name not in UNLISTED)

# The states an operation can start in, in the order that VM_BAD_POWER_STATE names them. Suspended VMs may be cloned
# and control domains resized in more states: see _suited.
_BY_STATES: dict[tuple[str, ...], str] = {
    (): "import",
    (
        "Halted",
    ): "changing_VCPUs changing_static_range changing_memory_limits changing_shadow_memory changing_NVRAM"
    " make_into_template provision start start_on create_vtpm clone copy",
    ("Paused",): "unpause",
    ("Suspended",): "csvm resume resume_on",
    ("Running",): "awaiting_memory_live call_plugin clean_reboot clean_shutdown changing_memory_live"
    " changing_shadow_memory_live changing_VCPUs_live data_source_op pause pool_migrate send_sysrq send_trigger"
    " snapshot_with_quiesce sysprep suspend",
    ("Halted", "Running"): "changing_dynamic_range",
    ("Halted", "Suspended"): "create_template destroy export",
    ("Paused", "Running"): "hard_reboot",
    ("Paused", "Suspended", "Running"): "checkpoint get_boot_record shutdown hard_shutdown",
    ("Halted", "Suspended", "Running"): "migrate_send",
    (
        "Halted",
        "Paused",
        "Suspended",
        "Running",
    ): "assert_operation_valid metadata_export power_state_reset revert"
    " reverting snapshot update_allowed_operations query_services",
}
POWER_STATES = {name: states for states, names in _BY_STATES.items() for name in names.split()}
_UNSUITED = {
    state: frozenset(name for name, states in POWER_STATES.items() if state not in states)
    for state in enumerated("vm_power_state")
}
_RESIZED_WHILE_RUNNING = frozenset({"changing_VCPUs", "changing_static_range", "changing_memory_limits"})
_COPIED = frozenset({"clone", "copy"})

# Any of a set may run beside any other of it.
_TOGETHER = (
    frozenset({"clone", "copy", "export"}),
    frozenset({"snapshot", "checkpoint"}),
    frozenset({"get_boot_record"}),
)
# What may start while exactly this runs.
_DURING = {
    "snapshot_with_quiesce": frozenset({"snapshot"}),
    "migrate_send": frozenset({"metadata_export", "clean_shutdown", "clean_reboot"}),
}

_OF_TEMPLATES = frozenset(
    "changing_dynamic_range changing_static_range changing_memory_limits changing_shadow_memory changing_VCPUs"
    " changing_NVRAM clone copy export metadata_export provision".split()
)
_OF_OWN_TEMPLATES = _OF_TEMPLATES | {"destroy", "migrate_send"}
_OF_SNAPSHOTS = frozenset(
    {"revert", "clone", "copy", "export", "destroy", "hard_shutdown", "metadata_export"}
)
_OF_CONTROL_DOMAINS = frozenset(
    "data_source_op changing_memory_live awaiting_memory_live metadata_export changing_dynamic_range"
    " changing_memory_limits changing_static_range start start_on changing_VCPUs destroy".split()
)
_OF_UPGRADES = frozenset(
    "assert_operation_valid changing_memory_live changing_shadow_memory_live changing_VCPUs_live clean_reboot"
    " clean_shutdown clone copy csvm destroy export get_boot_record hard_reboot hard_shutdown import"
    " make_into_template migrate_send pause pool_migrate power_state_reset provision resume resume_on send_sysrq"
    " send_trigger start start_on suspend unpause update_allowed_operations".split()
)
_NOT_OF_OWN_TEMPLATES = EVERY - _OF_OWN_TEMPLATES
_NOT_OF_TEMPLATES = EVERY - _OF_TEMPLATES
_NOT_OF_SNAPSHOTS = EVERY - _OF_SNAPSHOTS
_NOT_OF_CONTROL_DOMAINS = EVERY - _OF_CONTROL_DOMAINS
_NOT_OF_UPGRADES = EVERY - _OF_UPGRADES
_MOVING = frozenset({"suspend", "checkpoint", "pool_migrate", "migrate_send"})
_KEEPING_DISKS = frozenset({"checkpoint", "snapshot", "suspend", "snapshot_with_quiesce"})

# Strictly, these need the guest's help: one of these features told by its agent.
_NEEDS_GUEST = {
    "clean_shutdown": ("feature-shutdown", "feature-poweroff"),
    "clean_reboot": ("feature-shutdown", "feature-reboot"),
}


def obstacles(db: Database, vm: VM, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it.

    `strict` is for allowed_operations: an operation whose success depends on the guest is then refused where the
    guest does not say that it will help.
    """
    if vm.blocked_operations:
        reasons = vm.blocked_operations
        yield Obstacle(reasons, lambda name: Failure("OPERATION_BLOCKED", vm.ref, reasons[name]))
    yield _power_state(db, vm)
    if vm.current_operations:
        current = vm.current_operations
        yield in_progress("VM", vm.ref, current.items(), EVERY - _beside(current))
    yield from _kind(vm)
    metrics = db.find(VM_metrics, vm.metrics)
    if strict:
        yield from _immobile(vm, metrics)
    if vm.is_control_domain:
        yield from _control_domain(db, vm)
    if vm.power_state in LIVE:
        yield from _guest(db, vm, metrics, strict=strict)
    yield bar({"snapshot_with_quiesce"}, "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref)
    yield from _disks(db, vm)
    yield from _passed_through(db, vm)
    yield from _memberships(db, vm)
    if not is_true(vm.other_config.get("is_system_domain")):
        yield bar({"query_services"}, "NOT_SYSTEM_DOMAIN", vm.ref)
    if upgrading(db):
        yield bar(_NOT_OF_UPGRADES, "NOT_SUPPORTED_DURING_UPGRADE")
    if vtpms := vm.VTPMs:
        yield bar({"create_vtpm"}, "VTPM_MAX_AMOUNT_REACHED", str(len(vtpms)))


def _power_state(db: Database, vm: VM) -> Obstacle:
    state = vm.power_state
    unsuited = _UNSUITED[state]
    if state == "Suspended" and _copied_suspended(db, vm):
        unsuited -= _COPIED
    elif state == "Running" and vm.is_control_domain:
        unsuited -= _RESIZED_WHILE_RUNNING

    def failure(name: str) -> Failure:
        expected = list(POWER_STATES[name])
        if name in _COPIED and _copied_suspended(db, vm):
            expected.append("Suspended")
        elif name in _RESIZED_WHILE_RUNNING and vm.is_control_domain:
            expected.append("Running")
        return Failure("VM_BAD_POWER_STATE", vm.ref, ", ".join(expected).lower(), state.lower())

    return Obstacle(unsuited, failure)


def _copied_suspended(db: Database, vm: VM) -> bool:
    if vm.is_a_snapshot:
        return True
    found = pool(db)
    return found is not None and found.other_config.get("allow_clone_suspended_vm") == "true"


def _beside(current: Mapping[str, str]) -> set[str]:
    """What may start while these run. Pulling the plug is always possible: whoever does it ends the others first."""
    running = set(current.values())
    beside: set[str] = set()
    for together in _TOGETHER:
        if running <= together:
            beside |= together
    if len(current) == 1:
        (only,) = running
        beside |= _DURING.get(only, frozenset())
    if "hard_shutdown" not in running:
        beside.add("hard_shutdown")
        if "hard_reboot" not in running:
            beside.add("hard_reboot")
    return beside


def _kind(vm: VM) -> Iterator[Obstacle]:
    """Templates, snapshots and VMs proper have operations of their own."""
    if vm.is_a_snapshot:
        yield Obstacle(_NOT_OF_SNAPSHOTS, lambda name: Failure("VM_IS_SNAPSHOT", vm.ref, name))
    elif vm.is_a_template:
        default = vm.is_default_template or is_true(vm.other_config.get("default_template"))
        barred = _NOT_OF_TEMPLATES if default else _NOT_OF_OWN_TEMPLATES
        yield Obstacle(barred, lambda name: Failure("VM_IS_TEMPLATE", vm.ref, name))
    else:
        yield bar({"provision"}, "PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
        yield bar({"revert"}, "REVERT_ONLY_ALLOWED_ON_SNAPSHOT")


def _immobile(vm: VM, metrics: VM_metrics | None) -> Iterator[Obstacle]:
    # What holds is what the running VM was started with; its metrics keep that.
    if metrics is not None:
        pinned, nested = metrics.nomigrate, metrics.nested_virt
    else:
        platform = vm.platform
        pinned, nested = is_true(platform.get("nomigrate")), is_true(platform.get("nested-virt"))
    if pinned or nested:
        yield bar(_MOVING, "VM_IS_IMMOBILE", vm.ref)
    if nested:
        yield bar({"changing_dynamic_range"}, "VM_IS_USING_NESTED_VIRT", vm.ref)


def _control_domain(db: Database, vm: VM) -> Iterator[Obstacle]:
    if is_domain_zero(db, vm):
        barred = {"changing_VCPUs", "destroy"}
        yield bar(barred, "OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
    text = "This operation is not allowed on a control domain"
    yield bar(_NOT_OF_CONTROL_DOMAINS, "OPERATION_NOT_ALLOWED", text)


def _guest(db: Database, vm: VM, metrics: VM_metrics | None, *, strict: bool) -> Iterator[Obstacle]:
    """A live guest may have to help; one that is paravirtual or has its drivers is taken to."""
    guest = db.find(VM_guest_metrics, vm.guest_metrics)
    told = guest.other if guest is not None else {}
    reason = told.get("data-cant-suspend-reason")
    if reason is not None:
        yield bar(_MOVING, "VM_NON_SUSPENDABLE", vm.ref, reason)
    paravirtual = metrics is not None and metrics.current_domain_type in ("pv", "pv_in_pvh", "pvh")
    if paravirtual or has_drivers(guest):
        return
    if strict:
        if told.get("feature-suspend") != "1":
            yield bar(_MOVING, "VM_LACKS_FEATURE", vm.ref)
        for name, sufficient in _NEEDS_GUEST.items():
            if all(told.get(feature) != "1" for feature in sufficient):
                yield bar({name}, "VM_LACKS_FEATURE", vm.ref)
    if told.get("feature-vcpu-hotplug") != "1":
        yield bar({"changing_VCPUs_live"}, "VM_LACKS_FEATURE", vm.ref)


def _disks(db: Database, vm: VM) -> Iterator[Obstacle]:
    """A disk that forgets at each boot must not live on in a snapshot."""
    resetting = cached = False
    for ref in vm.VBDs:
        vbd = db.find(VBD, ref)
        vdi = db.find(VDI, vbd.VDI) if vbd is not None else None
        if vdi is not None and (vdi.on_boot == "reset" or vdi.sm_config.get("on_boot") == "reset"):
            resetting = True
            cached = cached or is_true(vdi.sm_config.get("caching"))
    if resetting:
        yield bar(_KEEPING_DISKS, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    if cached:
        yield bar({"pool_migrate"}, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")


def _passed_through(db: Database, vm: VM) -> Iterator[Obstacle]:
    """Devices of the host that the guest holds cannot move with it."""
    gpus = [gpu for ref in vm.VGPUs if (gpu := db.find(VGPU, ref)) is not None]
    if vm.attached_PCIs:
        slices = {gpu.PCI for gpu in gpus if _implementation(db, gpu) == "nvidia_sriov"}
        if set(vm.attached_PCIs) - slices:
            yield bar(_MOVING, "VM_HAS_PCI_ATTACHED", vm.ref)
    if gpus and not all(_suspendable(db, gpu) for gpu in gpus):
        exempt = {"Halted": {"migrate_send"}, "Suspended": {"checkpoint"}}.get(vm.power_state, set())
        yield bar(_MOVING - exempt, "VM_HAS_VGPU", vm.ref)
    if vm.VUSBs:
        yield bar(_MOVING | {"snapshot"}, "VM_HAS_VUSBS", vm.ref)


def _implementation(db: Database, gpu: VGPU) -> str:
    found = db.find(VGPU_type, gpu.type)
    return found.implementation if found is not None else ""


def _suspendable(db: Database, gpu: VGPU) -> bool:
    card = db.find(PGPU, gpu.resident_on)
    known = card is not None and "nvidia" in card.compatibility_metadata
    return known and _implementation(db, gpu) in ("nvidia", "nvidia_sriov")


def _memberships(db: Database, vm: VM) -> Iterator[Obstacle]:
    """A template is in no appliance, policy or schedule."""
    if db.find(VM_appliance, vm.appliance) is not None:
        yield bar({"make_into_template"}, "VM_IS_PART_OF_AN_APPLIANCE", vm.ref, vm.appliance)
    if db.find(VMPP, vm.protection_policy) is not None:
        yield bar({"make_into_template"}, "VM_ASSIGNED_TO_PROTECTION_POLICY", vm.ref, vm.protection_policy)
    if db.find(VMSS, vm.snapshot_schedule) is not None:
        yield bar({"make_into_template"}, "VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE", vm.ref, vm.snapshot_schedule)
