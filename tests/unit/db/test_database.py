"""The database: rows, relations, indexes, transactions, and what comes back after a restart."""

from __future__ import annotations

import threading

import pytest

from kronos.datamodel.errors import Failure
from kronos.db import record
from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import PBD, SR, VBD, VDI, VM, Host, Role, Session, Subject, Task


@pytest.fixture
def db():
    return Database()


def test_a_new_row_has_every_default_and_a_uuid(db):
    vm = db.create(VM, name_label="one")
    assert (vm.power_state, vm.other_config, vm.VBDs, vm.affinity) == ("Halted", {}, (), "OpaqueRef:NULL")
    assert len(vm.uuid) == 36


def test_a_dangling_reference_is_handle_invalid_with_its_class(db):
    with pytest.raises(Failure) as failure:
        db.get(VM, "OpaqueRef:none")
    assert failure.value.description == ["HANDLE_INVALID", "VM", "OpaqueRef:none"]


def test_a_reference_to_another_class_is_handle_invalid(db):
    with pytest.raises(Failure):
        db.get(VM, db.create(SR).ref)


def test_a_mirror_follows_the_reference_on_the_other_side(db):
    vm, other = db.create(VM), db.create(VM)
    vbd = db.create(VBD, VM=vm.ref)
    assert vm.VBDs == (vbd.ref,)
    vbd.VM = other.ref
    assert (vm.VBDs, other.VBDs) == ((), (vbd.ref,))
    db.delete(vbd)
    assert other.VBDs == ()


def test_a_change_of_a_relation_is_an_event_of_both_sides(db):
    vm = db.create(VM)
    before = db.generation
    db.create(VBD, VM=vm.ref)
    assert vm.touched > before
    assert b"VBDs</name><value><array><data><value>OpaqueRef" in vm.xml()


def test_a_many_to_many_relation_is_written_on_both_sides(db):
    update = db.create(Host)
    from kronos.db.records import Pool_update

    patch = db.create(Pool_update)
    update.updates = (patch.ref,)
    assert patch.hosts == (update.ref,)
    db.delete(patch)
    assert update.updates == ()


def test_rows_are_found_by_uuid_and_by_name(db):
    vm = db.create(VM, name_label="a")
    assert db.by_uuid(VM, vm.uuid) is vm
    vm.name_label = "b"
    assert (db.by_name(VM, "a"), db.by_name(VM, "b")) == ([], [vm])
    with pytest.raises(Failure) as failure:
        db.by_uuid(VM, "nothing")
    assert failure.value.description == ["UUID_INVALID", "VM", "nothing"]


def test_a_query_uses_database_columns(db):
    db.create(VM, name_label="a", is_a_template=True)
    wanted = db.create(VM, name_label="a")
    db.create(VM, name_label="b")
    assert db.where(VM, 'field "name__label"="a" and field "is_a_template"="false"') == [wanted]
    assert db.where(VM, f'field "uuid" = "{wanted.uuid}"') == [wanted]
    with pytest.raises(Failure) as failure:
        db.where(VM, 'field "colour"="red"')
    assert failure.value.code == "INVALID_VALUE"


def test_writing_the_same_value_makes_no_event(db):
    vm = db.create(VM, name_label="a")
    before = db.generation
    vm.name_label = "a"
    assert db.generation == before


def test_a_failed_transaction_leaves_nothing_behind(db):
    vm = db.create(VM, name_label="a")
    with pytest.raises(RuntimeError), db.transaction():
        vm.name_label = "b"
        db.create(VBD, VM=vm.ref)
        gone = db.create(VM)
        db.delete(gone)
        raise RuntimeError
    assert (vm.name_label, vm.VBDs, len(db.all(VM)), db.all(VBD)) == ("a", (), 1, [])
    assert db.by_name(VM, "a") == [vm]


def test_a_derivation_sees_changed_fields_and_may_write_more(db):
    seen = []

    def hook(database, changes):
        for row, fields in changes.items():
            seen.append((row.ref, set(fields)))
            if "power_state" in fields:
                row.name_description = f"is {row.power_state}"

    db.derive(hook)
    vm = db.create(VM)
    vm.power_state = "Running"
    assert vm.name_description == "is Running"
    assert seen == [(vm.ref, set()), (vm.ref, {"power_state"}), (vm.ref, {"name_description"})]


def test_deleted_rows_are_told_once_to_those_who_knew_them(db):
    vm = db.create(VM)
    before = db.generation
    db.delete(vm)
    brief = db.create(VM)
    db.delete(brief)
    assert [deletion.ref for deletion in db.deleted_since(before)] == [vm.ref]


def test_kept_forms_follow_changes(db):
    vm = db.create(VM, name_label="a<b")
    assert b"<name>name_label</name><value>a&lt;b</value>" in vm.xml()
    assert vm.xml().startswith(b"<value><struct>") and vm.xml().endswith(b"</struct></value>")
    vm.name_label = "c"
    assert b"<name>name_label</name><value>c</value>" in vm.xml()
    assert b'"name_label":"c"' in vm.json()


def test_internal_fields_are_never_shown(db):
    vbd = db.create(VBD)
    assert not {f.name for f in VBD.kind.fields.values() if f.internal_only} & vbd.snapshot().keys()


