"""Threads that calls run on: how many work, who stands in for one that waits, and when they go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kronos.dispatch import workers as module
from kronos.dispatch.workers import Workers, only_waiting

LIMIT = 2


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(LIMIT, "crew")
    yield made
    made.shutdown()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


def threads() -> int:
    return sum(thread.name == "crew" for thread in threading.enumerate())


def eventually(condition) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def wait_for_a_guest(go_on: threading.Event) -> bool:
    with only_waiting():
        return go_on.wait(60)


def test_what_a_function_gives_or_raises_comes_out(workers):
    assert workers.submit(divmod, 7, 2).result(30) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        workers.submit(divmod, 7, 0).result(30)


def test_no_more_than_the_limit_work_at_a_time(workers, go_on):
    both = threading.Barrier(LIMIT + 1)

    def work():
        both.wait(30)
        go_on.wait(60)

    first = [workers.submit(work) for _ in range(LIMIT)]
    both.wait(30)  # all of the limit are at it
    third = workers.submit(threading.get_ident)
    time.sleep(0.05)
    assert not third.running() and not third.done()
    go_on.set()
    assert third.result(30)
    assert all(each.result(30) is None for each in first)


def test_those_that_only_wait_keep_nobody_from_working(workers, go_on):
    waiting = [workers.submit(wait_for_a_guest, go_on) for _ in range(300)]
    assert workers.submit(divmod, 7, 2).result(30) == (3, 1)
    assert not any(each.done() for each in waiting)
    go_on.set()
    assert all(each.result(30) for each in waiting)


def test_threads_that_stood_in_go_when_those_that_waited_are_back(workers, go_on):
    waiting = [workers.submit(wait_for_a_guest, go_on) for _ in range(20)]
    assert eventually(lambda: threads() >= 20)
    go_on.set()
    assert all(each.result(30) for each in waiting)
    assert eventually(lambda: threads() <= LIMIT)


def test_there_is_a_bound_to_those_that_wait_too(go_on):
    workers = Workers(LIMIT, "crew", most=5)
    waiting = [workers.submit(wait_for_a_guest, go_on) for _ in range(10)]
    assert eventually(lambda: sum(each.running() for each in waiting) == 5)
    assert eventually(lambda: threads() == 5)
    go_on.set()
    assert all(each.result(30) for each in waiting)
    workers.shutdown()


def test_threads_without_work_go(workers, monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.02)
    workers.submit(divmod, 7, 2).result(30)
    assert eventually(lambda: threads() == 0)
    assert workers.submit(divmod, 7, 2).result(30) == (3, 1)


def test_after_the_end_nothing_is_taken_or_begun(workers, go_on):
    busy = [workers.submit(go_on.wait, 60) for _ in range(LIMIT)]
    queued = workers.submit(divmod, 7, 2)
    workers.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError):
        workers.submit(divmod, 7, 2)
    assert queued.cancelled()
    go_on.set()
    assert all(each.result(30) for each in busy)
    assert eventually(lambda: threads() == 0)


def test_other_threads_may_say_that_they_wait_too():
    with only_waiting():
        pass


def test_many_short_calls_from_many_threads_are_all_carried_out(workers):
    done = []

    def submit():
        done.extend(workers.submit(lambda: 1).result(30) for _ in range(200))

    senders = [threading.Thread(target=submit) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert sum(done) == 1600
