"""Tasks: what a long call shows of itself, and how it is cancelled."""

from __future__ import annotations

import time
import uuid as uuids
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, now
from kronos.db.database import Database
from kronos.db.records import Task as Row

ENDED = ("success", "failure", "cancelled")
MOST = 200
KEPT = 65 * 60.0
PROMPT = 30.0
"""Seconds that every task stays after its end, however many there are: who starts a thousand reads them in turn."""
ABANDONED = 24 * 3600.0
"""Seconds after which a pending task that a client made for itself goes, unless it has got on in them."""


class Task:
    """The task of one call: a row that clients see, or for a synchronous call only a name."""

    def __init__(self, db: Database, label: str, row: Row | None = None) -> None:
        self.db = db
        self.row = row
        self.label = label
        self.destroy_when_done = False
        self.cancelled = False
        self._on_cancel: list[Callable[[], None]] = []

    @cached_property
    def ref(self) -> str:
        """The row's reference, or the name that a synchronous call goes by in current_operations."""
        return self.row.ref if self.row is not None else f"DummyRef:|{uuids.uuid4()}|{self.label}"

    def check(self) -> None:
        """Raises TASK_CANCELLED once somebody asked for it; long work calls this between its steps."""
        if self.cancelled:
            raise Failure("TASK_CANCELLED", self.ref)

    def progress(self, fraction: float) -> None:
        """Show how far the work is, 0.0 to 1.0, and stop here if it was cancelled."""
        self.check()
        if self.row is not None:
            self.row.progress = max(self.row.progress, min(1.0, fraction))

    def on_cancel(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the task is cancelled, at once if it already is."""
        self._on_cancel.append(wake)
        if self.cancelled:
            wake()

    def cancel(self) -> None:
        self.cancelled = True
        for wake in self._on_cancel:
            wake()

    def finish(self, result: str = "") -> None:
        self._end("success", result=result)

    def fail(self, failure: Failure) -> None:
        status = "cancelled" if failure.code == "TASK_CANCELLED" else "failure"
        self._end(status, error_info=tuple(failure.description))

    def _end(self, status: str, **fields: Any) -> None:
        if self.row is not None:
            ended = {"status": status, "progress": 1.0, "finished": now(), "allowed_operations": ()}
            self.db.write(self.row, ended | {"current_operations": {}} | fields)


class Tasks:
    """The tasks in flight on this host, by reference."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.running: dict[str, Task] = {}
        self._over: deque[tuple[float, Row]] = deque()
        # Clients' own tasks that have not ended: when each was looked at last, and its progress then. Oldest first.
        self._clients: dict[str, tuple[float, float]] = {}

    def start(self, label: str, description: str, session: str, host: str, *, subtask_of: str = NULL) -> Task:
        """A task that clients see, pending, with work behind it."""
        row = self.make(
            label, description, session, host, subtask_of=subtask_of, allowed_operations=("cancel",)
        )
        task = Task(self.db, label, row)
        self.running[row.ref] = task
        return task

    def make(self, label: str, description: str, session: str, host: str, **fields: Any) -> Row:
        """A pending task's record. Those that ended long ago make room."""
        self._tidy()
        return self.db.create(
            Row,
            name_label=label,
            name_description=description,
            created=now(),
            status="pending",
            resident_on=host,
            session=session,
            type="<none/>",
            **fields,
        )

    def make_for_client(self, label: str, description: str, session: str, host: str) -> Row:
        """A pending task's record that its client ends; a client that is gone does not leave it for ever."""
        row = self.make(label, description, session, host)
        with self.db.transaction():
            self._clients[row.ref] = (time.monotonic(), row.progress)
        return row

    def over(self, row: Row) -> None:
        """A task has ended: it stays for a while, for its client to read."""
        self._over.append((time.monotonic(), row))
        with self.db.transaction():
            self._clients.pop(row.ref, None)

    def _tidy(self) -> None:
        """Drop tasks that ended more than an hour ago, and beyond 200 those that ended first, as the reference does.

        Done when a task begins, so that no timer has to run.
        """
        clock = time.monotonic()
        with self.db.transaction():
            while self._over:
                ended, row = self._over[0]
                if clock - ended < (PROMPT if len(self._over) > MOST else KEPT):
                    break
                self._over.popleft()
                self.db.delete(row)
            while self._clients:
                ref, (looked, progress) = next(iter(self._clients.items()))
                if clock - looked < ABANDONED:
                    break
                del self._clients[ref]
                self._look_at(ref, progress)

    def _look_at(self, ref: str, progress: float) -> None:
        """Drop a client's task that has not got on since it was looked at last, and has no work of ours behind it."""
        row = self.db.find(Row, ref)
        if row is None or row.status in ENDED:
            return
        if ref in self.running or row.progress > progress:
            self._clients[ref] = (time.monotonic(), row.progress)
        else:
            self.db.delete(row)

    def ended(self, task: Task) -> None:
        """The work behind a task is over; a task that its owner destroyed meanwhile goes now."""
        self.running.pop(task.ref, None)
        if task.row is None:
            return
        if task.destroy_when_done:
            self.db.delete(task.row)
        else:
            self.over(task.row)

    def destroy(self, row: Row) -> None:
        """Forget a task; one that still runs goes when it has ended."""
        task = self.running.get(row.ref)
        if task is not None:
            task.destroy_when_done = True
            self.db.write(row, {"current_operations": row.current_operations | {row.ref: "destroy"}})
        if row.ref not in self.running:  # it may have ended just before it was told
            self.db.delete(row)
            with self.db.transaction():
                self._clients.pop(row.ref, None)

    def cancel_all(self) -> None:
        """Ask everything that runs to stop: the daemon does."""
        for task in list(self.running.values()):
            task.cancel()

    def cancel(self, row: Row) -> None:
        """Ask a task to stop. Raises OPERATION_NOT_ALLOWED for one that has no running work behind it."""
        task = self.running.get(row.ref)
        if task is None:
            if row.status == "pending":
                self.db.write(row, {"status": "cancelled", "finished": now(), "progress": 1.0})
                self.over(row)
                return
            raise Failure("OPERATION_NOT_ALLOWED", f"task {row.ref} is {row.status}")
        with suppress(Failure):
            self.db.write(row, {"current_operations": {row.ref: "cancel"}})
        task.cancel()
