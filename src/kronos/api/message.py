"""message: what the toolstack tells people — alerts, failures, things done behind their back."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterable
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.datamodel.types import now
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import SR, VDI, VM, VMPP, VMSS, Certificate, Host, Message, Pool, PVS_proxy
from kronos.dispatch.answer import RecordsAnswer
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

MOST = 10_000
ABOUT: dict[str, type[Record]] = {
    "VM": VM,
    "Host": Host,
    "SR": SR,
    "Pool": Pool,
    "VMPP": VMPP,
    "VMSS": VMSS,
    "PVS_proxy": PVS_proxy,
    "VDI": VDI,
    "Certificate": Certificate,
}


def tell(db: Database, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> Message:
    """Leave a message about an object. The oldest make room beyond ten thousand."""
    rows = db.tables["message"].rows
    with db.transaction():
        row = db.create(
            Message,
            uuid=str(uuids.uuid4()),
            name=name,
            priority=priority,
            cls=cls,
            obj_uuid=obj_uuid,
            timestamp=now(),
            body=body,
        )
        while len(rows) > MOST:
            db.delete(next(iter(rows.values())))
    return row


@message("message.create")
def create(call: Call, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> str:
    """Leave a message about an object. Raises UUID_INVALID [class, uuid]."""
    _check(call.db, cls, obj_uuid)
    return tell(call.db, name, priority, cls, obj_uuid, body).ref


def _check(db: Database, cls: str, untrusted_uuid: str) -> None:
    """Raises UUID_INVALID [class, uuid] unless there is such an object."""
    if db.tables[ABOUT[cls].kind.name].by_uuid(untrusted_uuid) is None:
        raise Failure("UUID_INVALID", cls, untrusted_uuid)


@message("message.destroy")
def destroy(call: Call, self: str) -> None:
    call.db.delete(call.db.get(Message, self))


@message("message.destroy_many")
def destroy_many(call: Call, messages: tuple[str, ...]) -> None:
    """Raises HANDLE_INVALID, having destroyed none."""
    rows = [call.db.get(Message, ref) for ref in messages]
    with call.db.transaction():
        for row in rows:
            call.db.delete(row)


@message("message.destroy_all")
def destroy_all(call: Call, filters: dict[str, str]) -> None:
    """Destroy the messages that match all of `before`, `after` (times) and `priority`.

    Raises INVALID_VALUE [filter, value].
    """
    for key in filters:
        if key not in _FILTERS:
            raise Failure("INVALID_VALUE", key, filters[key])
    before, after, priority = (_filter(filters, key) for key in _FILTERS)
    with call.db.transaction():
        for row in call.db.all(Message):
            if before is not None and row.timestamp >= before:
                continue
            if after is not None and row.timestamp <= after:
                continue
            if priority is None or row.priority == priority:
                call.db.delete(row)


_FILTERS: Final = {"before": "datetime", "after": "datetime", "priority": "int"}


def _filter(filters: dict[str, str], key: str) -> Any:
    """The value of one filter, which a client sends as text of any form that its type has; None where it is missing."""
    if key not in filters:
        return None
    try:
        return model().type(_FILTERS[key]).check(filters[key])
    except Failure as failure:
        raise Failure("INVALID_VALUE", key, filters[key]) from failure


def _newest_first(rows: Iterable[Message]) -> RecordsAnswer:
    return RecordsAnswer(lambda: sorted(rows, key=lambda row: row.timestamp, reverse=True))


@message("message.get")
def get(call: Call, cls: str, obj_uuid: str, since: str) -> RecordsAnswer:
    """The messages about one object since a time. Raises UUID_INVALID [class, uuid]."""
    _check(call.db, cls, obj_uuid)
    return _newest_first(
        row
        for row in call.db.all(Message)
        if (row.cls, row.obj_uuid) == (cls, obj_uuid) and row.timestamp >= since
    )


@message("message.get_since")
def get_since(call: Call, since: str) -> RecordsAnswer:
    return _newest_first(row for row in call.db.all(Message) if row.timestamp >= since)


@message("message.get_all")
def get_all(call: Call) -> tuple[str, ...]:
    return tuple(row.ref for row in call.db.all(Message))


@message("message.get_all_records")
def get_all_records(call: Call) -> RecordsAnswer:
    return _newest_first(call.db.all(Message))


@message("message.get_all_records_where")
def get_all_records_where(call: Call, expr: str) -> RecordsAnswer:
    """The reference ignores the query; here it is heard. Raises INVALID_VALUE [expression, text]."""
    return _newest_first(call.db.where(Message, expr))


@message("message.get_record")
def get_record(call: Call, self: str) -> Message:
    return call.db.get(Message, self)


@message("message.get_by_uuid")
def get_by_uuid(call: Call, uuid: str) -> str:
    """Raises UUID_INVALID [class, uuid]."""
    return call.db.by_uuid(Message, uuid).ref
