"""Pictures of screens over HTTP: who gets one, of what, and in which format."""

from __future__ import annotations

import asyncio
import http.client

import pytest

from kronos.db.records import VM, Console, Task
from kronos.dispatch.call import Origin
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import Server, TcpListener


@pytest.fixture
def ask(xapi):
    """Status, content type and body of an answer at /vncsnapshot."""
    server = Server(doors.all_doors(xapi.pipeline, Access(xapi.pipeline)))

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, xapi.loop).result(30)

    run(server.start([TcpListener("127.0.0.1", 0)]))

    def ask(**query: str) -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.addresses[0][1], timeout=20)
        connection.request(
            "GET", "/vncsnapshot?" + "&".join(f"{name}={value}" for name, value in query.items())
        )
        answer = connection.getresponse()
        found = answer.status, answer.getheader("content-type"), answer.read()
        connection.close()
        return found

    yield ask
    run(server.stop(0.2))


@pytest.fixture
def vm(xapi) -> VM:
    return xapi.vm(running=True)


@pytest.fixture
def screen(xapi, vm) -> Console:
    return xapi.db.create(Console, VM=vm.ref, protocol="rfb", location="")


def shows(xapi, monkeypatch, picture: bytes) -> None:
    monkeypatch.setattr(xapi.machine.hypervisor, "screenshot", lambda uuid: picture)


def session(xapi, *permissions: str) -> str:
    return xapi.pipeline.sessions.begin(
        user="someone",
        host=xapi.host.ref,
        origin=Origin(address="192.0.2.1"),
        originator="",
        superuser=False,
        permissions=permissions,
        sid="u1000",
    ).ref


@pytest.mark.parametrize(
    ("picture", "kind"),
    [(b"\x89PNG\r\n\x1a\nrest", "image/png"), (b"P6\n1 1\n255\nabc", "image/x-portable-pixmap")],
)
def test_the_format_is_what_the_hypervisor_makes(xapi, ask, screen, monkeypatch, picture, kind):
    shows(xapi, monkeypatch, picture)
    assert ask(session_id=xapi.session, uuid=screen.uuid) == (200, kind, picture)


def test_it_needs_a_session_and_the_permission(xapi, ask, screen, monkeypatch):
    shows(xapi, monkeypatch, b"P6")
    assert ask(ref=screen.ref)[0] == 401
    assert ask(ref=screen.ref, session_id=session(xapi, "http/connect_console"))[0] == 403
    assert ask(ref=screen.ref, session_id=session(xapi, "http/get_vncsnapshot"))[0] == 200


def test_the_hosts_own_console_is_an_administrators_and_has_no_screen(xapi, ask, vm, screen):
    vm.is_control_domain = True
    assert ask(ref=screen.ref, session_id=session(xapi, "http/get_vncsnapshot"))[0] == 403
    assert ask(ref=screen.ref, session_id=xapi.session)[0] == 404


def test_a_serial_line_has_no_picture(xapi, ask, screen):
    screen.protocol = "vt100"
    assert ask(ref=screen.ref, session_id=xapi.session)[0] == 404


def test_a_hypervisor_that_makes_none_says_so_to_the_task(xapi, ask, vm, screen):
    task = xapi("task.create", "picture", "")
    assert ask(ref=screen.ref, session_id=xapi.session, task_id=task)[0] == 500
    row = xapi.db.get(Task, task)
    assert (row.status, row.error_info) == ("failure", ("VM_LACKS_FEATURE", vm.ref))
