"""Bundles at a whole daemon: xe brings one, and kill -9 in the middle of another leaves the one before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.archive import Archive, run
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.transfer import connection, path_of, xe

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PACKAGE = "base-files"
"""One that every Debian has. Nothing is installed: the daemon of a test may not."""


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """A signed archive that has a newer version of it, and something to spend time with."""
    made = Archive(tmp_path / "archive")
    made.publish_deb(made.deb("999:1", PACKAGE))
    (made.served / "zz").write_bytes(bytes(8 << 20))
    return made


@pytest.fixture
def bundle(archive: Archive, tmp_path: Path) -> Path:
    run("tar", "--sort=name", "-C", archive.served, "-cf", tmp_path / "bundle.tar", ".")
    return tmp_path / "bundle.tar"


def titles(daemon: Daemon, client: Client) -> list[str]:
    link = connection(daemon, "http")
    link.request("GET", path_of(client, "/updates"))
    listed: dict[str, Any] = json.loads(link.getresponse().read())
    link.close()
    return [each["title"] for each in listed["updates"]]


def folders(daemon: Daemon) -> set[str]:
    return {path.name for path in (daemon.state / "bundles").iterdir()}


def test_xe_brings_a_bundle_and_kill_9_during_another_changes_nothing(
    daemon: Daemon, client: Client, archive: Archive, bundle: Path
) -> None:
    uuid = xe(daemon, "repository-introduce-bundle", "name-label=bundle")
    xe(daemon, "repository-set-gpgkey-path", f"uuid={uuid}", f"gpgkey-path={archive.key}")
    repository, (pool,) = client("Repository.get_by_uuid", uuid), client("pool.get_all")
    refused = xe(daemon, "pool-sync-bundle", f"filename={bundle}", expected=1)
    assert refused == "No bundle repository is enabled."
    client("pool.set_repositories", pool, [repository])

    xe(daemon, "pool-sync-bundle", f"filename={bundle}", "--progress")
    assert titles(daemon, client) == [PACKAGE]
    found, before = client("Repository.get_hash", repository), folders(daemon)

    body = bundle.read_bytes()
    link = connection(daemon, "http")
    link.putrequest("PUT", path_of(client, "/bundle"))
    link.putheader("Content-Length", str(len(body)))
    link.endheaders()
    link.send(body[: len(body) // 2])
    wait_until(lambda: folders(daemon) != before, 30, "nothing is unpacked")
    daemon.kill()
    link.close()
    daemon.start()

    again = daemon.client()
    assert folders(daemon) == before and titles(daemon, again) == [PACKAGE]
    assert again("Repository.get_hash", repository) == found
    assert again("pool.get_current_operations", pool) == {}
