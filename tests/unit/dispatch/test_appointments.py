"""What is to be called later is, in the order of the times, whatever some of it does."""

from __future__ import annotations

import threading
import time

import pytest

from kronos.dispatch import appointments as module
from kronos.dispatch.appointments import Appointments


def eventually(condition) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def appointments():
    return Appointments("test", hands=1)


def test_the_earlier_is_first_whichever_was_made_first(appointments):
    done = []
    # Far enough apart for a machine that halts the test between two of them.
    appointments.make(2.0, done.append, "late")
    appointments.make(0.0, done.append, "now")
    appointments.make(1.0, done.append, "soon")
    assert eventually(lambda: done == ["now", "soon", "late"])


def test_what_fails_is_logged_and_the_rest_goes_on(appointments, caplog):
    done = []
    appointments.make(0.0, divmod, 1, 0)
    appointments.make(0.01, done.append, "the next")
    assert eventually(lambda: done == ["the next"])
    assert "ZeroDivisionError" in caplog.text


def test_one_that_blocks_keeps_the_clock_going_and_the_other_hands_free():
    appointments, go_on, done = Appointments("test", hands=2), threading.Event(), []
    appointments.make(0.0, go_on.wait, 60)
    appointments.make(0.01, done.append, "the next")
    assert eventually(lambda: done == ["the next"])
    go_on.set()


def test_without_appointments_nobody_keeps_the_time(monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.02)
    appointments, done = Appointments("alone", hands=1), []
    appointments.make(0.0, done.append, "first")
    assert eventually(lambda: not any(each.name == "alone-clock" for each in threading.enumerate()))
    appointments.make(0.0, done.append, "second")
    assert eventually(lambda: done == ["first", "second"])
