"""Updates: what addresses mean, what is to be done after an update, when lists are fetched."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Pool, Repository
from kronos.rules import updates
from kronos.system.packages import Source, Update


@pytest.fixture
def db():
    return Database()


def update(name: str, version: str = "2", installed: str = "1") -> Update:
    return Update(name, "amd64", installed, version)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://h/flat/", Source("r", "http://h/flat/", key="/k.asc")),
        ("https://h/debian#bookworm/main", Source("r", "https://h/debian", "bookworm", ("main",), "/k.asc")),
        (
            "https://h/d#stable/main,contrib",
            Source("r", "https://h/d", "stable", ("main", "contrib"), "/k.asc"),
        ),
        ("https://h/d#a/updates/main", Source("r", "https://h/d", "a/updates", ("main",), "/k.asc")),
        ("file:///etc/apt/", Source("r")),
    ],
)
def test_an_address_says_where_packages_are(db, url, found):
    row = db.create(Repository, name_label="r", binary_url=url, gpgkey_path="/k.asc")
    assert updates.source(row) == found


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/", "http://", "http://h/ x", "http://h/\ndeb http://evil/ ./", "http://h/[trusted=yes]"],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(Failure, match="INVALID_BASE_URL"):
        updates.assert_address(url)


@pytest.mark.parametrize("path", ["relative.asc", "/a/../b", "/a b", "/a\nb"])
def test_a_key_is_a_file_by_its_whole_path(path):
    updates.assert_key("")
    updates.assert_key("/etc/apt/keyrings/x.asc")
    with pytest.raises(Failure, match="INVALID_GPGKEY_PATH"):
        updates.assert_key(path)


def test_what_is_to_be_done_follows_what_was_updated():
    assert updates.guidance([update("bash")]) == ()
    assert updates.guidance([update("linux-image-amd64"), update("qemu-system-x86")]) == (
        "reboot_host",
        "restart_device_model",
    )
    assert updates.guidance([update("kronos-xapi")]) == ("restart_toolstack",)
    assert updates.guidance([update("kernelshark"), update("xenstore-utils")]) == ()


def test_a_digest_is_of_what_would_change_and_not_of_its_order():
    both = [update("a"), update("b")]
    assert updates.digest(both) == updates.digest(both[::-1])
    assert len({updates.digest(each) for each in (both, both[:1], [update("a", "3"), both[1]], [])}) == 4


def test_one_repository_of_updates_is_enabled(db):
    first, second = (db.create(Repository, update=True) for _ in range(2))
    more = db.create(Repository, update=False)
    assert updates.for_updates([more, first]) is first
    for rows, code in (
        ([more], "NO_REPOSITORY_ENABLED"),
        ([first, second], "MULTIPLE_UPDATE_REPOSITORIES_ENABLED"),
    ):
        with pytest.raises(Failure, match=code):
            updates.for_updates(rows)


def moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("frequency", "day", "last", "now", "due"),
    [
        ("daily", 0, "2026-03-03 23:00", "2026-03-04 00:10", True),
        ("daily", 0, "2026-03-04 00:05", "2026-03-04 23:50", False),
        # 4 March 2026 is a Wednesday, 3.
        ("weekly", 3, "2026-03-03 12:00", "2026-03-04 00:10", True),
        ("weekly", 3, "2026-03-04 00:10", "2026-03-10 12:00", False),
        ("weekly", 3, "2026-02-25 12:00", "2026-03-06 12:00", True),
        ("weekly", 0, "2026-03-01 12:00", "2026-03-07 12:00", False),
        ("weekly", 0, "2026-02-28 12:00", "2026-03-01 00:10", True),
    ],
)
def test_lists_are_fetched_on_their_day(db, frequency, day, last, now, due):
    fields = {"update_sync_frequency": frequency, "update_sync_day": day, "repositories": ("OpaqueRef:r",)}
    pool = db.create(Pool, update_sync_enabled=True, **fields)
    assert updates.is_sync_due(pool, moment(last), moment(now)) is due
    pool.update_sync_enabled = False
    assert not updates.is_sync_due(pool, moment(last), moment(now))
