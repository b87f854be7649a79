"""What is done to a VM's virtual machine itself: its sleep, its emulator, its keys; on one that runs."""

from __future__ import annotations

from kronos.api.vm.naming import named_by_reference
from kronos.datamodel.errors import Failure
from kronos.db.records import VM
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules.surroundings import domain_type


@message("VM.send_sysrq", holds="send_sysrq")
def send_sysrq(call: Call, vm: str, key: str) -> None:
    """Raises NOT_IMPLEMENTED [send_sysrq], as the reference does for a VM that runs."""
    raise Failure("NOT_IMPLEMENTED", "send_sysrq")


@message("VM.send_trigger", holds="send_trigger")
def send_trigger(call: Call, vm: str, trigger: str) -> None:
    """Raises NOT_IMPLEMENTED [send_trigger], as the reference does for a VM that runs."""
    raise Failure("NOT_IMPLEMENTED", "send_trigger")


@message("VM.add_to_VCPUs_params_live", holds="changing_VCPUs_live")
def add_to_VCPUs_params_live(call: Call, self: str, key: str, value: str) -> None:
    """Raises NOT_IMPLEMENTED [add_to_VCPUs_params_live], as the reference does for a VM that runs."""
    raise Failure("NOT_IMPLEMENTED", "add_to_VCPUs_params_live")


@message("VM.set_shadow_multiplier_live", holds="changing_shadow_memory_live")
def set_shadow_multiplier_live(call: Call, self: str, multiplier: float) -> None:
    """Write down how much a running VM's shadow page tables may take; they grow by themselves as far as that.

    A paravirtual VM has none, and keeps its multiplier. Raises INVALID_VALUE [multiplier, value] below 1.
    """
    row = call.db.get(VM, self)
    if not multiplier >= 1.0:
        raise Failure("INVALID_VALUE", "multiplier", str(multiplier))
    if domain_type(call.db, row) == "hvm":
        row.HVM_shadow_multiplier = multiplier


@message("VM.s3_suspend")
def s3_suspend(call: Call, vm: str) -> None:
    """Have a running guest sleep with its memory powered; to XenAPI it runs on.

    Raises VM_BAD_POWER_STATE, VM_MISSING_PV_DRIVERS [vm] where nobody in the guest would do it, VM_LACKS_FEATURE [vm].
    """
    row = call.db.get(VM, vm)
    _assert_runs(row)
    with named_by_reference(row):
        call.machine.hypervisor.sleep(row.uuid)


@message("VM.s3_resume")
def s3_resume(call: Call, vm: str) -> None:
    """Wake a guest that sleeps; nothing happens to one that does not. Raises VM_BAD_POWER_STATE, VM_LACKS_FEATURE."""
    row = call.db.get(VM, vm)
    _assert_runs(row)
    with named_by_reference(row):
        call.machine.hypervisor.rouse(row.uuid)


def _assert_runs(vm: VM) -> None:
    if vm.power_state != "Running":
        raise Failure("VM_BAD_POWER_STATE", vm.ref, "running", vm.power_state.lower())


@message("VM.restart_device_models")
def restart_device_models(call: Call, self: str) -> None:
    """Give a running VM a new emulator, on its own host: the guest is suspended, and resumed by the new one.

    Raises VM_BAD_POWER_STATE [vm, Running, state], and what VM.pool_migrate does.
    """
    row = call.db.get(VM, self)
    if row.power_state != "Running":
        # The states have capitals here, as in the reference.
        raise Failure("VM_BAD_POWER_STATE", self, "Running", row.power_state)
    call.invoke("VM.pool_migrate", self, row.resident_on, {"live": "false"})
