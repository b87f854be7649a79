"""VM groups: VMs that are to be placed with regard to each other."""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import VM, VM_group
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


@message("VM.set_groups")
def set_groups(call: Call, self: str, value: tuple[str, ...]) -> None:
    """Put a VM into a group, or into none. Raises TOO_MANY_GROUPS, OPERATION_NOT_ALLOWED, HANDLE_INVALID."""
    vm = call.db.get(VM, self)
    with call.db.transaction():
        if vm.is_control_domain or vm.is_a_template or vm.is_a_snapshot:
            text = "Control domains, templates and snapshots cannot be in a VM group"
            raise Failure("OPERATION_NOT_ALLOWED", text)
        if len(value) > 1:
            raise Failure("TOO_MANY_GROUPS")
        vm.groups = tuple(call.db.get(VM_group, ref).ref for ref in value)
