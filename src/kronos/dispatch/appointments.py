"""Appointments: functions that are to be called later, any number of them with one thread that keeps the time."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from kronos.dispatch.workers import Workers

log = logging.getLogger(__name__)

IDLE = 60.0
"""Seconds without appointments after which the thread ends; the next one starts it again."""


class Appointments:
    """`hands` functions run at a time, each on a worker thread, since one may block; those that are due meanwhile wait
    for their turn."""

    def __init__(self, name: str, hands: int) -> None:
        self.name = name
        self._workers = Workers(hands, name, most=hands)
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._kept = False

    def make(self, delay: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in `delay` seconds, or as soon after as a hand is free. What it raises is logged."""
        with self._changed:
            entry = (time.monotonic() + delay, next(self._numbers), function, arguments)
            heapq.heappush(self._due, entry)
            if not self._kept:
                self._kept = True
                threading.Thread(target=self._keep, name=f"{self.name}-clock", daemon=True).start()
            elif self._due[0] is entry:
                self._changed.notify()

    def _keep(self) -> None:
        with self._changed:
            while True:
                left = self._due[0][0] - time.monotonic() if self._due else IDLE
                if self._due and left <= 0:
                    _, _, function, arguments = heapq.heappop(self._due)
                    self._workers.submit(_called, function, arguments)
                elif not self._changed.wait(left) and not self._due:
                    self._kept = False
                    return


def _called(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except Exception:  # nobody waits for it who could be told
        log.exception("%s failed", getattr(function, "__qualname__", function))
