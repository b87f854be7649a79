"""The database: rows in memory, and the one way to write them.

Every write goes row -> relations -> generation -> event -> journal. What a client is told is on disk first: whoever
answers a call waits until `position`, read after the work, is durable.
"""

from __future__ import annotations

import threading
import uuid as uuids
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Field, Model, model
from kronos.datamodel.types import NULL
from kronos.db.journal import Change, Journal
from kronos.db.query import parse
from kronos.db.record import Record, stored_defaults
from kronos.db.records import KINDS
from kronos.db.table import Table

R = TypeVar("R", bound=Record)
Derivation = Callable[["Database", Mapping[Record, Set[str]]], None]
DELETIONS_KEPT = 50_000
GENERATIONS_A_START = 2**32


class Deletion(NamedTuple):
    """What event.from needs to know of a row that is gone."""

    generation: int
    cls: str
    ref: str
    born: int


class Transaction:
    """A step of writes, with the block that makes them; one object for all, as the database counts them."""

    __slots__ = ("_db",)

    def __init__(self, db: Database) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.begin()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.end(failed=kind is not None)


class Database:
    """All rows of all classes. Reading takes no lock; writing takes `lock`, for as long as memory takes."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.model: Model = model()
        self.journal = journal
        self.lock = threading.RLock()
        self.generation = 0
        self.position = 0
        self.rows: dict[str, Record] = {}
        self.tables: dict[str, Table] = {name: Table(kind, self.lock) for name, kind in KINDS.items()}
        self.recent: dict[str, Record] = {}  # the last changed last
        self.deletions: deque[Deletion] = deque(maxlen=DELETIONS_KEPT)
        self.forgotten = 0
        self._transaction = Transaction(self)
        self._depth = 0
        self._began_at = 0
        self._changes: list[Change] = []
        self._undo: list[Callable[[], None]] = []
        self._touched: dict[Record, set[str]] = {}
        self._derivations: list[Derivation] = []
        self._woken: list[Callable[[], None]] = []
        self._watched: dict[str, list[Callable[[], None]]] = {}
        self._news: set[str] = set()

    # --- reading ---------------------------------------------------------------------------------------------

    def get(self, kind: type[R], ref: str) -> R:
        """The row that a reference names. Raises HANDLE_INVALID [class, ref]."""
        row = self.rows.get(ref)
        if type(row) is kind:
            return row
        raise Failure("HANDLE_INVALID", kind.kind.name, ref)

    def find(self, kind: type[R], ref: str) -> R | None:
        """The row that a reference names, or None where it dangles or is NULL."""
        row = self.rows.get(ref)
        return row if type(row) is kind else None

    def all(self, kind: type[R]) -> list[R]:
        """Every row of a class, oldest first."""
        # A class's table has rows of that class.
        return list(self.tables[kind.kind.name].rows.values())  # type: ignore[arg-type]

    def by_uuid(self, kind: type[R], uuid: str) -> R:
        """Raises UUID_INVALID [class, uuid]."""
        ref = self.tables[kind.kind.name].by_uuid(uuid)
        row = self.rows.get(ref) if ref else None
        if type(row) is kind:
            return row
        raise Failure("UUID_INVALID", kind.kind.name, uuid)

    def values(self, kind: type[R], field: str) -> tuple[str, ...]:
        """Every value that an indexed field (a reference, uuid, name_label) has, without decoding the rows."""
        return tuple(self.tables[kind.kind.name].index(field))

    def by_name(self, kind: type[R], label: str) -> list[R]:
        """Every row of that name_label."""
        return [self.get(kind, ref) for ref in self.tables[kind.kind.name].referrers("name_label", label)]

    def referrers(self, cls: str, field: str, ref: str) -> tuple[str, ...]:
        """References of the rows of `cls` whose `field` is `ref`, oldest first."""
        return self.tables[cls].referrers(field, ref)

    def where(self, kind: type[R], expression: str) -> list[R]:
        """The rows that a query matches. Raises INVALID_VALUE [expression, text]."""
        predicate = parse(expression)
        # A class's table has rows of that class.
        return self.tables[kind.kind.name].matching(predicate, expression)  # type: ignore[return-value]

    def written(self) -> int:
        """The journal's position after everything that a reader may have seen, an open transaction's too."""
        if self._changes:
            with self.lock:
                return self.position
        return self.position

    # --- writing ---------------------------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """Writes inside are one step: all of them are journalled together, or undone together by an exception.

        Hold it only for work in memory: other writers wait.
        """
        return self._transaction

    def begin(self) -> None:
        """What `with transaction()` does first; transactions nest, and the outermost counts."""
        self.lock.acquire()
        self._depth += 1
        if self._depth == 1:
            self._began_at = self.generation

    def end(self, *, failed: bool) -> None:
        """What `with transaction()` does last. Raises what the journal raises, with everything undone."""
        try:
            if self._depth == 1:
                if failed:
                    self._roll_back()
                else:
                    self._finish()
        finally:
            self._depth -= 1
            self.lock.release()

    def _finish(self) -> None:
        try:
            self._derive()
            self._commit()
        except BaseException:
            self._roll_back()
            raise

    def derive(self, hook: Derivation) -> None:
        """Run `hook` at the end of each transaction, inside it, to write what follows from the rows that changed.

        It gets the rows with the names of their changed fields (none for a new row), and may write more.
        """
        self._derivations.append(hook)

    def _derive(self) -> None:
        while self._touched:
            touched, self._touched = self._touched, {}
            for hook in self._derivations:
                hook(self, touched)

    def _commit(self) -> None:
        if self._changes and self.journal is not None:
            self.position = self.journal.append(self._changes)
        self._changes, self._undo = [], []
        if self.generation != self._began_at:
            for wake in self._woken:
                wake()
        news, self._news = self._news, set()
        for ref in news:
            for wake in self._watched.get(ref, ()):
                wake()

    def _roll_back(self) -> None:
        undo, self._undo = self._undo, []
        for step in reversed(undo):
            step()
        # The steps above wrote to put things back: nothing of that is to be journalled.
        self._undo, self._changes, self._touched = [], [], {}
        self._news.clear()

    def on_commit(self, wake: Callable[[], None]) -> None:
        """Call `wake` after every transaction that changed something, from whichever thread wrote.

        Everyone who writes waits for it: it neither blocks nor raises nor writes.
        """
        self._woken.append(wake)

    @contextmanager
    def listening(self, wake: Callable[[], None]) -> Iterator[None]:
        """on_commit for as long as the block runs."""
        with self.lock:
            self._woken.append(wake)
        try:
            yield
        finally:
            with self.lock:
                self._woken.remove(wake)

    @contextmanager
    def watching(self, wake: Callable[[], None], *rows: Record) -> Iterator[None]:
        """`listening`, for transactions that changed or removed one of these rows: who waits for one VM among a
        thousand is to sleep through the others' changes."""
        with self.lock:
            for row in rows:
                self._watched.setdefault(row.ref, []).append(wake)
        try:
            yield
        finally:
            with self.lock:
                for row in rows:
                    self._watched[row.ref].remove(wake)
                    if not self._watched[row.ref]:
                        del self._watched[row.ref]

    def create(self, kind: type[R], ref: str = "", **fields: Any) -> R:
        """A new row; fields left out take their default, `uuid` a new one."""
        cls = kind.kind
        stored = stored_defaults(cls)
        stored.update(fields)
        if "uuid" in stored and not stored["uuid"]:
            stored["uuid"] = str(uuids.uuid4())
        with self.transaction():
            self.generation += 1
            row = kind(self, ref or f"OpaqueRef:{uuids.uuid4()}", stored, self.generation)
            self._insert(row)
            self._undo.append(lambda: self._remove(row))
            self._touched[row] = set()
            if cls.persist:
                self._changes.append(
                    Change("create", cls.name, row.ref, _journalled(cls.fields, stored, fields))
                )
        return row

    def seed(self, kind: type[R], ref: str, **fields: Any) -> R:
        """A row that every start makes anew, and that is therefore never stored."""
        with self.lock:
            self.generation += 1
            row = kind(self, ref, stored_defaults(kind.kind) | fields, self.generation)
            self._insert(row)
        return row

    def delete(self, row: Record) -> None:
        """Remove a row; references to it are left dangling, as XenAPI allows. Doing it twice is harmless."""
        with self.transaction():
            if self.rows.get(row.ref) is not row:
                return
            cls = row.kind
            for field in cls.fields.values():
                if field.many_to_many:
                    self.write(row, {field.name: ()})
            self._remove(row)
            if len(self.deletions) == DELETIONS_KEPT:
                self.forgotten = self.deletions[0].generation
            self.deletions.append(Deletion(self.generation, cls.name, row.ref, row.born))
            self._undo.append(lambda: self._put_back(row))
            if cls.persist:
                self._changes.append(Change("delete", cls.name, row.ref, {}))

    def write(self, row: Record, fields: Mapping[str, Any]) -> None:
        """Set fields of a row; those that already have the value change nothing and make no event.

        Nothing happens to a row that is gone: whoever writes to it came just before whoever deleted it.
        """
        with self.transaction():
            if self.rows.get(row.ref) is not row:
                return
            stored = row.stored()
            changed = {name: value for name, value in fields.items() if stored[name] != value}
            if not changed:
                return
            old = {name: stored[name] for name in changed}
            table = self.tables[row.kind.name]
            for name, value in changed.items():
                stored[name] = value
                field = row.kind.fields[name]
                table.reindex(row.ref, name, old[name], value)
                self._mirror(field, row.ref, old[name], value)
            self.touch(row)
            self._undo.append(lambda: self.write(row, old))
            if row in self._touched:
                self._touched[row] |= changed.keys()
            else:
                self._touched[row] = set(changed)
            kept = {name: value for name, value in changed.items() if row.kind.fields[name].persist}
            if kept and row.kind.persist:
                self._changes.append(Change("write", row.kind.name, row.ref, kept))

    def touch(self, row: Record) -> None:
        """Make a modification event for a row, without a change of its own."""
        with self.transaction():
            self.generation += 1
            row.changed(self.generation)
            if row.ref in self._watched:
                self._news.add(row.ref)
            if self.recent.pop(row.ref, None) is not None:
                self.recent[row.ref] = row

    def _insert(self, row: Record) -> None:
        self.rows[row.ref] = row
        self.tables[row.kind.name].insert(row)
        self.recent[row.ref] = row
        stored = row.stored()
        for field in row.kind.fields.values():
            if field.inverse is not None and field.mirror_of is None:
                self._mirror(field, row.ref, field.type.zero, stored[field.name])

    def _remove(self, row: Record) -> None:
        stored = row.stored()
        self.rows.pop(row.ref, None)
        self.recent.pop(row.ref, None)
        self.tables[row.kind.name].remove(row)
        self.generation += 1
        if row.ref in self._watched:
            self._news.add(row.ref)
        for field in row.kind.fields.values():
            if field.inverse is not None and field.mirror_of is None:
                self._mirror(field, row.ref, stored[field.name], field.type.zero)

    def _put_back(self, row: Record) -> None:
        """Undo a deletion: nobody is to be told of it, and the row stands where rows that just changed stand."""
        self._insert(row)
        self.touch(row)
        for index in range(len(self.deletions) - 1, -1, -1):
            if self.deletions[index].ref == row.ref:
                del self.deletions[index]
                break

    def _mirror(self, field: Field, ref: str, old: Any, new: Any) -> None:
        """A relation changed on this side: the other side has changed too."""
        if field.inverse is None or field.mirror_of is not None or field.inverse == (field.cls, field.name):
            return
        if not field.many_to_many:
            for other in {old, new} - {NULL}:
                if (row := self.rows.get(other)) is not None:
                    self.touch(row)
                    self._touched.setdefault(row, set()).add(field.inverse[1])
            return
        name = field.inverse[1]
        for other, present in [(o, False) for o in set(old) - set(new)] + [
            (o, True) for o in set(new) - set(old)
        ]:
            if (row := self.rows.get(other)) is None:
                continue
            there = row.stored()[name]
            if present and ref not in there:
                self.write(row, {name: (*there, ref)})
            elif not present and ref in there:
                self.write(row, {name: tuple(r for r in there if r != ref)})

    # --- starting --------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Fill an empty database from its journal. Rows stay undecoded until they are read."""
        assert self.journal is not None and not self.rows
        # Tokens of an earlier run must sort before anything that happens now.
        self.generation = int(self.journal.get_meta("generation") or 0) + GENERATIONS_A_START
        self.journal.set_meta("generation", str(self.generation))
        self.forgotten = self.generation
        for ref, cls, body in self.journal.load():
            kind = KINDS.get(cls)
            if kind is None:  # a class that this version no longer has
                continue
            row = kind(self, ref, None, self.generation, body)
            self.rows[ref] = row
            self.tables[cls].rows[ref] = row
            self.recent[ref] = row

    # --- events ----------------------------------------------------------------------------------------------

    def changed_since(self, generation: int) -> Iterable[Record]:
        """The rows that changed after a generation, the newest first."""
        with self.lock:
            rows: list[Record] = []
            for row in reversed(self.recent.values()):
                if row.touched <= generation:
                    break
                rows.append(row)
            return rows

    def deleted_since(self, generation: int) -> Iterable[Deletion]:
        """The rows that existed at a generation and are gone now, the newest first."""
        with self.lock:
            gone: list[Deletion] = []
            for deletion in reversed(self.deletions):
                if deletion.generation <= generation:
                    break
                if deletion.born <= generation:
                    gone.append(deletion)
            return gone


def _journalled(
    kinds: Mapping[str, Field], stored: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a new row adds to its defaults: the journal keeps no more than that."""
    names = {*given, "uuid"} & stored.keys()
    return {n: stored[n] for n in names if kinds[n].persist and stored[n] != kinds[n].default}
