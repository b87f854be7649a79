"""Holding an object for an operation: what fills current_operations and keeps two conflicting calls apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.dispatch.task import Task
from kronos.dispatch.workers import only_waiting
from kronos.rules import operations

# The reference waits as long for another operation to end before it tells the client.
PATIENCE = 2 * 3600.0


class Holds:
    """The operations in flight on this host's objects."""

    def __init__(self, db: Database, patience: float = PATIENCE) -> None:
        self.db = db
        self.patience = patience
        self._released = threading.Condition()
        self._awaited: dict[str, frozenset[str]] = {}
        """The tasks whose operations each waiting task wants to end."""

    @contextmanager
    def hold(self, row: Record, operation: str, task: Task) -> Iterator[None]:
        """Enter `operation` on `row` for as long as the block runs.

        Waits while another operation is in the way. Raises what `operations.refusal` says, TASK_CANCELLED, or
        HANDLE_INVALID where the row has gone, also while this waited; OTHER_OPERATION_IN_PROGRESS at once where the
        other cannot end, because it waits for this task's own, or is that.
        """
        with self.hold_all((row,), operation, task):
            yield

    @contextmanager
    def hold_all(self, rows: Sequence[Record], operation: str, task: Task) -> Iterator[None]:
        """The same for several rows, which are entered together or not at all."""
        self._enter(rows, operation, task)
        try:
            yield
        finally:
            self._release(rows, task)

    def _enter(self, rows: Sequence[Record], operation: str, task: Task) -> None:
        deadline = time.monotonic() + self.patience
        task.on_cancel(self._wake)
        with self._released:
            while True:
                refusal = self._tried(rows, operation, task)
                if refusal is None:
                    return
                left = deadline - time.monotonic()
                if refusal.code != "OTHER_OPERATION_IN_PROGRESS" or left <= 0:
                    raise refusal
                blockers = operations.blockers(refusal)
                if self._waits_for(blockers, task.ref):
                    raise refusal
                # Only whoever waits is told of a cancellation: what a cancelled call undoes has to get through.
                task.check()
                self._awaited[task.ref] = blockers
                try:
                    with only_waiting():
                        self._released.wait(left)
                finally:
                    del self._awaited[task.ref]

    def _tried(self, rows: Sequence[Record], operation: str, task: Task) -> Failure | None:
        """Enter the operation on every row, or say what is in the way and leave all as they were."""
        try:
            with self.db.transaction():
                for row in rows:
                    if self.db.rows.get(row.ref) is not row:
                        # It still says that its destruction is under way, and will for ever.
                        raise Failure("HANDLE_INVALID", row.kind.name, row.ref)
                    refusal = operations.refusal(self.db, row, operation)
                    if refusal is not None:
                        raise refusal
                    self._write(row, row.current_operations | {task.ref: operation})
        except Failure as refusal:
            return refusal
        return None

    def _waits_for(self, tasks: frozenset[str], wanted: str) -> bool:
        """Whether one of the tasks is `wanted`, or waits for it, over however many others."""
        seen: set[str] = set()
        while tasks := tasks - seen:
            if wanted in tasks:
                return True
            seen |= tasks
            tasks = frozenset().union(*(self._awaited.get(ref, ()) for ref in tasks))
        return False

    def _release(self, rows: Sequence[Record], task: Task) -> None:
        """Take the task's operation off the rows; to those that are gone nothing happens."""
        with self.db.transaction():
            for row in rows:
                self._write(row, {ref: op for ref, op in row.current_operations.items() if ref != task.ref})
        self._wake()

    def _write(self, row: Record, current: dict[str, str]) -> None:
        self.db.write(row, {"current_operations": current})

    def _wake(self) -> None:
        with self._released:
            self._released.notify_all()
