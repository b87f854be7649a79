"""Copies of VMs: clones, full copies, snapshots, checkpoints; and what is done to a snapshot."""

from __future__ import annotations

from collections.abc import Callable

from kronos.commands import progress, selectors
from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL
from kronos.commands.records import Row

_OWN = ("new-name-label", "new-name-description", "ignore-vdi-uuids", "sr-uuid", "progress")


@command("vm-clone")
def clone(invocation: Invocation) -> None:
    name = invocation.arguments["new-name-label"]
    _copy(invocation, lambda vm: _made(invocation, "VM.clone", vm, name), templates=True)


@command("vm-copy")
def copy(invocation: Invocation) -> None:
    name = invocation.arguments["new-name-label"]
    sr = invocation.ref("SR", "sr-uuid") if "sr-uuid" in invocation.arguments else NULL
    _copy(invocation, lambda vm: _made(invocation, "VM.copy", vm, name, sr), templates=True, several=False)


@command("vm-snapshot")
def snapshot(invocation: Invocation) -> None:
    arguments = invocation.arguments
    name = arguments["new-name-label"]
    ignored = [invocation.records.by_uuid("VDI", uuid).ref for uuid in arguments.items("ignore-vdi-uuids")]
    _copy(invocation, lambda vm: _made(invocation, "VM.snapshot", vm, name, ignored))


@command("vm-checkpoint")
def checkpoint(invocation: Invocation) -> None:
    name = invocation.arguments["new-name-label"]
    _copy(invocation, lambda vm: _made(invocation, "VM.checkpoint", vm, name))


@command("vm-snapshot-with-quiesce")
def snapshot_with_quiesce(invocation: Invocation) -> None:
    name = invocation.arguments["new-name-label"]
    _copy(invocation, lambda vm: _made(invocation, "VM.snapshot_with_quiesce", vm, name))


def _made(invocation: Invocation, message: str, vm: Row, *arguments: object) -> str:
    return str(progress.task(invocation, message, vm.ref, *arguments))


def _copy(
    invocation: Invocation, act: Callable[[Row], str], templates: bool = False, several: bool = True
) -> None:
    made = selectors.for_vms(invocation, act, *_OWN, templates=templates, several=several)
    _describe(invocation, made[0])
    invocation.printer.lines([invocation.api("VM.get_uuid", vm) for vm in made])


def _describe(invocation: Invocation, vm: str) -> None:
    if "new-name-description" in invocation.arguments:
        invocation.api("VM.set_name_description", vm, invocation.arguments["new-name-description"])


def named(invocation: Invocation) -> Row:
    """The snapshot of `snapshot-uuid=` or `uuid=`. Raises CommandError, UUID_INVALID."""
    parameter = next((name for name in ("snapshot-uuid", "uuid") if name in invocation.arguments), None)
    if parameter is None:
        raise CommandError("Required parameter not found: snapshot-uuid or uuid.")
    found = invocation.find("VM", parameter)
    if not found["is_a_snapshot"]:
        raise CommandError(
            "This operation can only be performed on a VM snapshot. "
            f"{invocation.arguments[parameter]} is not a VM snapshot."
        )
    return found


@command("snapshot-revert")
def revert(invocation: Invocation) -> None:
    progress.task(invocation, "VM.revert", named(invocation).ref)


@command("snapshot-clone")
def snapshot_clone(invocation: Invocation) -> None:
    _from_snapshot(invocation, "VM.clone")


@command("snapshot-copy")
def snapshot_copy(invocation: Invocation) -> None:
    sr = invocation.ref("SR", "sr-uuid") if "sr-uuid" in invocation.arguments else NULL
    _from_snapshot(invocation, "VM.copy", sr)


def _from_snapshot(invocation: Invocation, message: str, *more: object) -> None:
    name = invocation.arguments["new-name-label"]
    vm = _made(invocation, message, named(invocation), name, *more)
    _describe(invocation, vm)
    invocation.print_uuid("VM", vm)


@command("snapshot-destroy")
def destroy(invocation: Invocation) -> None:
    found = named(invocation)
    if found["power_state"] != "Halted":
        invocation.api.task("VM.hard_shutdown", found.ref)
    invocation.api("VM.destroy", found.ref)


@command("snapshot-reset-powerstate")
def reset_power_state(invocation: Invocation) -> None:
    invocation.needs_force()
    invocation.api("VM.power_state_reset", named(invocation).ref)
