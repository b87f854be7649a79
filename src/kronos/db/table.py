"""One class's rows, with the indexes that are built when they are first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import RefType
from kronos.db.query import Predicate, db_string
from kronos.db.record import Record

Index = dict[str, dict[str, None]]


class Table:
    """The rows of one class. The database holds its lock around every change."""

    def __init__(self, kind: type[Record], lock: threading.RLock) -> None:
        self.kind = kind
        self.lock = lock
        self.rows: dict[str, Record] = {}
        self.indexes: dict[str, Index] = {}
        fields = kind.kind.fields
        self.indexed = {
            name
            for name, field in fields.items()
            if field.mirror_of is None and isinstance(field.type, RefType)
        } | {name for name in ("uuid", "name_label") if name in fields}
        self.columns: dict[str, Callable[[Record], str]] = {
            "_ref": lambda row: row.ref,
            "ref": lambda row: row.ref,
        }
        for field in fields.values():
            self.columns[field.column] = _column(field.name)

    def index(self, field: str) -> Index:
        """Rows by the value of a field. The first call reads every row of the class."""
        found = self.indexes.get(field)
        return self._build(field) if found is None else found

    def _build(self, field: str) -> Index:
        with self.lock:  # a row that is written meanwhile must not be missed
            found = self.indexes.get(field)
            if found is None:
                found = {}
                for row in self.rows.values():
                    found.setdefault(row.peek(field), {})[row.ref] = None
                self.indexes[field] = found
            return found

    def referrers(self, field: str, value: str) -> tuple[str, ...]:
        return tuple(self.index(field).get(value, ()))

    def by_uuid(self, uuid: str) -> str | None:
        if "uuid" not in self.indexed:
            return None
        return next(iter(self.index("uuid").get(uuid, ())), None)

    def insert(self, row: Record) -> None:
        self.rows[row.ref] = row
        stored = row.stored()
        for field, index in self.indexes.items():
            index.setdefault(stored[field], {})[row.ref] = None

    def remove(self, row: Record) -> None:
        self.rows.pop(row.ref, None)
        stored = row.stored()
        for field, index in self.indexes.items():
            _drop(index, stored[field], row.ref)

    def reindex(self, ref: str, field: str, old: Any, new: Any) -> None:
        index = self.indexes.get(field)
        if index is not None:
            _drop(index, old, ref)
            index.setdefault(new, {})[ref] = None

    def matching(self, predicate: Predicate, expression: str) -> list[Record]:
        """The rows that match, through an index where the query asks for equality on one."""
        candidates = list(self.rows.values())
        for column, value in predicate.equalities().items():
            name = column.replace("__", "_")
            if name in self.indexed:
                candidates = [self.rows[ref] for ref in self.referrers(name, value) if ref in self.rows]
                break
        matches = []
        for row in candidates:
            if predicate(self._reader(row, expression)):
                matches.append(row)
        return matches

    def _reader(self, row: Record, expression: str) -> Callable[[str], str]:
        def read(column: str) -> str:
            getter = self.columns.get(column)
            if getter is None:
                raise Failure("INVALID_VALUE", expression, f"{self.kind.kind.name} has no field {column}")
            return getter(row)

        return read


def _column(name: str) -> Callable[[Record], str]:
    return lambda row: db_string(getattr(row, name))


def _drop(index: Index, value: str, ref: str) -> None:
    refs = index.get(value)
    if refs is not None:
        refs.pop(ref, None)
        if not refs:
            del index[value]
