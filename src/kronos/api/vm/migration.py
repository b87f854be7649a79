"""Where else a VM could run, and moving it there."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from kronos.api.vm.lifecycle import reserve, save, wake
from kronos.api.vm.naming import named_by_reference
from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import agility, placement
from kronos.rules.surroundings import is_true


@message("VM.assert_agile")
def assert_agile(call: Call, self: str) -> None:
    """Raises what ties the VM to its host (rules.agility)."""
    failure = agility.obstacle(call.db, call.db.get(VM, self))
    if failure is not None:
        raise failure


@message("VM.pool_migrate", holds="pool_migrate")
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> None:
    """Move a running VM to a host of the pool, which is so far the one that it runs on.

    With `live=false` it is suspended, and resumed by a new process: how a guest comes to a QEMU that was updated. It
    stays Suspended, with its memory kept, if it cannot be resumed. Raises VM_MIGRATE_FAILED [vm, source, destination,
    message] where a guest of its kind cannot be moved while it runs, what VM.suspend and VM.resume_on raise, and
    NOT_IMPLEMENTED for other live migrations.
    """
    row, there = call.db.get(VM, vm), call.db.get(Host, host)
    if is_true(options.get("live")):
        with named_by_reference(row):
            obstacle = call.machine.hypervisor.live_migration_obstacle(row.uuid)
        if obstacle:
            advice = f"{obstacle} Migrate it with live=false: it is suspended, and resumed there."
            raise Failure("VM_MIGRATE_FAILED", vm, row.resident_on, host, advice)
        raise Failure("NOT_IMPLEMENTED", "VM.pool_migrate")
    with ExitStack() as undo:
        # There is room: it has its memory already, and keeps it. What else is in the way is told while it runs.
        check = partial(placement.assert_can_boot_here, call.db, row, there, with_memory=False)
        reserve(call, row, check, undo)
        save(call, row)
        wake(call, row, bool, paused=False)
