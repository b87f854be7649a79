"""Tracing: a span for each call, while somebody observes; while nobody does it costs the look at one flag."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from kronos.datamodel.errors import Failure
from kronos.rules.tracing import Span, parent_of

MOST = 10_000
"""Spans that wait to be sent; beyond it the oldest are lost, and counted."""

_current: ContextVar[Span | None] = ContextVar("span", default=None)


class Tracer:
    """Keeps the spans that ended. `told` is called after each, on the thread that made it, and returns at once."""

    def __init__(self) -> None:
        self.on = False
        self.lost = 0
        self.told: Callable[[], None] = lambda: None
        self._ended: deque[Span] = deque()

    def span(self, name: str, traceparent: str = "", **attributes: str) -> AbstractContextManager[object]:
        """A span for as long as the block runs: a part of the one around it, or of what the client's header names."""
        return self._span(name, traceparent, attributes) if self.on else nullcontext()

    @contextmanager
    def _span(self, name: str, traceparent: str, attributes: dict[str, str]) -> Iterator[Span]:
        around = _current.get()
        trace, parent = (around.trace, around.id) if around is not None else parent_of(traceparent)
        span = Span(name, trace or os.urandom(16).hex(), os.urandom(8).hex(), parent, time.time_ns())
        span.attributes = attributes
        begun = time.perf_counter_ns()
        token = _current.set(span)
        try:
            yield span
        except Failure as failure:
            span.error = failure.code
            raise
        except BaseException as error:
            span.error = type(error).__name__
            raise
        finally:
            _current.reset(token)
            # The clock may have been set meanwhile: what a call took is measured by another.
            span.ended = span.begun + time.perf_counter_ns() - begun
            self._keep(span)

    def _keep(self, span: Span) -> None:
        self._ended.append(span)
        if len(self._ended) > MOST:
            self._ended.popleft()
            self.lost += 1
        self.told()

    def take(self, most: int) -> list[Span]:
        """The oldest spans that wait, which wait no more."""
        taken: list[Span] = []
        while self._ended and len(taken) < most:
            taken.append(self._ended.popleft())
        return taken
