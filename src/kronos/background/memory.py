"""Memory: what answers and transfers took and freed goes back to the host: a busy hour is not kept for ever."""

from __future__ import annotations

import threading
from typing import Final

from kronos.system import memory

INTERVAL: Final = 300.0
"""Seconds between two times."""


class Memory:
    """Gives memory back on a thread of its own."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self.interval = interval
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._keep, name="memory", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _keep(self) -> None:
        while not self._closed.wait(self.interval):
            memory.give_back()
