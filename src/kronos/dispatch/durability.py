"""Durability: an answer leaves only when everything that it may have seen is on disk."""

from __future__ import annotations

import asyncio
from collections import deque

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.journal import JournalBroken
from kronos.dispatch.answer import Answer


class Durability:
    """The answers that wait for the journal, on the loop."""

    def __init__(self, db: Database, loop: asyncio.AbstractEventLoop) -> None:
        self.db = db
        self.loop = loop
        self._waiting: deque[tuple[int, asyncio.Future[Answer], Answer]] = deque()
        if db.journal is not None:
            db.journal.subscribe(self._durable, self._broken)

    def reached(self) -> bool:
        """Is everything written so far on disk?"""
        journal = self.db.journal
        return journal is None or journal.durable >= self.db.written()

    def after(self, answer: Answer) -> asyncio.Future[Answer]:
        """The answer, once everything written until now is on disk; INTERNAL_ERROR when it never will be.

        A future and no coroutine: what most calls that write wait for takes no task of its own.
        """
        journal = self.db.journal
        position = self.db.written()
        future: asyncio.Future[Answer] = self.loop.create_future()
        if journal is None or journal.durable >= position:
            future.set_result(answer)
        elif journal.failure is not None:
            future.set_exception(journal.failure)
        else:
            self._waiting.append((position, future, answer))
            if journal.durable >= position:  # it was committed between the look and the queue
                self._release(journal.durable)
        return future

    def block(self) -> None:
        """The same for a worker thread."""
        if self.db.journal is not None:
            self.db.journal.wait(self.db.written())

    def _durable(self, ticket: int) -> None:
        self.loop.call_soon_threadsafe(self._release, ticket)

    def _broken(self, failure: JournalBroken) -> None:
        self.loop.call_soon_threadsafe(self._fail, failure)

    def _release(self, ticket: int) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= ticket:
            _, future, answer = waiting.popleft()
            if not future.done():
                future.set_result(answer)

    def _fail(self, failure: Failure) -> None:
        while self._waiting:
            _, future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(failure)
