"""Which operations an appliance may start: those that make sense for one of its VMs at least."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import VM, VM_appliance
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, first

OPERATIONS = LISTED = enumerated("vm_appliance_operation")


def obstacles(db: Database, appliance: VM_appliance, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it."""
    found = first(appliance.current_operations)
    if found is not None:
        task, name = found
        yield bar(OPERATIONS, "OTHER_OPERATION_IN_PROGRESS", "VM_appliance", appliance.ref, name, task)
    states = {vm.power_state for ref in appliance.VMs if (vm := db.find(VM, ref)) is not None}
    if not states:
        yield bar(OPERATIONS, "OPERATION_NOT_ALLOWED", "Appliance has no VMs.")
    if "Halted" not in states:
        yield bar({"start"}, "OPERATION_NOT_ALLOWED", "There are no halted VMs in this appliance.")
    if "Running" not in states:
        text = "There are no running VMs in this appliance."
        yield bar({"clean_shutdown"}, "OPERATION_NOT_ALLOWED", text)
    if states == {"Halted"}:
        text = "All VMs in this appliance are halted."
        yield bar({"hard_shutdown", "shutdown"}, "OPERATION_NOT_ALLOWED", text)
