"""Archives of one object: its last ten minutes finely, its last year coarsely, in rings that never grow.

The layout is the one that XenAPI's clients know, and rrdtool's: a step of five seconds, and rings whose rows stand for
1, 12, 720 and 17280 steps. A row is made of all values that fall into its time; it is unknown (NaN) where too few of
those are known.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

STEP: Final = 5
"""Seconds of a step."""
HEARTBEAT: Final = 300
"""Seconds without a value after which what was in between is unknown."""
SPANS: Final = ((1, 120), (12, 120), (720, 168), (17280, 366))
"""Of each ring: steps of a row, and rows."""
MAGIC: Final = b"KRONOS-METRICS-1\n"

Function = Literal["AVERAGE", "MIN", "MAX"]
Kind = Literal["GAUGE", "DERIVE", "ABSOLUTE"]
NAN: Final = math.nan


class Column(NamedTuple):
    """A data source as an archive knows it. `kind` is how its value came about, for rrdtool; a value below `minimum` or
    above `maximum` is unknown."""

    name: str
    kind: Kind = "GAUGE"
    minimum: float = -math.inf
    maximum: float = math.inf


class Totals:
    """What the values of a time add up to, by column; of no values at first."""

    __slots__ = ("sums", "counts", "lows", "highs")

    def __init__(self, width: int) -> None:
        self.sums = [0.0] * width
        self.counts = [0] * width
        self.lows = [math.inf] * width
        self.highs = [-math.inf] * width

    def add(self, other: Totals) -> None:
        """Take in the totals of a time within this one."""
        for column, count in enumerate(other.counts):
            if count:
                self.sums[column] += other.sums[column]
                self.counts[column] += count
                self.lows[column] = min(self.lows[column], other.lows[column])
                self.highs[column] = max(self.highs[column], other.highs[column])

    def row(self, function: Function, least: int) -> array[float]:
        """One value a column; unknown where fewer than `least` values were."""
        if function == "AVERAGE":
            pairs = zip(self.sums, self.counts, strict=True)
            return array("d", [total / count if count >= least else NAN for total, count in pairs])
        found = self.lows if function == "MIN" else self.highs
        return array("d", [value if n >= least else NAN for value, n in zip(found, self.counts, strict=True)])

    def widened(self) -> None:
        self.sums.append(0.0)
        self.counts.append(0)
        self.lows.append(math.inf)
        self.highs.append(-math.inf)

    def narrowed(self, column: int) -> None:
        for each in (self.sums, self.counts, self.lows, self.highs):
            del each[column]

    def lists(self) -> list[list[float]]:
        return [self.sums, list(self.counts), self.lows, self.highs]


class Ring:
    """The newest `rows` rows of a column each, by one consolidation function."""

    __slots__ = ("function", "rows", "width", "data", "newest")

    def __init__(self, function: Function, rows: int, width: int) -> None:
        self.function = function
        self.rows = rows
        self.width = width
        self.data = array("d", [NAN]) * (rows * width)
        self.newest = rows - 1

    def push(self, row: array[float]) -> None:
        self.newest = (self.newest + 1) % self.rows
        self.data[self.newest * self.width : (self.newest + 1) * self.width] = row

    def push_unknown(self, count: int) -> None:
        unknown = array("d", [NAN]) * self.width
        for _ in range(min(count, self.rows)):
            self.push(unknown)

    def row(self, age: int) -> array[float]:
        """The row that `age` others are newer than."""
        at = (self.newest - age) % self.rows
        return self.data[at * self.width : (at + 1) * self.width]

    def last(self, count: int) -> array[float]:
        """The newest rows one after the other, oldest first."""
        begin = self.newest + 1 - count
        if begin >= 0:
            return self.data[begin * self.width : (self.newest + 1) * self.width]
        return self.data[begin * self.width :] + self.data[: (self.newest + 1) * self.width]

    def widened(self) -> None:
        """One column more, of which nothing is known yet."""
        wider = array("d", [NAN]) * (self.rows * (self.width + 1))
        for column in range(self.width):
            wider[column :: self.width + 1] = self.data[column :: self.width]
        self.data = wider
        self.width += 1

    def narrowed(self, column: int) -> None:
        left = array("d", [NAN]) * (self.rows * (self.width - 1))
        for to, each in enumerate(each for each in range(self.width) if each != column):
            left[to :: self.width - 1] = self.data[each :: self.width]
        self.data = left
        self.width -= 1


class Level:
    """The rings of one span. `pending` is what the row that is being made has so far."""

    __slots__ = ("steps", "rows", "rings", "pending", "least")

    def __init__(self, steps: int, rows: int, functions: Sequence[Function], width: int) -> None:
        self.steps = steps
        self.rows = rows
        self.rings = [Ring(function, rows, width) for function in functions]
        self.pending = Totals(width)
        # rrdtool's xff: 0.5 of the values may be unknown; all but one where extremes are kept.
        self.least = 1 if len(functions) > 1 else steps - steps // 2

    @property
    def seconds(self) -> int:
        """Of a row."""
        return self.steps * STEP

    @property
    def tolerance(self) -> float:
        """The part of a row's values that may be unknown, as rrdtool calls xff."""
        return 0.5 if len(self.rings) == 1 else 1.0

    def close(self) -> None:
        """The row that is being made is over."""
        for ring in self.rings:
            ring.push(self.pending.row(ring.function, self.least))
        self.pending = Totals(self.rings[0].width)


