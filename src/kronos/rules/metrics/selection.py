"""Selection: which rows a client of /rrd_updates gets, of which archives, and in which form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kronos.metrics.archive import NAN, SPANS, STEP, Archive, Level
from kronos.metrics.documents import Export
from kronos.metrics.keeping import Key

FUNCTIONS = ("AVERAGE", "MIN", "MAX", "LAST")
_LARGEST = 1 << 62


class NoStart(ValueError):
    """A request without a time to begin at."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. `start` is in seconds since 1970, or relative to the newest value where it is negative;
    `function` is None for all that there are; of `vms` and `srs` None is all. `interval` is in seconds."""

    start: int
    function: str | None = None
    interval: int = 0
    host: bool = False
    vms: frozenset[str] | None = None
    srs: frozenset[str] | None = frozenset()

    def begin(self, last: int) -> int:
        """The first time that is asked for, where `last` is that of the newest value."""
        return self.start + last if self.start < 0 else self.start

    def level(self, last: int) -> int:
        """Which level of the archives is asked for."""
        return level(last, self.begin(last), self.interval)


def parsed(untrusted: Sequence[tuple[str, str]]) -> Request:
    """A request from the fields of its query, of which some may come several times. Raises NoStart."""
    fields = dict(reversed(untrusted))  # of two with one name the first counts
    start = _whole(fields.get("start", ""))
    if start is None:
        raise NoStart("start")
    function = fields.get("cf")
    return Request(
        start,
        function if function in FUNCTIONS else None,
        max(_whole(fields.get("interval", "")) or 0, 0),
        fields.get("host") == "true",
        _named([value for name, value in untrusted if name == "vm_uuid"], None),
        _named([value for name, value in untrusted if name == "sr_uuid"], frozenset()),
    )


def _named(untrusted: Sequence[str], otherwise: frozenset[str] | None) -> frozenset[str] | None:
    if not untrusted:
        return otherwise
    return None if "all" in untrusted else frozenset(untrusted)


def _whole(untrusted: str) -> int | None:
    try:
        number = float(untrusted)
    except ValueError:
        return None
    return int(max(-_LARGEST, min(number, _LARGEST))) if number == number else None


def wanted(request: Request, measured: Sequence[Key]) -> list[Key]:
    """The objects whose archives a request is about: the host first, then VMs, then SRs."""
    order = {"host": 0, "vm": 1, "sr": 2}
    chosen = [key for key in measured if _is_wanted(request, key)]
    return sorted(chosen, key=lambda key: (order[key.owner], key.uuid))


def _is_wanted(request: Request, key: Key) -> bool:
    if key.owner == "host":
        return request.host
    named = request.vms if key.owner == "vm" else request.srs
    return named is None or key.uuid in named


def level(last: int, start: int, interval: int) -> int:
    """Which level of an archive: the finest whose rows are at least `interval` seconds each and reach back to `start`;
    the coarsest where none does. `last` is the time of the archive's newest value."""
    for index, (steps, rows) in enumerate(SPANS):
        if steps >= interval // STEP and start > last - rows * steps * STEP:
            return index
    return len(SPANS) - 1


def export(request: Request, archives: Mapping[Key, Archive]) -> Export:
    """The rows that a request is answered with: from its start on, newest first, all archives side by side.

    They have the times of that archive which was updated last; where another has no row then, its values are unknown.
    """
    last = max((archive.last for archive in archives.values()), default=0)
    start = request.begin(last)
    index = request.level(last)
    steps, most = SPANS[index]
    step = steps * STEP
    end = last // step * step
    legend: list[str] = []
    columns: list[tuple[Archive, Level, int]] = []
    for key, archive in archives.items():
        found = archive.levels[index]
        for number, ring in enumerate(found.rings):
            if request.function in (None, ring.function):
                legend += [f"{ring.function}:{key.owner}:{key.uuid}:{name}" for name in archive.names]
                columns.append((archive, found, number))
    rows = [
        (time, _row(columns, time))
        for time in range(end, max(start - 1, end - step * most), -step)
        if time > 0
    ]
    return Export((start // step + 1) * step, step, end, legend, rows if legend else [])


def _row(columns: Sequence[tuple[Archive, Level, int]], time: int) -> list[float]:
    values: list[float] = []
    for archive, found, number in columns:
        age = (archive.last // found.seconds * found.seconds - time) // found.seconds
        known = 0 <= age < found.rows
        values += found.rings[number].row(age) if known else [NAN] * len(archive.columns)
    return values


def prefers_json(accept: str, fields: Mapping[str, str]) -> bool:
    """Whether a client that says what it accepts, or asks with `json` in its query, gets JSON; XML otherwise.

    What it says counts as long as it can be read and names one of the two, or anything; JSON where it likes both.
    """
    liked = {True: -1.0, False: -1.0}
    for part in accept.split(",") if accept else ():
        kind, *parameters = (each.strip() for each in part.split(";"))
        if kind.count("/") != 1:
            return "json" in fields
        for name, is_json in (("application/json", True), ("text/xml", False)):
            if kind in (name, f"{name.partition('/')[0]}/*", "*/*"):
                liked[is_json] = max(liked[is_json], _quality(parameters))
    return liked[True] >= liked[False] if max(liked.values()) >= 0 else "json" in fields


def _quality(parameters: Sequence[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                found = float(value)
            except ValueError:
                return 0.0
            return found if math.isfinite(found) else 0.0
    return 1.0
