"""Bundles before a package manager sees them: who may bring one and when, and what stays when one is no good."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
from collections.abc import Callable
from functools import partial

import pytest

from harness.daemon import wait_until
from kronos.api import updates
from kronos.datamodel.types import NULL
from kronos.db.records import Repository, Session
from kronos.dispatch.call import Origin
from kronos.server import updates as door
from kronos.server.access import Access
from kronos.server.routing import Doors, Request
from kronos.server.streams import PlainStream
from kronos.server.transfers import Transfers
from kronos.system.commands import CommandFailed
from kronos.system.packages import NoRepository, Source, Update


class Manager:
    """Reads a repository that is one file, `updates`: a package a line."""

    def __init__(self, directory=None):
        self.directory = directory

    def at(self, directory):
        return Manager(directory)

    def sources(self, place, name, key):
        if not (place / "updates").exists():
            raise NoRepository("no file of updates")
        return [Source(name, str(place / "updates"), key=key)]

    def sync(self, sources, proxy):
        (source,) = sources
        with open(source.url) as file:
            text = file.read()
        if "unsigned" in text:
            raise CommandFailed(["fetch"], 1, "", "not signed")
        self.directory.mkdir()
        (self.directory / "names").write_text(text)

    def pending(self):
        names = self.directory / "names"
        return [Update(name, "all", "1", "2") for name in names.read_text().split()] if names.exists() else []


def bundle(updates: str, name: str = "updates") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(updates)
        tar.addfile(member, io.BytesIO(updates.encode()))
    return made.getvalue()


def door_of(
    xapi, task: str, session: str, length: int, headers: dict[str, str]
) -> Callable[[PlainStream], None]:
    doors, access = Doors(), Access(xapi.pipeline)
    door.add_doors(doors, access, Transfers(access))
    given = {name.encode(): value.encode() for name, value in headers.items()}
    given[b"content-length"] = str(length).encode()
    target = f"/bundle?session_id={session}&task_id={task}"
    request = Request(b"PUT", target.encode(), given, Origin(address="192.0.2.1"), False)
    return partial(doors.find(request).handle, request)


def put(
    xapi, body: bytes, session: str = "", length: int | None = None, **headers: str
) -> tuple[bytes, list[str]]:
    """Bring a bundle: the answer's first line, and the task's error, [] where there is none."""
    task = xapi("task.create", "bundle", "")
    if session:
        xapi.db.rows[task].session = session
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    serve = door_of(xapi, task, session or xapi.session, len(body) if length is None else length, given)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(body)
        ours.shutdown(socket.SHUT_WR)
        serve(PlainStream(theirs, b""))
        theirs.close()
        parts = []
        while data := ours.recv(65536):
            parts.append(data)
    row = xapi("task.get_record", task)
    assert row["status"] == ("failure" if row["error_info"] else "success")
    return b"".join(parts).partition(b"\r\n")[0], list(row["error_info"])


OK = (b"HTTP/1.1 200 OK", [])


@pytest.fixture
def repository(xapi) -> Repository:
    xapi.machine.packages = Manager()
    ref = xapi("Repository.introduce_bundle", "bundle", "from files")
    xapi("pool.set_repositories", xapi.pool.ref, [ref])
    return xapi.db.get(Repository, ref)


def shelf(xapi) -> list[str]:
    """What lies in the folders of bundles."""
    place = updates.bundles(xapi.machine).place
    return sorted(str(path.relative_to(place)) for path in place.rglob("*")) if place.exists() else []


def listed(xapi) -> list[str]:
    return [each["title"] for each in updates.listing(xapi.db, xapi.machine, [])["updates"]]


def test_there_is_one_repository_for_bundles(xapi, repository):
    record = xapi("Repository.get_record", repository.ref)
    assert (record["origin"], record["update"], record["binary_url"]) == ("bundle", True, "")
    assert xapi.refused("Repository.introduce_bundle", "another", "") == [
        "BUNDLE_REPOSITORY_ALREADY_EXISTS", repository.ref]  # fmt: skip
    assert xapi.refused("Repository.introduce_bundle", "bundle", "") == [
        "REPOSITORY_ALREADY_EXISTS", repository.ref]  # fmt: skip


def test_it_is_looked_at_alone_and_only_when_a_bundle_comes(xapi, repository):
    other = xapi("Repository.introduce", "r", "", "http://archive/r/", "", False)
    single = ["REPO_SHOULD_BE_SINGLE_ONE_ENABLED"]
    assert xapi.refused("pool.add_repository", xapi.pool.ref, other) == single
    assert xapi.refused("pool.set_repositories", xapi.pool.ref, [other, repository.ref]) == single
    assert xapi.refused("pool.sync_updates", xapi.pool.ref, False) == ["CAN_NOT_SYNC_UPDATES"]
    refused = xapi.refused("pool.set_update_sync_enabled", xapi.pool.ref, True)
    assert refused == ["CAN_NOT_PERIODIC_SYNC_UPDATES"]


def test_lists_are_no_longer_fetched_by_themselves_once_bundles_bring_them(xapi, repository):
    other = xapi("Repository.introduce", "r", "", "http://archive/r/", "", True)
    xapi("pool.set_repositories", xapi.pool.ref, [other])
    xapi("pool.set_update_sync_enabled", xapi.pool.ref, True)
    xapi("pool.set_repositories", xapi.pool.ref, [repository.ref])
    assert not xapi.pool.update_sync_enabled


def test_a_bundle_is_unpacked_and_looked_at(xapi, repository):
    assert put(xapi, bundle("a b")) == OK
    assert listed(xapi) == ["a", "b"]
    assert repository.hash and xapi.host.latest_synced_updates_applied == "no"
    assert xapi.pool.last_update_sync > "2026" and xapi.pool.current_operations == {}


def test_the_next_bundle_takes_its_place(xapi, repository):
    put(xapi, bundle("a b"))
    before, hash = shelf(xapi), repository.hash
    assert put(xapi, bundle("c")) == OK
    assert listed(xapi) == ["c"] and repository.hash != hash
    assert len(shelf(xapi)) == len(before) and not set(shelf(xapi)[:-1]) & set(before[:-1]) - {"current"}


BAD = {
    "no repository": (bundle("a", "README"), ["BUNDLE_SYNC_FAILED"]),
    "one that is not signed": (bundle("unsigned"), ["BUNDLE_SYNC_FAILED"]),
    "a name elsewhere": (bundle("a", "../updates"), ["BUNDLE_UNPACK_FAILED", "the name '../updates'"]),
    "half of one": (bundle("a")[:700], ["BUNDLE_UNPACK_FAILED", "the stream ends after 700 bytes"]),
    "no tar file": (b"x" * 600, ["BUNDLE_UNPACK_FAILED", "not the header of a tar file"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_that_is_no_good_leaves_the_one_before(xapi, repository, kind):
    put(xapi, bundle("a"))
    before = shelf(xapi), repository.hash, xapi.pool.last_update_sync
    body, error = BAD[kind]
    assert put(xapi, body) == (b"HTTP/1.1 200 OK", error)
    assert (shelf(xapi), repository.hash, xapi.pool.last_update_sync) == before and listed(xapi) == ["a"]
    assert xapi.pool.current_operations == {}


def test_an_upload_that_breaks_off_leaves_nothing(xapi, repository):
    body = bundle("a")
    _, error = put(xapi, body[:1200], length=len(body))
    assert error == ["BUNDLE_UNPACK_FAILED", f"{len(body) - 1200} bytes are missing"]
    assert shelf(xapi) == [] and listed(xapi) == []


def test_an_upload_that_is_cancelled_leaves_nothing(xapi, repository):
    task, body = xapi("task.create", "bundle", ""), bundle("a")
    serve = door_of(xapi, task, xapi.session, len(body), {})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(body[:700])
        serving = threading.Thread(target=serve, args=(PlainStream(theirs, b""),))
        serving.start()
        wait_until(lambda: shelf(xapi), 30, "nothing is unpacked")
        xapi("task.cancel", task)
        ours.shutdown(socket.SHUT_WR)
        serving.join(30)
    assert xapi("task.get_status", task) == "cancelled"
    assert xapi("task.get_error_info", task) == ("TASK_CANCELLED", task)
    assert shelf(xapi) == [] and xapi.pool.current_operations == {}


def test_one_that_is_too_large_is_not_unpacked(xapi, repository, monkeypatch):
    monkeypatch.setattr("kronos.api.bundles.MOST", 5000)
    assert put(xapi, bundle("a" * 905))[1] == ["BUNDLE_UNPACK_FAILED", "more than 5000 bytes"]
    assert shelf(xapi) == []


def test_bundles_come_one_at_a_time(xapi, repository):
    xapi.db.write(xapi.pool, {"current_operations": {"OpaqueRef:x": "sync_bundle"}})
    answer, error = put(xapi, bundle("a"))
    assert error == ["SYNC_BUNDLE_IN_PROGRESS"] and b"200" not in answer
    assert xapi.refused("pool.set_repositories", xapi.pool.ref, []) == ["SYNC_BUNDLE_IN_PROGRESS"]


def test_what_is_applied_is_not_replaced_meanwhile(xapi, repository):
    xapi.host.enabled = False
    xapi.db.write(xapi.pool, {"current_operations": {"OpaqueRef:x": "sync_bundle"}})
    assert xapi.refused("host.apply_updates", xapi.host.ref, "hash") == ["SYNC_BUNDLE_IN_PROGRESS"]


def test_a_bundle_has_to_be_wanted(xapi, repository):
    other = xapi("Repository.introduce", "r", "", "http://archive/r/", "", True)
    xapi("pool.set_repositories", xapi.pool.ref, [other])
    answer, error = put(xapi, bundle("a"))
    assert error == ["BUNDLE_REPO_NOT_ENABLED"] and b"200" not in answer
    xapi("pool.set_repositories", xapi.pool.ref, [])
    assert put(xapi, bundle("a"))[1] == ["NO_REPOSITORY_ENABLED"]


def test_a_bundle_is_asked_for_its_own_permission(xapi, repository):
    session = xapi.db.create(
        Session, this_host=xapi.host.ref, auth_user_sid="ann", rbac_permissions=("http/put_import",)
    )
    answer, error = put(xapi, bundle("a"), session.ref)
    assert answer.startswith(b"HTTP/1.1 403") and error[:2] == ["RBAC_PERMISSION_DENIED", "http/put_bundle"]
    assert shelf(xapi) == []


def test_a_bundle_in_chunks_is_refused(xapi, repository):
    answer, error = put(xapi, bundle("a"), transfer_encoding="chunked")
    assert answer.startswith(b"HTTP/1.1 403") and error == ["IMPORT_ERROR_CANNOT_HANDLE_CHUNKED"]


def test_a_repository_that_is_disabled_keeps_nothing(xapi, repository):
    put(xapi, bundle("a"))
    xapi("pool.remove_repository", xapi.pool.ref, repository.ref)
    assert shelf(xapi) == []
    xapi("pool.add_repository", xapi.pool.ref, repository.ref)
    assert repository.hash == "" and listed(xapi) == []


def test_the_next_start_keeps_the_bundle_that_is_enabled_and_no_other(xapi, repository):
    put(xapi, bundle("a"))
    before = shelf(xapi)
    (updates.bundles(xapi.machine).place / "half").mkdir()
    updates.resume(xapi.db, xapi.machine)
    assert shelf(xapi) == before and listed(xapi) == ["a"]
    xapi.pool.repositories = (NULL,)
    updates.resume(xapi.db, xapi.machine)
    assert shelf(xapi) == []
