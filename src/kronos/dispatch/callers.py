"""Callers at work: who calls how much, and who has to wait because of a limit. Off unless a setting asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kronos.datamodel.types import at
from kronos.db.database import Database
from kronos.db.records import Caller, Rate_limit
from kronos.rules.callers import Bucket, Pattern

MOST_FOUND = 100
"""Callers that nobody named; the one that called longest ago makes room."""
LONGEST = 256
"""Characters of a user agent that is remembered."""
NOTED = 60.0
"""Seconds between two notes of last_access: a note is a write to disk."""


@dataclass(slots=True)
class Usage:
    """What a caller did since the daemon's start."""

    pattern: Pattern
    calls: int = 0
    tokens: float = 0.0
    last: float = field(default=0.0)
    noted: float = field(default=-NOTED)


class Callers:
    """Every caller that there is a record of, and those that are found. Any thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self.db = db
        self.on = False
        self._clock = clock
        self._guard = threading.RLock()
        self._usage: dict[str, Usage] = {}
        self._buckets: dict[str, Bucket] = {}

    def refresh(self) -> None:
        """Take in what the records say now. Limits that changed begin with a full bucket."""
        if not self.on:
            return
        with self._guard:
            rows = {row.ref: row for row in self.db.all(Caller)}
            self._usage = {
                ref: self._usage.get(ref) or Usage(Pattern(row.user_agent, row.client_ip))
                for ref, row in rows.items()
            }
            buckets = {}
            for row in self.db.all(Rate_limit):
                old = self._buckets.get(row.ref)
                if old is None or (old.burst_size, old.fill_rate) != (row.burst_size, row.fill_rate):
                    old = Bucket(row.burst_size, row.fill_rate, row.burst_size, self._clock())
                buckets[row.ref] = old
            self._buckets = buckets

    def admit(self, user_agent: str, client_ip: str, cost: float) -> float:
        """Count a call; how many seconds it has to wait for its turn."""
        moment = self._clock()
        with self._guard:
            matching = [
                (ref, each)
                for ref, each in self._usage.items()
                if each.pattern.matches(user_agent, client_ip)
            ]
            if not any(each.pattern.is_whole for _, each in matching):
                matching += self._found(user_agent, client_ip)
            for ref, each in matching:
                each.calls += 1
                each.tokens += cost
                each.last = moment
                if moment - each.noted >= NOTED:
                    each.noted = moment
                    self._note(ref)
            bucket = self._bucket(matching)
            return bucket.take(cost, moment) if bucket is not None else 0.0

    def _bucket(self, matching: list[tuple[str, Usage]]) -> Bucket | None:
        """The limit of the caller that says the most, of those that have one."""
        for ref, _ in sorted(matching, key=lambda each: each[1].pattern.rank, reverse=True):
            row = self.db.find(Caller, ref)
            bucket = self._buckets.get(row.rate_limit) if row is not None else None
            if bucket is not None:
                return bucket
        return None

    def _note(self, ref: str) -> None:
        row = self.db.find(Caller, ref)
        if row is not None:
            row.last_access = at(time.time())

    def _found(self, user_agent: str, client_ip: str) -> list[tuple[str, Usage]]:
        """Remember a caller that has no record of its own yet."""
        pattern = Pattern(user_agent, client_ip)
        if not pattern.is_whole or len(user_agent) > LONGEST or not user_agent.isprintable():
            return []
        row = self.db.create(Caller, user_agent=user_agent, client_ip=client_ip, auto_registered=True)
        usage = self._usage[row.ref] = Usage(pattern, last=self._clock())
        found = [each for each in self.db.all(Caller) if each.auto_registered]
        if len(found) > MOST_FOUND:
            oldest = min(
                found, key=lambda each: self._usage[each.ref].last if each.ref in self._usage else 0.0
            )
            self._usage.pop(oldest.ref, None)
            self.db.delete(oldest)
        return [(row.ref, usage)]

    def usage(self, ref: str) -> tuple[float, int]:
        """Tokens and calls of a caller since the daemon's start."""
        with self._guard:
            found = self._usage.get(ref)
            return (found.tokens, found.calls) if found is not None else (0.0, 0)
