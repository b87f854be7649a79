"""VM_appliance: VMs that start and end together, in the order that each names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from kronos.api.vm.recovery import assert_session_allows, assert_storage, refuse
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, VM_appliance
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.together import all_of
from kronos.rules import recovery


def _members(call: Call, appliance: str) -> list[VM]:
    refs = call.db.get(VM_appliance, appliance).VMs
    return [vm for vm in (call.db.find(VM, ref) for ref in refs) if vm is not None]


def _bring(
    call: Call, appliance: str, name: str, wanted: str, arguments: Callable[[VM], tuple[object, ...]]
) -> None:
    """Bring every VM that is not there yet to a power state: those of one order together, then the next.

    What one VM refuses does not keep the others. Raises OPERATION_PARTIALLY_FAILED [operation, vm, …], TASK_CANCELLED.
    """
    operation = name.removeprefix("VM.")
    chosen = [vm for vm in _members(call, appliance) if vm.power_state != wanted]
    falling = wanted == "Halted"
    chosen.sort(key=lambda vm: vm.order, reverse=falling)
    done = 0
    for _, group in groupby(chosen, key=lambda vm: vm.order):
        call.task.check()
        together = list(group)
        all_of(call, name, [arguments(vm) for vm in together])
        done += len(together)
        call.task.progress(done / len(chosen))
    failed = [vm.ref for vm in chosen if vm.power_state != wanted]
    if failed:
        raise Failure("OPERATION_PARTIALLY_FAILED", f"VM_appliance.{operation}", *failed)


@message("VM_appliance.start", holds="start")
def start(call: Call, self: str, paused: bool) -> None:
    """Start the VMs, those of the lowest order first; each has its start_delay before the next order begins.

    Raises OPERATION_PARTIALLY_FAILED [operation, vm, …].
    """
    wanted = "Paused" if paused else "Running"
    _bring(call, self, "VM.start", wanted, lambda vm: (vm.ref, paused, False))


@message("VM_appliance.clean_shutdown", holds="clean_shutdown")
def clean_shutdown(call: Call, self: str) -> None:
    """Have the guests shut themselves down, those of the highest order first; shutdown_delay comes before the next.

    Raises OPERATION_PARTIALLY_FAILED [operation, vm, …].
    """
    _bring(call, self, "VM.clean_shutdown", "Halted", lambda vm: (vm.ref,))


@message("VM_appliance.hard_shutdown", holds="hard_shutdown")
def hard_shutdown(call: Call, self: str) -> None:
    """Cut the VMs' power, those of the highest order first. Raises OPERATION_PARTIALLY_FAILED [operation, vm, …]."""
    _bring(call, self, "VM.hard_shutdown", "Halted", lambda vm: (vm.ref,))


@message("VM_appliance.shutdown", holds="shutdown")
def shutdown(call: Call, self: str) -> None:
    """Shut each VM down cleanly if it obeys, else by force. Raises OPERATION_PARTIALLY_FAILED [operation, vm, …]."""
    _bring(call, self, "VM.shutdown", "Halted", lambda vm: (vm.ref,))


@message("VM_appliance.assert_can_be_recovered")
def assert_can_be_recovered(call: Call, self: str, session_to: str) -> None:
    """Raises VM_REQUIRES_SR [vm, sr], SESSION_INVALID."""
    for vm in _members(call, self):
        assert_storage(call, vm, session_to)


@message("VM_appliance.get_SRs_required_for_recovery")
def get_SRs_required_for_recovery(call: Call, self: str, session_to: str) -> tuple[str, ...]:
    """The SRs that have to be plugged in before the VMs can be recovered. Raises SESSION_INVALID."""
    members = _members(call, self)
    call.pipeline.sessions.require(session_to)
    missing = (sr.ref for vm in members for sr in recovery.missing_srs(call.db, vm, call.db))
    return tuple(dict.fromkeys(missing))


@message("VM_appliance.recover")
def recover(call: Call, self: str, session_to: str, force: bool) -> None:
    """Raises VM_REQUIRES_SR [vm, sr], VM_TO_IMPORT_IS_NOT_NEWER_VERSION [vm, existing, wanted], SESSION_INVALID."""
    members = _members(call, self)
    assert_session_allows(call, session_to)
    for vm in members:
        assert_storage(call, vm, session_to)
    for vm in members:
        refuse(vm)
