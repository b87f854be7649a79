"""What was measured: rows of a goal, their verdicts, and how they are shown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

QUIET: Final = 0.5
"""A load average below which a run's ratios mean most."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement beside its floor.

    What is held against `limit` is the ratio of `measured` to `floor`, or `measured` itself where there is no floor.
    `at_least` turns the limit round: more is better. A row without a limit is told for what it is.
    """

    goal: str
    what: str
    measured: float
    unit: str
    floor: float | None = None
    floor_is: str = ""
    limit: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.measured / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None where there is none."""
        if self.limit is None:
            return None
        value = self.measured if self.ratio is None else self.ratio
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: ""}[self.met]

    def as_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"ratio": self.ratio, "met": self.met}


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return ""
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text; a row's note stands below it."""
    head = ("goal", "what", "measured", "floor", "ratio", "goal is", "")
    lines = [head, *[_cells(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = []
    for index, line in enumerate(lines):
        cells = [
            cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
        if index == 0:
            shown.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
            continue
        row = rows[index - 1]
        beneath = "; ".join(text for text in (row.floor_is and f"floor: {row.floor_is}", row.note) if text)
        if beneath:
            shown.append(" " * (widths[0] + 4) + beneath)
    return "\n".join(shown)


def _cells(row: Row) -> tuple[str, ...]:
    limit = "" if row.limit is None else f"{'>=' if row.at_least else '<='} {number(row.limit)}"
    if limit and row.ratio is None:
        limit += f" {row.unit}"
    elif limit:
        limit += "x"
    floor = "" if row.floor is None else f"{number(row.floor)} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return (row.goal, row.what, f"{number(row.measured)} {row.unit}", floor, ratio, limit, row.verdict)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "memory": f"{int(memory) // 1024 // 1024 + 1} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def write_json(path: Path, rows: Iterable[Row], surroundings: dict[str, Any]) -> None:
    """Keep a run for comparison with later ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = surroundings | {"rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n")
