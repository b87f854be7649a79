"""Blobs over HTTP, with the server that the daemon has."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os

import pytest

from kronos.api import blob as blobs
from kronos.db.records import Blob, Session, Task
from kronos.server import blobs as doors_of_blobs
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import Server, TcpListener


@pytest.fixture
def port(xapi):
    server = Server(doors.all_doors(xapi.pipeline, Access(xapi.pipeline)))

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, xapi.loop).result(30)

    run(server.start([TcpListener("127.0.0.1", 0)]))
    yield server.addresses[0][1]
    run(server.stop(0.2))


@pytest.fixture
def ask(xapi, port):
    """The status, headers and body of an answer at /blob."""

    def ask(method: str, body: bytes | None = None, headers: dict[str, str] | None = None, **query: str):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        fields = "&".join(f"{name}={value}" for name, value in query.items())
        connection.request(method, f"/blob?{fields}", body, headers or {})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    return ask


@pytest.fixture
def blob(xapi) -> Blob:
    return xapi.db.get(Blob, xapi("blob.create", "text/plain", False))


def test_what_was_put_is_got(xapi, ask, blob):
    content = os.urandom(600_000)
    assert ask("PUT", content, ref=blob.ref, session_id=xapi.session)[0] == 200
    status, headers, body = ask("GET", uuid=blob.uuid, session_id=xapi.session)
    assert (status, body, headers["Content-Type"]) == (200, content, "text/plain")
    assert blob.size == len(content) and blob.last_updated > "2026"


def test_a_blob_that_is_not_public_needs_a_session(xapi, ask, blob):
    ask("PUT", b"bytes", ref=blob.ref, session_id=xapi.session)
    assert ask("GET", ref=blob.ref)[0] == 401
    assert ask("PUT", b"other", ref=blob.ref)[0] == 401
    xapi("blob.set_public", blob.ref, True)
    assert ask("GET", ref=blob.ref)[2] == b"bytes"
    assert ask("PUT", b"other", ref=blob.ref)[0] == 401


def test_a_browser_runs_nothing_of_what_others_put_there(xapi, ask):
    row = xapi.db.get(Blob, xapi("blob.create", "text/html\r\nX-Evil: 1", True))
    ask("PUT", b"<script>", ref=row.ref, session_id=xapi.session)
    _, headers, _ = ask("GET", ref=row.ref)
    assert headers["Content-Security-Policy"] == "sandbox" and "X-Evil" not in headers
    assert headers["Content-Type"] == "application/octet-stream"


def test_who_may_not_write_is_refused_and_the_task_says_why(xapi, ask, blob):
    session = xapi.db.create(Session, auth_user_sid="u1000", is_local_superuser=False, rbac_permissions=())
    session.rbac_permissions = ("task.create", "task.set_progress", "task.set_status", "task.set_error_info")
    task = xapi.raw("task.create", session.ref, "upload", "")
    assert ask("PUT", b"bytes", ref=blob.ref, session_id=session.ref, task_id=task)[0] == 403
    row = xapi.db.get(Task, task)
    assert (row.status, row.error_info[:2]) == ("failure", ("RBAC_PERMISSION_DENIED", "http/put_blob"))


def test_the_task_ends_with_the_transfer(xapi, ask, blob):
    task = xapi("task.create", "upload", "")
    ask("PUT", b"bytes", ref=blob.ref, session_id=xapi.session, task_id=task)
    assert xapi.db.get(Task, task).status == "success"


def test_requests_that_cannot_be_served_say_why(xapi, ask, blob, monkeypatch):
    known = {"session_id": xapi.session}
    assert ask("GET", **known)[0] == 400
    assert ask("GET", ref="OpaqueRef:none", **known)[0] == 404
    assert ask("GET", uuid="none", **known)[0] == 404
    assert ask("GET", ref=blob.ref, **known)[0] == 404
    chunked = {"Transfer-Encoding": "chunked"}
    assert ask("PUT", iter([b"a"]), chunked, ref=blob.ref, **known)[0] in (400, 411)
    monkeypatch.setattr(doors_of_blobs, "MOST", 4)
    assert ask("PUT", b"12345", ref=blob.ref, **known)[0] == 413
    assert ask("PUT", b"1234", ref=blob.ref, **known)[0] == 200


def test_an_upload_that_breaks_off_changes_nothing(xapi, ask, port, blob):
    ask("PUT", b"before", ref=blob.ref, session_id=xapi.session)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("PUT", f"/blob?ref={blob.ref}&session_id={xapi.session}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"after")
    connection.close()
    assert ask("GET", ref=blob.ref, session_id=xapi.session)[2] == b"before"
    assert blob.size == len(b"before")


def test_a_full_disk_is_an_answer_and_leaves_what_was_there(xapi, ask, blob, monkeypatch):
    ask("PUT", b"before", ref=blob.ref, session_id=xapi.session)

    def full(self, uuid, parts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(blobs.BlobFiles, "write", full)
        status, _, body = ask("PUT", b"after", ref=blob.ref, session_id=xapi.session)
    assert status == 500 and b"No space left" in body
    assert ask("GET", ref=blob.ref, session_id=xapi.session)[2] == b"before"


def test_a_blob_destroyed_during_an_upload_leaves_no_file(xapi, ask, blob, monkeypatch):
    write = blobs.BlobFiles.write

    def destroyed(self, uuid, parts):
        size = write(self, uuid, parts)
        xapi("blob.destroy", blob.ref)
        return size

    monkeypatch.setattr(blobs.BlobFiles, "write", destroyed)
    assert ask("PUT", b"bytes", ref=blob.ref, session_id=xapi.session)[0] == 404
    assert list(blobs.files(xapi.machine).directory.iterdir()) == []


def test_while_binary_storage_is_off_nothing_goes_in_or_out(xapi, ask, blob):
    known = {"ref": blob.ref, "session_id": xapi.session}
    ask("PUT", b"before", **known)
    xapi("pool.disable_binary_storage")
    status, _, body = ask("PUT", b"bytes", **known)
    assert status == 404 and b"binary storage is off" in body
    assert ask("GET", **known)[0] == 404
    assert list(blobs.files(xapi.machine).directory.iterdir()) == []
    xapi("pool.enable_binary_storage")
    assert ask("PUT", b"bytes", **known)[0] == 200
    assert ask("GET", **known)[2] == b"bytes"


def test_binary_storage_that_ends_during_an_upload_keeps_nothing_of_it(xapi, ask, blob, monkeypatch):
    write = blobs.BlobFiles.write

    def ended(self, uuid, parts):
        size = write(self, uuid, parts)
        xapi("pool.disable_binary_storage")
        self.path(uuid).write_bytes(b"late")
        return size

    monkeypatch.setattr(blobs.BlobFiles, "write", ended)
    assert ask("PUT", b"bytes", ref=blob.ref, session_id=xapi.session)[0] == 404
    assert list(blobs.files(xapi.machine).directory.iterdir()) == [] and blob.size == 0
