"""What a guest's agent is asked to do, and the plugins of its host that a guest's owner may call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kronos.api.vm.naming import named_by_reference
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Pool, VM_guest_metrics
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.workers import only_waiting
from kronos.rules import guest_control, operations

PLUGIN = "guest-agent-operation"
INTERVAL = 10.0
"""Seconds between two calls to one VM's agent."""

_PAUSE = 0.5
_SCRIPT_PATIENCE = 86400.0


class Pace:
    """When each VM's agent was called last: an agent that is called without end would do nothing else."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last: dict[str, float] = {}

    def take(self, vm: str, moment: float) -> None:
        """Raises VM_CALL_PLUGIN_RATE_LIMIT [vm, interval, wait], in seconds."""
        with self._guard:
            self._last = {ref: then for ref, then in self._last.items() if then + INTERVAL > moment}
            if vm in self._last:
                wait = self._last[vm] + INTERVAL - moment
                raise Failure("VM_CALL_PLUGIN_RATE_LIMIT", vm, f"{INTERVAL:g}.", f"{wait:g}")
            self._last[vm] = moment


_pace = Pace()


@message("VM.call_plugin")
def call_plugin(call: Call, vm: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Ask a guest's agent for something: request-rdp-on, request-rdp-off, or run-script, which answers JSON.

    Raises XENAPI_MISSING_PLUGIN [plugin], VM_CALL_PLUGIN_RATE_LIMIT, XENAPI_PLUGIN_FAILURE, FEATURE_RESTRICTED and
    RBAC_PERMISSION_DENIED for scripts, TASK_CANCELLED.
    """
    row = call.db.get(VM, vm)
    with at_once(call, row, "call_plugin"):
        if plugin != PLUGIN:
            raise Failure("XENAPI_MISSING_PLUGIN", plugin)
        _pace.take(vm, time.monotonic())
        if fn in ("request-rdp-on", "request-rdp-off"):
            _request_rdp(call, row, fn)
            return ""
        if fn == "run-script":
            return _run_script(call, row, args)
        text = f'The requested fn "{fn}" could not be found in plugin "{plugin}".'
        raise Failure("XENAPI_PLUGIN_FAILURE", "failed to find fn", text, text)


@message("VM.call_host_plugin")
def call_host_plugin(call: Call, vm: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Call a plugin of the host that a VM runs on. Raises VM_BAD_POWER_STATE [vm, Running, state], and as
    host.call_plugin does."""
    row = call.db.get(VM, vm)
    if row.power_state != "Running":
        # The states have capitals here, as in the reference.
        raise Failure("VM_BAD_POWER_STATE", vm, "Running", row.power_state)
    with at_once(call, row, "call_plugin"):
        return str(call.invoke("host.call_plugin", row.resident_on, plugin, fn, args))


@contextmanager
def at_once(call: Call, vm: VM, operation: str) -> Iterator[None]:
    """Hold a VM for an operation, or be refused: who calls an agent does not wait until it can be heard."""
    refusal = operations.refusal(call.db, vm, operation)
    if refusal is not None:
        raise refusal
    with call.pipeline.holds.hold(vm, operation, call.task):
        yield


# --- remote desktop --------------------------------------------------------------------------------------------------


def _request_rdp(call: Call, vm: VM, fn: str) -> None:
    metrics = call.db.find(VM_guest_metrics, vm.guest_metrics)
    try:
        if metrics is None or not guest_control.is_told(metrics.other, "feature-ts2"):
            raise Failure("VM_LACKS_FEATURE", vm.ref)
        with named_by_reference(vm):
            call.machine.hypervisor.tell(vm.uuid, {"control/ts": "1" if fn == "request-rdp-on" else "0"})
    except Failure as failure:
        if failure.code != "VM_LACKS_FEATURE":
            raise
        text = (
            f'The requested fn "{fn}" of plugin "{PLUGIN}" could not be executed for lack of guest agent control'
            " feature."
        )
        raise Failure("XENAPI_PLUGIN_FAILURE", "failed to execute fn", text, text) from failure


# --- scripts ---------------------------------------------------------------------------------------------------------


def _run_script(call: Call, vm: VM, args: Mapping[str, str]) -> str:
    if call.db.all(Pool)[0].other_config.get("allow_guest_agent_run_script") != "true":
        raise Failure("FEATURE_RESTRICTED")
    guest_control.assert_complete(args)
    try:
        # Whoever may read a guest's memory may run what it likes in it; to call its agent takes less.
        roles.require(call.user, "vm.checkpoint")
    except Failure as refused:
        text = "No permission to run script, must have VM power admin role or higher."
        raise Failure("RBAC_PERMISSION_DENIED", "vm.call_plugin", text) from refused
    script = guest_control.script_of(args)
    hypervisor = call.machine.hypervisor
    with named_by_reference(vm):
        guest_control.assert_takes_scripts(hypervisor.guest_tree(vm.uuid) or {})
        hypervisor.tell(vm.uuid, {guest_control.BATCH: None})
        hypervisor.tell(vm.uuid, {f"{guest_control.BATCH}/script": script})
        hypervisor.tell(vm.uuid, {f"{guest_control.BATCH}/state": "READY"})
        tree = _answered(call, vm)
        hypervisor.tell(vm.uuid, {guest_control.BATCH: None})
    return guest_control.answer_of(tree)


def _answered(call: Call, vm: VM) -> Mapping[str, str]:
    """What is in a guest's xenstore once its agent has done with a script. Raises TASK_CANCELLED."""
    woken = threading.Event()
    call.task.on_cancel(woken.set)
    deadline = time.monotonic() + _SCRIPT_PATIENCE
    while True:
        call.task.check()
        tree = call.machine.hypervisor.guest_tree(vm.uuid) or {}
        if guest_control.is_answered(tree) or time.monotonic() > deadline:
            return tree
        with only_waiting():
            woken.wait(_PAUSE)
