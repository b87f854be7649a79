"""XVA: a VM's description and its disks as one tar archive, a member for each MiB that is not zeros.

The description, `ova.xml`, comes first. A disk's blocks are `<id>/00000000` and so on, each followed by a member with
its checksum: `.xxhash` (XXH64, upper-case) or, in older archives, `.checksum` (SHA-1). The first and the last block
of a disk are always there; those between may be missing, and then are zeros.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from kronos.transfer import disk as disks
from kronos.transfer import tar
from kronos.transfer.changes import coarse, fine
from kronos.transfer.disk import Disk
from kronos.transfer.stream import Advance, BadStream, Reader, Sink

BLOCK: Final = 1 << 20
DESCRIPTION: Final = "ova.xml"
LONGEST_DESCRIPTION: Final = 32 << 20
_LONGEST_CHECKSUM = 256
_SUFFIX = re.compile(r"[0-9]{8,16}")
_XXHASH, _SHA1 = ".xxhash", ".checksum"


class UnexpectedMember(Exception):
    """Another member than the one that is due."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


class WrongChecksum(Exception):
    """A block is not what was exported; its name."""


class Opens(Protocol):
    """Opens a disk for as long as the block runs."""

    def __call__(self) -> AbstractContextManager[Disk]: ...


@dataclass(frozen=True)
class Streamed:
    """A disk of an archive. `open` is None for one that nobody wants: its blocks are read and thrown away."""

    id: str
    size: int
    open: Opens | None


# --- writing --------------------------------------------------------------------------------------------


def send(description: bytes, streamed: Sequence[Streamed], sink: Sink, advance: Advance, mtime: int) -> None:
    """An archive of a description and disks."""
    members = _Members(sink)
    members.add(tar.header(DESCRIPTION, len(description), mtime), memoryview(description), b"")
    ordered = sorted(streamed, key=lambda each: each.id)
    # A reader takes a missing block to be as long as the first of the archive.
    omit = not ordered or ordered[0].size >= BLOCK
    for each in ordered:
        assert each.open is not None
        with each.open() as disk:
            _send_disk(each.id, disk, members, advance, omit=omit)
    members.end()


