"""Updates with the real package managers: a signed archive over HTTP, and a system of its own below a directory."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil

import pytest

from harness.archive import Archive
from kronos.api import updates
from kronos.db.records import Repository, Secret
from kronos.rules.updates import digest
from kronos.server import doors
from kronos.server.access import Access
from kronos.server.http import Server, TcpListener
from kronos.system.packages import Apt

pytestmark = pytest.mark.integration


def enabled(host, archive) -> Repository:
    ref = host("Repository.introduce", "archive", "", host.url, "", True, str(archive.key))
    host("pool.set_repositories", host.pool.ref, [ref])
    return host.db.get(Repository, ref)


def sync(host, force=False) -> str:
    return host("pool.sync_updates", host.pool.ref, force, "", "", "", "")


def test_a_host_is_looked_at_listed_and_updated(system, archive):
    repository = enabled(system, archive)
    found = sync(system)
    assert repository.hash == found and system.host.latest_synced_updates_applied == "no"
    assert system.pool.last_update_sync > "2026" and system.installed() == "1"
    (update,) = updates.listing(system.db, system.machine, [])["updates"]
    assert update["title"] in ("linux-image-test", "kernel-core")
    assert update["guidance"]["mandatory"] == ["reboot_host"]
    assert system("host.apply_updates", system.host.ref, found) == ()
    assert system.installed() == "2"
    assert system.host.latest_synced_updates_applied == "yes" and system.host.last_update_hash == found
    assert system.host.pending_guidances == ("reboot_host",)
    refused = system.refused("host.apply_updates", system.host.ref, found)
    assert refused == ["HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", system.host.ref]


def test_only_what_was_looked_at_is_applied(system, archive):
    enabled(system, archive)
    found = sync(system)
    assert system.refused("host.apply_updates", system.host.ref, "another") == ["UPDATEINFO_HASH_MISMATCH"]
    assert system.refused("host.apply_updates", system.host.ref, "") == ["UPDATEINFO_HASH_MISMATCH"]
    system("pool.set_repositories", system.pool.ref, [])
    assert system.refused("host.apply_updates", system.host.ref, found) == ["NO_REPOSITORY_ENABLED"]
    assert system.installed() == "1"


def test_what_another_key_signed_is_not_taken(system, archive, tmp_path):
    enabled(system, archive)
    wrong = Archive(tmp_path / "wrong")
    system("Repository.set_gpgkey_path", system.db.all(Repository)[0].ref, str(wrong.key))
    if isinstance(system.machine.packages, Apt):
        assert system.refused("pool.sync_updates", system.pool.ref, False) == ["REPOSYNC_FAILED"]
    else:  # dnf asks for the key when it installs
        found = sync(system)
        refused = system.refused("host.apply_updates", system.host.ref, found)
        assert refused == ["APPLY_UPDATES_FAILED", system.host.ref]
    assert system.installed() == "1"


def test_an_archive_that_is_gone_is_an_error(system, archive):
    repository = enabled(system, archive)
    sync(system)
    for path in archive.served.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert system.refused("pool.sync_updates", system.pool.ref, True) == ["REPOSYNC_FAILED"]
    assert repository.hash != ""


def test_the_listing_comes_over_http(system, archive):
    enabled(system, archive)
    found = sync(system)
    server = Server(doors.all_doors(system.pipeline, Access(system.pipeline)))
    asyncio.run_coroutine_threadsafe(server.start([TcpListener("127.0.0.1", 0)]), system.loop).result(30)
    answers = []
    for query in (f"?session_id={system.session}&host_refs={system.host.ref}", ""):
        connection = http.client.HTTPConnection("127.0.0.1", server.addresses[0][1], timeout=30)
        connection.request("GET", f"/updates{query}")
        answer = connection.getresponse()
        answers.append((answer.status, answer.read()))
        connection.close()
    asyncio.run_coroutine_threadsafe(server.stop(0.2), system.loop).result(30)
    (status, body), (refused, _) = answers
    assert (status, refused) == (200, 401)
    listed = json.loads(body)
    assert listed["hash"] == found and listed["hosts"][0]["ref"] == system.host.ref
    assert listed["hosts"][0]["RPMS"] == [listed["updates"][0]["id"]]


def test_the_hosts_own_sources_are_looked_at(system, archive, tmp_path):
    root = system.machine.packages.root
    if isinstance(system.machine.packages, Apt):
        (root / "etc/apt/sources.list").write_text(f"deb [signed-by={archive.key}] {system.url} ./\n")
    else:
        (root / "etc/yum.repos.d").mkdir(parents=True)
        text = f"[own]\nname=own\nbaseurl={system.url}\ngpgcheck=1\ngpgkey=file://{archive.key}\n"
        (root / "etc/yum.repos.d/own.repo").write_text(text)
    updates.resume(system.db, system.machine)
    (own,) = system.db.all(Repository)
    assert own.binary_url.startswith("file:///etc/") and system.pool.repositories == (own.ref,)
    assert sync(system) == digest(system.machine.packages.pending()) != digest([])
    updates.resume(system.db, system.machine)
    assert system.db.all(Repository) == [own]


def test_a_proxy_is_asked_and_its_password_is_seen_by_nobody(system, archive):
    enabled(system, archive)
    system("pool.configure_repository_proxy", system.pool.ref, "http://127.0.0.1:1", "user", "s3cret")
    assert system.refused("pool.sync_updates", system.pool.ref, False) == ["REPOSYNC_FAILED"]
    files = [path for path in system.machine.packages.directory.rglob("*") if path.is_file()]
    holding = [path for path in files if b"s3cret" in path.read_bytes()]
    assert [path.stat().st_mode & 0o077 for path in holding] == [0]
    system("pool.disable_repository_proxy", system.pool.ref)
    assert system.db.all(Secret) == []
    sync(system)
