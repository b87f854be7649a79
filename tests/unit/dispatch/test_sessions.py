"""Sessions: how many there may be of whom, and which go."""

from __future__ import annotations

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Session, Task
from kronos.dispatch import sessions as module
from kronos.dispatch.call import Origin
from kronos.dispatch.sessions import Sessions

LOCAL = Origin(local=True)
REMOTE = Origin(address="192.0.2.1")


class Visits:
    """Sessions with a clock that the test turns, and limits of three."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.db = Database()
        self.sessions = Sessions(self.db, lambda: self.now)

    def begin(
        self, user: str = "root", originator: str = "", origin: Origin = REMOTE, **more: object
    ) -> Session:
        self.now += 1
        return self.sessions.begin(user=user, host="h", origin=origin, originator=originator, **more)

    def here(self, row: Session) -> bool:
        return self.db.find(Session, row.ref) is not None


@pytest.fixture
def visits(monkeypatch):
    monkeypatch.setattr(module, "_LIMITS", dict.fromkeys(module._LIMITS, 3))
    return Visits()


def test_the_least_recently_used_one_goes_first(visits):
    first, second, third = (visits.begin(originator="backup") for _ in range(3))
    visits.now += 1
    visits.sessions.require(first.ref)
    fourth = visits.begin(originator="backup")
    assert [visits.here(row) for row in (first, second, third, fourth)] == [True, False, True, True]


def test_use_within_a_minute_counts(visits):
    # Though it is not written down each time.
    first, second, third = (visits.begin(originator="backup") for _ in range(3))
    before = first.last_active
    visits.sessions.require(first.ref)
    assert first.last_active == before
    visits.begin(originator="backup")
    assert visits.here(first) and not visits.here(second) and visits.here(third)


def test_roots_are_counted_by_originator_and_others_by_name(visits):
    backup = [visits.begin(originator="backup") for _ in range(3)]
    others = [
        visits.begin(originator="monitor"),
        visits.begin("alice", "backup"),
        visits.begin("bob", "backup"),
    ]
    assert all(visits.here(row) for row in backup + others)
    alices = [visits.begin("alice", f"client {number}") for number in range(3)]
    assert not visits.here(others[1])
    assert all(visits.here(row) for row in [*alices, *backup])


def test_a_session_whose_task_runs_stays(visits):
    rows = [visits.begin("alice") for _ in range(3)]
    visits.db.create(Task, session=rows[0].ref, status="pending")
    visits.db.create(Task, session=rows[1].ref, status="success")
    visits.begin("alice")
    assert [visits.here(row) for row in rows] == [True, False, True]


def test_when_all_have_work_one_more_comes_in_all_the_same(visits):
    rows = [visits.begin("alice") for _ in range(3)]
    for row in rows:
        visits.db.create(Task, session=row.ref, status="pending")
    rows.append(visits.begin("alice"))
    assert all(visits.here(row) for row in rows)


def test_a_storm_over_the_network_moves_nobody_on_the_unix_socket(visits):
    root = [visits.begin(origin=LOCAL), visits.begin("root", "xe", LOCAL)]
    for number in range(50):
        visits.begin("root", "xe" if number % 2 else "")
    assert all(visits.here(row) for row in root)
    assert visits.here(visits.begin(origin=LOCAL))


def test_however_many_originators_there_are_sessions_are_bounded(visits, monkeypatch):
    monkeypatch.setattr(module, "MOST", 10)
    local = visits.begin(origin=LOCAL)
    rows = [visits.begin(originator=f"client {number}") for number in range(30)]
    assert [visits.here(row) for row in rows] == [False] * 20 + [True] * 10
    assert visits.here(local)


def test_a_session_ends_after_a_day_without_use(visits):
    idle, used = visits.begin("alice"), visits.begin("bob")
    visits.now += module.INACTIVITY - 10
    visits.sessions.require(used.ref)
    visits.now += 20
    with pytest.raises(Failure) as gone:
        visits.sessions.require(idle.ref)
    assert gone.value.description == ["SESSION_INVALID", idle.ref]
    visits.sessions.require(used.ref)
    visits.now += module.INACTIVITY + 20
    visits.begin("carol")
    assert not visits.here(used)


def test_nothing_is_left_of_sessions_that_ended(visits):
    for number in range(20):
        row = visits.begin(f"user{number}", subjects=("s",))
        if number % 2:
            visits.sessions.end(row)
        else:
            visits.db.delete(row)  # by another way
    visits.now += module.INACTIVITY + 1
    visits.sessions.expire()
    kept = visits.sessions
    assert not kept._used and not kept._groups and not kept._members and not kept._subjects and not kept._due
    assert kept._remote == 0


def test_beginnings_and_ends_are_told_once(visits):
    told: list[str] = []
    visits.sessions.on_begin.append(lambda row: told.append(f"begin {row.auth_user_name}"))
    visits.sessions.on_end.append(lambda row: told.append(f"end {row.auth_user_name}"))
    row = visits.begin("alice")
    visits.sessions.end(row)
    visits.sessions.end(row)
    assert told == ["begin alice", "end alice"]


def test_a_local_session_is_alive_until_its_logout(visits):
    row = visits.sessions.begin_local("root", "h")
    assert visits.sessions.alive(row)
    visits.sessions.end(row)
    assert not visits.sessions.alive(row)
