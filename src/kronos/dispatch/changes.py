"""Changes: how a call on the loop waits for the database to change, at no cost while nothing does."""

from __future__ import annotations

import asyncio

from kronos.db.database import Database


class Changes:
    """Wakes every waiting call after a commit; commits that follow each other quickly wake once."""

    def __init__(self, db: Database, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: set[asyncio.Future[None]] = set()
        self._scheduled = False
        db.on_commit(self._committed)

    def _committed(self) -> None:
        # Any thread; a flag that is set twice only wakes twice.
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._scheduled = False
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def register(self) -> asyncio.Future[None]:
        """A future that the next commit completes. Take it before looking at the database, so that none is missed."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiting.add(future)
        return future

    async def next(self, future: asyncio.Future[None], timeout: float) -> bool:
        """Wait for a registered future, at most `timeout` seconds; False where time ran out."""
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True

    def forget(self, future: asyncio.Future[None]) -> None:
        self._waiting.discard(future)
        future.cancel()
