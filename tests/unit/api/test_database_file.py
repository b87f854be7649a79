"""Sessions that see the database of a file: what they are told, and what they are refused."""

from __future__ import annotations

import os

import pytest

from kronos.api import database_file
from kronos.db import dump
from kronos.db.database import Database
from kronos.db.records import SR, VM, Host, Session
from kronos.dispatch import views


@pytest.fixture
def other(tmp_path):
    """Another pool's database: the file, a VM of it and its host."""
    db = Database()
    host = db.create(Host, hostname="there")
    vm = db.create(VM, name_label="theirs", affinity=host.ref, other_config={"k": "a < b & c"})
    path = tmp_path / "pool.xml"
    path.write_bytes(b"".join(dump.written(db)))
    return path, vm, host


@pytest.fixture
def view(xapi, other):
    """A client whose session sees the file."""
    path, _, _ = other
    ref = xapi("session.create_from_db_file", str(path))

    def ask(name: str, *args: object):
        return xapi.raw(name, ref, *args)

    ask.session = ref
    return ask


def refused(ask, name: str, *args: object) -> list[str]:
    from kronos.datamodel.errors import Failure

    with pytest.raises(Failure) as failure:
        ask(name, *args)
    return failure.value.description


def test_getters_answer_from_the_file(xapi, view, other):
    _, theirs, host = other
    own = xapi.vm()
    assert view("VM.get_all") == (theirs.ref,)
    assert view("VM.get_by_name_label", "theirs") == (theirs.ref,)
    assert view("VM.get_by_uuid", theirs.uuid) == theirs.ref
    assert view("VM.get_other_config", theirs.ref) == {"k": "a < b & c"}
    assert view("VM.get_all_where", 'field "name__label" = "theirs"') == (theirs.ref,)
    assert view("host.get_hostname", host.ref) == "there"
    assert view("VM.get_boot_record", theirs.ref)["uuid"] == theirs.uuid
    assert view("VM.get_possible_hosts", theirs.ref) == ()
    assert view("message.get_all") == ()
    assert refused(view, "VM.get_uuid", own.ref) == ["HANDLE_INVALID", "VM", own.ref]


def test_records_are_those_that_were_dumped(xapi, view, other):
    _, theirs, _ = other
    answer = view("VM.get_record", theirs.ref)
    assert answer["name_label"] == "theirs" and answer["other_config"] == {"k": "a < b & c"}


def test_everybody_else_sees_this_hosts(xapi, view, other):
    own = xapi.vm()
    assert xapi("VM.get_all") == (own.ref,)


def test_nothing_can_be_changed(xapi, view, other):
    _, theirs, _ = other
    own = xapi.vm()
    for ref in (theirs.ref, own.ref):
        assert refused(view, "VM.set_name_label", ref, "mine")[0] == "RBAC_PERMISSION_DENIED"
        assert refused(view, "VM.destroy", ref)[0] == "RBAC_PERMISSION_DENIED"
    assert refused(view, "session.create_from_db_file", "/x")[0] == "RBAC_PERMISSION_DENIED"
    assert (theirs.name_label, own.name_label) == ("theirs", "vm")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("event.from", (["*"], "", 1.0)),
        ("task.create", ("a", "b")),
        ("host.get_servertime", ("OpaqueRef:host",)),
        ("VM.get_data_sources", ("OpaqueRef:vm",)),
        ("Async.VM.get_possible_hosts", ("OpaqueRef:vm",)),
    ],
)
def test_what_more_than_rows_would_answer_is_refused(xapi, view, name, args):
    assert refused(view, name, *args)[0] == "OPERATION_NOT_ALLOWED"


def test_the_session_itself_and_roles_are_this_hosts(xapi, view):
    assert view("session.get_auth_user_name", view.session) == "db-from-file"
    assert not view("session.get_is_local_superuser", view.session)
    assert len(view("role.get_all")) == len(xapi("role.get_all"))


def test_after_a_logout_the_database_is_let_go(xapi, view):
    assert list(xapi.pipeline.views.of) == [view.session]
    view("session.logout")
    assert xapi.pipeline.views.of == {}
    assert refused(view, "VM.get_all") == ["SESSION_INVALID", view.session]


def test_calls_from_worker_threads_see_the_same(xapi, view, other):
    session = xapi.db.get(Session, view.session)
    from kronos.dispatch.call import INTERNAL

    assert xapi.pipeline.perform(INTERNAL, session, "VM.get_all", ()) == (other[1].ref,)


def test_the_oldest_makes_room(xapi, other, monkeypatch):
    monkeypatch.setattr(views, "MOST", 2)
    sessions = [xapi("session.create_from_db_file", str(other[0])) for _ in range(3)]
    assert list(xapi.pipeline.views.of) == sessions[1:]
    assert xapi.db.find(Session, sessions[0]) is None


def test_only_root_may_have_a_file_of_the_hosts_read(xapi, other):
    session = xapi.db.create(Session, auth_user_sid="u1000", is_local_superuser=False)
    from kronos.dispatch import roles

    session.rbac_permissions = roles.permissions_of("pool-admin")
    assert (
        refused(lambda *a: xapi.raw(a[0], session.ref, *a[1:]), "session.create_from_db_file", str(other[0]))[
            0
        ]
        == "RBAC_PERMISSION_DENIED"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pool.xml", "not an absolute path"),
        ("/nowhere/pool.xml", "No such file"),
        ("/dev/zero", "not a plain file"),
        ("/etc", ""),
        ("/a\0b", "null"),
        ("", "not an absolute path"),
    ],
)
def test_what_is_no_file_is_refused(xapi, name, why):
    code, field, text = xapi.refused("session.create_from_db_file", name)
    assert (code, field) == ("INVALID_VALUE", "filename") and why in text


def test_a_pipe_is_not_waited_for(xapi, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert xapi.refused("session.create_from_db_file", str(tmp_path / "pipe"))[0] == "INVALID_VALUE"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words",
        "<!DOCTYPE d [<!ENTITY a 'x'>]><database/>",
        '<database><table name="VM"><row ref="OpaqueRef:1" nonsense="1"/></table></database>',
        '<database><table name="VM"><row ref="&lt;value&gt;" name__label="x"/></table></database>',
    ],
)
def test_what_is_no_dump_is_refused_and_no_session_is_left(xapi, tmp_path, text):
    (tmp_path / "file").write_text(text)
    code, field, value = xapi.refused("session.create_from_db_file", str(tmp_path / "file"))
    assert (code, field) == ("INVALID_VALUE", "filename") and value.startswith(str(tmp_path))
    assert [row.ref for row in xapi.db.all(Session)] == [xapi.session]


def test_a_file_that_is_too_large_is_not_read_to_its_end(xapi, other, monkeypatch):
    monkeypatch.setattr(database_file, "MOST", 100)
    assert "more than 100 bytes" in xapi.refused("session.create_from_db_file", str(other[0]))[2]


def test_this_hosts_own_dump_is_as_it_was_when_it_was_made(xapi, tmp_path):
    sr = xapi.sr()
    (tmp_path / "own.xml").write_bytes(b"".join(dump.written(xapi.db)))
    ref = xapi("session.create_from_db_file", str(tmp_path / "own.xml"))
    xapi("SR.set_name_label", sr.ref, "later")
    assert xapi.raw("SR.get_name_label", ref, sr.ref) == "disks"
    assert xapi.raw("SR.get_PBDs", ref, sr.ref) == tuple(sr.PBDs)
    assert xapi.db.get(SR, sr.ref).name_label == "later"
