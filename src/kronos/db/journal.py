"""The journal: every change of the database, in order, on disk before anyone is told that it happened.

Threads append batches and go on; one writer thread commits whatever has gathered as one transaction, so that
the cost of a flush is shared by all who wait for it, and nobody waits for a timer.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kronos.datamodel.errors import Failure
from kronos.db.backlog import META, Backlog, Change, Outcome, decode, encode
from kronos.db.sqlite import DatabaseFile, JournalUnreadable, StoredObject
from kronos.system.locks import FileLock, LockHeld

__all__ = ["Change", "Journal", "JournalBroken", "JournalBusy", "JournalUnreadable", "StoredObject", "decode"]

log = logging.getLogger(__name__)

# Changes are folded into the objects once there is this much of them, in bytes of JSON: it bounds the memory
# they take and the time a start after a crash spends on them (half a second when each of them is another
# object's).
_FOLD_AFTER = 1024 * 1024
# Objects folded in one transaction, about 3 ms: what a commit may have to wait for.
_FOLD_OBJECTS = 64


class JournalBusy(Exception):
    """Another process has this database open."""


class JournalBroken(Failure):
    """The disk refused a commit, or the journal is closed: nothing more becomes durable until a restart."""

    def __init__(self, reason: str) -> None:
        super().__init__("INTERNAL_ERROR", f"The database cannot be written: {reason}")


class _Batch(NamedTuple):
    ticket: int
    body: str
    changes: list[Change]


@dataclass(slots=True)
class Writes:
    """What writing to disk took since the start, in seconds; the writer thread alone notes it."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = 0.0

    def note(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)


