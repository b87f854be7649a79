"""qcow2 as a stream: every table comes before the data, so that a reader can follow in one pass.

The clusters are: header, refcount table, refcount blocks, L1 table, L2 tables, data. All integers are big-endian.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from kronos.transfer import disk as disks
from kronos.transfer.changes import Blocks, fine
from kronos.transfer.disk import Disk
from kronos.transfer.stream import Advance, Sink

CLUSTER: Final = 1 << 16
_ENTRIES: Final = CLUSTER // 8
_COUNTS: Final = CLUSTER // 2
_COPIED: Final = 1 << 63
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_HEADER_BYTES = 104


class _Layout(NamedTuple):
    """How many clusters each part takes."""

    refcount_table: int
    refcounts: int
    l1: int
    l2: int
    data: int

    @property
    def total(self) -> int:
        return 1 + sum(self)


def length(disk_size: int, clusters: Blocks) -> int:
    """Bytes of the stream that `send` makes."""
    return _layout(disk_size, clusters).total * CLUSTER


def send(disk: Disk, clusters: Blocks, sink: Sink, advance: Advance) -> None:
    """A disk as a qcow2 image of these clusters; the others read as zeros, or are an older disk's."""
    layout = _layout(disk.size, clusters)
    tables = -(-disk.size // (CLUSTER * _ENTRIES))
    l1 = (1 + layout.refcount_table + layout.refcounts) * CLUSTER
    l2 = l1 + layout.l1 * CLUSTER
    header = _HEADER.pack(
        b"QFI\xfb",
        3,
        0,
        0,
        16,
        disk.size,
        0,
        tables,
        l1,
        CLUSTER,
        layout.refcount_table,
        0,
        0,
        0,
        0,
        0,
        4,
        _HEADER_BYTES,
    )
    sink.sendall(header.ljust(CLUSTER, b"\0"))
    refcounts = (1 + layout.refcount_table) * CLUSTER
    _send_entries(
        sink, range(refcounts, refcounts + layout.refcounts * CLUSTER, CLUSTER), layout.refcount_table
    )
    for at in range(layout.refcounts):
        used = min(_COUNTS, layout.total - at * _COUNTS)
        sink.sendall((b"\0\1" * used).ljust(CLUSTER, b"\0"))
    _send_l1(sink, clusters, l2, layout.l1)
    _send_l2(sink, clusters, l2 + layout.l2 * CLUSTER)
    end = 0
    for offset, view in disk.blocks(disks.pieces(fine(clusters, CLUSTER, disk.size))):
        sink.sendall(view)
        advance(len(view))
        end = offset + len(view)
    sink.sendall(bytes(-end % CLUSTER))


def _layout(disk_size: int, clusters: Blocks) -> _Layout:
    data = sum(count for _, count in clusters)
    l2 = sum(1 for _ in _tables(clusters))
    l1 = _whole(_whole(disk_size, CLUSTER * _ENTRIES), _ENTRIES)
    refcounts = refcount_table = 1
    while True:
        total = 1 + refcount_table + refcounts + l1 + l2 + data
        needed = -(-total // _COUNTS)
        table = -(-needed // _ENTRIES)
        if (needed, table) == (refcounts, refcount_table):
            return _Layout(refcount_table, refcounts, l1, l2, data)
        refcounts, refcount_table = max(needed, refcounts), max(table, refcount_table)


def _whole(size: int, unit: int) -> int:
    """How many units it takes."""
    return -(-size // unit)


def _tables(clusters: Blocks) -> Iterator[int]:
    """The numbers of the L2 tables that are needed."""
    last = -1
    for first, count in clusters:
        for table in range(max(last + 1, first // _ENTRIES), (first + count - 1) // _ENTRIES + 1):
            last = table
            yield table


def _send_l1(sink: Sink, clusters: Blocks, l2: int, size: int) -> None:
    entries = array("Q", bytes(size * CLUSTER))
    for number, table in enumerate(_tables(clusters)):
        entries[table] = (l2 + number * CLUSTER) | _COPIED
    entries.byteswap()
    sink.sendall(entries.tobytes())


def _send_l2(sink: Sink, clusters: Blocks, data: int) -> None:
    """The L2 tables that are needed, one after the other; the clusters follow each other from `data` on."""
    current = -1
    entries = array("Q")
    for first, count in clusters:
        while count:
            table, at = divmod(first, _ENTRIES)
            if table != current:
                _send_table(sink, entries)
                current, entries = table, array("Q", bytes(CLUSTER))
            step = min(count, _ENTRIES - at)
            start = data | _COPIED
            entries[at : at + step] = array("Q", range(start, start + step * CLUSTER, CLUSTER))
            first, count, data = first + step, count - step, data + step * CLUSTER
    _send_table(sink, entries)


def _send_table(sink: Sink, entries: array[int]) -> None:
    if entries:
        entries.byteswap()
        sink.sendall(entries.tobytes())


def _send_entries(sink: Sink, offsets: range, clusters: int) -> None:
    entries = array("Q", offsets)
    entries.byteswap()
    sink.sendall(entries.tobytes().ljust(clusters * CLUSTER, b"\0"))
