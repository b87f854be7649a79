"""Caches: a pool's records kept up to date by its events, instead of asked for again and again."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Self

from kronos_client.asession import AsyncSession
from kronos_client.records import Change, Records
from kronos_client.session import LONG, TROUBLE, Session

log = logging.getLogger(__name__)

_RETRY = 2.0
"""Seconds until a host that did not answer is asked again."""


class Cache(Records):
    """Records of some classes, followed by a thread. As a context manager: inside, all records are there.

    A connection that is lost is made again, and what changed meanwhile is told then; until then `trouble` is why the
    records are old. `wait` looks at each change.
    """

    def __init__(self, session: Session, *classes: str) -> None:
        super().__init__(classes)
        self._session = session
        self._classes = list(classes)
        self._news = threading.Condition()
        self._heard: Callable[[Change], None] | None = None
        self._ended = False
        self._token = ""
        self.trouble: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="kronos-client cache", daemon=True)

    def __enter__(self) -> Self:
        self._step(0.0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True  # the thread sees it after the batch that it waits for

    def on_change(self, heard: Callable[[Change], None]) -> None:
        """Have each change told to a function, on the cache's thread; it should be quick."""
        self._heard = heard

    def wait(self, reached: Callable[[], Any], timeout: float | None = None) -> Any:
        """What `reached` returns once that is true; it is called after each batch of changes. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while not (found := reached()):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"not within {timeout} s")
                self._news.wait(left)
        return found

    def _follow(self) -> None:
        while not self._ended:
            try:
                self._step(LONG)
                self.trouble = None
            except TROUBLE as error:
                if self._ended:
                    break
                self.trouble = error
                self._token = ""  # what went by meanwhile is found by comparing all of it
                time.sleep(_RETRY)

    def _step(self, timeout: float) -> None:
        batch = self._session.call("event.from", self._classes, self._token, timeout)
        with self._news:
            changes = self._apply(batch["events"], whole=not self._token)
            self._token = batch["token"]
            if changes:
                self._news.notify_all()
        for change in changes:
            self._tell(change)

    def _tell(self, change: Change) -> None:
        heard = self._heard
        if heard is None:
            return
        try:
            heard(change)
        except Exception:  # the records are to be followed all the same
            log.exception("What was to be told of %s %s", change.cls, change.ref)


class AsyncCache(Records):
    """As Cache, followed by a task of the loop's; with `async with`. `trouble` is as there."""

    def __init__(self, session: AsyncSession, *classes: str) -> None:
        super().__init__(classes)
        self._session = session
        self._classes = list(classes)
        self._token = ""
        self.trouble: Exception | None = None
        self._readers: set[asyncio.Queue[Change]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._step(0.0)
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def changes(self) -> AsyncIterator[Change]:
        """Each change from now on, without end."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self._readers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._readers.discard(queue)

    async def wait(self, reached: Callable[[], Any]) -> Any:
        """What `reached` returns once that is true; it is called after each change. `asyncio.timeout` bounds it."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self._readers.add(queue)
        try:
            while not (found := reached()):
                await queue.get()
        finally:
            self._readers.discard(queue)
        return found

    async def _follow(self) -> None:
        while True:
            try:
                await self._step(LONG)
                self.trouble = None
            except TROUBLE as error:
                self.trouble = error
                self._token = ""
                await asyncio.sleep(_RETRY)

    async def _step(self, timeout: float) -> None:
        batch = await self._session.call("event.from", self._classes, self._token, timeout)
        changes = self._apply(batch["events"], whole=not self._token)
        self._token = batch["token"]
        for change in changes:
            for queue in self._readers:
                queue.put_nowait(change)
