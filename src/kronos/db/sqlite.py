"""The database file: objects as JSON, and the changes since, each a durable SQLite transaction.

Table `changes` is the journal proper: one row for every group of batches that was committed together, in
order. Table `objects` holds each object whole. `fold` carries the outcome of changes over to the objects and
`discard` then drops the rows. A change sets fields to values whatever they were, so that carrying it over
twice does no harm, and a crash between any two steps loses nothing.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kronos.db.backlog import Backlog, Change, Outcome, decode, encode
from kronos.system.files import sync_directory

log = logging.getLogger(__name__)

_APPLICATION = 0x4B524F4E  # "KRON", so that file(1) and a curious reader can tell whose file it is
_VERSION = 1
# 8 KiB holds most objects in one page; 16 KiB makes each small commit dearer, 4 KiB spills a VM's record.
_PAGE = 8192
_CHECKPOINT_PAGES = 1000
_LOG_LIMIT = 16 * 1024 * 1024
_LOCK_SECONDS = (
    60.0  # a person's sqlite3 shell may hold the file for a while; a longer wait than that is a failure
)
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE objects"
    " (id INTEGER PRIMARY KEY, ref TEXT UNIQUE NOT NULL, cls TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE changes (ticket INTEGER PRIMARY KEY, body BLOB NOT NULL)",
)
_TICKET = "journal.ticket"
_CLEAN = "journal.clean"


class JournalUnreadable(Exception):
    """The file is not this version's database, or is damaged; a person has to decide what to do with it."""


class StoredObject(NamedTuple):
    """An object as it is on disk; `body` is the JSON of its fields by name, for `decode`."""

    ref: str
    cls: str
    body: bytes


class DatabaseFile:
    """The file, open. One thread at a time may use it, `objects` excepted, which has a connection of its own.

    `ticket` is that of the last durable change. Methods raise sqlite3.Error, and have then changed nothing.
    """

    def __init__(self, path: Path) -> None:
        """Open or create, check, and fold what a crash left unfolded. Raises JournalUnreadable, OSError."""
        self._path = path
        _create_private(path)
        self._pages = 0
        self._connection = _connect(path)
        try:
            self._check()
            self.meta: dict[str, str] = {
                key: str(value) for key, value in self._connection.execute("SELECT key, value FROM meta")
            }
            self.ticket = int(self.meta.pop(_TICKET, "0"))
            self._recover(clean=self.meta.pop(_CLEAN, "") == "yes")
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._connection.close()
            raise JournalUnreadable(f"{path}: {error}") from error
        except BaseException:
            self._connection.close()
            raise

    def _check(self) -> None:
        query = self._connection.execute
        (application,) = query("PRAGMA application_id").fetchone()
        (version,) = query("PRAGMA user_version").fetchone()
        (tables,) = query("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and tables == 0:
            query(f"PRAGMA page_size={_PAGE}")
        elif application != _APPLICATION:
            raise JournalUnreadable(f"{self._path} is not a database of this toolstack")
        elif version != _VERSION:
            raise JournalUnreadable(f"{self._path} has format {version}, this is format {_VERSION}")
        (mode,) = query("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise JournalUnreadable(f"{self._path}: this file system cannot hold it (journal mode {mode})")
        query("PRAGMA synchronous=FULL")
        query("PRAGMA wal_autocheckpoint=0")
        query(f"PRAGMA journal_size_limit={_LOG_LIMIT}")
        if tables == 0:
            with self._transaction():
                query(f"PRAGMA application_id={_APPLICATION}")
                query(f"PRAGMA user_version={_VERSION}")
                for statement in _TABLES:
                    query(statement)
                query("INSERT INTO meta VALUES (?, 'yes')", (_CLEAN,))

    def _recover(self, *, clean: bool) -> None:
        if not clean:
            log.warning("%s was not closed; checking it", self._path)
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise JournalUnreadable(f"{self._path} is damaged: {verdict}")
        self._connection.execute("DELETE FROM meta WHERE key = ?", (_CLEAN,))
        backlog = Backlog()
        for ticket, body in self._connection.execute("SELECT ticket, body FROM changes ORDER BY ticket"):
            backlog.add(ticket, len(body), (Change(*change) for change in decode(body)))
        if backlog:
            self.ticket = backlog.ticket
            self.meta.update(backlog.meta)
            for part in backlog.parts(1000):
                self.fold(part)
            self.discard(backlog)

    def objects(self) -> Iterator[StoredObject]:
        """Every object as of the first step of the iteration; folds that come later do not show."""
        connection = _connect(self._path)
        try:
            yield from map(StoredObject._make, connection.execute("SELECT ref, cls, body FROM objects"))
        finally:
            connection.close()

    def append(self, ticket: int, body: str) -> None:
        """Make one row of changes durable."""
        # A statement by itself is a transaction, and every statement is a wait for the interpreter's lock.
        self._connection.execute("INSERT INTO changes VALUES (?, ?)", (ticket, body.encode("ascii")))
        self._pages += 2 + len(body) // _PAGE
        self.ticket = ticket

    def fold(self, outcomes: Mapping[str, Outcome]) -> None:
        """Carry these outcomes over to the objects, in one transaction."""
        with self._transaction():
            rows = []
            for ref, outcome in outcomes.items():
                fields = outcome.fields if outcome.whole else self._changed(ref, outcome)
                if not outcome.deleted and fields is not None:
                    rows.append((ref, outcome.cls, encode(fields).encode("ascii")))
            self._connection.executemany(
                "DELETE FROM objects WHERE ref = ?",
                [(ref,) for ref, outcome in outcomes.items() if outcome.deleted],
            )
            self._connection.executemany(
                "INSERT INTO objects (ref, cls, body) VALUES (?, ?, ?)"
                " ON CONFLICT (ref) DO UPDATE SET cls = excluded.cls, body = excluded.body",
                rows,
            )
        self._pages += 2 * len(outcomes)

    def _changed(self, ref: str, outcome: Outcome) -> dict[str, object] | None:
        found = self._connection.execute("SELECT body FROM objects WHERE ref = ?", (ref,)).fetchone()
        if found is None:
            log.error("the journal changes %s %s, which does not exist", outcome.cls, ref)
            return None
        fields: dict[str, object] = decode(found[0])
        fields.update(outcome.fields)
        return fields

    def discard(self, backlog: Backlog) -> None:
        """Drop the changes up to the end of a backlog that has been folded, and keep its settings."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [*backlog.meta.items(), (_TICKET, str(backlog.ticket))],
            )
            self._connection.execute("DELETE FROM changes WHERE ticket <= ?", (backlog.ticket,))
        self._pages += 2 + backlog.size // _PAGE

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def tidy(self) -> None:
        """Copy SQLite's own log into the file once it has grown, so that it starts from its beginning."""
        if self._pages >= _CHECKPOINT_PAGES:
            self._pages = 0
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self, *, clean: bool) -> None:
        """Close; `clean` says that everything was folded and that the next start need not check the file."""
        try:
            if clean:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, 'yes')", (_CLEAN,))
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._connection.close()


def _create_private(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the database itself.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def _connect(path: Path) -> sqlite3.Connection:
    # Without an isolation level the module begins no transactions of its own.
    return sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
