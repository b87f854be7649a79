"""VM's settings: memory, processors and the fields whose setters check something."""

from __future__ import annotations

import time
from typing import Any

from kronos.api.vm.state import metrics_of
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db.records import VM, VUSB, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.workers import only_waiting
from kronos.rules import memory, operations
from kronos.rules.surroundings import domain_type, is_domain_zero

LIVE = ("Running", "Paused")

MEMORY_PATIENCE = 256.0
"""Seconds that a balloon may take; XenServer's default."""
MEMORY_TOLERANCE = 1 << 20
"""Bytes by which a guest may miss its target."""


def _vm(call: Call, ref: str) -> VM:
    return call.db.get(VM, ref)


def _write(call: Call, vm: VM, **fields: Any) -> None:
    call.db.write(vm, fields)


def _assert(call: Call, vm: VM, operation: str) -> None:
    """Raises what keeps an operation from starting now."""
    failure = operations.refusal(call.db, vm, operation)
    if failure is not None:
        raise failure


# --- memory ----------------------------------------------------------------------------------------------------------


def set_limits(call: Call, vm: VM, operation: str, **limits: int) -> None:
    """Change some of the four memory limits (bytes), if together they are in order.

    Raises MEMORY_CONSTRAINT_VIOLATION_ORDER.
    """
    _assert(call, vm, operation)
    wanted = memory.Limits.of(vm)._replace(**limits)
    wanted.assert_valid(vm)
    with call.db.transaction():
        call.db.write(vm, {f"memory_{name}": value for name, value in wanted._asdict().items()})
        note_overhead(call, vm)
    if vm.power_state in LIVE and wanted.dynamic_max != vm.memory_target:
        set_target(call, vm, wanted.dynamic_max)


def set_target(call: Call, vm: VM, target: int) -> None:
    """Ask a live guest's balloon for a size. Raises VM_LACKS_FEATURE."""
    try:
        call.machine.hypervisor.set_memory_target(vm.uuid, target)
    except Failure as failure:
        raise Failure(failure.code, *(vm.ref if p == vm.uuid else p for p in failure.params)) from failure
    vm.memory_target = target


