"""The audit log over HTTP, with the server that the daemon has."""

from __future__ import annotations

import asyncio
import base64
import http.client
from urllib.parse import quote

import pytest

from kronos.db.records import Session, Task
from kronos.dispatch import gate
from kronos.dispatch.call import Origin
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.audit_log import log_moment
from kronos.server.http import Server, TcpListener
from kronos.system.audit_file import AuditFile, stamped


@pytest.fixture
def audit(xapi, tmp_path):
    """Three lines, of three seconds."""
    file = xapi.pipeline.audit.sink = AuditFile(tmp_path / "audit.log")
    for number in range(3):
        file.append(stamped("VM.start", f"line {number}", 1_700_000_000.0 + number))
    return file


@pytest.fixture
def ask(xapi, audit):
    """The status and body of an answer at /audit_log."""
    server = Server(doors.all_doors(xapi.pipeline, Access(xapi.pipeline), audit))

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, xapi.loop).result(30)

    run(server.start([TcpListener("127.0.0.1", 0)]))

    def ask(headers: dict[str, str] | None = None, **query: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.addresses[0][1], timeout=20)
        fields = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        connection.request("GET", f"/audit_log?{fields}", headers=headers or {})
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found

    yield ask
    run(server.stop(0.2))


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


def numbers(body: str) -> list[str]:
    return [line.rpartition(" ")[2] for line in body.splitlines() if "] line " in line]


def test_all_of_it_and_what_it_says_of_this(xapi, ask):
    status, body = ask(session_id=xapi.session)
    assert (status, numbers(body)) == (200, ["0", "1", "2"])
    assert "'LOCAL_SUPERUSER' 'root' 'ALLOWED' 'OK' 'HTTP' 'http/get_audit_log' ()" in body
    assert xapi.session not in body


@pytest.mark.parametrize(
    "since", ["20231114T22:13:21", "20231114 22:13:21", "2023-11-14T22:13:21.000Z", "2023-11-14 22:13:21"]
)
def test_since_a_moment_in_every_form_that_clients_write(xapi, ask, since):
    assert numbers(ask(session_id=xapi.session, since=since)[1]) == ["1", "2"]


@pytest.mark.parametrize(
    ("since", "moment"),
    [
        ("2023-11-14", "20231114"),
        ("2023-11-14T22:13", "20231114T22:13"),
        ("", ""),
        ("yesterday", ""),
        ("2023-11-14T22:13:21.5; rm -rf /", ""),
    ],
)
def test_what_is_no_moment_is_the_beginning(since, moment):
    assert log_moment(since) == moment


def test_it_needs_a_session_and_the_permission(xapi, ask):
    assert ask()[0] == 401
    assert ask(session_id="OpaqueRef:nobody")[0] == 401
    assert ask(session_id=session(xapi, "http/get_audit_log"))[0] == 200
    assert ask(session_id=session(xapi, "http/get_export"))[0] == 403
    assert "'DENIED' '' 'HTTP' 'http/get_audit_log'" in ask(session_id=xapi.session)[1]


def test_a_password_does_as_well(xapi, ask, monkeypatch):
    monkeypatch.setattr(gate, "FAILED_LOGIN_DELAY", 0.0)
    xapi.machine.authenticate = lambda user, password: None
    basic = base64.b64encode(b"root:any").decode()
    before = len(xapi.db.all(Session))
    assert ask({"Authorization": f"Basic {basic}"})[0] == 200
    assert len(xapi.db.all(Session)) == before


def test_its_task_ends_with_it(xapi, ask):
    task = xapi("task.create", "download", "")
    ask(session_id=xapi.session, task_id=task)
    assert xapi.db.get(Task, task).status == "success"


def test_a_task_hears_why_it_was_denied(xapi, ask):
    denied = session(xapi, "task.create", "task.set_progress", "task.set_status", "task.set_error_info")
    task = xapi.raw("task.create", denied, "download", "")
    assert ask(session_id=denied, task_id=task)[0] == 403
    row = xapi.db.get(Task, task)
    assert (row.status, row.error_info[:2]) == ("failure", ("RBAC_PERMISSION_DENIED", "http/get_audit_log"))
