"""An image file as the rest of the package sees it: checked, with its format known and never guessed.

The format follows from the file's name: a raw disk's first bytes belong to its guest, who could write a qcow2
header there that names any file of the host.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import F_OFD_GETLK, F_UNLCK, F_WRLCK, fcntl
from pathlib import Path
from typing import BinaryIO

from kronos.storage.images import qcow2
from kronos.storage.images.qcow2 import BadImage
from kronos.system.commands import run

_FORMATS = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}

# QEMU shows what it does with an image by byte locks: 100 + n for a permission it uses. See its block/file-posix.c.
_ANY_PERMISSION = (100, 64)
_WRITE_PERMISSION = (101, 1)
_FLOCK = struct.Struct("hhqqi4x")


@dataclass(frozen=True)
class Image:
    """A checked image. `backing` is a file name in the same directory, or empty."""

    format: str
    virtual_size: int
    backing: str = ""


def format_of(name: str) -> str:
    """The format of an image file with this name; empty if it isn't one."""
    return _FORMATS.get(Path(name).suffix, "")


def is_plain(untrusted_name: str) -> bool:
    """Is this the name of a file right here: no path, nothing hidden, nothing that QEMU takes for a protocol?"""
    return (
        0 < len(os.fsencode(untrusted_name)) <= 255
        and untrusted_name[0] != "."
        and untrusted_name.isprintable()
        and "/" not in untrusted_name
        and ":" not in untrusted_name
    )


def inspect(path: Path) -> Image:
    """Read what kind of image `path` is.

    Raises BadImage (also for a link, a directory or a device), OSError.
    """
    form = format_of(path.name)
    if not form:
        raise BadImage("not an image by its name")
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if form == "raw":
            if not 0 < size <= qcow2.MAXIMUM_SIZE:
                raise BadImage(f"size {size}")
            return Image("raw", -(-size // 512) * 512)
        header = qcow2.read_header(file, size)
    if header.backing_file:
        if not is_plain(header.backing_file):
            raise BadImage(f"backing file {header.backing_file!r} is not in the SR")
        if not header.backing_format or format_of(header.backing_file) != header.backing_format:
            raise BadImage(f"backing format {header.backing_format!r} of {header.backing_file!r}")
    return Image("qcow2", header.virtual_size, header.backing_file)


def shows_only_its_backing(path: Path) -> bool:
    """Has nothing been written to this image? Only meaningful while nobody has it open."""
    if format_of(path.name) != "qcow2":
        return False
    with opened(path) as file:
        return qcow2.is_empty(file, qcow2.read_header(file, os.fstat(file.fileno()).st_size))


def write_empty(file: BinaryIO, form: str, virtual_size: int, backing: str = "") -> None:
    """Fill a new file with an image of zeros, or one that shows `backing`."""
    if form == "raw":
        file.truncate(virtual_size)
    else:
        qcow2.write_empty(file, virtual_size, backing, format_of(backing))


def grow(path: Path, virtual_size: int) -> None:
    """Enlarge an image that nobody has open. Raises CommandFailed."""
    run(["qemu-img", "resize", "-q", "-f", format_of(path.name), str(path), str(virtual_size)])


def in_use(path: Path, *, for_writing: bool) -> bool:
    """Does a QEMU have the image open?

    Not all of them can be seen: Xen's disk back end takes no locks, and another host's only show where the file
    system carries locks. So "no" is no promise.
    """
    start, length = _WRITE_PERMISSION if for_writing else _ANY_PERMISSION
    try:
        with opened(path) as file:
            asked = _FLOCK.pack(F_WRLCK, os.SEEK_SET, start, length, 0)
            (kind, *_) = _FLOCK.unpack(fcntl(file.fileno(), F_OFD_GETLK, asked))
    except (BadImage, FileNotFoundError):
        return False
    return bool(kind != F_UNLCK)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file open for reading. Neither follows a link nor waits for a pipe's other end.

    Raises BadImage for what is no regular file, OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise BadImage("not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadImage("not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)
