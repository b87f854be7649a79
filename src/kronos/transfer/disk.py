"""A disk image as a transfer sees it: opened by a qemu-nbd of its own, whatever its format and chain.

QEMU's block layer does the reading and writing of images. The process is started with a socket on which this one has
its connections already, and ends when they do, or when the thread that began it does: nothing is left of it when this
process is killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Final, Protocol

from kronos.system.commands import CommandFailed
from kronos.transfer import nbd

PIECE: Final = 64 << 10
"""The grain of sparseness: a qcow2 cluster."""
_CLOSING = 60.0
# The signal of a parent's death is missed by who asks for it too late: then the parent is another one. A server whose
# clients go before they have said a word would stay for ever.
_DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")
# Its own process id must be in the environment of who is given a socket, in systemd's way.
_START = 'test "$PPID" = "$1" || exit 1; shift; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 0</dev/null'


class Disk(Protocol):
    """A disk that is open. Offsets and lengths are bytes; all methods raise OSError."""

    @property
    def size(self) -> int: ...
    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of what may be other than zeros, in order; runs that touch are one."""

    def layers(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(offset, length, depth) of runs: 1 is the image itself, 2 the one beneath it; 0 is none."""

    def blocks(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        """The content of each place, of at most `nbd.BLOCK` bytes; a view is good until the next is asked for."""

    def write(self, offset: int, data: memoryview) -> None: ...
    def zero(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...


class NbdDisk:
    """A disk behind a qemu-nbd."""

    def __init__(self, data: nbd.Connection, status: nbd.Connection, depth: nbd.Connection | None) -> None:
        self._data = data
        self._status = status
        self._depth = depth

    @property
    def size(self) -> int:
        return self._data.size

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        first = last = start
        for offset, length, flags in self._status.status(start, end):
            if nbd.reads_zero(flags):
                continue
            if offset != last:
                if last > first:
                    yield first, last - first
                first = offset
            last = offset + length
        if last > first:
            yield first, last - first

    def layers(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        assert self._depth is not None, "opened without a look at its layers"
        return self._depth.status(start, end)

    def blocks(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        return self._data.blocks(places)

    def write(self, offset: int, data: memoryview) -> None:
        self._data.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self._data.zero(offset, length)

    def flush(self) -> None:
        self._data.flush()


@contextmanager
def opened(path: Path, form: str, *, writable: bool = False, layers: bool = False) -> Iterator[NbdDisk]:
    """An image that nobody else writes to, for as long as the block runs. What was flushed is on disk.

    Raises CommandFailed where QEMU does not open it, OSError.
    """
    argv = ["qemu-nbd", f"--format={form}", "--shared=3", "--cache=writeback"]
    argv += ["--discard=unmap"] if writable else ["--read-only"]
    argv += ["--allocation-depth"] if layers else []
    argv.append(str(path.absolute()))
    with ExitStack() as stack:
        complaint = stack.enter_context(tempfile.TemporaryFile())
        sockets = _connected(argv, 3 if layers else 2, stack, complaint)
        contexts = ("", nbd.ALLOCATION, nbd.DEPTH)
        try:
            connections = [nbd.Connection(*pair) for pair in zip(sockets, contexts, strict=False)]
        except OSError as error:
            complaint.seek(0)
            said = complaint.read(4096).decode(errors="replace").strip()
            raise CommandFailed(argv, 1, said or str(error)) from error
        for connection in connections:
            stack.callback(connection.close)
        yield NbdDisk(connections[0], connections[1], connections[2] if layers else None)


def _connected(argv: list[str], count: int, stack: ExitStack, complaint: IO[bytes]) -> list[socket.socket]:
    """Start a server; connections to it that wait for its greeting. It is gone once the stack is unwound."""
    with (
        tempfile.TemporaryDirectory(prefix="kronos-nbd-") as directory,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        place = str(Path(directory) / "nbd")
        listener.bind(place)
        listener.listen(count)
        try:
            process = subprocess.Popen(
                [*_DIES_WITH_US, "/bin/sh", "-c", _START, "sh", str(os.getpid()), *argv],
                stdin=listener.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=complaint,
            )
        except OSError as error:
            raise CommandFailed(argv, 127, str(error)) from error
        stack.callback(_end, process)
        sockets = []
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            stack.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * nbd.BLOCK)  # the system may grant less
            sock.connect(place)
            sockets.append(sock)
        return sockets


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a server whose connections are closed: it closes the image."""
    try:
        process.wait(_CLOSING)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


# --- sparse copies --------------------------------------------------------------------------------------------


def is_zero(view: memoryview) -> bool:
    """Whether a block of at most `nbd.BLOCK` bytes holds zeros alone."""
    # A bytearray compares itself with other buffers by memcmp; a memoryview does so byte by byte.
    return zeros(len(view)) == view


@lru_cache(maxsize=8)
def zeros(size: int) -> bytearray:
    """That many zeros, at most `nbd.BLOCK`; they are shared, and nobody writes to them."""
    return bytearray(size)


def pieces(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The runs in pieces that can be read at once; they end at multiples of the largest."""
    for offset, length in runs:
        end = offset + length
        while offset < end:
            step = min(end, (offset // nbd.BLOCK + 1) * nbd.BLOCK) - offset
            yield offset, step
            offset += step


def put(disk: Disk, offset: int, view: memoryview) -> None:
    """Write a block, at most `nbd.BLOCK`, so that zeros take no space."""
    if is_zero(view):
        clear(disk, offset, len(view))
        return
    run, run_is_zero = 0, is_zero(view[:PIECE])
    for start in range(PIECE, len(view), PIECE):
        zero = is_zero(view[start : start + PIECE])
        if zero != run_is_zero:
            _put_run(disk, offset + run, view[run:start], run_is_zero)
            run, run_is_zero = start, zero
    _put_run(disk, offset + run, view[run:], run_is_zero)


def _put_run(disk: Disk, offset: int, view: memoryview, zero: bool) -> None:
    if zero:
        clear(disk, offset, len(view))
    else:
        disk.write(offset, view)


def clear(disk: Disk, offset: int, length: int) -> None:
    """Make a range read as zeros, touching what does not yet."""
    for start, size in list(disk.data(offset, offset + length)):
        disk.zero(start, size)
