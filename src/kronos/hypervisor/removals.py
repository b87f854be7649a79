"""Devices on their way out: a guest is asked to let one go, and its answer comes later, as an event."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kronos.hypervisor.base import DeviceId


class Outcome(enum.Enum):
    """What the guest did; NONE when nothing was heard in time."""

    REMOVED = "removed"
    REJECTED = "rejected"
    NONE = "none"


class Removal:
    """One expected answer."""

    def __init__(self) -> None:
        self._answered = threading.Event()
        self._outcome = Outcome.NONE

    def settle(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._answered.set()

    def wait(self, timeout: float) -> Outcome:
        self._answered.wait(timeout)
        return self._outcome


class Removals:
    """All expected answers of a host."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._expected: list[tuple[str, DeviceId, Removal]] = []

    @contextmanager
    def expect(self, uuid: str, device: DeviceId) -> Iterator[Removal]:
        """Take notice of the answer, from before the question is asked."""
        entry = (uuid, device, Removal())
        with self._guard:
            self._expected.append(entry)
        try:
            yield entry[2]
        finally:
            with self._guard:
                self._expected.remove(entry)

    def settle(self, uuid: str, device: DeviceId, outcome: Outcome) -> None:
        with self._guard:
            answers = [one for owner, wanted, one in self._expected if (owner, wanted) == (uuid, device)]
        for answer in answers:
            answer.settle(outcome)

    def all_of(self, uuid: str) -> None:
        """The VM ended: its devices are free."""
        with self._guard:
            answers = [one for owner, _, one in self._expected if owner == uuid]
        for answer in answers:
            answer.settle(Outcome.REMOVED)
