"""Waiting for changes: who is woken when, and what is shared."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from kronos.db.database import Database
from kronos.db.records import VM
from kronos.dispatch.changes import BATCHING, Changes


@pytest.fixture
def db():
    return Database()


def on_loop(coroutine_function, db):
    """Run it with the changes of a loop."""

    async def run():
        return await coroutine_function(Changes(db, asyncio.get_running_loop()))

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_a_change_wakes_those_who_wait(db):
    async def wait(changes):
        eager, patient = changes.register(at_once=True), changes.register(at_once=False)
        threading.Timer(0.02, lambda: db.create(VM)).start()
        return await asyncio.gather(changes.next(eager, 10.0), changes.next(patient, 10.0))

    assert on_loop(wait, db) == [True, True]


def test_a_change_before_the_wait_is_not_missed(db):
    async def wait(changes):
        future = changes.register(at_once=True)
        db.create(VM)
        return await changes.next(future, 10.0)

    assert on_loop(wait, db)


def test_without_a_change_the_wait_ends_in_time(db):
    async def wait(changes):
        start = time.monotonic()
        return await changes.next(changes.register(at_once=True), 0.03), time.monotonic() - start

    changed, taken = on_loop(wait, db)
    assert not changed
    assert 0.025 < taken < 5


def test_changes_that_follow_each_other_wake_the_patient_once_and_the_eager_first(db):
    async def wait(changes):
        woken = []

        async def patient():
            await changes.next(changes.register(at_once=False), 10.0)
            woken.append(("patient", len(db.all(VM))))

        async def eager():
            await changes.next(changes.register(at_once=True), 10.0)
            woken.append(("eager", len(db.all(VM))))
            db.create(VM)  # another, before the patient are woken

        running = asyncio.gather(patient(), eager())
        await asyncio.sleep(0)
        db.create(VM)
        await running
        return woken

    assert on_loop(wait, db) == [("eager", 1), ("patient", 2)]


def test_the_patient_wait_no_longer_than_they_have_to(db):
    async def wait(changes):
        future = changes.register(at_once=False)
        start = time.monotonic()
        db.create(VM)
        await changes.next(future, 10.0)
        return time.monotonic() - start

    assert min(on_loop(wait, db) for _ in range(3)) >= BATCHING * 0.9


def test_who_gives_up_is_forgotten(db):
    async def wait(changes):
        task = asyncio.create_task(changes.next(changes.register(at_once=False), 10.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return changes._eager | changes._patient

    assert on_loop(wait, db) == set()


def test_an_answer_is_shared_until_the_database_changes(db):
    made = []

    def make(generation):
        made.append(generation)
        return object()

    async def ask(changes):
        first, again = changes.shared("key", make), changes.shared("key", make)
        other = changes.shared("other key", make)
        db.create(VM)
        return first, again, other, changes.shared("key", make)

    before = db.generation
    first, again, other, later = on_loop(ask, db)
    assert first is again
    assert first is not other
    assert first is not later
    assert made == [before, before, db.generation]


def test_at_the_end_everyone_is_woken_and_nobody_waits_any_more(db):
    async def wait(changes):
        running = asyncio.gather(
            *(changes.next(changes.register(at_once=eager), 10.0) for eager in (True, False))
        )
        await asyncio.sleep(0)
        changes.close()
        late = await changes.next(changes.register(at_once=False), 10.0)
        return [*await running, late]

    start = time.monotonic()
    assert on_loop(wait, db) == [False, False, False]
    assert time.monotonic() - start < 5
