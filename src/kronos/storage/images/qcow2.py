"""qcow2 headers, read with hard bounds and written without starting a process.

Layout as in QEMU's docs/interop/qcow2.txt; all integers are big-endian. Header and guest data come from outside:
a guest can't write the header of its own disk, but an imported or copied file can say anything, and QEMU opens
whatever files it names.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"QFI\xfb"
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
# Not a limit of the format: what XCP-ng offers for qcow2, and what ext4 can hold of a fully written disk.
MAXIMUM_SIZE = 16 << 40

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # the 72 bytes that versions 2 and 3 share
_HEADER_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_END, _BACKING_FORMAT, _DATA_FILE = 0, 0xE2792ACA, 0x44415441
_DIRTY, _CORRUPT, _COMPRESSION, _EXTENDED_L2 = 1 << 0, 1 << 1, 1 << 3, 1 << 4
_OPENABLE = _DIRTY | _COMPRESSION | _EXTENDED_L2
_LONGEST_BACKING_NAME = 1023  # QEMU's own bound
_LARGEST_L1 = 32 << 20  # bytes, QEMU's own bound
_MOST_EXTENSIONS = 64


class BadImage(ValueError):
    """The file is not an image of the format it claims, or is one that must not be opened."""


@dataclass(frozen=True)
class Header:
    """What a qcow2 file says of itself."""

    version: int
    virtual_size: int
    cluster_bits: int
    backing_file: str
    backing_format: str
    l1_offset: int
    l1_entries: int
    internal_snapshots: int


def read_header(file: BinaryIO, file_size: int) -> Header:
    """Read and check the header; nothing outside the file's first cluster is touched.

    Refused are images that make QEMU open something the header names apart from a backing file (an external data
    file), encrypted and corrupt ones, and unknown incompatible features. Raises BadImage.
    """
    raw = _read(file, 0, min(file_size, CLUSTER))
    if len(raw) < _HEADER.size or raw[:4] != MAGIC:
        raise BadImage("not a qcow2 image")
    (
        _,
        version,
        backing_offset,
        backing_length,
        cluster_bits,
        size,
        encryption,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        internal_snapshots,
        _,
    ) = _HEADER.unpack_from(raw)
    if version not in (2, 3):
        raise BadImage(f"version {version}")
    if not 9 <= cluster_bits <= 21:
        raise BadImage(f"clusters of 2^{cluster_bits} bytes")
    if encryption:
        raise BadImage("encrypted")
    if not 0 < size <= MAXIMUM_SIZE:
        raise BadImage(f"virtual size {size}")
    header_length, extended_l2 = _check_version3(raw) if version == 3 else (_HEADER.size, False)
    cluster = 1 << cluster_bits
    needed = -(-size // (cluster * (cluster // (16 if extended_l2 else 8))))
    if l1_entries < needed or l1_entries * 8 > _LARGEST_L1:
        raise BadImage(f"L1 table of {l1_entries} entries")
    if l1_offset + l1_entries * 8 > file_size:
        raise BadImage("L1 table past the end of the file")
    if not 0 < refcount_clusters * cluster <= _LARGEST_L1:
        raise BadImage(f"refcount table of {refcount_clusters} clusters")
    for offset in (l1_offset, refcount_offset):
        _check_place(offset, cluster, file_size)
    backing_file = _backing_file(raw[: 1 << cluster_bits], backing_offset, backing_length, header_length)
    end = backing_offset if backing_offset else min(cluster, len(raw))
    backing_format = _extensions(raw[:end], header_length)
    return Header(
        version, size, cluster_bits, backing_file, backing_format, l1_offset, l1_entries, internal_snapshots
    )


def _check_place(offset: int, cluster: int, file_size: int) -> None:
    if offset % cluster or not 0 < offset < file_size:
        raise BadImage(f"table at {offset}")


def _check_version3(raw: bytes) -> tuple[int, bool]:
    """(header length, are L2 entries extended ones)"""
    if len(raw) < _HEADER.size + _HEADER_V3.size:
        raise BadImage("header cut short")
    incompatible, _, _, refcount_order, header_length = _HEADER_V3.unpack_from(raw, _HEADER.size)
    if incompatible & _CORRUPT:
        raise BadImage("marked corrupt")
    if incompatible & ~_OPENABLE:
        raise BadImage(f"incompatible features {incompatible:#x}")
    if refcount_order > 6:
        raise BadImage(f"refcount order {refcount_order}")
    if not 104 <= header_length <= 4096 or header_length % 8 or header_length > len(raw):
        raise BadImage(f"header length {header_length}")
    return header_length, bool(incompatible & _EXTENDED_L2)


def _backing_file(raw: bytes, offset: int, length: int, header_length: int) -> str:
    if not offset:
        return ""
    if not 0 < length <= _LONGEST_BACKING_NAME or offset < header_length or offset + length > len(raw):
        raise BadImage("backing file name out of bounds")
    try:
        return raw[offset : offset + length].decode()
    except UnicodeDecodeError as error:
        raise BadImage("backing file name is not UTF-8") from error


def _extensions(raw: bytes, start: int) -> str:
    """The backing format that the header extensions name. Raises BadImage for an external data file."""
    backing_format = ""
    for _ in range(_MOST_EXTENSIONS):
        if start + _EXTENSION.size > len(raw):
            return backing_format
        kind, length = _EXTENSION.unpack_from(raw, start)
        start += _EXTENSION.size
        if kind == _END:
            return backing_format
        if length > len(raw) - start:
            raise BadImage("header extension out of bounds")
        if kind == _DATA_FILE:
            raise BadImage("external data file")
        if kind == _BACKING_FORMAT:
            backing_format = raw[start : start + length].decode("ascii", "replace")
        start += -(-length // 8) * 8
    raise BadImage("too many header extensions")


def is_empty(file: BinaryIO, header: Header) -> bool:
    """Has nothing been written to the image, so that it shows exactly its backing file?

    Only true of an image that nobody has open: QEMU keeps new tables in memory for a while.
    """
    if header.internal_snapshots:
        return False
    left, offset = header.l1_entries * 8, header.l1_offset
    while left:
        part = _read(file, offset, min(left, 1 << 20))
        if not part or any(part):
            return False
        left -= len(part)
        offset += len(part)
    return True


def write_empty(file: BinaryIO, virtual_size: int, backing_file: str = "", backing_format: str = "") -> None:
    """Write an image on which nothing is allocated: header, refcounts and an L1 table of zeros.

    The clusters are: header, refcount table, refcount block, L1 table. `backing_file` is taken as it is.
    """
    l1_entries = -(-virtual_size // (CLUSTER * (CLUSTER // 8)))
    l1_clusters = max(1, -(-l1_entries * 8 // CLUSTER))
    name = backing_file.encode()
    extensions = b""
    if name:
        if len(name) > _LONGEST_BACKING_NAME:
            raise BadImage("backing file name too long")
        kind = backing_format.encode()
        extensions += _EXTENSION.pack(_BACKING_FORMAT, len(kind)) + kind + bytes(-len(kind) % 8)
    extensions += _EXTENSION.pack(_END, 0)
    header_length = _HEADER.size + _HEADER_V3.size
    name_offset = header_length + len(extensions) if name else 0
    header = _HEADER.pack(
        MAGIC,
        3,
        name_offset,
        len(name),
        CLUSTER_BITS,
        virtual_size,
        0,
        l1_entries,
        3 * CLUSTER,
        CLUSTER,
        1,
        0,
        0,
    ) + _HEADER_V3.pack(0, 0, 0, 4, header_length)
    used = 3 + l1_clusters
    file.truncate(used * CLUSTER)
    for offset, content in (
        (2 * CLUSTER, struct.pack(">H", 1) * used),
        (CLUSTER, struct.pack(">Q", 2 * CLUSTER)),
        (0, header + extensions + name),
    ):
        file.seek(offset)
        file.write(content)
    file.flush()


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    """Up to `length` bytes; a file that others write to may end sooner than it did."""
    return os.pread(file.fileno(), length, offset)
