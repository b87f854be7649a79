"""Tar (ustar) members one after the other, written to a sink and read from a stream: plain files alone."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kronos.transfer.stream import BadStream, Reader

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
"""What ends an archive."""
_LARGEST: Final = 1 << 40
_OCTAL: Final = re.compile(rb"[ ]*([0-7]{1,13})[ \0]*")


class Member(NamedTuple):
    """A file of an archive: `size` bytes follow, and zeros up to the next block."""

    name: str
    size: int

    @property
    def padding(self) -> int:
        return -self.size % BLOCK


def header(name: str, size: int, mtime: int = 0) -> bytes:
    """The block before a file; `name` is ASCII and at most 100 characters long."""
    fields = [
        name.encode("ascii").ljust(100, b"\0"),
        b"0000400\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,
        b"0",
        bytes(100),
        b"ustar\x0000",
        bytes(BLOCK - 265),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


class Header(NamedTuple):
    """The block before a member, none of which is trusted but the size: `kind` is ustar's letter for what follows."""

    name: bytes
    prefix: bytes
    kind: bytes
    size: int


def read_header(reader: Reader) -> Header | None:
    """The next block, None at the archive's end. Raises BadStream, PrematureEnd."""
    untrusted = reader.exactly(BLOCK)
    if not any(untrusted):
        return None
    told, size = _OCTAL.fullmatch(untrusted[148:156]), _OCTAL.fullmatch(untrusted[124:136])
    plain = untrusted[:148] + b" " * 8 + untrusted[156:]
    if told is None or int(told[1], 8) != sum(plain):
        raise BadStream("not the header of a tar file")
    if size is None or int(size[1], 8) > _LARGEST:
        raise BadStream("a tar file of no plausible size")
    # GNU's older form has other things where ustar has the prefix.
    prefix = untrusted[345:500] if untrusted[257:263] == b"ustar\0" else b""
    return Header(
        untrusted[:100].partition(b"\0")[0],
        prefix.partition(b"\0")[0],
        untrusted[156:157].replace(b"\0", b"0"),
        int(size[1], 8),
    )


def read_member(reader: Reader) -> Member | None:
    """The next file, None at the archive's end. Raises BadStream, PrematureEnd."""
    header = read_header(reader)
    if header is None:
        return None
    if header.kind != b"0" or header.prefix:
        raise BadStream("a tar member that is not a plain file of a short name")
    try:
        return Member(header.name.decode("ascii"), header.size)
    except UnicodeDecodeError as error:
        raise BadStream("a tar member with an odd name") from error
