"""Which operations a VTPM may start."""

from __future__ import annotations

from collections.abc import Iterator

from kronos.db.database import Database
from kronos.db.records import VM, VTPM
from kronos.rules.operations.obstacle import Obstacle, bar, enumerated

OPERATIONS = LISTED = enumerated("vtpm_operations")
EVERY = frozenset(OPERATIONS)


def obstacles(db: Database, vtpm: VTPM, *, strict: bool) -> Iterator[Obstacle]:
    """A TPM is taken out of a machine that is switched off."""
    vm = db.find(VM, vtpm.VM)
    if vm is not None and vm.power_state != "Halted":
        yield bar(EVERY, "VM_BAD_POWER_STATE", vm.ref, "halted", vm.power_state.lower())
