"""Binary storage: what goes when it is switched off, what stays away while it is, and that both survive a kill."""

from __future__ import annotations

import pytest

from kronos.api import binary_storage
from kronos.api import blob as blobs
from kronos.api.message import tell
from kronos.db.records import Blob, Message
from kronos.metrics.keeping import Keeping, Key

NOON = 1_800_000_000


@pytest.fixture
def files(xapi):
    return blobs.files(xapi.machine)


@pytest.fixture
def filled(xapi, files) -> Blob:
    row = xapi.db.get(Blob, xapi("pool.create_new_blob", xapi.pool.ref, "notes", "text/plain", False))
    xapi.db.write(row, {"size": files.write(row.uuid, [b"bytes"]), "last_updated": "20260101T00:00:00Z"})
    return row


@pytest.fixture
def measured(xapi) -> Key:
    """The host, whose archive is in its file."""
    key = Key("host", xapi.host.uuid)
    xapi.machine.metrics.take(key, NOON, {"loadavg": 1.0})
    xapi.machine.metrics.backup()
    return key


def off(xapi) -> None:
    xapi("host.disable_binary_storage", xapi.host.ref)


def start_again(xapi) -> None:
    """What the next start of the daemon makes of it."""
    xapi.machine.keeps_blobs = True
    xapi.machine.metrics = Keeping(xapi.machine.state / "metrics")
    binary_storage.resume(xapi.db, xapi.machine)


def test_all_that_it_held_is_destroyed_and_the_records_of_blobs_say_so(xapi, files, filled, measured):
    tell(xapi.db, "ALARM", 1, "Host", xapi.host.uuid, "it burns")
    off(xapi)
    assert list(files.directory.iterdir()) == []
    assert list(xapi.machine.metrics.directory.iterdir()) == []
    assert xapi.db.all(Message) == []
    assert (filled.size, filled.last_updated) == (0, "19700101T00:00:00Z")
    assert xapi.pool.blobs == {"notes": filled.ref}
    assert xapi.host.other_config["no_local_storage"] == "true"


def test_what_is_measured_stays_in_memory_and_out_of_files(xapi, measured):
    off(xapi)
    xapi("host.backup_rrds", xapi.host.ref, 0.0)
    assert list(xapi.machine.metrics.directory.iterdir()) == []
    assert xapi("host.query_data_source", xapi.host.ref, "loadavg") == 1.0
    xapi("host.enable_binary_storage", xapi.host.ref)
    xapi("host.backup_rrds", xapi.host.ref, 0.0)
    assert [path.name for path in xapi.machine.metrics.directory.iterdir()] == [f"host.{xapi.host.uuid}"]


def test_a_blob_may_be_made_while_it_is_off(xapi):
    off(xapi)
    assert xapi.db.get(Blob, xapi("blob.create", "", False)).size == 0


def test_messages_go_on_in_the_database(xapi):
    off(xapi)
    row = tell(xapi.db, "ALARM", 1, "Host", xapi.host.uuid, "it burns")
    assert xapi("message.get_all") == (row.ref,)


def test_either_may_be_said_twice(xapi, filled):
    xapi("host.enable_binary_storage", xapi.host.ref)
    assert filled.size == 5
    off(xapi)
    off(xapi)
    xapi("host.enable_binary_storage", xapi.host.ref)
    xapi("host.enable_binary_storage", xapi.host.ref)
    assert "no_local_storage" not in xapi.host.other_config and xapi.machine.keeps_blobs


def test_the_pool_switches_all_of_its_hosts(xapi, filled):
    xapi("pool.disable_binary_storage")
    assert (filled.size, xapi.machine.keeps_blobs) == (0, False)
    xapi("pool.enable_binary_storage")
    assert xapi.machine.keeps_blobs


def test_a_start_leaves_it_as_it_was_whatever_other_config_says(xapi, filled):
    start_again(xapi)
    assert xapi.machine.keeps_blobs and filled.size == 5
    off(xapi)
    xapi("host.set_other_config", xapi.host.ref, {"folder": "/a"})
    start_again(xapi)
    assert not xapi.machine.keeps_blobs
    assert xapi.host.other_config == {"folder": "/a", "no_local_storage": "true"}


def test_messages_since_it_was_switched_off_outlive_a_start(xapi):
    off(xapi)
    tell(xapi.db, "ALARM", 1, "Host", xapi.host.uuid, "it burns")
    start_again(xapi)
    assert len(xapi.db.all(Message)) == 1


def test_a_kill_in_the_middle_is_made_good_by_the_next_start(xapi, files, filled, measured, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(binary_storage, "_keep_files", killed)
        with pytest.raises(Killed):
            off(xapi)
    assert files.path(filled.uuid).exists()
    start_again(xapi)
    assert list(files.directory.iterdir()) == [] and filled.size == 0
    assert list(xapi.machine.metrics.directory.iterdir()) == []
    assert xapi.machine.keys.get("binary_storage") == "off"


def test_a_host_that_is_not_there_is_refused(xapi):
    assert xapi.refused("host.disable_binary_storage", "OpaqueRef:none")[0] == "HANDLE_INVALID"
    assert xapi.machine.keeps_blobs


def test_only_root_switches_one_host_and_an_operator_the_pool(xapi):
    from kronos.datamodel.model import model

    assert model().messages["host.disable_binary_storage"].roles == frozenset()
    assert "pool-operator" in model().messages["pool.disable_binary_storage"].roles
