"""A disk as its bytes, and XenAPI's own `chunked` form of those: pieces with the places where they belong."""

from __future__ import annotations

import struct

from kronos.transfer import disk as disks
from kronos.transfer.disk import Disk
from kronos.transfer.nbd import BLOCK
from kronos.transfer.stream import Advance, BadStream, Reader, Sink, TooBig

_PIECE = struct.Struct("<qi")


def send(disk: Disk, sink: Sink, advance: Advance) -> None:
    """Every byte of a disk; what is known to be zeros is not read."""
    at = 0
    for offset, view in disk.blocks(disks.pieces(disk.data(0, disk.size))):
        _zeros(sink, offset - at, advance)
        sink.sendall(view)
        at = offset + len(view)
        advance(len(view))
    _zeros(sink, disk.size - at, advance)


def _zeros(sink: Sink, length: int, advance: Advance) -> None:
    while length:
        step = min(length, BLOCK)
        sink.sendall(disks.zeros(step))
        advance(step)
        length -= step


def receive(reader: Reader, disk: Disk, advance: Advance) -> None:
    """Write what comes over the beginning of a disk; the rest stays. Zeros take no space.

    A stream of unknown length has to fill the disk: else nobody could tell a whole one from one that broke off.

    Raises PrematureEnd, TooBig, OSError.
    """
    length = disk.size if reader.left is None else reader.left
    if length > disk.size:
        raise TooBig(length)
    copy(reader, disk, length, advance)
    disk.flush()


def copy(reader: Reader, disk: Disk, length: int, advance: Advance) -> None:
    """Write the next `length` bytes to the beginning of a disk."""
    buffer = memoryview(bytearray(BLOCK))
    for offset in range(0, length, BLOCK):
        view = buffer[: min(BLOCK, length - offset)]
        reader.into(view)
        disks.put(disk, offset, view)
        advance(len(view))


def receive_pieces(reader: Reader, disk: Disk, advance: Advance) -> None:
    """Write pieces, each behind its offset and its length, until one of no length. What none covers stays.

    Raises PrematureEnd, BadStream, OSError.
    """
    buffer = memoryview(bytearray(BLOCK))
    while True:
        offset, length = _PIECE.unpack(reader.exactly(_PIECE.size))
        if length == 0:
            break
        if offset < 0 or length < 0 or offset + length > disk.size:
            raise BadStream(f"{length} bytes at {offset} of a disk of {disk.size}")
        while length:
            view = buffer[: min(BLOCK, length)]
            reader.into(view)
            disks.put(disk, offset, view)
            offset, length = offset + len(view), length - len(view)
            advance(len(view))
    disk.flush()
