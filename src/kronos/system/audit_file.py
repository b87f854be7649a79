"""A file of lines that only grows: one write a line, renamed by size and age, never a reason to stop.

A line that `append` wrote is the kernel's: it outlives a killed process.
"""

from __future__ import annotations

import calendar
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger(__name__)

SIZE: Final = 16 << 20
"""Bytes after which the file is put aside."""
AGE: Final = 7 * 86_400.0
"""Seconds after which it is."""
FILES: Final = 20
"""Files put aside that are kept: 320 MiB at the most."""
_CHUNK: Final = 64 << 10
_STAMP: Final = re.compile(rb"\[(\d{8}T\d\d:\d\d:\d\d)")


class Sink(Protocol):
    """Where lines go."""

    def append(self, line: bytes) -> None: ...


class NoSink:
    """Nowhere."""

    def append(self, line: bytes) -> None:
        """Drops it."""


class AuditFile:
    """`path` and, older, `path.1` and so on. Appending is for any thread."""

    def __init__(self, path: Path, *, size: int = SIZE, age: float = AGE, files: int = FILES) -> None:
        self.path = path
        self.size = size
        self.age = age
        self.files = files
        self.lost = 0
        """Lines that could not be written, since the last that could."""
        self._guard = threading.Lock()
        self._descriptor = -1
        self._written = 0
        self._begun = 0.0

    def append(self, line: bytes) -> None:
        """Write a line that ends with a newline. A full or failing disk loses it, counts it and is logged once."""
        with self._guard:
            try:
                self._write(line)
            except OSError as error:
                self._drop()
                if not self.lost:
                    log.error("The audit log %s cannot be written, and calls go on: %s", self.path, error)
                self.lost += 1

    def _write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._open()
        elif self._written >= self.size or time.time() - self._begun >= self.age:
            self._rotate()
        if self.lost:
            self._tell_lost()
        self._put(line)

    def _put(self, line: bytes) -> None:
        written = os.write(self._descriptor, line)
        if written < len(line):  # the disk is full in the middle of it: half a line would spoil the next one
            os.ftruncate(self._descriptor, max(0, os.fstat(self._descriptor).st_size - written))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written += written

    def _tell_lost(self) -> None:
        lost = self.lost
        self._put(stamped("audit", f"{lost} lines were lost: the disk was full or failed"))
        self.lost = 0
        log.warning("The audit log %s is written again; %d lines were lost", self.path, lost)

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(self._descriptor)
        self._written = status.st_size
        self._begun = _first_moment(self._descriptor) if status.st_size else time.time()
        if self._written and os.pread(self._descriptor, 1, self._written - 1) != b"\n":
            self._put(b"\n")  # a machine that lost power in the middle of a line

    def _drop(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _rotate(self) -> None:
        self._drop()
        with suppress(FileNotFoundError):
            self._aside(self.files).unlink()
        for number in range(self.files - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._aside(number).rename(self._aside(number + 1))
        if self.files:
            self.path.rename(self._aside(1))
        self._open()

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def since(self, moment: str) -> Iterator[bytes]:
        """Everything from the first line that is not older than `moment` (`20261121T17:40:00.123`, or less of it; all
        of it where that is empty), oldest first, in pieces that end with a line."""
        for path in [*(self._aside(number) for number in range(self.files, 0, -1)), self.path]:
            try:
                source = path.open("rb")
            except FileNotFoundError:
                continue
            with source:
                yield from _lines_since(source.fileno(), moment.encode("ascii", "replace"))

    def close(self) -> None:
        with self._guard:
            self._drop()


def stamped(about: str, text: str, moment: float | None = None) -> bytes:
    """A line in the form of the reference's logs: `[20261121T17:40:00.123Z|audit||0 |about|audit] text`."""
    seconds = time.time() if moment is None else moment
    stamp = time.strftime("%Y%m%dT%H:%M:%S", time.gmtime(seconds))
    return (f"[{stamp}.{int(seconds * 1000) % 1000:03d}Z|audit||0 |{about}|audit] {text}\n").encode(
        "utf-8", "backslashreplace"
    )


def _first_moment(descriptor: int) -> float:
    found = _STAMP.match(os.pread(descriptor, 32, 0))
    if found is None:
        return time.time()
    return float(calendar.timegm(time.strptime(found.group(1).decode(), "%Y%m%dT%H:%M:%S")))


def _lines_since(descriptor: int, moment: bytes) -> Iterator[bytes]:
    rest = b""
    for block in iter(lambda: os.read(descriptor, _CHUNK), b""):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if not newline:
            continue
        if not moment:
            yield whole + newline
            continue
        kept = [line for line in whole.split(b"\n") if line[1 : 1 + len(moment)] >= moment]
        if kept:
            yield b"\n".join(kept) + b"\n"
