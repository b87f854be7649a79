"""Holding: who waits for whom, and what becomes of those who wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import PBD, SM, SR, VDI
from kronos.dispatch.hold import Holds
from kronos.dispatch.task import Task


@pytest.fixture
def db():
    return Database()


@pytest.fixture
def vdi(db):
    db.create(SM, type="file", features={"VDI_UPDATE": 1, "VDI_RESIZE": 1, "VDI_DELETE": 1})
    sr = db.create(SR, type="file")
    db.create(PBD, SR=sr.ref, currently_attached=True)
    return db.create(VDI, SR=sr.ref, managed=True, type="user")


@pytest.fixture
def other():
    """A thread beside the test's."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Waits(Holds):
    """Tells when somebody found another operation in the way."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, patience=15.0)
        self.waiting = threading.Event()

    def _tried(self, rows, operation, task):
        refusal = super()._tried(rows, operation, task)
        if refusal is not None:
            self.waiting.set()
        return refusal


def hold(holds, row, operation, task):
    with holds.hold(row, operation, task):
        return dict(row.current_operations)


def test_an_operation_shows_until_its_block_ends(db, vdi):
    task = Task(db, "VDI.resize")
    assert hold(Holds(db), vdi, "resize", task) == {task.ref: "resize"}
    assert vdi.current_operations == {}


def test_who_finds_another_operation_in_the_way_goes_on_when_it_ends(db, vdi, other):
    holds, second = Waits(db), Task(db, "VDI.resize")
    with holds.hold(vdi, "update", Task(db, "VDI.update")):
        waiter = other.submit(hold, holds, vdi, "resize", second)
        assert holds.waiting.wait(10)
        assert not waiter.done()
    assert waiter.result(10) == {second.ref: "resize"}


def test_who_would_wait_for_itself_is_told_so(db, vdi):
    holds, task = Holds(db, patience=60.0), Task(db, "VDI.update")
    with holds.hold(vdi, "update", task), pytest.raises(Failure) as raised:
        hold(holds, vdi, "resize", task)
    assert raised.value.description == ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, "update", task.ref]


def test_of_three_who_would_wait_for_each_other_the_last_is_told_so(db, vdi):
    """And the others go on, one after the other, as it lets go."""
    disks = [vdi, *(db.create(VDI, SR=vdi.SR, managed=True, type="user") for _ in range(2))]
    tasks = [Task(db, "VDI.update") for _ in disks]
    holds = Holds(db, patience=15.0)

    def both(number):
        with holds.hold(disks[number], "update", tasks[number]):
            entered.wait(10)
            return hold(holds, disks[(number + 1) % 3], "resize", tasks[number])

    entered = threading.Barrier(3)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(both, number) for number in range(3)]
        refused = [each.exception(10) for each in asked]
    (number,) = (number for number, failure in enumerate(refused) if failure is not None)
    at = (number + 1) % 3
    assert refused[number].description == [
        *("OTHER_OPERATION_IN_PROGRESS", "VDI", disks[at].ref, "update", tasks[at].ref)
    ]
    assert all(disk.current_operations == {} for disk in disks)


def test_who_waits_for_a_row_that_is_destroyed_meanwhile_is_told_that_it_is_gone(db, vdi, other):
    holds = Waits(db)
    with holds.hold(vdi, "destroy", Task(db, "VDI.destroy")):
        waiter = other.submit(hold, holds, vdi, "resize", Task(db, "VDI.resize"))
        assert holds.waiting.wait(10)
        db.delete(vdi)
    with pytest.raises(Failure) as raised:
        waiter.result(10)
    assert raised.value.description == ["HANDLE_INVALID", "VDI", vdi.ref]


def test_who_waits_and_is_cancelled_stops_waiting(db, vdi, other):
    holds, second = Waits(db), Task(db, "VDI.resize")
    with holds.hold(vdi, "update", Task(db, "VDI.update")):
        waiter = other.submit(hold, holds, vdi, "resize", second)
        assert holds.waiting.wait(10)
        second.cancel()
        with pytest.raises(Failure, match="TASK_CANCELLED"):
            waiter.result(10)
    assert vdi.current_operations == {}


def test_several_rows_are_entered_together_or_not_at_all(db, vdi):
    gone = db.create(VDI, SR=vdi.SR, managed=True, type="user")
    db.delete(gone)
    with (
        pytest.raises(Failure, match="HANDLE_INVALID"),
        Holds(db).hold_all((vdi, gone), "resize", Task(db, "a")),
    ):
        pass
    assert vdi.current_operations == {}
