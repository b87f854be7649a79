"""VHD as a stream: dynamic and differencing disks are written; those and fixed ones are read, in one pass.

All integers are big-endian. A dynamic disk is a copy of the footer, a header, a table (BAT) with a sector for each
block of 2 MiB that is there, the blocks, each behind a bitmap of its sectors, and the footer.
"""

from __future__ import annotations

import struct
import time
import uuid as uuids
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kronos.transfer import disk as disks
from kronos.transfer.changes import Blocks, fine
from kronos.transfer.disk import Disk
from kronos.transfer.nbd import BLOCK as STEP
from kronos.transfer.stream import Advance, BadStream, PrematureEnd, Reader, Sink, TooBig

SECTOR: Final = 512
BLOCK: Final = 2 << 20
LARGEST: Final = 2040 << 30
"""Bytes of the largest disk that a VHD can hold."""

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_HEADER = struct.Struct(">8sQQIIII16sI4x512s")
_LOCATOR = struct.Struct(">4sIIIQ")
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_NOWHERE = 0xFFFFFFFFFFFFFFFF
_UNUSED = 0xFFFFFFFF
_EPOCH = 946684800
_HEADER_BYTES = 1024
_MOST_ENTRIES = 4 << 20
"""Of a BAT that is read: 8 TiB of blocks as they are usual."""
_LARGEST_GAP = 64 << 20
_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 16, 1 << 28
_BITMAP: Final = b"\xff" * (BLOCK // SECTOR // 8)


@dataclass(frozen=True)
class Footer:
    """What a VHD's footer says of it."""

    kind: int
    size: int
    header: int


# --- writing --------------------------------------------------------------------------------------------


def length(disk_size: int, blocks: Blocks, *, differencing: bool = False) -> int:
    """Bytes of the stream that `send` makes."""
    table = _table_bytes(disk_size)
    count = sum(count for _, count in blocks)
    return (
        SECTOR + _HEADER_BYTES + table + (SECTOR if differencing else 0) + count * (SECTOR + BLOCK) + SECTOR
    )


def send(disk: Disk, blocks: Blocks, sink: Sink, advance: Advance, uuid: str, parent: str = "") -> None:
    """A disk of at most LARGEST bytes as a VHD of these blocks: a dynamic one, or one that differs from `parent`.

    `uuid` and `parent` become the identities in the VHD. A block that reaches beyond the disk's end ends in zeros.
    """
    entries = -(-disk.size // BLOCK)
    table = _table_bytes(disk.size)
    footer = _footer(disk.size, uuid, _DIFFERENCING if parent else _DYNAMIC)
    sink.sendall(footer)
    sink.sendall(_header(entries, parent, SECTOR + _HEADER_BYTES + table))
    start = (SECTOR + _HEADER_BYTES + table) // SECTOR + (1 if parent else 0)
    for part in _table(blocks, entries, start, table):
        sink.sendall(part)
    if parent:
        sink.sendall(_locator_data(parent).ljust(SECTOR, b"\0"))
    places = disks.pieces(fine(blocks, BLOCK, disk.size))
    end = 0
    for offset, view in disk.blocks(places):
        if offset % BLOCK == 0:
            sink.sendall(_BITMAP)
        sink.sendall(view)
        advance(len(view))
        end = offset + len(view)
    for _ in range(end, -(-end // BLOCK) * BLOCK, SECTOR):
        sink.sendall(bytes(SECTOR))
    sink.sendall(footer)


def _table_bytes(disk_size: int) -> int:
    entries = -(-disk_size // BLOCK)
    return -(-entries * 4 // SECTOR) * SECTOR


def _table(blocks: Blocks, entries: int, start: int, size: int) -> Iterator[bytes]:
    """The BAT, in pieces: the blocks come one after the other from the sector `start` on."""
    written = 0
    for first, count in blocks:
        yield b"\xff" * ((first - written) * 4)
        step = (SECTOR + BLOCK) // SECTOR
        for at in range(0, count, 1 << 16):
            part = array("I", range(start, start + min(count - at, 1 << 16) * step, step))
            part.byteswap()
            yield part.tobytes()
            start += len(part) * step
        written = first + count
    yield b"\xff" * ((entries - written) * 4)
    yield b"\xff" * (size - entries * 4)


def _footer(size: int, uuid: str, kind: int) -> bytes:
    cylinders, heads, sectors = geometry(size // SECTOR)
    fields = (
        b"conectix",
        2,
        0x00010000,
        SECTOR,
        int(time.time()) - _EPOCH,
        b"tap\0",  # what says that the size is to be believed, not the geometry
        0x00010003,
        b"\0\0\0\0",
        size,
        size,
        cylinders,
        heads,
        sectors,
        kind,
    )
    identity = uuids.UUID(uuid).bytes
    return _FOOTER.pack(*fields, _checksum(_FOOTER.pack(*fields, 0, identity, 0)), identity, 0)


def _header(entries: int, parent: str, locator: int) -> bytes:
    fields = (b"cxsparse", _NOWHERE, SECTOR + _HEADER_BYTES, 0x00010000, entries, BLOCK)
    identity = uuids.UUID(parent).bytes if parent else bytes(16)
    name = f"{parent}.vhd".encode("utf-16-be") if parent else b""
    locators = bytes(_LOCATOR.size * 8)
    if parent:
        size = len(_locator_data(parent))
        locators = _LOCATOR.pack(b"MacX", SECTOR, size, 0, locator).ljust(_LOCATOR.size * 8, b"\0")

    def packed(checksum: int) -> bytes:
        return (_HEADER.pack(*fields, checksum, identity, 0, name) + locators).ljust(_HEADER_BYTES, b"\0")

    return packed(_checksum(packed(0)))


def _locator_data(parent: str) -> bytes:
    return f"file://./{parent}.vhd".encode()


def _checksum(data: bytes) -> int:
    return ~sum(data) & 0xFFFFFFFF


def geometry(sectors: int) -> tuple[int, int, int]:
    """(cylinders, heads, sectors a track) of a disk, as the format's description computes them."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        track, heads = 255, 16
        cylinder_times_heads = sectors // track
    else:
        track = 17
        cylinder_times_heads = sectors // track
        heads = max(4, (cylinder_times_heads + 1023) // 1024)
        if cylinder_times_heads >= heads * 1024 or heads > 16:
            track, heads = 31, 16
            cylinder_times_heads = sectors // track
        if cylinder_times_heads >= heads * 1024:
            track, heads = 63, 16
            cylinder_times_heads = sectors // track
    return cylinder_times_heads // heads, heads, track


# --- reading --------------------------------------------------------------------------------------------


def read_footer(untrusted: bytes) -> Footer:
    """What a footer says. Raises BadStream."""
    fields = _FOOTER.unpack(untrusted)
    size, kind, checksum = fields[9], fields[13], fields[14]
    if fields[0] != b"conectix":
        raise BadStream("not a VHD")
    plain = untrusted[:64] + bytes(4) + untrusted[68:]
    if checksum != _checksum(plain):
        raise BadStream("the footer's checksum is wrong")
    if kind not in (_FIXED, _DYNAMIC, _DIFFERENCING):
        raise BadStream(f"a VHD of type {kind}")
    if not 0 < size <= LARGEST or size % SECTOR:
        raise BadStream(f"a VHD of {size} bytes")
    return Footer(kind, size, fields[3])


def receive(reader: Reader, disk: Disk, advance: Advance) -> None:
    """Make a disk what a VHD says: a fixed or dynamic one is its whole content, a differencing one what changes.

    The stream may go on behind the VHD; that is not read. A VHD whose parts come in an order that one pass cannot
    follow is refused: the header, the BAT and the blocks have to come one after the other.

    Raises PrematureEnd, BadStream, TooBig, OSError.
    """
    start = reader.exactly(SECTOR)
    if start[:8] != b"conectix":
        reader.unread(start)
        _receive_fixed(reader, disk, advance)
        return
    footer = read_footer(start)
    if footer.size > disk.size:
        raise TooBig(footer.size)
    if footer.kind == _FIXED:
        raise BadStream("a fixed VHD that begins with its footer")
    block, table = _receive_tables(reader, footer)
    _receive_blocks(reader, disk, block, table, footer, advance)
    _await_footer(reader)
    disk.flush()


def _receive_tables(reader: Reader, footer: Footer) -> tuple[int, array[int]]:
    """The size of blocks, and the BAT."""
    _skip_to(reader, footer.header)
    untrusted = reader.exactly(_HEADER_BYTES)
    cookie, _, where, _, entries, block, checksum, *_ = _HEADER.unpack_from(untrusted)
    if cookie != b"cxsparse" or checksum != _checksum(untrusted[:36] + bytes(4) + untrusted[40:]):
        raise BadStream("not the header of a dynamic VHD")
    if block & (block - 1) or not _SMALLEST_BLOCK <= block <= _LARGEST_BLOCK:
        raise BadStream(f"blocks of {block} bytes")
    if not -(-footer.size // block) <= entries <= _MOST_ENTRIES:
        raise BadStream(f"a table of {entries} blocks")
    _skip_to(reader, where)
    table = array("I", reader.exactly(entries * 4))
    table.byteswap()
    del table[-(-footer.size // block) :]
    return block, table


def _receive_blocks(
    reader: Reader, disk: Disk, block: int, table: array[int], footer: Footer, advance: Advance
) -> None:
    if footer.kind == _DYNAMIC:
        for number, sector in enumerate(table):
            if sector == _UNUSED and (number == 0 or table[number - 1] != _UNUSED):
                stop = next((n for n in range(number, len(table)) if table[n] != _UNUSED), len(table))
                disks.clear(disk, number * block, min(stop * block, footer.size) - number * block)
        disks.clear(disk, footer.size, disk.size - footer.size)
    present = sorted((sector, number) for number, sector in enumerate(table) if sector != _UNUSED)
    bitmap_bytes = -(-(block // SECTOR) // 8 // SECTOR) * SECTOR
    for sector, number in present:
        _skip_to(reader, sector * SECTOR)
        start = number * block
        bitmap = reader.exactly(bitmap_bytes)
        size = min(block, footer.size - start)
        _receive_block(reader, disk, start, size, bitmap, differencing=footer.kind == _DIFFERENCING)
        reader.skip(block - size)
        advance(size)


def _receive_block(
    reader: Reader, disk: Disk, start: int, size: int, bitmap: bytes, *, differencing: bool
) -> None:
    """A block's sectors; those that its bitmap does not show are the parent's, or zeros where there is none."""
    buffer = memoryview(bytearray(min(size, STEP)))
    for at in range(0, size, STEP):
        view = buffer[: min(STEP, size - at)]
        reader.into(view)
        for offset, length, shown in _shown(bitmap, at // SECTOR, len(view) // SECTOR):
            piece = view[offset * SECTOR : (offset + length) * SECTOR]
            place = start + at + offset * SECTOR
            if shown:
                disks.put(disk, place, piece)
            elif not differencing:
                disks.clear(disk, place, len(piece))


def _shown(bitmap: bytes, first: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """(first, count, shown) of runs of sectors that a bitmap shows, or does not."""
    if (
        bitmap[first // 8 : (first + count) // 8] == b"\xff" * (count // 8)
        and not first % 8
        and not count % 8
    ):
        yield 0, count, True
        return
    run, shown = 0, bool(bitmap[first // 8] & 0x80 >> first % 8)
    for number in range(1, count):
        bit = bool(bitmap[(first + number) // 8] & 0x80 >> (first + number) % 8)
        if bit != shown:
            yield run, number - run, shown
            run, shown = number, bit
    yield run, count - run, shown


def _skip_to(reader: Reader, offset: int) -> None:
    if offset < reader.offset:
        raise BadStream("a VHD whose parts overlap, or come in another order than in a stream")
    reader.skip(offset - reader.offset)


def _await_footer(reader: Reader) -> None:
    """The VHD's end: whatever else is behind its blocks, the footer comes last."""
    sector = memoryview(bytearray(SECTOR))
    reader.skip(-reader.offset % SECTOR)
    for _ in range(_LARGEST_GAP // SECTOR):
        reader.into(sector)
        if bytes(sector[:8]) == b"conectix":
            read_footer(bytes(sector))
            return
    raise BadStream("a VHD without an end")


def _receive_fixed(reader: Reader, disk: Disk, advance: Advance) -> None:
    """A disk's bytes with a footer behind them: what may be the footer is held back until more comes."""
    buffer = memoryview(bytearray(STEP + SECTOR))
    held = 0
    done = 0
    while True:
        got = reader.fill(buffer[held : STEP + SECTOR])
        held += got
        if held < STEP + SECTOR:
            break
        if done + STEP > disk.size:
            raise TooBig(done + STEP)
        disks.put(disk, done, buffer[:STEP])
        advance(STEP)
        done += STEP
        buffer[:SECTOR] = bytes(buffer[STEP:])
        held = SECTOR
    if held < SECTOR:
        raise PrematureEnd("no footer")
    footer = read_footer(bytes(buffer[held - SECTOR : held]))
    size = done + held - SECTOR
    if footer.kind != _FIXED or footer.size != size:
        raise BadStream(f"{size} bytes before the footer of a VHD of {footer.size}")
    if size > disk.size:
        raise TooBig(size)
    if held > SECTOR:
        disks.put(disk, done, buffer[: held - SECTOR])
        advance(held - SECTOR)
    disks.clear(disk, size, disk.size - size)
    disk.flush()
