"""Answers: a result that can be written as XML or JSON, from kept fragments where it holds records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kronos.datamodel.types import NULL, Type, escape
from kronos.db.record import Record, dump_json, without_form

VOID_XML = b"<value/>"


class Answer:
    """A value of a XenAPI type."""

    __slots__ = ("type", "value")

    lazy = False
    """Is it written from rows as they are then? Whoever sends it waits for the disk after writing it."""

    def __init__(self, kind: Type, value: Any) -> None:
        self.type = kind
        self.value = value

    def rows_to_write(self, *, xml: bool) -> Sequence[Record]:
        """The rows whose forms are not kept, where there are any in it: what takes time to write."""
        return ()

    def renew(self) -> None:
        """Look again which rows it is about: others may have come and gone while these were written."""

    def xml(self) -> bytes:
        """One complete `<value>` element."""
        return self.type.xml(self.value).encode()

    def json(self) -> bytes:
        """JSON text."""
        value = self.value
        if isinstance(value, dict):
            value = {str(key): item for key, item in value.items()}
        text = dump_json("" if value is None else value)
        if b"NaN" in text or b"Infinity" in text:  # which JSON does not have
            text = dump_json(_with_null(value))
        return text

    def xml_parts(self) -> Sequence[bytes]:
        """The same as `xml`, in parts: what is large is kept already, and need not be copied to be sent."""
        return (self.xml(),)

    def json_parts(self) -> Sequence[bytes]:
        """The same as `json`, in parts."""
        return (self.json(),)


def _with_null(value: Any) -> Any:
    """A tree in which no float is without a finite value."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(item) for item in value]
    return value


class RecordAnswer(Answer):
    """One row, from its kept form."""

    __slots__ = ("row",)

    lazy = True

    def __init__(self, row: Record) -> None:
        self.row = row

    @property
    def value(self) -> Any:
        return self.row.snapshot()

    def xml(self) -> bytes:
        return self.row.xml()

    def json(self) -> bytes:
        return self.row.json()


class RecordsAnswer(Answer):
    """A map from reference to record, of the rows' kept forms: a hundred clients are sent the same bytes."""

    __slots__ = ("_find", "rows")

    lazy = True

    def __init__(self, find: Callable[[], Iterable[Record]]) -> None:
        self._find = find
        self.rows = list(find())

    def rows_to_write(self, *, xml: bool) -> Sequence[Record]:
        return without_form(self.rows, xml=xml)

    def renew(self) -> None:
        self.rows = list(self._find())

    @property
    def value(self) -> Any:
        return {row.ref: row.snapshot() for row in self.rows}

    def xml(self) -> bytes:
        return b"".join(self.xml_parts())

    def json(self) -> bytes:
        return b"".join(self.json_parts())

    def xml_parts(self) -> Sequence[bytes]:
        return [b"<value><struct>", *[row.xml_member() for row in self.rows], b"</struct></value>"]

    def json_parts(self) -> Sequence[bytes]:
        members = [row.json_member() for row in self.rows]
        if members:
            members[0] = members[0][1:]
        return [b"{", *members, b"}"]


class EventsAnswer(Answer):
    """What event.from and event.next return. Events share the kept forms of the rows that they show.

    It is written once, for all who get it.
    """

    __slots__ = ("_json", "_xml", "counts", "events", "token")

    lazy = True

    def __init__(
        self,
        events: list[tuple[Mapping[str, str], Record | None]],
        counts: Mapping[str, int] | None,
        token: str,
    ) -> None:
        self.events = events
        self.counts = counts
        self.token = token
        self._xml = b""
        self._json = b""

    def rows_to_write(self, *, xml: bool) -> Sequence[Record]:
        return without_form((row for _, row in self.events if row is not None), xml=xml)

    @property
    def value(self) -> Any:
        events = [{**head, **({"snapshot": row.snapshot()} if row else {})} for head, row in self.events]
        if self.counts is None:
            return events
        return {"events": events, "valid_ref_counts": dict(self.counts), "token": self.token}

    def xml(self) -> bytes:
        self._xml = self._xml or self._write_xml()
        return self._xml

    def json(self) -> bytes:
        self._json = self._json or self._write_json()
        return self._json

    def _write_xml(self) -> bytes:
        parts: list[bytes] = []
        for head, row in self.events:
            members = [
                f"<member><name>{k}</name><value>{escape(v)}</value></member>" for k, v in head.items()
            ]
            parts.append(f"<value><struct>{''.join(members)}".encode())
            if row is not None:
                parts += [b"<member><name>snapshot</name>", row.xml(), b"</member>"]
            parts.append(b"</struct></value>")
        events = b"".join([b"<value><array><data>", *parts, b"</data></array></value>"])
        if self.counts is None:
            return events
        # These counts are the only integers that XML-RPC clients of XenAPI read as integers.
        counts = "".join(
            f"<member><name>{name}</name><value><i4>{count}</i4></value></member>"
            for name, count in self.counts.items()
        )
        tail = (
            f"</member><member><name>valid_ref_counts</name><value><struct>{counts}</struct></value></member>"
            f"<member><name>token</name><value>{self.token}</value></member></struct></value>"
        )
        return b"<value><struct><member><name>events</name>" + events + tail.encode()

    def _write_json(self) -> bytes:
        parts = []
        for head, row in self.events:
            text = dump_json(head)
            parts.append(text if row is None else text[:-1] + b',"snapshot":' + row.json() + b"}")
        events = b"[" + b",".join(parts) + b"]"
        if self.counts is None:
            return events
        rest = dump_json({"valid_ref_counts": self.counts, "token": self.token})
        return b'{"events":' + events + b"," + rest[1:]


def null_or(row: Record | None) -> str:
    """The reference of a row that may be missing."""
    return NULL if row is None else row.ref
