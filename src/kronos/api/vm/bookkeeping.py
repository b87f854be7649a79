"""What only the pool itself writes in VMs' records, and what is left of it."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("VM.atomic_set_resident_on")
def atomic_set_resident_on(call: Call, vm: str, host: str) -> None:
    """A host says that a VM has come: in one step, so that nobody counts its memory twice."""
    row = call.db.get(VM, vm)
    call.db.write(row, {"resident_on": call.db.get(Host, host).ref, "scheduled_to_be_resident_on": NULL})


@message("VM.update_snapshot_metadata")
def update_snapshot_metadata(
    call: Call, vm: str, snapshot_of: str, snapshot_time: str, transportable_snapshot_id: str
) -> None:
    """Say that a VM is a snapshot of another. Raises HANDLE_INVALID."""
    row = call.db.get(VM, vm)
    call.db.write(
        row,
        {
            "is_a_snapshot": True,
            "snapshot_time": snapshot_time,
            "snapshot_of": call.db.get(VM, snapshot_of).ref if snapshot_of != NULL else NULL,
            "transportable_snapshot_id": transportable_snapshot_id,
        },
    )


@message("VM.hard_reboot_internal")
def hard_reboot_internal(call: Call, vm: str) -> None:
    """Of the pool's own past: nobody calls it, and the reference does not do it either. Raises NOT_IMPLEMENTED."""
    call.db.get(VM, vm)
    raise Failure("NOT_IMPLEMENTED", "hard_reboot_internal")
