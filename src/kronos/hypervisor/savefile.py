"""The files in which libvirt keeps the memory of Xen's guests: a document, then libxl's stream.

Forms: libvirt, src/libxl/libxl_conf.h (libxlSavefileHeader); Xen, docs/specs/libxl-migration-stream.pandoc and
libxc-migration-stream.pandoc. A file is whole when its stream ends with the record that says so: libvirt marks nothing.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"libvirt-xml\n \0 \r"
_HEADER = struct.Struct("<16sII40x")  # magic, version, length of the document
VERSIONS = (1, 2)
DOCUMENT_LIMIT = 1 << 20

_STREAM_MAGIC = b"LibxlFmt"
_RECORD = struct.Struct("<II")
_LIBXL_END, _LIBXL_LIBXC_CONTEXT = 0, 1
_LIBXC_IMAGE_HEADER, _LIBXC_DOMAIN_HEADER = 24, 16
_LIBXC_END = 0
_RECORDS = 1 << 22
"""Records that are looked at before a file counts as endless: 16 TiB of memory."""


class UnusableSavefile(Exception):
    """What is in the file is no memory image, or not all of one; the text says what is wrong."""


@dataclass(frozen=True)
class Savefile:
    """The head of one: its document, and where the stream begins."""

    untrusted_document: str
    stream: int
    version: int


def read(path: Path) -> Savefile:
    """The head of a file. Raises UnusableSavefile, OSError."""
    with path.open("rb") as file:
        return _head(file)


def head(document: str, version: int = 2) -> bytes:
    """The bytes that come before the stream for this document."""
    text = document.encode() + b"\0"
    return _HEADER.pack(MAGIC, version, len(text)) + text


def is_whole(path: Path) -> bool:
    """Whether the stream has come to its end."""
    try:
        with path.open("rb") as file:
            found = _head(file)
            file.seek(found.stream)
            _walk(file, os.fstat(file.fileno()).st_size or _size_of_device(file))
    except (UnusableSavefile, OSError):
        return False
    return True


def _head(file: BinaryIO) -> Savefile:
    fields = file.read(_HEADER.size)
    if len(fields) < _HEADER.size:
        raise UnusableSavefile("it is too short")
    magic, version, length = _HEADER.unpack(fields)
    if magic != MAGIC:
        raise UnusableSavefile("it does not begin as a memory image")
    if version not in VERSIONS or not 0 < length <= DOCUMENT_LIMIT:
        raise UnusableSavefile(f"version {version}, document of {length} bytes")
    text = file.read(length)
    if len(text) < length:
        raise UnusableSavefile("it ends in its document")
    return Savefile(text.rstrip(b"\0 ").decode(errors="replace"), _HEADER.size + length, version)


def _walk(file: BinaryIO, size: int) -> None:
    """Go through libxl's stream to its end. Raises UnusableSavefile."""
    if _exactly(file, 16)[:8] != _STREAM_MAGIC:
        raise UnusableSavefile("no stream follows its document")
    for _ in range(_RECORDS):
        kind, length = _RECORD.unpack(_exactly(file, _RECORD.size))
        if kind == _LIBXL_END:
            return
        if kind == _LIBXL_LIBXC_CONTEXT:
            _walk_memory(file, size)
        _skip(file, length, size)
    raise UnusableSavefile("its stream has no end")


def _walk_memory(file: BinaryIO, size: int) -> None:
    _exactly(file, _LIBXC_IMAGE_HEADER + _LIBXC_DOMAIN_HEADER)
    for _ in range(_RECORDS):
        kind, length = _RECORD.unpack(_exactly(file, _RECORD.size))
        _skip(file, length, size)
        if kind == _LIBXC_END:
            return
    raise UnusableSavefile("its memory has no end")


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise UnusableSavefile("its stream is cut off")
    return data


def _skip(file: BinaryIO, length: int, size: int) -> None:
    place = file.tell() + length + -length % 8
    if place > size:
        raise UnusableSavefile("its stream is cut off")
    file.seek(place)


def _size_of_device(file: BinaryIO) -> int:
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size
