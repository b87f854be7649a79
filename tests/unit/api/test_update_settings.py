"""Which repositories are looked at and when: the pool's settings."""

from __future__ import annotations

import pytest

from kronos.background.update_sync import UpdateSync
from kronos.datamodel.types import NULL
from kronos.db.records import Repository, Secret
from kronos.rules.updates import digest
from kronos.system.packages import Update


def repository(xapi, name: str = "r", update: bool = True) -> str:
    return xapi("Repository.introduce", name, "", f"http://archive/{name}/", "", update)


def test_a_repository_is_known_once_and_forgotten_when_it_is_not_in_use(xapi):
    ref = repository(xapi)
    assert xapi.refused("Repository.introduce", "r", "", "http://other/", "", True) == [
        "REPOSITORY_ALREADY_EXISTS", ref]  # fmt: skip
    assert xapi.refused("Repository.introduce", "x", "", "gopher://x/", "", True) == [
        "INVALID_BASE_URL",
        "gopher://x/",
    ]
    xapi("pool.add_repository", xapi.pool.ref, ref)
    assert xapi.refused("Repository.forget", ref) == ["REPOSITORY_IS_IN_USE"]
    xapi("pool.remove_repository", xapi.pool.ref, ref)
    xapi("Repository.forget", ref)
    assert xapi.db.all(Repository) == []


def test_a_change_of_repositories_makes_what_was_found_count_no_more(xapi):
    first, other, more = repository(xapi), repository(xapi, "s"), repository(xapi, "t", update=False)
    xapi("pool.set_repositories", xapi.pool.ref, [first])
    row = xapi.db.get(Repository, first)
    row.hash, xapi.host.latest_synced_updates_applied = "found", "yes"
    xapi.pool.last_update_sync = "20260301T00:00:00Z"
    assert xapi.refused("pool.add_repository", xapi.pool.ref, other) == [
        "MULTIPLE_UPDATE_REPOSITORIES_ENABLED"
    ]
    assert row.hash == "found"
    xapi("pool.add_repository", xapi.pool.ref, more)
    assert (row.hash, xapi.pool.last_update_sync) == ("", "19700101T00:00:00Z")
    assert xapi.host.latest_synced_updates_applied == "unknown"
    assert xapi.refused("pool.set_repositories", xapi.pool.ref, ["OpaqueRef:x"])[0] == "HANDLE_INVALID"


def test_a_proxys_password_is_a_secret(xapi):
    pool = xapi.pool
    xapi("pool.configure_repository_proxy", pool.ref, "http://proxy:3128", "user", "s3cret")
    assert xapi.db.get(Secret, pool.repository_proxy_password).value == "s3cret"
    xapi("pool.configure_repository_proxy", pool.ref, "http://proxy:3128", "", "")
    assert xapi.db.all(Secret) == [] and pool.repository_proxy_password == NULL
    for args, code in (
        (("ftp://x", "", ""), "INVALID_REPOSITORY_PROXY_URL"),
        (("http://x", "user", ""), "INVALID_REPOSITORY_PROXY_CREDENTIAL"),
        (("http://x", "", "p"), "INVALID_REPOSITORY_PROXY_CREDENTIAL"),
        (("http://x", "u", 'p";\nEvil "1'), "INVALID_REPOSITORY_PROXY_CREDENTIAL"),
    ):
        assert xapi.refused("pool.configure_repository_proxy", pool.ref, *args)[0] == code
    xapi("pool.disable_repository_proxy", pool.ref)
    assert pool.repository_proxy_url == ""


def test_lists_are_fetched_by_themselves_where_that_is_asked_for(xapi, monkeypatch):
    assert xapi.refused("pool.set_update_sync_enabled", xapi.pool.ref, True) == ["NO_REPOSITORIES_CONFIGURED"]
    xapi("pool.set_repositories", xapi.pool.ref, [repository(xapi)])
    xapi("pool.set_update_sync_enabled", xapi.pool.ref, True)
    assert xapi.refused("pool.configure_update_sync", xapi.pool.ref, "weekly", 7) == [
        "INVALID_UPDATE_SYNC_DAY",
        "7",
    ]
    xapi("pool.configure_update_sync", xapi.pool.ref, "daily", 3)
    assert (xapi.pool.update_sync_frequency, xapi.pool.update_sync_day) == ("daily", 0)
    fetched = []
    monkeypatch.setattr(xapi.pipeline, "perform_internal", lambda *args: fetched.append(args[0]))
    UpdateSync(xapi.pipeline).look(1.8e9)
    assert fetched == ["Async.pool.sync_updates"]
    xapi("pool.set_repositories", xapi.pool.ref, [])
    assert not xapi.pool.update_sync_enabled


def test_what_keeps_a_pool_from_being_updated_is_told(xapi):
    assert xapi("pool.check_update_readiness", xapi.pool.ref, False) in (
        (),
        (("HOST_OFFLINE", xapi.host.ref),),
    )
    xapi.pool.ha_enabled = True
    assert ("HA_IS_ENABLED",) in xapi("pool.check_update_readiness", xapi.pool.ref, False)


@pytest.mark.parametrize(
    "call", [("pool.sync_updates", "pool", False), ("host.apply_updates", "host", "hash")]
)
def test_a_host_without_a_package_manager_says_so(xapi, call):
    xapi.host.enabled = False
    name, owner, argument = call
    refused = xapi.refused(name, getattr(xapi, owner).ref, argument)
    assert refused[0] in ("OPERATION_NOT_ALLOWED", "NO_REPOSITORY_ENABLED")


def test_a_daemon_that_is_not_the_systems_updates_nothing(xapi):
    class Manager:
        def pending(self):
            return [Update("linux-image", "amd64", "1", "2")]

        def upgrade(self):
            return ["true"]

    xapi.machine.packages = Manager()
    ref = repository(xapi)
    xapi("pool.set_repositories", xapi.pool.ref, [ref])
    xapi.db.get(Repository, ref).hash = found = digest(Manager().pending())
    assert xapi.refused("host.apply_updates", xapi.host.ref, found)[0] == "OPERATION_NOT_ALLOWED"
    assert xapi.host.pending_guidances == () and xapi.host.last_update_hash == ""


def test_live_patches_are_of_another_system(xapi):
    patch = (xapi.host.ref, "kernel", "id", "1", "1", "2", "1")
    refused = xapi.refused("Repository.apply_livepatch", *patch)
    assert refused == ["APPLY_LIVEPATCH_FAILED", "kernel 1-1 to 2-1"]
