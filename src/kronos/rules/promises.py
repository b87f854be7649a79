"""Promises: the memory that a host's VMs were promised, kept as a sum.

Every start asks for it. Adding it up from all VMs of the host would make the thousandth start a hundred times dearer
than the tenth, so the sum is brought up to date from the rows that changed since it was last asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from kronos.db.database import Database
from kronos.db.records import VM, Host, VM_metrics

Taken = Callable[[VM], int]
"""What one VM takes of its host, 0 for one that is not counted."""


class Question(NamedTuple):
    """What a sum is of. Of these the answer follows, beside the VMs and their metrics."""

    host: str
    policy: object
    hypervisor: str
    control_domain: str


class Promised:
    """The sum for one question, as of a generation of the database."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.generation = -1
        self.total = 0
        self._by_vm: dict[str, int] = {}

    def of(self, ref: str) -> int:
        """The part of the sum that is one VM's."""
        return self._by_vm.get(ref, 0)

    def refresh(self, db: Database, taken: Taken) -> None:
        """Bring the sum up to date; hold the database's lock."""
        generation = db.generation
        if generation == self.generation:
            return
        if self.generation < db.forgotten:
            self._by_vm, self.total = {}, 0
            for field in ("resident_on", "scheduled_to_be_resident_on"):
                self._count(db, db.referrers("VM", field, self.host), taken)
        else:
            for deletion in db.deleted_since(self.generation):
                self._set(deletion.ref, 0)
            for row in db.changed_since(self.generation):
                if type(row) is VM:
                    self._count(db, (row.ref,), taken)
                elif type(row) is VM_metrics:
                    self._count(db, db.referrers("VM", "metrics", row.ref), taken)
        self.generation = generation

    def _count(self, db: Database, refs: tuple[str, ...], taken: Taken) -> None:
        for ref in refs:
            vm = db.find(VM, ref)
            here = vm is not None and self.host in (vm.resident_on, vm.scheduled_to_be_resident_on)
            self._set(ref, taken(vm) if vm is not None and here else 0)

    def _set(self, ref: str, amount: int) -> None:
        self.total += amount - self._by_vm.get(ref, 0)
        if amount:
            self._by_vm[ref] = amount
        else:
            self._by_vm.pop(ref, None)


_SUMS: WeakKeyDictionary[Database, dict[Question, Promised]] = WeakKeyDictionary()


def promised(db: Database, host: Host, question: Question, taken: Taken, ignoring: str = "") -> int:
    """What the VMs on a host, and those about to be there, were promised in bytes; `ignoring` is not counted."""
    with db.lock:
        sums = _SUMS.setdefault(db, {})
        found = sums.get(question)
        if found is None:
            for stale in [each for each in sums if each[:2] == question[:2]]:
                del sums[stale]
            found = sums[question] = Promised(host.ref)
        found.refresh(db, taken)
        return found.total - found.of(ignoring)
