"""Which blocks of a disk an image has to hold: all that are not zeros, or those that differ from an older disk's."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import tee
from typing import Protocol

from kronos.transfer import disk as disks
from kronos.transfer.disk import Disk
from kronos.transfer.nbd import BLOCK
from kronos.transfer.stream import Advance

Runs = Iterable[tuple[int, int]]


class Blocks(Protocol):
    """The blocks of a disk that an image holds, as runs of (first, count). Asked for as often as needed."""

    def __iter__(self) -> Iterator[tuple[int, int]]: ...


class Allocated:
    """The blocks that may hold other than zeros. They are looked up anew each time: a list could grow large."""

    def __init__(self, disk: Disk, grain: int) -> None:
        self._disk = disk
        self._grain = grain

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return coarse(self._disk.data(0, self._disk.size), self._grain)


class Changed:
    """The blocks in which a disk differs from an older one, which is compared where the two can differ at all.

    `own` and `others` tell how many layers each of the two has for itself, above what they share; None for disks
    that share nothing. `advance` is told of nothing, and may end it.
    """

    def __init__(
        self, disk: Disk, base: Disk, grain: int, shared: tuple[int, int] | None, advance: Advance
    ) -> None:
        self._found = array("Q")
        end = min(disk.size, base.size)
        if shared is None:
            places: Runs = coarse(merge(disk.data(0, end), base.data(0, end)), grain)
        else:
            own, others = shared
            places = coarse(merge(_above(disk, end, own), _above(base, end, others)), grain)
        for block in _differing(disk, base, places, grain, end, advance):
            self._add(block, 1)
        for start, count in coarse(disk.data(end, disk.size), grain):
            self._add(start, count)

    def _add(self, first: int, count: int) -> None:
        found = self._found
        if (
            found and first <= found[-2] + found[-1]
        ):  # the block in which the older disk ends may be known already
            found[-1] = max(found[-1], first + count - found[-2])
        else:
            found.extend((first, count))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        found = self._found
        return ((found[i], found[i + 1]) for i in range(0, len(found), 2))


def coarse(runs: Runs, grain: int) -> Iterator[tuple[int, int]]:
    """Runs of bytes, ordered by where they begin, as runs (first, count) of whole blocks that do not touch."""
    first = end = -1
    for offset, length in runs:
        start, stop = offset // grain, -(-(offset + length) // grain)
        if start > end:
            if first >= 0:
                yield first, end - first
            first, end = start, stop
        else:
            end = max(end, stop)
    if first >= 0:
        yield first, end - first


def fine(blocks: Runs, grain: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of blocks as runs of bytes, none of them beyond `end`."""
    return ((first * grain, min((first + count) * grain, end) - first * grain) for first, count in blocks)


def _above(disk: Disk, end: int, layers: int) -> Iterator[tuple[int, int]]:
    """What is written in the uppermost layers of a disk."""
    return ((offset, length) for offset, length, depth in disk.layers(0, end) if 0 < depth <= layers)


def _differing(disk: Disk, base: Disk, places: Runs, grain: int, end: int, advance: Advance) -> Iterator[int]:
    """The numbers of the blocks, among these, that are not the same in both; in order."""
    mine, theirs = tee(disks.pieces(fine(places, grain, end)))
    step = min(grain, BLOCK)
    last = -1
    for (offset, view), (_, old) in zip(disk.blocks(mine), base.blocks(theirs), strict=True):
        advance(0)
        if bytearray(view) == old:
            continue
        for start in range(0, len(view), step):
            block = (offset + start) // grain
            if block != last and bytearray(view[start : start + step]) != old[start : start + step]:
                last = block
                yield block