def test_everything_stored_comes_back_and_nothing_else(tmp_path):
    db = Database(Journal(tmp_path / "db"))
    db.load()
    vm = db.create(VM, name_label="a", other_config={"k": "v"}, tags=("x", "y"), memory_static_max=2**40)
    vbd = db.create(VBD, VM=vm.ref)
    vm.current_operations = {"OpaqueRef:1": "start"}
    gone = db.create(VM)
    db.delete(gone)
    db.create(Session, auth_user_name="root")
    db.create(Task, name_label="t")
    db.seed(Role, "OpaqueRef:role", name_label="r")
    generation = db.generation
    db.journal.wait(db.position)
    db.journal.close()

    again = Database(Journal(tmp_path / "db"))
    again.load()
    back = again.get(VM, vm.ref)
    assert (back.name_label, back.other_config, back.tags) == ("a", {"k": "v"}, ("x", "y"))
    assert (back.memory_static_max, back.uuid, back.VBDs) == (2**40, vm.uuid, (vbd.ref,))
    assert back.current_operations == {}
    assert again.all(VM) == [back]
    assert again.all(Session) == again.all(Task) == again.all(Role) == []
    assert again.generation > generation
    again.journal.close()


def test_a_dangling_reference_may_be_stored(db):
    pbd = db.create(PBD, SR="OpaqueRef:gone")
    assert pbd.SR == "OpaqueRef:gone"
    vdi = db.create(VDI, SR=db.create(SR).ref)
    assert db.get(SR, vdi.SR).VDIs == (vdi.ref,)


def test_a_relation_of_a_class_with_itself_is_a_plain_set(db):
    role = db.seed(Role, "OpaqueRef:r", name_label="r")
    subject = db.create(Subject, roles=(role.ref,))
    assert subject.roles == (role.ref,)


def test_an_undone_deletion_is_told_to_nobody_and_hides_no_change(db):
    vm, other = db.create(VM), db.create(VM)
    before = db.generation
    other.name_label = "changed"
    with pytest.raises(KeyError), db.transaction():
        db.delete(vm)
        raise KeyError
    assert other in db.changed_since(before)
    assert list(db.deleted_since(before)) == []
    after = db.generation
    other.name_label = "changed again"
    assert list(db.changed_since(after)) == [other]


def test_an_index_is_built_without_keeping_the_rows_decoded(tmp_path):
    journal = Journal(tmp_path / "state.db")
    first = Database(journal)
    host = first.create(Host)
    ref = first.create(VM, name_label='a "name_label": inside', resident_on=host.ref).ref
    other = first.create(VM, name_description="unnamed").ref
    journal.close()
    journal = Journal(tmp_path / "state.db")
    again = Database(journal)
    again.load()
    rows = [again.get(VM, each) for each in (ref, other)]
    assert again.referrers("VM", "resident_on", host.ref) == (ref,)
    assert set(again.values(VM, "name_label")) == {'a "name_label": inside', ""}
    assert again.by_name(VM, "") == [rows[1]]
    assert [row._fields for row in rows] == [None, None]
    assert rows[0].resident_on == host.ref
    rows[0].resident_on = "OpaqueRef:NULL"
    assert again.referrers("VM", "resident_on", host.ref) == ()
    journal.close()


def test_a_row_that_is_written_while_an_index_is_built_is_in_it(db):
    vms = [db.create(VM, name_label="old") for _ in range(200)]
    table = db.tables["VM"]
    for _ in range(30):
        table.indexes.pop("name_label", None)
        builder = threading.Thread(target=table.index, args=("name_label",))
        builder.start()
        for vm in vms[::7]:
            vm.name_label = "new" if vm.name_label == "old" else "old"
        builder.join()
        labels = {row.ref: row.name_label for row in vms}
        for label in ("old", "new"):
            assert set(table.referrers("name_label", label)) == {r for r, v in labels.items() if v == label}


def test_a_write_to_a_row_that_is_gone_changes_nothing(db):
    vm = db.create(VM, name_label="a")
    db.by_name(VM, "a")
    db.delete(vm)
    before = db.generation
    vm.name_label = "b"
    assert db.generation == before
    assert db.by_name(VM, "b") == []


def test_an_undone_creation_is_told_to_nobody(db):
    db.create(VM)
    with pytest.raises(RuntimeError), db.transaction():
        db.create(VM)
        seen_meanwhile = db.generation
        raise RuntimeError
    assert list(db.deleted_since(seen_meanwhile)) == []


def test_a_transaction_that_changes_nothing_wakes_nobody(db):
    vm = db.create(VM, name_label="a")
    woken = []
    with db.listening(lambda: woken.append(db.generation)):
        with db.transaction():
            vm.name_label = "a"
        assert woken == []
        vm.name_label = "b"
        assert woken == [db.generation]


def test_two_threads_that_decode_a_row_do_not_lose_a_write(tmp_path, monkeypatch):
    first = Database(Journal(tmp_path / "db"))
    ref = first.create(VM, name_label="a").ref
    first.journal.close()
    db = Database(Journal(tmp_path / "db"))
    db.load()
    vm = db.get(VM, ref)
    decoding, written = threading.Event(), threading.Event()
    decode = record.decode

    def slow(body):
        if threading.current_thread() is reader:
            decoding.set()
            written.wait(0.3)
        return decode(body)

    monkeypatch.setattr(record, "decode", slow)
    reader = threading.Thread(target=lambda: vm.name_description)
    reader.start()
    assert decoding.wait(5)
    vm.name_label = "b"
    written.set()
    reader.join()
    assert vm.name_label == "b"
    db.journal.close()


def test_who_watches_a_row_is_woken_by_its_changes_alone():
    db = Database()
    mine, other = db.create(VM), db.create(VM)
    woken = []
    with db.watching(lambda: woken.append(mine.name_label), mine):
        other.name_label = "not mine"
        mine.name_label = "first"
        with pytest.raises(KeyError), db.transaction():
            mine.name_label = "undone"
            raise KeyError
        with db.transaction():
            mine.name_label = "second"
            mine.name_description = "in one step"
        db.delete(mine)
    assert woken == ["first", "second", "second"]
    other.name_label = "later"
    assert len(woken) == 3
