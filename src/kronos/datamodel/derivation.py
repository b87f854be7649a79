"""What follows from a class and its fields: the implied messages, three quarters of XenAPI.

The rules are those of the reference's data model, as facts: which classes have get_all, which qualifier
gives a setter, which role reads and which writes. A message that differs has a line of its own in the facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Facts = dict[str, Any]


def implied_messages(cls: Facts, fields: list[Facts], mirrors: set[str]) -> Iterator[Facts]:
    """The messages of a class that nobody wrote down, in the form of the facts' message lines.

    `mirrors` names the fields that are computed from the other side of a relation: they have a getter alone.
    """
    if not cls["in_database"]:
        return
    yield from _of_class(cls, {field["name"] for field in fields})
    for field in fields:
        if not field.get("doc_only") and not field.get("internal_only"):
            yield from _of_field(cls, field, mirrors)


def _message(cls: Facts, kind: str, name: str, params: list[list[str]], result: str, role: str) -> Facts:
    out: Facts = {"name": name, "params": params, "result": result, "role": role, "kind": kind}
    state = cls.get("state")
    return out | ({"state": state} if state else {})


def _of_class(cls: Facts, names: set[str]) -> Iterator[Facts]:
    name = cls["name"]
    ref, record = f"{name} ref", f"{name} record"
    yield _message(cls, "get_record", "get_record", [["self", ref]], record, "read-only")
    yield _message(cls, "get_by_uuid", "get_by_uuid", [["uuid", "string"]], ref, "read-only")
    if "name_label" in names:
        yield _message(
            cls, "get_by_name_label", "get_by_name_label", [["label", "string"]], f"{ref} set", "read-only"
        )
    if cls["get_all_exposed"]:
        records = f"({ref} -> {record}) map"
        yield _message(cls, "get_all", "get_all", [], f"{ref} set", "read-only")
        where = _message(
            cls, "get_all_where", "get_all_where", [["expr", "string"]], f"{ref} set", "read-only"
        )
        yield where | {"hidden_from_docs": True}
        yield _message(cls, "get_all_records", "get_all_records", [], records, "read-only")
        where = _message(
            cls, "get_all_records_where", "get_all_records_where", [["expr", "string"]], records, "read-only"
        )
        yield where | {"hidden_from_docs": True}


def _of_field(cls: Facts, field: Facts, mirrors: set[str]) -> Iterator[Facts]:
    name, kind = field["name"], field["type"]
    this = ["self", f"{cls['name']} ref"]
    getter = field.get("getter", "read-only")
    state = {"state": field["state"]} if "state" in field else {}
    yield _message(cls, "field_get", f"get_{name}", [this], kind, getter) | state
    if field["qualifier"] != "RW" or name in mirrors:
        return
    role = field["setter"]
    keys = {"keys": field["keys"]} if "keys" in field else {}
    yield _message(cls, "field_set", f"set_{name}", [this, ["value", kind]], "void", role) | state
    if kind.endswith(" set"):
        item = ["value", kind.removesuffix(" set")]
        yield _message(cls, "field_add", f"add_{name}", [this, item], "void", role) | state
        yield _message(cls, "field_remove", f"remove_{name}", [this, item], "void", role) | state
    elif kind.endswith(" map"):
        key, _, value = kind.removesuffix(") map").removeprefix("(").partition(" -> ")
        added = [this, ["key", key], ["value", value]]
        yield _message(cls, "field_add", f"add_to_{name}", added, "void", role) | keys | state
        yield (
            _message(cls, "field_remove", f"remove_from_{name}", [this, ["key", key]], "void", role)
            | keys
            | state
        )
