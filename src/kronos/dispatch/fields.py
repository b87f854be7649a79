"""Every implied message: what the facts alone are enough to answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message, model
from kronos.datamodel.types import VOID
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import KINDS
from kronos.dispatch.answer import Answer, RecordAnswer, RecordsAnswer

Implied = Callable[..., Answer]
VOID_ANSWER = Answer(VOID, "")


def implied(db: Database, message: Message) -> Implied | None:
    """The function that answers an implied message, or None for one that needs a handler."""
    maker = _MAKERS.get(message.kind)
    if maker is not None:
        return maker(db, message)
    return _editor_of(db, message)


def _editor_of(db: Database, message: Message) -> Implied | None:
    """An editor that the data model calls custom though it only writes the record."""
    if (message.cls, message.field) not in PLAIN_EDITORS:
        return None
    if message.name.startswith("set_"):
        return _set(db, message)
    return _add(db, message) if message.name.startswith("add_") else _remove(db, message)


# Fields that the published contract shows as RW and the data model as custom, with no effect beyond the record.
PLAIN_EDITORS = frozenset({("VM", "other_config"), ("VM", "platform"), ("VM", "blocked_operations")})


def _kind(message: Message) -> type[Record]:
    return KINDS[message.cls]


def _get(db: Database, message: Message) -> Implied:
    rows, name, kind = db.rows, message.field, _kind(message)
    result = message.result

    def get(ref: str) -> Answer:
        row = rows.get(ref)
        if type(row) is not kind:
            raise Failure("HANDLE_INVALID", message.cls, ref)
        return Answer(result, getattr(row, name))

    return get


def _get_record(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda ref: RecordAnswer(db.get(kind, ref))


def _get_by_uuid(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda uuid: Answer(message.result, db.by_uuid(kind, uuid).ref)


def _get_by_name_label(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda label: Answer(message.result, tuple(row.ref for row in db.by_name(kind, label)))


def _get_all(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda: Answer(message.result, tuple(row.ref for row in db.all(kind)))


def _get_all_records(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda: RecordsAnswer(lambda: db.all(kind))


def _get_all_where(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda expression: Answer(message.result, tuple(row.ref for row in db.where(kind, expression)))


def _get_all_records_where(db: Database, message: Message) -> Implied:
    kind = _kind(message)
    return lambda expression: RecordsAnswer(lambda: db.where(kind, expression))


def _set(db: Database, message: Message) -> Implied:
    kind, name = _kind(message), message.field

    def set_(ref: str, value: Any) -> Answer:
        db.write(db.get(kind, ref), {name: value})
        return VOID_ANSWER

    return set_


def _add(db: Database, message: Message) -> Implied:
    kind, name = _kind(message), message.field

    def add_to_map(ref: str, key: Any, value: Any) -> Answer:
        with db.transaction():
            row = db.get(kind, ref)
            present = getattr(row, name)
            if key in present:
                raise Failure("MAP_DUPLICATE_KEY", message.cls, name, ref, str(key))
            if key == "":
                raise Failure("INVALID_VALUE", "key", "")
            db.write(row, {name: present | {key: value}})
        return VOID_ANSWER

    def add_to_set(ref: str, value: Any) -> Answer:
        with db.transaction():
            row = db.get(kind, ref)
            present = getattr(row, name)
            if value not in present:
                db.write(row, {name: (*present, value)})
        return VOID_ANSWER

    return add_to_map if len(message.params) == 3 else add_to_set


def _remove(db: Database, message: Message) -> Implied:
    kind, name = _kind(message), message.field

    def remove(ref: str, item: Any) -> Answer:
        with db.transaction():
            row = db.get(kind, ref)
            present = getattr(row, name)
            if item in present:
                left: Any
                if isinstance(present, dict):
                    left = {key: value for key, value in present.items() if key != item}
                else:
                    left = tuple(value for value in present if value != item)
                db.write(row, {name: left})
        return VOID_ANSWER

    return remove


def _create(db: Database, message: Message) -> Implied | None:
    cls = model().classes[message.cls]
    if message.cls not in GENERIC:
        return None

    def create(untrusted_record: dict[str, Any]) -> Answer:
        given = constructor_fields(message.cls, untrusted_record)
        return Answer(message.result, db.create(KINDS[cls.name], **given).ref)

    return create


def constructor_fields(cls_name: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a client may set at creation, with defaults for what it left out.

    Raises INTERNAL_ERROR for a field that is missing and has no default (SEMANTICS of generic constructors).
    """
    fields: dict[str, Any] = {}
    for field in model().classes[cls_name].fields.values():
        if not field.settable_at_create or field.mirror_of is not None or field.internal_only:
            continue
        if field.name in record:
            fields[field.name] = record[field.name]
        elif field.has_default:
            fields[field.name] = field.default
        else:
            raise Failure("INTERNAL_ERROR", f"Missing field {field.name} in {cls_name} record")
    return fields


def _destroy(db: Database, message: Message) -> Implied | None:
    kind = _kind(message)
    if message.cls not in GENERIC:
        return None

    def destroy(ref: str) -> Answer:
        db.delete(db.get(kind, ref))
        return VOID_ANSWER

    return destroy


# Classes whose constructor and destructor only write the record; the others' have handlers.
GENERIC = frozenset({"secret", "user", "VM_appliance", "VM_group", "console", "Observer"})

_MAKERS: dict[str, Callable[[Database, Message], Implied | None]] = {
    "field_get": _get,
    "field_set": _set,
    "field_add": _add,
    "field_remove": _remove,
    "get_record": _get_record,
    "get_by_uuid": _get_by_uuid,
    "get_by_name_label": _get_by_name_label,
    "get_all": _get_all,
    "get_all_records": _get_all_records,
    "get_all_where": _get_all_where,
    "get_all_records_where": _get_all_records_where,
    "ctor": _create,
    "dtor": _destroy,
}
