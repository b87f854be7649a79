"""Workers: the threads that calls run on, and how one that only waits makes room for another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

IDLE = 60.0
"""Seconds that a thread without work stays."""

MOST = 4096
"""Threads at all, waiting ones among them. A waiting thread takes about 50 KB."""


class _Work(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function(*self.arguments))
        except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
            self.future.set_exception(error)


class Workers(Executor):
    """At most `limit` threads that work at a time, and others beside them that said that they only wait.

    Were those counted, a few hundred guests that do not react to a shutdown would keep everybody from forcing them.
    """

    def __init__(self, limit: int, name: str, most: int = MOST) -> None:
        self.limit = limit
        self.name = name
        self.most = most
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._queued = self._idle = self._threads = self._waiting = 0
        self._closed = False

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        """Run a function on a thread, in the order of the calls. Raises RuntimeError after `shutdown`."""
        assert not named
        future: Future[T] = Future()
        with self._guard:
            if self._closed:
                raise RuntimeError(f"no more {self.name}s are taken")
            self._queued += 1
            self._queue.put(_Work(future, function, arguments))
            self._staff()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing new, and with `cancel_futures` begin nothing that is queued. Threads are never waited for:
        one may wait for a guest."""
        with self._guard:
            self._closed = True
            while cancel_futures and (work := self._taken()) is not None:
                self._queued -= 1
                work.future.cancel()
            for _ in range(self._threads):
                self._queue.put(None)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The calling thread, one of these workers, only waits for as long as the block runs."""
        with self._guard:
            self._waiting += 1
            self._staff()
        try:
            yield
        finally:
            with self._guard:
                self._waiting -= 1

    def _taken(self) -> _Work | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def _staff(self) -> None:
        """Start a thread where work is queued that no idle one is about to take; holding the guard."""
        working = self._threads - self._waiting
        if self._queued > self._idle and working < self.limit and self._threads < self.most:
            self._threads += 1
            self._idle += 1
            threading.Thread(target=self._serve, name=self.name, daemon=True).start()

    def _serve(self) -> None:
        _mine.workers = self
        while True:
            try:
                work = self._queue.get(timeout=IDLE)
            except Empty:
                if self._dismissed():
                    return
                continue
            with self._guard:
                self._idle -= 1
                if work is None:
                    self._threads -= 1
                    return
                self._queued -= 1
            work.run()
            del work
            with self._guard:
                # Those that waited are working again, so there may be more than the limit now.
                if self._threads - self._waiting > self.limit:
                    self._threads -= 1
                    return
                self._idle += 1

    def _dismissed(self) -> bool:
        """Whether an idle thread may go. Not when work came just now that counts on it."""
        with self._guard:
            if self._queued:
                return False
            self._idle -= 1
            self._threads -= 1
            return True


class _Mine(threading.local):
    workers: Workers | None = None


_mine = _Mine()


@contextmanager
def only_waiting() -> Iterator[None]:
    """Say that this thread only waits, for a guest or for another call, and may be stood in for. Harmless on a thread
    that is not a worker's."""
    workers = _mine.workers
    if workers is None:
        yield
        return
    with workers.waiting():
        yield
