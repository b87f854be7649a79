"""A tree of files out of a tar stream that somebody sent: plain files and folders, and none of them elsewhere.

Links, devices, sparse files, names that lead out, and names that come twice are refused, as is what is larger than
it may be. Modes, owners and times of the stream are passed over. GNU's and POSIX's long names are understood.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from kronos.system.files import sync_directory
from kronos.transfer.stream import Advance, BadStream, Reader
from kronos.transfer.tar import padding, read_header

ENTRY: Final = 4096
"""Bytes that every name counts beside its content, so that there are not too many of them either."""
_DEEPEST: Final = 32
_LONGEST: Final = 1024
_MOST_SAID: Final = 64 << 10
"""Bytes of what may stand before a member in addition to its header."""
_STEP: Final = 256 << 10
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,5}) ")
_SIZE: Final = re.compile(rb"[0-9]{1,13}")

Parts = tuple[str, ...]


def unpack(reader: Reader, place: Path, most: int, advance: Advance) -> None:
    """Unpack a stream into an empty folder, `most` bytes at most; when this returns it is on disk.

    What is there when it fails is the caller's to remove. Raises BadStream, PrematureEnd, OSError.
    """
    tree = _Tree(place, most, advance)
    said: dict[bytes, bytes] = {}
    while (header := read_header(reader)) is not None:
        size = header.size
        if header.kind in (b"L", b"x", b"g"):
            tree.charge(size)
            said |= _said(header.kind, _before_member(reader, size))
            continue
        name = said.get(b"path") or b"/".join(part for part in (header.prefix, header.name) if part)
        if b"size" in said:
            size = _size(said[b"size"])
        said = {}
        if header.kind not in (b"0", b"5"):
            raise BadStream(f"{name[:80].decode(errors='replace')!r} is neither a file nor a folder")
        parts = _parts(name)
        if header.kind == b"5" or name.endswith(b"/"):
            tree.folder(parts, size)
        else:
            tree.file(parts, size, reader)
            reader.skip(len(padding(size)))
    if said:
        raise BadStream("the stream ends with a name for nothing")
    tree.sync()


def _before_member(reader: Reader, size: int) -> bytes:
    if size > _MOST_SAID:
        raise BadStream(f"{size} bytes about one name")
    untrusted = reader.exactly(size)
    reader.skip(len(padding(size)))
    return untrusted


def _said(kind: bytes, untrusted: bytes) -> dict[bytes, bytes]:
    """What is said of the member that follows: its `path` and `size`, where the header has no room for them."""
    if kind == b"L":
        return {b"path": untrusted.rstrip(b"\0")}
    found = _records(untrusted)
    if any(name.startswith(b"GNU.sparse") for name in found):
        raise BadStream("a sparse file")
    kept = {name: value for name, value in found.items() if name in (b"path", b"size")}
    if kept and kind == b"g":
        raise BadStream("one name for all members")
    return kept


def _records(untrusted: bytes) -> dict[bytes, bytes]:
    found, at = {}, 0
    while at < len(untrusted):
        told = _RECORD.match(untrusted, at)
        end = at + int(told[1]) if told is not None else 0
        record = untrusted[told.end() : end] if told is not None else b""
        if end > len(untrusted) or not record.endswith(b"\n") or b"=" not in record:
            raise BadStream("an extended header that cannot be read")
        name, _, text = record[:-1].partition(b"=")
        found[name] = text
        at = end
    return found


def _size(untrusted: bytes) -> int:
    if not _SIZE.fullmatch(untrusted):
        raise BadStream("a size that is no number")
    return int(untrusted)


def _parts(untrusted: bytes) -> Parts:
    """A name below the tree, () for the tree itself. Raises BadStream for one that is, or may be, elsewhere."""
    try:
        name = untrusted.decode()
    except UnicodeDecodeError as error:
        raise BadStream("a name that is not UTF-8") from error
    inner = name.removeprefix("./").removesuffix("/")
    parts = tuple(inner.split("/")) if inner not in ("", ".") else ()
    wrong = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
    if wrong or not untrusted or name == "/" or len(parts) > _DEEPEST or len(untrusted) > _LONGEST:
        raise BadStream(f"the name {name[:80]!r}")
    if not name.isprintable():
        raise BadStream(f"the name {name[:80]!r}")
    return parts


class _Tree:
    """What is unpacked: every folder in it was made here, so that no way leads out."""

    def __init__(self, place: Path, most: int, advance: Advance) -> None:
        self.place = place
        self.most = self.left = most
        self.advance = advance
        self.folders: set[Parts] = {()}
        self._buffer = memoryview(bytearray(_STEP))

    def charge(self, size: int) -> None:
        self.left -= size + ENTRY
        if self.left < 0:
            raise BadStream(f"more than {self.most} bytes")

    def folder(self, parts: Parts, size: int = 0) -> Path:
        """Make a folder and those that it is in; one that is there already is no fault."""
        if size:
            raise BadStream("a folder with content")
        path = self.place.joinpath(*parts)
        if parts not in self.folders:
            self.folder(parts[:-1])
            self.charge(ENTRY)
            try:
                path.mkdir(0o755)
            except FileExistsError as error:
                raise BadStream(f"{'/'.join(parts)[:80]!r} is a file and a folder") from error
            self.folders.add(parts)
        return path

    def file(self, parts: Parts, size: int, reader: Reader) -> None:
        self.charge(size)
        if not parts:
            raise BadStream("a file without a name")
        path = self.folder(parts[:-1]) / parts[-1]
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError as error:
            raise BadStream(f"{'/'.join(parts)[:80]!r} comes twice") from error
        with os.fdopen(descriptor, "wb") as file:
            while size:
                part = self._buffer[: min(size, _STEP)]
                reader.into(part)
                size -= file.write(part)
                self.advance(len(part))
            file.flush()
            os.fsync(file.fileno())

    def sync(self) -> None:
        for parts in self.folders:
            sync_directory(self.place.joinpath(*parts))
