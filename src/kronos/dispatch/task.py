"""Tasks: what a long call shows of itself, and how it is cancelled."""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL, at, now
from kronos.db.database import Database
from kronos.db.records import Task as Row

ENDED = ("success", "failure", "cancelled")
MOST = 200
KEPT = 65 * 60.0


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

    def start(self, label: str, description: str, session: str, host: str, *, subtask_of: str = NULL) -> Task:
        """A task that clients see, pending. Those that ended long ago make room."""
        self._tidy()
        row = self.db.create(
            Row,
            name_label=label,
            name_description=description,
            created=now(),
            status="pending",
            resident_on=host,
            session=session,
            type="<none/>",
            subtask_of=subtask_of,
            allowed_operations=("cancel",),
        )
        task = Task(self.db, label, row)
        self.running[row.ref] = task
        return task

    def _tidy(self) -> None:
        """Drop tasks that ended more than an hour ago, and the oldest ended ones beyond 200, as the reference does.

        Done when a task begins, so that no timer has to run.
        """
        ended = [row for row in self.db.all(Row) if row.status in ENDED]
        beyond = max(0, len(self.db.tables["task"].rows) - MOST)
        limit = at(time.time() - KEPT)
        for count, row in enumerate(ended):
            if count >= beyond and row.finished >= limit:
                break
            self.db.delete(row)

    def ended(self, task: Task) -> None:
        """The work behind a task is over; a task that its owner destroyed meanwhile goes now."""
        self.running.pop(task.ref, None)
        if task.destroy_when_done and task.row is not None:
            self.db.delete(task.row)

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
                return
            raise Failure("OPERATION_NOT_ALLOWED", f"task {row.ref} is {row.status}")
        with suppress(Failure):
            self.db.write(row, {"current_operations": {row.ref: "cancel"}})
        task.cancel()
