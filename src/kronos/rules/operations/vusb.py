"""Which operations a VUSB may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import VM, VUSB
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated, in_progress
from kronos.rules.operations.plugging import going_down, power_state

OPERATIONS = LISTED = enumerated("vusb_operations")
EVERY = frozenset(OPERATIONS)


def obstacles(db: Database, vusb: VUSB, *, strict: bool) -> Iterator[Obstacle]:
    """What keeps operations from starting, in the order in which clients are told of it."""
    vm = db.find(VM, vusb.VM)
    if vm is None:
        yield bar(EVERY, "HANDLE_INVALID", "VM", vusb.VM)
        return
    if vusb.current_operations:
        yield in_progress("VUSB", vusb.ref, vusb.current_operations.items(), EVERY, always_braced=True)
    yield power_state(vm, vusb.ref, attached=vusb.currently_attached)
    yield from going_down(vm)
