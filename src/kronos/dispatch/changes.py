"""Changes: how a call on the loop waits for the database to change, at no cost while nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from kronos.db.database import Database

V = TypeVar("V")

# Changes that follow each other are told in one answer: the reference holds them back for 50 ms.
BATCHING = 0.005
_MOST_SHARED = 64
_KEPT = 1.0


class Changes:
    """Wakes waiting calls after a commit, and keeps what they all ask for.

    A hundred clients that wait for the same are woken by one timer, and get one answer that was made and written once.
    """

    def __init__(self, db: Database, loop: asyncio.AbstractEventLoop) -> None:
        self.db = db
        self.loop = loop
        self._eager: set[asyncio.Future[bool]] = set()
        self._patient: set[asyncio.Future[bool]] = set()
        self._scheduled = False
        self._batching = False
        self._shared: dict[Hashable, Any] = {}
        self._shared_at = -1
        self.closed = False
        db.on_commit(self._committed)

    def _committed(self) -> None:
        # Any thread; a flag that is set twice only wakes twice.
        if (self._eager or self._patient) and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._scheduled = False
        eager, self._eager = self._eager, set()
        _complete(eager)
        if self._patient and not self._batching:
            self._batching = True
            self.loop.call_later(BATCHING, self._wake_patient)

    def _wake_patient(self) -> None:
        self._batching = False
        patient, self._patient = self._patient, set()
        _complete(patient)

    def register(self, *, at_once: bool) -> asyncio.Future[bool]:
        """A future that the next commit completes: `at_once`, or with those that follow within BATCHING seconds.

        What was looked at before it was taken may have changed since: compare the generations, or look after it.
        """
        future: asyncio.Future[bool] = self.loop.create_future()
        if self.closed:
            future.set_result(False)
        else:
            (self._eager if at_once else self._patient).add(future)
        return future

    async def next(self, future: asyncio.Future[bool], timeout: float) -> bool:
        """Wait for a registered future, at most `timeout` seconds; False where time ran out."""
        timer = self.loop.call_later(timeout, _complete, (future,), False)
        try:
            return await future
        finally:
            timer.cancel()
            self.forget(future)

    def close(self) -> None:
        """Wake everyone who waits, for good: the daemon stops. On the loop."""
        self.closed = True
        for waiting in (self._eager, self._patient):
            _complete(waiting, False)
            waiting.clear()

    def forget(self, future: asyncio.Future[bool]) -> None:
        self._eager.discard(future)
        self._patient.discard(future)

    def shared(self, key: Hashable, make: Callable[[int], V]) -> V:
        """What `make` gives of the database as it is now, at the generation it is told; made once for all who ask.

        On the loop alone.
        """
        generation = self.db.generation
        if generation != self._shared_at or len(self._shared) >= _MOST_SHARED:
            self._shared.clear()
            self._shared_at = generation
        found: V | None = self._shared.get(key)
        if found is None:
            if not self._shared:
                self.loop.call_later(_KEPT, self._shared.clear)
            found = self._shared[key] = make(generation)
        return found


def _complete(futures: Iterable[asyncio.Future[bool]], changed: bool = True) -> None:
    for future in futures:
        if not future.done():
            future.set_result(changed)
