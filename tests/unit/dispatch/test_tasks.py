"""Which tasks there are, and for how long."""

from __future__ import annotations

import pytest

from kronos.db.database import Database
from kronos.db.records import Task as Row
from kronos.dispatch import task as tasks
from kronos.dispatch.task import ABANDONED, MOST, Tasks


@pytest.fixture
def made():
    return Tasks(Database())


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed, for a test to set: whole ones, whose sums and differences are exact."""
    passed = [1_000_000.0]
    monkeypatch.setattr(tasks.time, "monotonic", lambda: passed[0])
    return passed


def begin(made: Tasks, count: int) -> list[tasks.Task]:
    return [made.start(f"task {number}", "", "", "") for number in range(count)]


def end(made: Tasks, some: list[tasks.Task]) -> None:
    for each in some:
        each.finish()
        made.ended(each)


def test_a_task_that_has_just_ended_can_be_read_however_many_there_are(made, clock):
    some = begin(made, MOST + 100)
    end(made, some[:50])
    begin(made, 1)
    assert all(each.row.ref in made.db.rows for each in some[:50])


def test_beyond_the_most_those_that_ended_first_go(made, clock):
    some = begin(made, MOST + 100)
    end(made, list(reversed(some)))
    clock[0] += 60
    begin(made, 1)
    assert {row.name_label for row in made.db.all(Row)} >= {f"task {number}" for number in range(MOST)}
    assert len(made.db.all(Row)) == MOST + 1


def test_a_task_that_ended_long_ago_goes(made, clock):
    (one,) = begin(made, 1)
    end(made, [one])
    clock[0] += 66 * 60
    begin(made, 1)
    assert one.row.ref not in made.db.rows


def test_a_task_that_is_destroyed_as_it_ends_goes(made, monkeypatch):
    (one,) = begin(made, 1)
    write = made.db.write

    def ends_meanwhile(row, fields):
        monkeypatch.setattr(made.db, "write", write)
        made.running.pop(one.ref)
        write(row, fields)

    monkeypatch.setattr(made.db, "write", ends_meanwhile)
    made.destroy(one.row)
    assert one.row.ref not in made.db.rows


def test_a_task_that_its_client_left_pending_goes_after_a_day(made, clock):
    left = made.make_for_client("upload", "", "", "")
    clock[0] += ABANDONED - 1
    begin(made, 1)
    assert left.ref in made.db.rows
    clock[0] += 1
    begin(made, 1)
    assert left.ref not in made.db.rows


def test_a_clients_task_that_gets_on_stays_until_it_no_longer_does(made, clock):
    slow = made.make_for_client("upload", "", "", "")
    slow.progress = 0.1
    clock[0] += ABANDONED
    begin(made, 1)
    assert slow.ref in made.db.rows
    clock[0] += ABANDONED
    begin(made, 1)
    assert slow.ref not in made.db.rows


def test_a_clients_task_with_a_transfer_behind_it_stays(made, clock):
    row = made.make_for_client("upload", "", "", "")
    made.running[row.ref] = tasks.Task(made.db, "upload", row)
    clock[0] += ABANDONED
    begin(made, 1)
    assert row.ref in made.db.rows


def test_what_a_client_destroyed_or_ended_is_not_remembered(made, clock):
    gone, ended = (made.make_for_client(name, "", "", "") for name in ("gone", "ended"))
    made.destroy(gone)
    made.cancel(ended)
    clock[0] += ABANDONED
    begin(made, 1)
    assert made._clients == {}