@message("VM.set_memory_limits")
def set_memory_limits(
    call: Call, self: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    """Set all four limits of a halted VM, in bytes."""
    set_limits(
        call,
        _vm(call, self),
        "changing_memory_limits",
        static_min=static_min,
        static_max=static_max,
        dynamic_min=dynamic_min,
        dynamic_max=dynamic_max,
    )


@message("VM.set_memory")
def set_memory(call: Call, self: str, value: int) -> None:
    """Give a halted VM exactly this much memory."""
    vm = _vm(call, self)
    low = min(vm.memory_static_min, value)
    set_limits(
        call,
        vm,
        "changing_memory_limits",
        static_min=low,
        static_max=value,
        dynamic_min=value,
        dynamic_max=value,
    )


@message("VM.set_memory_static_range")
def set_memory_static_range(call: Call, self: str, min: int, max: int) -> None:
    set_limits(call, _vm(call, self), "changing_static_range", static_min=min, static_max=max)


@message("VM.set_memory_dynamic_range")
def set_memory_dynamic_range(call: Call, self: str, min: int, max: int) -> None:
    set_limits(call, _vm(call, self), "changing_dynamic_range", dynamic_min=min, dynamic_max=max)


@message("VM.set_memory_static_max")
def set_memory_static_max(call: Call, self: str, value: int) -> None:
    set_limits(call, _vm(call, self), "changing_static_range", static_max=value)


@message("VM.set_memory_static_min")
def set_memory_static_min(call: Call, self: str, value: int) -> None:
    set_limits(call, _vm(call, self), "changing_static_range", static_min=value)


@message("VM.set_memory_dynamic_max")
def set_memory_dynamic_max(call: Call, self: str, value: int) -> None:
    set_limits(call, _vm(call, self), "changing_dynamic_range", dynamic_max=value)


@message("VM.set_memory_dynamic_min")
def set_memory_dynamic_min(call: Call, self: str, value: int) -> None:
    set_limits(call, _vm(call, self), "changing_dynamic_range", dynamic_min=value)


@message("VM.set_memory_target_live", holds="changing_memory_live")
def set_memory_target_live(call: Call, self: str, target: int) -> None:
    """Ask a running guest's balloon for a size, in bytes."""
    set_target(call, _vm(call, self), target)


@message("VM.wait_memory_target_live", holds="awaiting_memory_live")
def wait_memory_target_live(call: Call, self: str) -> None:
    """Wait until a guest has the memory that it was asked to have, to a MiB.

    Raises VM_MEMORY_TARGET_WAIT_TIMEOUT [task] after four minutes, TASK_CANCELLED.
    """
    vm = _vm(call, self)
    until = time.monotonic() + MEMORY_PATIENCE
    pause = 0.05
    while abs(metrics_of(call.db, vm).memory_actual - vm.memory_target) > MEMORY_TOLERANCE:
        call.task.check()
        if time.monotonic() > until:
            raise Failure("VM_MEMORY_TARGET_WAIT_TIMEOUT", call.task.ref)
        with only_waiting():
            time.sleep(pause)
        pause = min(2 * pause, 2.0)


@message("VM.compute_memory_overhead")
def compute_memory_overhead(call: Call, vm: str) -> int:
    """Bytes that the host needs for this VM beyond the guest's own memory."""
    row = _vm(call, vm)
    return memory.overhead(row, memory.hypervisor_of(call.host), domain_type(call.db, row))


def note_overhead(call: Call, vm: VM) -> None:
    """Write down what the host needs for a VM beside the guest's own memory; placement counts it anew."""
    vm.memory_overhead = compute_memory_overhead(call, vm.ref)


@message("VM.maximise_memory")
def maximise_memory(call: Call, self: str, total: int, approximate: bool) -> int:
    """The most memory that this VM could have if host and overhead shared `total` bytes."""
    row = _vm(call, self)
    overhead = memory.overhead(row, memory.hypervisor_of(call.host), domain_type(call.db, row))
    return max(0, total - overhead)


# --- processors ------------------------------------------------------------------------------------------------------


def _assert_processors(at_startup: int, most: int, value: int) -> None:
    """Raises INVALID_VALUE [rule, value]."""
    if not 0 < at_startup <= most:
        rule = "VCPUs_at_startup must be above 0 and no greater than VCPUs_max"
        raise Failure("INVALID_VALUE", rule, str(value))


@message("VM.set_VCPUs_max")
def set_VCPUs_max(call: Call, self: str, value: int) -> None:
    """Raises INVALID_VALUE [rule, value]."""
    vm = _vm(call, self)
    _assert(call, vm, "changing_VCPUs")
    _assert_processors(vm.VCPUs_at_startup, value, value)
    with call.db.transaction():
        _write(call, vm, VCPUs_max=value)
        note_overhead(call, vm)


@message("VM.set_VCPUs_at_startup")
def set_VCPUs_at_startup(call: Call, self: str, value: int) -> None:
    """How many processors the VM begins its next run with: of a running one too, whose clients change those of this run
    beside (set_VCPUs_number_live).

    Raises INVALID_VALUE [rule, value], OPERATION_NOT_ALLOWED for the control domain.
    """
    vm = _vm(call, self)
    if is_domain_zero(call.db, vm):
        raise Failure("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
    _assert_processors(value, vm.VCPUs_max, value)
    _write(call, vm, VCPUs_at_startup=value)


@message("VM.set_VCPUs_number_live", holds="changing_VCPUs_live")
def set_VCPUs_number_live(call: Call, self: str, nvcpu: int) -> None:
    """Change the number of processors of a running VM. Raises VALUE_NOT_SUPPORTED, VM_LACKS_FEATURE."""
    vm = _vm(call, self)
    if not 0 < nvcpu <= vm.VCPUs_max:
        raise Failure(
            "VALUE_NOT_SUPPORTED", "VCPUs", str(nvcpu), "must be above 0 and no greater than VCPUs_max"
        )
    call.machine.hypervisor.set_vcpus(vm.uuid, nvcpu)
    metrics_of(call.db, vm).VCPUs_number = nvcpu
    vm.VCPUs_at_startup = nvcpu


# --- the rest --------------------------------------------------------------------------------------------------------


@message("VM.set_HVM_boot_policy")
def set_HVM_boot_policy(call: Call, self: str, value: str) -> None:
    """The old way to say what a VM runs as: empty for paravirtual, anything else for hardware-assisted."""
    vm = _vm(call, self)
    fitting = ("hvm", "unspecified") if value else ("pv", "pv_in_pvh", "pvh")
    kind = vm.domain_type if vm.domain_type in fitting else fitting[0]
    _write(call, vm, HVM_boot_policy=value, domain_type=kind)


@message("VM.set_domain_type")
def set_domain_type(call: Call, self: str, value: str) -> None:
    """Raises INVALID_VALUE [field, value] for what says nothing."""
    vm = _vm(call, self)
    if value == "unspecified":
        raise Failure("INVALID_VALUE", "domain_type", value)
    policy = (vm.HVM_boot_policy or "BIOS order") if value == "hvm" else ""
    _write(call, vm, domain_type=value, HVM_boot_policy=policy)


@message("VM.set_actions_after_crash")
def set_actions_after_crash(call: Call, self: str, value: str) -> None:
    _write(call, _vm(call, self), actions_after_crash=value)


@message("VM.set_is_a_template")
def set_is_a_template(call: Call, self: str, value: bool) -> None:
    """Make a template of a halted VM, which leaves its group and its USB devices behind; or a VM of a template.

    Raises VM_BAD_POWER_STATE, VM_IS_TEMPLATE, VM_IS_PART_OF_AN_APPLIANCE, VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE.
    """
    vm = _vm(call, self)
    if not value:
        with call.db.transaction():
            vm.is_a_template = False
            call.db.write(metrics_of(call.db, vm), {"install_time": now()})
        return
    with call.pipeline.holds.hold(vm, "make_into_template", call.task), call.db.transaction():
        for ref in vm.VUSBs:
            call.db.delete(call.db.get(VUSB, ref))
        call.db.write(vm, {"is_a_template": True, "ha_always_run": False, "groups": ()})


DEFAULT = "default_template"
"""The key of other_config that marked a default template before there was a field: clients look at either."""


@message("VM.set_is_default_template")
def set_is_default_template(call: Call, vm: str, value: bool) -> None:
    """Make a template one of those that the pool came with, or no longer. A VM becomes a template first, which raises
    what VM.set_is_a_template does."""
    row = _vm(call, vm)
    if value and not row.is_a_template:
        set_is_a_template(call, vm, True)
    marked = row.other_config | {DEFAULT: "true" if value else "false"}
    _write(call, row, is_default_template=value, other_config=marked)


@message("VM.set_has_vendor_device")
def set_has_vendor_device(call: Call, self: str, value: bool) -> None:
    """Raises VM_BAD_POWER_STATE for a VM that is not halted."""
    vm = _vm(call, self)
    if vm.power_state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm.ref, "halted", vm.power_state.lower())
    _write(call, vm, has_vendor_device=value)


@message("VM.set_HVM_shadow_multiplier")
def set_HVM_shadow_multiplier(call: Call, self: str, value: float) -> None:
    """Raises INVALID_VALUE [name, value] below 1."""
    vm = _vm(call, self)
    _assert(call, vm, "changing_shadow_memory")
    if value < 1.0:
        raise Failure("INVALID_VALUE", "multiplier", str(value))
    with call.db.transaction():
        _write(call, vm, HVM_shadow_multiplier=value)
        note_overhead(call, vm)


@message("VM.set_ha_restart_priority")
def set_ha_restart_priority(call: Call, self: str, value: str) -> None:
    """Whether the VM is to be started again where its host fails; one that runs is protected at once, or no longer.

    Raises INVALID_VALUE [field, value].
    """
    if value not in ("restart", "best-effort", ""):
        raise Failure("INVALID_VALUE", "ha_restart_priority", value)
    vm = _vm(call, self)
    protected = {"ha_always_run": value == "restart"} if vm.power_state == "Running" else {}
    if value != vm.ha_restart_priority:
        _write(call, vm, ha_restart_priority=value, **protected)


@message("VM.set_ha_always_run")
def set_ha_always_run(call: Call, self: str, value: bool) -> None:
    """The old way to say it."""
    set_ha_restart_priority(call, self, "restart" if value else "")


def _set_number(call: Call, ref: str, field: str, value: int) -> None:
    if value < 0:
        raise Failure("INVALID_VALUE", f"{field} must not be negative", str(value))
    _write(call, _vm(call, ref), **{field: value})


@message("VM.set_start_delay")
def set_start_delay(call: Call, self: str, value: int) -> None:
    """Seconds to wait after starting this VM before the next in order."""
    _set_number(call, self, "start_delay", value)


@message("VM.set_shutdown_delay")
def set_shutdown_delay(call: Call, self: str, value: int) -> None:
    """Seconds to wait before shutting this VM down, in an appliance."""
    _set_number(call, self, "shutdown_delay", value)


@message("VM.set_order")
def set_order(call: Call, self: str, value: int) -> None:
    """This VM's place in the start order of its appliance or host."""
    _set_number(call, self, "order", value)


@message("VM.set_bios_strings")
def set_bios_strings(call: Call, self: str, value: dict[str, str]) -> None:
    """Raises VM_BIOS_STRINGS_ALREADY_SET, INVALID_VALUE for strings that no BIOS could hold."""
    vm = _vm(call, self)
    if vm.bios_strings:
        raise Failure("VM_BIOS_STRINGS_ALREADY_SET")
    for key, text in value.items():
        if len(text) > 512 or not text.isprintable():
            raise Failure("INVALID_VALUE", key, text)
    _write(call, vm, bios_strings=value)


@message("VM.copy_bios_strings")
def copy_bios_strings(call: Call, vm: str, host: str) -> None:
    """Give a VM the BIOS strings of a host, which it is to run on then. Raises VM_BIOS_STRINGS_ALREADY_SET."""
    row = _vm(call, vm)
    if row.bios_strings:
        raise Failure("VM_BIOS_STRINGS_ALREADY_SET")
    there = call.db.get(Host, host)
    _write(call, row, bios_strings=there.bios_strings, affinity=there.ref)


@message("VM.set_suspend_VDI")
def set_suspend_VDI(call: Call, self: str, value: str) -> None:
    """Raises VM_BAD_POWER_STATE for a VM that is not suspended."""
    vm = _vm(call, self)
    if vm.power_state != "Suspended":
        raise Failure("VM_BAD_POWER_STATE", vm.ref, "suspended", vm.power_state.lower())
    _write(call, vm, suspend_VDI=value)


@message("VM.set_appliance")
def set_appliance(call: Call, self: str, value: str) -> None:
    """Raises OPERATION_NOT_ALLOWED for what no appliance could start."""
    vm = _vm(call, self)
    if vm.is_control_domain or vm.is_a_template or vm.is_a_snapshot:
        text = "Control domains, templates and snapshots cannot be in an appliance"
        raise Failure("OPERATION_NOT_ALLOWED", text)
    _write(call, vm, appliance=value)


@message("VM.set_NVRAM")
def set_NVRAM(call: Call, self: str, value: dict[str, str]) -> None:
    vm = _vm(call, self)
    _assert(call, vm, "changing_NVRAM")
    _write(call, vm, NVRAM=value)


@message("VM.add_to_NVRAM")
def add_to_NVRAM(call: Call, self: str, key: str, value: str) -> None:
    """Raises MAP_DUPLICATE_KEY."""
    vm = _vm(call, self)
    _assert(call, vm, "changing_NVRAM")
    if key in vm.NVRAM:
        raise Failure("MAP_DUPLICATE_KEY", "VM", "NVRAM", self, key)
    _write(call, vm, NVRAM=vm.NVRAM | {key: value})


@message("VM.remove_from_NVRAM")
def remove_from_NVRAM(call: Call, self: str, key: str) -> None:
    vm = _vm(call, self)
    _assert(call, vm, "changing_NVRAM")
    _write(call, vm, NVRAM={k: v for k, v in vm.NVRAM.items() if k != key})


@message("VM.assert_operation_valid")
def assert_operation_valid(call: Call, self: str, op: str) -> None:
    """Raises what would keep the operation from starting now."""
    _assert(call, _vm(call, self), op)


@message("VM.update_allowed_operations")
def update_allowed_operations(call: Call, self: str) -> None:
    vm = _vm(call, self)
    _write(call, vm, allowed_operations=operations.allowed(call.db, vm))
