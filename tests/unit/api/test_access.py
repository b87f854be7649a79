"""What a command on a worker thread gets of XenAPI."""

from __future__ import annotations

import threading

import pytest

from kronos.db.records import SR, VM, Session
from kronos.dispatch.call import Origin
from kronos.server.access import SessionAPI


@pytest.fixture
def api(xapi):
    return SessionAPI(xapi.pipeline, Origin(local=True), xapi.db.get(Session, xapi.session))


def described(sr: SR) -> dict[str, object]:
    return {
        "name_label": "disk",
        "name_description": "",
        "SR": sr.ref,
        "virtual_size": 1 << 20,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }


def test_progress_is_told_while_a_task_runs(xapi, api, monkeypatch):
    vm = xapi.db.create(VM)
    sr, told = xapi.sr(), []
    driver = xapi.driver(sr)
    create, heard = driver.volume_create, threading.Event()

    def slow(*args, **options):
        vm.name_label = "any change"
        assert heard.wait(60)
        return create(*args, **options)

    monkeypatch.setattr(driver, "volume_create", slow)
    ref = api.task("VDI.create", described(sr), progress=lambda done: (told.append(done), heard.set()))
    assert ref.startswith("OpaqueRef:")
    assert told[0] == 0.0


def test_a_client_that_does_not_read_its_progress_keeps_nobody_else_waiting(xapi, api, monkeypatch):
    sr, vm = xapi.sr(), xapi.db.create(VM)
    reading, asked = threading.Event(), threading.Event()

    def deaf(done: float) -> None:
        asked.set()
        reading.wait(120)

    command = threading.Thread(target=api.task, args=("VDI.create", described(sr)), kwargs={"progress": deaf})
    command.start()
    assert asked.wait(60)
    writer = threading.Thread(target=setattr, args=(vm, "name_label", "written"))
    writer.start()
    writer.join(30)
    assert not writer.is_alive()
    reading.set()
    command.join()


def test_a_client_that_went_away_while_it_was_told_fails_no_other_call(xapi, api):
    vm, sr = xapi.db.create(VM), xapi.sr()

    def gone(done: float) -> None:
        raise BrokenPipeError

    assert api.task("VDI.create", described(sr), progress=gone).startswith("OpaqueRef:")
    vm.name_label = "written"
