"""Dumps of the database: what is written is read again, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.db import dump
from kronos.db.database import Database
from kronos.db.dump import NotADump
from kronos.db.query import db_string
from kronos.db.records import SR, VM, Host, Secret, Task

VALUES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00\ufffe\uffff"))
HEAD = '<database><manifest><pair key="schema_major_vsn" value="5"/></manifest>'


@pytest.fixture
def db():
    return Database()


def read_again(db):
    return dump.read([b"".join(dump.written(db))])


def test_rows_are_read_as_they_were_written(db):
    vm = db.create(
        VM,
        name_label=" 50 % of\ta\nline ",
        memory_static_max=1 << 40,
        is_a_template=True,
        tags=("it's", 'a "b"', "c\\d"),
        other_config={"k 1": "v\n2", "": "x"},
        blobs={"n": "OpaqueRef:b"},
    )
    fields = read_again(db).of("VM")[vm.ref]
    assert fields == {name: value for name, value in vm.stored().items() if name in fields}
    assert {"name_label", "tags", "other_config", "uuid", "platform"} <= fields.keys()


@given(st.dictionaries(VALUES, VALUES), st.lists(VALUES))
def test_any_text_goes_through(entries, items):
    from kronos.datamodel.model import model

    fields = model().classes["VM"].fields
    assert dump.value_of(fields["other_config"].type, db_string(entries)) == entries
    assert dump.value_of(fields["tags"].type, db_string(tuple(items))) == tuple(items)


def test_what_lives_as_long_as_the_daemon_is_not_in_it(db):
    db.create(Task, name_label="x")
    db.create(Host, hostname="h")
    found = read_again(db)
    assert found.of("task") == {} and len(found.of("host")) == 1
    assert found.generation == db.generation


def test_a_reader_without_rights_to_secrets_gets_none(db):
    from kronos.db.records import PBD
    from kronos.rules.redaction import REMOVED, hidden

    db.create(Secret, value="hunter2")
    db.create(PBD, device_config={"cifspassword": "hunter2", "location": "//nas/share"})
    text = b"".join(dump.written(db, hidden)).decode()
    assert "hunter2" not in text
    found = dump.read([text.encode()])
    assert next(iter(found.of("PBD").values()))["device_config"] == {
        "cifspassword": REMOVED,
        "location": "//nas/share",
    }


def test_nor_the_passwords_in_urls_wherever_they_stand(db):
    from kronos.db.records import VM, Observer, Pool
    from kronos.rules.redaction import hidden

    db.create(
        Pool,
        repository_proxy_url="http://me:hunter2@192.0.2.1:3128",
        other_config={"proxy": "http://u:hunter2@p/"},
    )
    db.create(Observer, endpoints=("https://me:hunter2@collector/v1", "bugtool"))
    db.create(VM, PV_args="quiet ks=ftp://me:hunter2@there/ks.cfg", other_config={"ipmi_pwd": "hunter2"})
    text = b"".join(dump.written(db, hidden)).decode()
    assert "hunter2" not in text
    assert "http://me:REMOVED@192.0.2.1:3128" in text and "bugtool" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<html/>",
        f"{HEAD}<table name='VM'><row uuid='x'/></table></database>",
        f"{HEAD}<table name='VM'><row ref='a' no_such_field='x'/></table></database>",
        f"{HEAD}<table name='VM'><row ref='a'/><row ref='a'/></table></database>",
        f"{HEAD}<table name='VM'><row ref='a' tags=\"('x'\"/></table></database>",
        f"{HEAD}<table name='VM'><row ref='a' memory__static_max='many'/></table></database>",
        f"{HEAD}<table name='VM'><row ref='a' power_state='Sideways'/></table></database>",
        f"{HEAD}<table name='VM'><row ref='a' other_config=\"(('x'))\"/></table></database>",
        f"{HEAD}<table name='VM'>",
        "<!DOCTYPE database [<!ENTITY a 'aaaa'>]><database/>",
    ],
)
def test_what_is_no_dump_is_refused(text):
    with pytest.raises(NotADump):
        dump.read([text.encode()])


def test_tables_that_are_no_more_are_passed_over():
    text = f"{HEAD}<table name='VMCloud'><row ref='a' x='y'/></table><table name='SR'><row ref='b'/></table></database>"
    assert list(dump.read([text.encode()]).rows) == ["b"]
    assert SR.kind.name == "SR"
