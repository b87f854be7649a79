"""Replacement: another database, made ready beside the one in use, that the next start takes instead of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kronos.db.database import Database
from kronos.db.journal import Journal
from kronos.db.records import KINDS
from kronos.system.files import sync_directory
from kronos.system.locks import FileLock, LockHeld

READY: Final = "restored"
_MAKING: Final = "restoring"
_GONE: Final = "not-restored"
_SIDE_FILES: Final = ("-wal", "-shm")
_KEPT: Final = ".before-restore"


def prepare(
    state: Path, rows: Mapping[str, tuple[str, dict[str, Any]]], files: Mapping[str, bytes], generation: int
) -> None:
    """Have the next start begin with these rows, and with these files in `state`, by their names.

    Nothing that is in use is touched, and a crash leaves all of it ready or nothing. `generation` is of the database
    in use: what clients knew of it is to be older than all that comes.

    Raises OSError, Failure.
    """
    folder = state / _MAKING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    journal = Journal(folder / "state.db")
    try:
        db = Database(journal)
        with db.transaction():
            for ref, (cls, fields) in rows.items():
                db.create(KINDS[cls], ref, **fields)
        ticket = journal.set_meta("generation", str(generation))
        journal.wait(ticket)
    finally:
        journal.close()
    (folder / "state.db.lock").unlink(missing_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(content)
        path.chmod(0o600)
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    discard(state)
    folder.rename(state / READY)
    sync_directory(state)


def discard(state: Path) -> None:
    """Forget what was made ready and not taken, in one step: the next start must not take a part of it."""
    gone = state / _GONE
    shutil.rmtree(gone, ignore_errors=True)
    if is_ready(state):
        (state / READY).rename(gone)
        sync_directory(state)
        shutil.rmtree(gone, ignore_errors=True)


def tidy(state: Path) -> None:
    """At a start, with the database in use: remove what a crash left of one that was being made ready, or forgotten."""
    for name in (_MAKING, _GONE):
        shutil.rmtree(state / name, ignore_errors=True)


def is_ready(state: Path) -> bool:
    return (state / READY).is_dir()


def take_up(state: Path) -> bool:
    """At a start, before the database is opened: put what is ready in its place. The old database is kept beside it.

    What a crash cut off is taken up by the next start. Raises OSError.
    """
    folder = state / READY
    if not folder.is_dir():
        return False
    lock = FileLock(state / "state.db.lock")
    try:
        lock.acquire()
    except LockHeld:  # another daemon has the database open, as this one is about to be told
        return False
    try:
        _take_up(state, folder)
    finally:
        lock.release()
    return True


def _take_up(state: Path, folder: Path) -> None:
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        target = state / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name == "state.db":
            _put_aside(target)
        path.replace(target)
        sync_directory(target.parent)
    shutil.rmtree(folder)
    sync_directory(state)


def _put_aside(database: Path) -> None:
    """Keep the old database under another name, with what belongs to it; the new one is not to find that."""
    for suffix in ("", *_SIDE_FILES):
        old = database.with_name(database.name + suffix)
        if old.exists():
            old.replace(database.with_name(database.name + _KEPT + suffix))


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_directory(path)
    elif path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
