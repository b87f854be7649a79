"""Operations: which of them an object may start now, and what a client that asks for another is told.

Each class has a module with its obstacles, in the order in which clients are told of them. `refusal` asks whether a
call may go on; `allowed` and `derive` keep allowed_operations, which is advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.rules.operations import cluster, host, pool, sr, vbd, vdi, vif, vm, vm_appliance, vtpm, vusb
from kronos.rules.operations.neighbours import REACHES
from kronos.rules.operations.obstacle import Obstacle, blockers

__all__ = ["allowed", "blockers", "derive", "refresh", "refusal", "ruled"]


class Rules(NamedTuple):
    """A class's obstacles, and the operations that its allowed_operations may show, in the order of its enum."""

    obstacles: Callable[..., Iterator[Obstacle]]
    listed: tuple[str, ...]


# Any other class lets every operation start: a network's `attaching` may overlap, and a task's row says itself
# whether it can be cancelled.
RULES: dict[str, Rules] = {
    "VM": Rules(vm.obstacles, vm.LISTED),
    "VBD": Rules(vbd.obstacles, vbd.LISTED),
    "VIF": Rules(vif.obstacles, vif.LISTED),
    "VDI": Rules(vdi.obstacles, vdi.LISTED),
    "SR": Rules(sr.obstacles, sr.LISTED),
    "VUSB": Rules(vusb.obstacles, vusb.LISTED),
    "VTPM": Rules(vtpm.obstacles, vtpm.LISTED),
    "VM_appliance": Rules(vm_appliance.obstacles, vm_appliance.LISTED),
    "host": Rules(host.obstacles, host.LISTED),
    "pool": Rules(pool.obstacles, pool.LISTED),
    "Cluster": Rules(cluster.obstacles, cluster.OF_CLUSTER),
    "Cluster_host": Rules(cluster.member_obstacles, cluster.OF_MEMBER),
}

_DERIVED = frozenset({"allowed_operations"})


def ruled(row: Record) -> bool:
    """Whether the row is of a class that has rules."""
    return row.kind.name in RULES


def refusal(db: Database, row: Record, operation: str) -> Failure | None:
    """Why `operation` may not start on the object now, as the client is to be told; None if it may."""
    rules = RULES.get(row.kind.name)
    if rules is None:
        return None
    for obstacle in rules.obstacles(db, row, strict=False):
        if operation in obstacle.operations:
            return obstacle.failure(operation)
    return None


def allowed(db: Database, row: Record) -> tuple[str, ...]:
    """What the object's allowed_operations is to show; for a class without rules, what it shows already."""
    rules = RULES.get(row.kind.name)
    if rules is None:
        shown: Any = getattr(row, "allowed_operations", ())
        return tuple(shown)
    barred: set[str] = set()
    for obstacle in rules.obstacles(db, row, strict=True):
        barred.update(obstacle.operations)
    return tuple(name for name in rules.listed if name not in barred)


def derive(db: Database, changes: Mapping[Record, Set[str]]) -> None:
    """Write the allowed_operations that follow from changes: rows, each with its changed fields (none: a new row).

    It reads the changed rows and their neighbours alone, whatever the number of rows in the database.
    """
    stale: dict[Record, None] = {}
    for row, fields in changes.items():
        if fields == _DERIVED:
            continue
        # An empty list is one that nobody has derived yet, as after a start: it is not kept on disk.
        unknown = not fields or ruled(row) and not row.allowed_operations
        for reach in REACHES.get(row.kind.name, ()):
            if unknown or not reach.fields.isdisjoint(fields):
                for each in reach.rows(db, row):
                    stale[each] = None
    refresh(db, stale)


def refresh(db: Database, rows: Iterable[Record]) -> None:
    """Write the allowed_operations of these rows anew.

    `derive` does so for what follows from a change nearby. This is for the rest: every row at the start, and again
    when a rolling upgrade begins or ends.
    """
    for row in rows:
        if ruled(row):
            db.write(row, {"allowed_operations": allowed(db, row)})