class Archive:
    """All rings of one object. `last` is the time, in seconds since 1970 and a multiple of STEP, at which its newest
    value's step ended; 0 before there is one. Not safe from several threads."""

    __slots__ = ("columns", "extremes", "last", "levels")

    def __init__(self, columns: Iterable[Column] = (), *, extremes: bool = False) -> None:
        self.columns = list(columns)
        self.extremes = extremes
        self.last = 0
        self.levels = [
            Level(
                steps,
                rows,
                ("AVERAGE", "MIN", "MAX") if extremes and steps > 1 else ("AVERAGE",),
                len(self.columns),
            )
            for steps, rows in SPANS
        ]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def add(self, column: Column) -> None:
        """Keep one more data source from now on; without effect where it is kept."""
        if column.name in self.names:
            return
        self.columns.append(column)
        for level in self.levels:
            level.pending.widened()
            for ring in level.rings:
                ring.widened()

    def remove(self, name: str) -> None:
        """Drop a data source and all that is kept of it; without effect where there is none."""
        if name not in self.names:
            return
        index = self.names.index(name)
        del self.columns[index]
        for level in self.levels:
            level.pending.narrowed(index)
            for ring in level.rings:
                ring.narrowed(index)

    def update(self, moment: float, values: Sequence[float]) -> bool:
        """Take in a value for each column, which holds for the time since the update before. False, and without
        effect, where the step of that one is not over.

        A clock that was set back only goes on from where it is now: no time is gone through twice.
        """
        end = int(moment) // STEP * STEP
        if not self.last or end < self.last:
            self.last = end - STEP
        steps = (end - self.last) // STEP
        if steps == 0:
            return False
        if steps > HEARTBEAT // STEP:
            self._pass(steps - 1)
            steps = 1
        row = array("d", values)
        for index, (_, _, low, high) in enumerate(self.columns):
            if not low <= row[index] <= high:
                row[index] = NAN
        for _ in range(steps):
            self._step(row)
        return True

    def resume(self, moment: float) -> None:
        """Nothing is known of the time between the last update and the step that `moment` ends."""
        steps = (int(moment) // STEP * STEP - self.last) // STEP
        if self.last and steps > 1:
            self._pass(steps - 1)

    def _step(self, row: array[float]) -> None:
        self.levels[0].rings[0].push(row)
        self.last += STEP
        if self.last % self.levels[1].seconds == 0:
            self._minute(self.levels[1].steps)

    def _minute(self, known: int) -> None:
        """A minute is over of which the newest `known` values are; and so are, maybe, the hour and the day."""
        minutes, hours, days = self.levels[1:]
        totals = self._newest(known)
        minutes.pending = totals
        minutes.close()
        hours.pending.add(totals)
        if self.last % hours.seconds == 0:
            self._hour(hours, days)

    def _hour(self, hours: Level, days: Level) -> None:
        days.pending.add(hours.pending)
        hours.close()
        if self.last % days.seconds == 0:
            days.close()

    def _newest(self, count: int) -> Totals:
        """What the newest values add up to."""
        width = len(self.columns)
        totals = Totals(width)
        rows = self.levels[0].rings[0].last(count) if count else ()
        for column in range(width):
            values: Sequence[float] = rows[column::width]
            total = sum(values)
            if total != total:
                values = [value for value in values if value == value]
                total = sum(values)
            if values:
                totals.sums[column] = total
                totals.counts[column] = len(values)
                totals.lows[column] = min(values)
                totals.highs[column] = max(values)
        return totals

    def _pass(self, steps: int) -> None:
        """Go on by so many steps of which nothing is known, in a time that does not depend on their number."""
        fine, minutes, hours, days = self.levels
        begin, end = self.last, self.last + steps * STEP
        passed = [end // level.seconds - begin // level.seconds for level in self.levels]
        if passed[1]:
            # The first row to end has what came before the gap; those after it have nothing.
            totals = self._newest(begin % minutes.seconds // STEP)
            minutes.pending = totals
            minutes.close()
            hours.pending.add(totals)
        if passed[2]:
            days.pending.add(hours.pending)
            hours.close()
        if passed[3]:
            days.close()
        for level, count in zip(self.levels[1:], passed[1:], strict=True):
            for ring in level.rings:
                ring.push_unknown(count - 1)
        fine.rings[0].push_unknown(steps)
        self.last = end

    def making(self, level: Level) -> Totals:
        """What the row that `level` is making has so far."""
        totals = Totals(len(self.columns))
        for finer in self.levels[1 : self.levels.index(level) + 1]:
            totals.add(finer.pending)
        totals.add(self._newest(self.last // STEP % self.levels[1].steps))
        return totals

    def newest(self, name: str) -> float:
        """The last value of a data source. Raises KeyError."""
        if name not in self.names:
            raise KeyError(name)
        return self.levels[0].rings[0].row(0)[self.names.index(name)]

    # As a file.

    def packed(self) -> bytes:
        """The whole archive as bytes, for `unpacked`."""
        head = {
            "columns": self.columns,
            "extremes": self.extremes,
            "last": self.last,
            "pending": [level.pending.lists() for level in self.levels],
        }
        parts = [json.dumps(head).encode(), b"\n"]
        for level in self.levels:
            for ring in level.rings:
                parts.append(_little(ring.last(ring.rows)))
        return MAGIC + zlib.compress(b"".join(parts), 1)

    def copy(self, level: int | None = None) -> Archive:
        """The rings as they are now, or those of one level alone, for a reader that takes its time. It is not to be
        updated."""
        other = Archive(extremes=self.extremes)
        other.columns, other.last = list(self.columns), self.last
        chosen = slice(None) if level is None else slice(level, level + 1)
        for copied, mine in zip(other.levels[chosen], self.levels[chosen], strict=True):
            copied.pending = Totals(len(self.columns))
            copied.pending.add(mine.pending)
            for ring, old in zip(copied.rings, mine.rings, strict=True):
                ring.width, ring.newest, ring.data = old.width, old.newest, old.data[:]
        return other


def unpacked(untrusted: bytes) -> Archive:
    """An archive from its bytes. Raises ValueError for what is none, or was cut off."""
    if not untrusted.startswith(MAGIC):
        raise ValueError("not an archive")
    try:
        head, _, body = zlib.decompress(untrusted[len(MAGIC) :]).partition(b"\n")
        said = json.loads(head)
        archive = Archive((Column(*column) for column in said["columns"]), extremes=said["extremes"])
        archive.last = int(said["last"])
        for level, pending in zip(archive.levels, said["pending"], strict=True):
            totals = level.pending
            totals.sums, totals.counts, totals.lows, totals.highs = pending
    except (zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"not an archive: {error!r}") from error
    rings = [ring for level in archive.levels for ring in level.rings]
    if len(body) != sum(len(ring.data) for ring in rings) * 8:
        raise ValueError("an archive of another size")
    for ring in rings:
        size = len(ring.data) * 8
        ring.data = _native(body[:size])
        body = body[size:]
    return archive


def _little(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _native(data: bytes) -> array[float]:
    values = array("d")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
