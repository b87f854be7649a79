"""Delivery of events: in the order they came, in one thread, to everyone who watches."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from kronos.hypervisor.base import Event

log = logging.getLogger(__name__)

Callback = Callable[[Event], None]


class Announcer:
    """Takes events from any thread without waiting, and calls the watchers from a thread of its own.

    A watcher may therefore call the driver back, and a slow one holds up no guest and no libvirt callback. `translate`
    is called there first, and may look up what an event means; None is for events that mean nothing.
    """

    def __init__(self, name: str, translate: Callable[[Event], Event | None] = lambda event: event) -> None:
        self._translate = translate
        self._queue: queue.SimpleQueue[Event | threading.Event | None] = queue.SimpleQueue()
        self._watchers: tuple[Callback, ...] = ()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._deliver, name=name, daemon=True)
        self._thread.start()

    def watch(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` for events from now on, until the returned function is called."""
        with self._guard:
            self._watchers = (*self._watchers, callback)

        def stop() -> None:
            with self._guard:
                self._watchers = tuple(one for one in self._watchers if one is not callback)

        return stop

    def announce(self, event: Event) -> None:
        self._queue.put(event)

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until everything announced before has been delivered."""
        mark = threading.Event()
        self._queue.put(mark)
        return mark.wait(timeout)

    def close(self) -> None:
        """Deliver what is queued and end the thread."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _deliver(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._tell(item)

    def _tell(self, event: Event) -> None:
        told: Event | None = event
        try:
            told = self._translate(event)
        except Exception:
            log.exception("%s is not understood", event)
        if told is None:
            return
        for callback in self._watchers:
            try:
                callback(told)
            except Exception:
                log.exception("a watcher failed on %s", told)
