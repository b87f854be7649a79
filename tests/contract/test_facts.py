"""The contract: every class with all its fields, and every implied message from the facts alone."""

from __future__ import annotations

import json
import xmlrpc.client
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos.datamodel.model import model
from kronos.datamodel.types import (
    BoolType,
    DateTimeType,
    EnumType,
    FloatType,
    IntType,
    MapType,
    RefType,
    SetType,
    Type,
    at,
)
from kronos.dispatch.coverage import coverage

CLASSES = [cls for cls in model().classes.values() if cls.in_database or cls.name == "message"]
# Of a class that XenAPI has removed every message answers MESSAGE_REMOVED.
NAMES = [cls.name for cls in CLASSES if cls.state != "removed"]
UNSERVED = Path(__file__).with_name("unserved.txt")


def xml_value(fragment: bytes):
    document = b"<methodResponse><params><param>" + fragment + b"</param></params></methodResponse>"
    return xmlrpc.client.loads(document)[0][0]


def test_the_contract_has_all_of_its_classes_and_messages():
    assert len(model().classes) == 73
    assert len(model().messages) == 2263  # five of them follow from the two fields of the guest channel
    assert sum(len(cls.record.fields) for cls in model().classes.values()) > 900


def test_fewer_messages_are_unserved_than_ever_before():
    unserved = sum(known - served for served, known in coverage().values())
    assert unserved <= int(UNSERVED.read_text()), "a message that was served is not any more"
    assert unserved == int(UNSERVED.read_text()), f"write the new number into {UNSERVED.name}: {unserved}"


@pytest.mark.parametrize("name", NAMES)
def test_a_record_has_every_field_in_both_encodings(contract, name):
    row = contract.row(name)
    answer = contract.answer(f"{name}.get_record", contract.session, row.ref)
    fields = set(model().classes[name].record.fields)
    assert set(answer.value) == fields
    assert set(json.loads(answer.json())) == fields
    assert set(xml_value(answer.xml())) == fields
    contract.db.delete(row)


@pytest.mark.parametrize("name", NAMES)
def test_every_getter_agrees_with_the_record(contract, name):
    row = contract.row(name)
    record = contract(f"{name}.get_record", row.ref)
    for message in model().classes[name].messages.values():
        if message.kind == "field_get" and message.state != "removed":
            assert contract(message.full_name, row.ref) == record[message.field]
    contract.db.delete(row)


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_found_in_every_way_that_their_class_has(contract, name):
    messages = model().classes[name].messages
    row = contract.row(name, **({"name_label": "one of a kind"} if "get_by_name_label" in messages else {}))
    if messages.get("get_all") and messages["get_all"].state != "removed":
        assert row.ref in contract(f"{name}.get_all")
        assert row.ref in contract(f"{name}.get_all_records")
    if "get_all_records_where" in messages and messages["get_all_records_where"].state != "removed":
        query = f'field "_ref" = "{row.ref}" and not false'
        assert list(contract(f"{name}.get_all_records_where", query)) == [row.ref]
    if "get_by_uuid" in messages and messages["get_by_uuid"].state != "removed":
        assert contract(f"{name}.get_by_uuid", row.uuid) == row.ref
    if "get_by_name_label" in messages and messages["get_by_name_label"].state != "removed":
        assert contract(f"{name}.get_by_name_label", "one of a kind") == (row.ref,)
    contract.db.delete(row)


def values_of(kind: Type):
    """Any value of a type, in its Python form."""
    if isinstance(kind, EnumType):
        return st.sampled_from(kind.values)
    if isinstance(kind, RefType):
        return st.uuids().map(lambda uuid: f"OpaqueRef:{uuid}")
    if isinstance(kind, IntType):
        return st.integers(-(2**63), 2**63 - 1)
    if isinstance(kind, FloatType):
        return st.floats(allow_nan=False)
    if isinstance(kind, BoolType):
        return st.booleans()
    if isinstance(kind, DateTimeType):
        return st.integers(0, 2**33).map(at)
    if isinstance(kind, SetType):
        return st.lists(values_of(kind.item), max_size=3, unique=True).map(tuple)
    if isinstance(kind, MapType):
        return st.dictionaries(values_of(kind.key), values_of(kind.value), max_size=3)
    return st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


PLAIN_SETTERS = sorted(
    message.full_name
    for message in model().messages.values()
    if message.kind == "field_set" and message.state != "removed"
)


@pytest.mark.parametrize("setter", PLAIN_SETTERS)
def test_what_a_setter_writes_is_what_its_getter_reads(contract, setter):
    from kronos.dispatch.registry import HANDLERS

    if setter in HANDLERS:
        return  # it has effects of its own, and tests of its own
    message = model().messages[setter]
    kind = message.params[1].type

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values_of(kind))
    def round_trip(value):
        row = contract.row(message.cls)
        contract(setter, row.ref, value)
        assert contract(f"{message.cls}.get_{message.field}", row.ref) == value
        contract.db.delete(row)

    round_trip()


def test_list_methods_names_every_message_that_is_not_removed(contract):
    listed = set(contract.answer("system.listMethods").value)
    for name, message in model().messages.items():
        if message.state != "removed" and not message.pool_internal:
            assert name in listed
            assert (f"Async.{name}" in listed) == message.asynchronous
