"""One run of the benchmarks: how long and how often, where files go, what was found."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import Row


@dataclass(slots=True)
class Run:
    """Settings of a run and its rows."""

    directory: Path
    quick: bool = False
    rows: list[Row] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How often each measurement is repeated; the best counts."""
        return 2 if self.quick else 5

    @property
    def seconds(self) -> float:
        """How long load lasts."""
        return 1.0 if self.quick else 3.0

    def scaled(self, count: int) -> int:
        """A number of objects; a tenth of it in a quick run."""
        return max(10, count // 10) if self.quick else count


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least of `rounds` measurements of each, taken in turns, so that all meet the same weather."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            gc.collect()
            value = call()
            found[name] = min(value, found.get(name, value))
    return found
