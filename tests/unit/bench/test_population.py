"""The records that benchmarks measure with are those of a host that works."""

from __future__ import annotations

from bench import population

from kronos.db.database import Database
from kronos.db.records import VM
from kronos.rules import operations, placement


def test_a_vm_comes_to_twelve_objects_and_could_start():
    db = Database()
    db.derive(operations.derive)
    pooled = population.pool(db)
    before = len(db.rows)
    vms = population.populate(db, pooled, 60, population.Size())
    assert len(db.rows) - before == 60 * 12
    assert len(db.all(VM)) == 60
    assert len({vm.uuid for vm in vms}) == 60
    assert "start" in vms[0].allowed_operations
    assert placement.choose(db, vms[0]) == pooled.host.ref
