"""Bundles with the real package managers: a signed archive as one tar file, and a system of its own to update."""

from __future__ import annotations

import asyncio
import http.client
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.archive import Archive, run
from kronos.api import updates
from kronos.db.records import Repository
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import Server, TcpListener
from kronos.system.packages import Apt

pytestmark = pytest.mark.integration


def tar_of(folder: Path, name: str = ".") -> bytes:
    """As `tar -cf` makes it."""
    made = folder.parent / "bundle.tar"
    run("tar", "-C", folder if name == "." else folder.parent, "-cf", made, name)
    return made.read_bytes()


@contextmanager
def served(host) -> Iterator[tuple[str, int]]:
    server = Server(doors.all_doors(host.pipeline, Access(host.pipeline)))
    asyncio.run_coroutine_threadsafe(server.start([TcpListener("127.0.0.1", 0)]), host.loop).result(30)
    try:
        yield server.addresses[0][:2]
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0.2), host.loop).result(30)


def put(host, body: bytes) -> list[str]:
    """Bring a bundle; the task's error, [] where there is none."""
    task = host("task.create", "upload bundle", "")
    with served(host) as (address, port):
        connection = http.client.HTTPConnection(address, port, timeout=60)
        connection.request("PUT", f"/bundle?session_id={host.session}&task_id={task}", body)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        connection.close()
    record = host("task.get_record", task)
    assert record["status"] == ("failure" if record["error_info"] else "success")
    return list(record["error_info"])


@pytest.fixture
def repository(system, archive) -> Repository:
    ref = system("Repository.introduce_bundle", "bundle", "")
    system("Repository.set_gpgkey_path", ref, str(archive.key))
    system("pool.set_repositories", system.pool.ref, [ref])
    return system.db.get(Repository, ref)


def titles(host) -> list[str]:
    return [each["title"] for each in updates.listing(host.db, host.machine, [])["updates"]]


def test_a_host_is_updated_from_a_bundle(system, archive, repository):
    assert put(system, tar_of(archive.served)) == []
    assert titles(system) in (["linux-image-test"], ["kernel-core"])
    shutil.rmtree(archive.served)
    found = repository.hash
    assert system("host.apply_updates", system.host.ref, found) == ()
    assert system.installed() == "2" and system.host.last_update_hash == found
    assert system.host.pending_guidances == ("reboot_host",) and titles(system) == []


def test_what_another_key_signed_is_not_taken_and_what_was_there_stays(system, archive, repository, tmp_path):
    body = tar_of(archive.served)
    assert put(system, body) == []
    found = repository.hash
    system("Repository.set_gpgkey_path", repository.ref, str(Archive(tmp_path / "wrong").key))
    if isinstance(system.machine.packages, Apt):
        assert put(system, body) == ["BUNDLE_SYNC_FAILED"]
        assert repository.hash == found
        assert system("host.apply_updates", system.host.ref, found) == ()
        assert system.installed() == "2"
    else:  # dnf asks for the key when it installs
        assert put(system, body) == []
        refused = system.refused("host.apply_updates", system.host.ref, repository.hash)
        assert refused == ["APPLY_UPDATES_FAILED", system.host.ref]
        assert system.installed() == "1"


def test_a_folder_without_a_repository_is_refused(system, archive, repository, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/Packages").write_text("Package: x\n")
    assert put(system, tar_of(tmp_path / "folder")) == ["BUNDLE_SYNC_FAILED"]
    assert list(updates.bundles(system.machine).place.iterdir()) == []


def test_an_archive_with_suites_may_lie_in_one_folder(system, archive, repository, tmp_path):
    folder = tmp_path / "our archive"
    if isinstance(system.machine.packages, Apt):
        archive.publish_suite(archive.place / "linux-image-test_2_all.deb", folder, "stable-updates", "main")
    else:
        shutil.copytree(archive.served, folder)
    assert put(system, tar_of(folder, folder.name)) == []
    assert system("host.apply_updates", system.host.ref, repository.hash) == ()
    assert system.installed() == "2"