class Journal:
    """The database on disk. Any thread may call any method.

    After a failed commit the memory of the daemon is ahead of its disk, and stays so: every `append` and
    every `wait` for what is not durable raises JournalBroken, what was durable stays readable, and the daemon
    should restart, which brings it back to the last durable state.
    """

    def __init__(self, path: Path) -> None:
        """Open the database at `path`, creating it (mode 0600) where there is none.

        Raises JournalBusy, JournalUnreadable, OSError.
        """
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            self._lock.acquire()
        except LockHeld as held:
            raise JournalBusy(str(held)) from held
        try:
            self._file = DatabaseFile(path)
        except BaseException:
            self._lock.release()
            raise
        self._meta = dict(self._file.meta)
        self._last = self._durable = self._file.ticket
        self._mutex = threading.Lock()
        self._work = threading.Condition(self._mutex)
        self._queue: list[_Batch] = []
        self._waiting: list[tuple[int, threading.Lock]] = []
        self._on_durable: list[Callable[[int], None]] = []
        self._on_broken: list[Callable[[JournalBroken], None]] = []
        self._appended = False
        self.writes = Writes()
        self._closing = False
        self._reason = ""
        # The rest is the writer's own.
        self._backlog = Backlog()
        self._folding: Backlog | None = None
        self._parts: Iterator[dict[str, Outcome]] = iter(())
        self._fold_at = _FOLD_AFTER
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    def load(self) -> Iterator[StoredObject]:
        """Every object as when the journal was opened, its fields undecoded; before the first `append`.

        Raises sqlite3.Error while iterating when the file cannot be read.
        """
        if self._appended:
            raise RuntimeError("the journal is loaded before it is written")
        return self._file.objects()

    def append(self, changes: Sequence[Change]) -> int:
        """Queue a batch, which survives a crash as a whole or not at all, and return its ticket.

        Batches become durable in the order of their tickets. The changes are copied, one level deep: values
        inside are replaced by their owner, never changed in place.

        Raises JournalBroken; TypeError or ValueError, with nothing queued, for a value that JSON cannot hold.
        """
        kept = [Change(kind, cls, ref, dict(fields)) for kind, cls, ref, fields in changes]
        body = encode(kept)
        with self._mutex:
            self._appended = True
            return self._queue_up(kept, body)

    def _queue_up(self, changes: list[Change], body: str) -> int:
        if self._reason:
            raise JournalBroken(self._reason)
        if changes:
            self._last += 1
            self._queue.append(_Batch(self._last, body[1:-1], changes))
            self._work.notify()
        return self._last

    @property
    def durable(self) -> int:
        """The ticket up to which everything is on disk."""
        return self._durable

    @property
    def failure(self) -> JournalBroken | None:
        """Why nothing more can be written, or None."""
        return JournalBroken(self._reason) if self._reason else None

    def wait(self, ticket: int, timeout: float | None = None) -> None:
        """Block until everything up to `ticket` is on disk, at most `timeout` seconds.

        Raises JournalBroken when it never will be, TimeoutError.
        """
        if ticket <= self._durable:
            return
        gate = threading.Lock()
        gate.acquire()
        with self._mutex:
            if ticket <= self._durable:
                return
            if self._reason:
                raise JournalBroken(self._reason)
            if ticket > self._last:
                raise ValueError(f"ticket {ticket} has not been given out")
            self._waiting.append((ticket, gate))
        in_time = gate.acquire(timeout=-1 if timeout is None else max(timeout, 0.0))
        if ticket <= self._durable:
            return
        if in_time:
            raise JournalBroken(self._reason)
        with self._mutex:
            self._waiting = [each for each in self._waiting if each[1] is not gate]
        raise TimeoutError(f"the journal has not reached {ticket} after {timeout} s")

    def subscribe(
        self, durable: Callable[[int], None], broken: Callable[[JournalBroken], None] | None = None
    ) -> None:
        """Call `durable` with the newest ticket on disk after each commit, and `broken` once if commits fail.

        Both run in the writer thread, and should only pass the word on.
        """
        with self._mutex:
            self._on_durable.append(durable)
            if broken is not None:
                self._on_broken.append(broken)

    def get_meta(self, key: str, default: str = "") -> str:
        """A setting of the database itself, as last set."""
        with self._mutex:
            return self._meta.get(key, default)

    def set_meta(self, key: str, value: str) -> int:
        """Set a setting, in order with the batches, and return its ticket. Raises JournalBroken."""
        if key.startswith("journal."):
            raise ValueError(f"{key} is the journal's own")
        changes = [Change(META, "", "", {key: value})]
        body = encode(changes)
        with self._mutex:
            ticket = self._queue_up(changes, body)
            self._meta[key] = value
            return ticket

    def close(self) -> None:
        """Commit what is queued, fold all changes into the objects, let go of the file. Twice is harmless."""
        with self._mutex:
            self._closing = True
            self._work.notify()
        self._writer.join()

    # The writer thread

    def _write(self) -> None:
        clean = False
        try:
            while self._round():
                pass
            clean = self._fold_all()
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            self._break(error)
        finally:
            try:
                self._file.close(clean=clean)
            except sqlite3.Error as error:
                log.error("closing the database: %s", error)
            self._lock.release()

    def _round(self) -> bool:
        """Wait for work and do one piece of it; False when there will be no more."""
        with self._mutex:
            while not self._queue and not self._closing and self._folding is None:
                self._work.wait()
            group, self._queue = self._queue, []
            if not group and self._closing:
                self._reason = "it is closed"
                return False
        if group:
            self._commit(group)
        try:
            # As many objects as came in, or the backlog would outgrow the folds under a load of large
            # batches.
            for _ in range(1 + sum(len(batch.changes) for batch in group) // _FOLD_OBJECTS):
                self._fold_some(self._fold_at)
            self._file.tidy()
        except sqlite3.Error as error:
            # Nothing is lost: the changes are durable by themselves. A full disk may get room again.
            log.error("folding changes into the database: %s", error)
            self._postpone_fold()
        return True

    def _commit(self, group: list[_Batch]) -> None:
        ticket = group[-1].ticket
        body = f"[{','.join([batch.body for batch in group])}]"
        began = time.perf_counter()
        self._file.append(ticket, body)
        self.writes.note(time.perf_counter() - began)
        with self._mutex:
            self._durable = ticket
            ready = [gate for wanted, gate in self._waiting if wanted <= ticket]
            if ready:
                self._waiting = [each for each in self._waiting if each[0] > ticket]
            told = tuple(self._on_durable)
        for gate in ready:
            gate.release()
        for callback in told:
            try:
                callback(ticket)
            except Exception:  # the subscriber's fault, such as a loop that is closed by now
                log.exception("a subscriber of the journal failed")
        self._backlog.add(ticket, len(body), (change for batch in group for change in batch.changes))

    def _fold_some(self, least: int) -> None:
        """One piece of the fold that is under way, or of a new one once there are `least` bytes to fold."""
        if self._folding is None:
            if self._backlog.size < least:
                return
            self._folding, self._backlog = self._backlog, Backlog()
            self._parts = self._folding.parts(_FOLD_OBJECTS)
        part = next(self._parts, None)
        if part is not None:
            self._file.fold(part)
        else:
            self._file.discard(self._folding)
            self._folding = None
            self._fold_at = _FOLD_AFTER

    def _postpone_fold(self) -> None:
        """Back to before the fold, to begin it again once as many changes more have gathered."""
        if self._folding is not None:
            self._folding.follow(self._backlog)
            self._backlog, self._folding = self._folding, None
        self._fold_at = self._backlog.size + _FOLD_AFTER

    def _fold_all(self) -> bool:
        try:
            while self._folding is not None or self._backlog:
                self._fold_some(1)
                self._file.tidy()
        except sqlite3.Error as error:
            log.error("folding changes into the database: %s", error)
            return False
        return True

    def _break(self, error: BaseException) -> None:
        log.critical("the database cannot be written any more: %s", error)
        with self._mutex:
            self._reason = str(error) or type(error).__name__
            self._queue.clear()
            stranded, self._waiting = self._waiting, []
            told = tuple(self._on_broken)
        for _, gate in stranded:
            gate.release()
        for callback in told:
            try:
                callback(JournalBroken(self._reason))
            except Exception:
                log.exception("a subscriber of the journal failed")
