"""What is kept in memory and what in files."""

from __future__ import annotations

import math

import pytest

from kronos.metrics import keeping as module
from kronos.metrics.archive import STEP
from kronos.metrics.keeping import AT_ONCE, SAVED_EVERY, Keeping, Key, UnknownSource

NOON = 1_800_000_000
VM = Key("vm", "5b5c2a9c-9d5e-4e2d-8b7c-000000000001")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "metrics"


@pytest.fixture
def keeping(directory):
    return Keeping(directory)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def number(index: int) -> Key:
    return Key("vm", f"5b5c2a9c-9d5e-4e2d-8b7c-{index:012x}")


def test_an_archive_begins_with_what_is_standard(keeping):
    keeping.take(VM, NOON, {"memory": 5.0, "vif_0_rx_errors": 1.0, "nonsense": 2.0})
    assert keeping.archive(VM).names == ["memory"]
    listed = {each.source.name: each.enabled for each in keeping.sources(VM)}
    assert listed.pop("memory")
    assert not any(listed.values())


def test_a_source_that_appears_later_joins_the_archive(keeping):
    keeping.take(VM, NOON, {"memory": 5.0})
    keeping.take(VM, NOON + STEP, {"memory": 6.0, "vbd_xvdb_read": 1.0})
    assert keeping.archive(VM).names == ["memory", "vbd_xvdb_read"]
    assert keeping.newest(VM, "vbd_xvdb_read") == 1.0


def test_a_source_that_is_gone_is_unknown_and_not_enabled(keeping):
    keeping.take(VM, NOON, {"memory": 5.0, "vbd_xvdb_read": 1.0})
    keeping.take(VM, NOON + STEP, {"memory": 6.0})
    assert math.isnan(keeping.newest(VM, "vbd_xvdb_read"))
    assert [(each.source.name, each.enabled) for each in keeping.sources(VM)] == [
        ("memory", True),
        ("vbd_xvdb_read", False),
    ]


def test_what_rests_is_read_from_its_file_and_goes_on_from_there(keeping, directory):
    keeping.take(VM, NOON, {"memory": 5.0})
    keeping.rest(VM)
    assert keeping.measured() == set()
    assert keeping.archive(VM).newest("memory") == 5.0
    with pytest.raises(UnknownSource):
        keeping.newest(VM, "memory")
    again = Keeping(directory)
    again.take(VM, NOON + STEP, {"memory": 6.0})
    assert list(again.archive(VM).levels[0].rings[0].last(2)) == [5.0, 6.0]


def test_a_file_that_is_damaged_is_a_new_beginning(keeping, directory, caplog):
    keeping.take(VM, NOON, {"memory": 5.0})
    keeping.backup()
    (path,) = directory.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    again = Keeping(directory)
    assert again.archive(VM) is None
    assert "begin anew" in caplog.text
    again.take(VM, NOON + STEP, {"memory": 6.0})
    assert again.newest(VM, "memory") == 6.0


def test_archives_take_turns_to_be_saved_and_none_is_older_than_ten_minutes_and_a_little(
    keeping, directory, clock
):
    for index in range(3 * AT_ONCE):
        keeping.take(number(index), NOON, {"memory": 5.0})
    keeping.save_due()
    assert not directory.exists()
    clock.now += SAVED_EVERY
    rounds = 0
    while len(list(directory.glob("*"))) < 3 * AT_ONCE:
        keeping.save_due()
        rounds += 1
        assert len(list(directory.glob("*"))) <= rounds * 4
    assert rounds * STEP <= 300
    saved = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    keeping.save_due()
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == saved


def test_a_backup_is_made_when_it_is_due(keeping, directory, clock):
    keeping.take(VM, NOON, {"memory": 5.0})
    keeping.backup(60.0)
    keeping.backup(30.0)
    keeping.save_due()
    assert not directory.exists()
    clock.now += 31
    keeping.save_due()
    assert len(list(directory.iterdir())) == 1


def test_what_nobody_knows_any_more_is_removed(keeping, directory):
    keeping.take(number(1), NOON, {"memory": 5.0})
    keeping.take(number(2), NOON, {"memory": 5.0})
    keeping.take(number(3), NOON, {"memory": 5.0})
    keeping.backup()
    keeping.rest(number(2))
    (directory / "rubbish").write_text("")
    keeping.forget({number(3)})
    assert keeping.measured() == {number(3)}
    assert [path.name for path in directory.iterdir()] == [f"vm.{number(3).uuid}"]


def test_a_disk_that_is_full_does_not_stop_what_is_measured(keeping, directory, caplog):
    directory.write_text("in the way")
    keeping.take(VM, NOON, {"memory": 5.0})
    keeping.backup()
    assert "not saved" in caplog.text
    keeping.take(VM, NOON + STEP, {"memory": 6.0})
    assert keeping.newest(VM, "memory") == 6.0