class _Members:
    """Members of an archive on their way; what is small goes along with what comes next."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._small = b""

    def add(self, header: bytes, data: memoryview, behind: bytes) -> None:
        self._sink.sendall(self._small + header)
        self._sink.sendall(data)
        self._small = tar.padding(len(data)) + behind

    def end(self) -> None:
        self._sink.sendall(self._small + tar.END)


def _send_disk(name: str, disk: Disk, members: _Members, advance: Advance, *, omit: bool) -> None:
    last = (disk.size - 1) // BLOCK
    done = 0
    wanted = _with_ends(coarse(disk.data(0, disk.size), BLOCK), last) if omit else [(0, last + 1)]
    for offset, view in disk.blocks(disks.pieces(fine(wanted, BLOCK, disk.size))):
        number = offset // BLOCK
        if number in (0, last) or not omit or not disks.is_zero(view):
            _send_block(f"{name}/{number:08}", view, members)
        advance(offset + len(view) - done)
        done = offset + len(view)


def _with_ends(blocks: Iterable[tuple[int, int]], last: int) -> Iterator[tuple[int, int]]:
    """These blocks, and the first and the last one."""
    after = 0
    for first, count in blocks:
        if after == 0 and first > 0:
            yield 0, 1
        yield first, count
        after = first + count
    if after == 0 and last > 0:
        yield 0, 1
    if after <= last:
        yield last, 1


def _send_block(name: str, view: memoryview, members: _Members) -> None:
    checksum = _xxhash(view).encode()
    behind = tar.header(name + _XXHASH, len(checksum)) + checksum + tar.padding(len(checksum))
    members.add(tar.header(name, len(view)), view, behind)


def _xxhash(data: memoryview) -> str:
    import xxhash  # not needed by a daemon that exports nothing

    return str(xxhash.xxh64(data).hexdigest()).upper()


# --- reading --------------------------------------------------------------------------------------------


def read_description(reader: Reader) -> bytes:
    """The first member of an archive. Raises UnexpectedMember, BadStream, PrematureEnd."""
    member = tar.read_member(reader)
    if member is None or member.name != DESCRIPTION:
        raise UnexpectedMember(DESCRIPTION, member.name if member is not None else "")
    if member.size > LONGEST_DESCRIPTION:
        raise BadStream(f"a description of {member.size} bytes")
    text = reader.exactly(member.size)
    reader.skip(member.padding)
    return text


def receive(reader: Reader, streamed: Sequence[Streamed], advance: Advance, *, force: bool) -> None:
    """Fill disks, which read as zeros so far, from the rest of an archive; `force` lets wrong checksums pass.

    Raises UnexpectedMember, WrongChecksum, BadStream, PrematureEnd, OSError.
    """
    blocks = _Blocks(reader, force=force)
    for each in sorted(streamed, key=lambda each: each.id):
        if each.open is None:
            blocks.receive(each.id, each.size, None, advance)
            continue
        with each.open() as disk:
            blocks.receive(each.id, each.size, disk, advance)
            disk.flush()
    member = tar.read_member(reader)
    if member is not None:
        raise UnexpectedMember("", member.name)


class _Blocks:
    """The blocks of an archive's disks, in their order."""

    def __init__(self, reader: Reader, *, force: bool) -> None:
        self._reader = reader
        self._force = force
        self._buffer = memoryview(bytearray(BLOCK))
        self._first = 0
        """Bytes of the archive's first block: so many each block that is missing stands for."""

    def receive(self, name: str, size: int, disk: Disk | None, advance: Advance) -> None:
        offset, number, suffix = 0, -1, ""
        while offset < size:
            member = self._member(name)
            found = member.name.removeprefix(f"{name}/")
            if found <= suffix:
                raise UnexpectedMember(f"{name}/{number + 1:08}", member.name)
            skipped = (int(found) - number - 1) * self._first_size(member)
            suffix, number = found, int(found)
            if offset + skipped + member.size > size:
                raise BadStream(f"{member.name} is beyond the end of a disk of {size} bytes")
            self._block(member, disk, offset + skipped)
            advance(skipped + member.size)
            offset += skipped + member.size

    def _member(self, name: str) -> tar.Member:
        """The next block of the disk `name`."""
        member = tar.read_member(self._reader)
        found = member.name if member is not None else ""
        start, _, suffix = found.partition("/")
        if member is None or start != name or not _SUFFIX.fullmatch(suffix):
            raise UnexpectedMember(f"{name}/", found)
        return member

    def _first_size(self, member: tar.Member) -> int:
        if not self._first:
            self._first = member.size
        return self._first

    def _block(self, member: tar.Member, disk: Disk | None, offset: int) -> None:
        checks = _Checksums()
        for at in range(0, member.size, BLOCK):
            view = self._buffer[: min(BLOCK, member.size - at)]
            self._reader.into(view)
            checks.add(view, last=at + BLOCK >= member.size)
            if disk is not None and not disks.is_zero(view):
                disks.put(disk, offset + at, view)
        self._reader.skip(member.padding)
        told = tar.read_member(self._reader)
        if told is None or told.name not in (member.name + _XXHASH, member.name + _SHA1):
            raise UnexpectedMember(member.name + _XXHASH, told.name if told is not None else "")
        if told.size > _LONGEST_CHECKSUM:
            raise BadStream("a checksum that is too long")
        checksum = self._reader.exactly(told.size).decode("latin-1").strip()
        self._reader.skip(told.padding)
        if checksum != checks.of(told.name.removeprefix(member.name)) and not self._force:
            raise WrongChecksum(member.name)


class _Checksums:
    """A block's checksums. Which one is wanted shows only behind the block, so one piece is kept until then."""

    def __init__(self) -> None:
        self._kept: memoryview | None = None
        self._both: tuple[hashlib._Hash, object] | None = None

    def add(self, view: memoryview, *, last: bool) -> None:
        if last and self._both is None:
            self._kept = view
            return
        import xxhash

        if self._both is None:
            self._both = hashlib.sha1(usedforsecurity=False), xxhash.xxh64()
        for each in self._both:
            each.update(view)  # type: ignore[attr-defined]  # xxhash has no types

    def of(self, ending: str) -> str:
        if self._both is not None:
            sha1, xxh64 = self._both
            # As above.
            return sha1.hexdigest() if ending == _SHA1 else str(xxh64.hexdigest()).upper()  # type: ignore[attr-defined]
        view = self._kept if self._kept is not None else memoryview(b"")
        return hashlib.sha1(view, usedforsecurity=False).hexdigest() if ending == _SHA1 else _xxhash(view)
