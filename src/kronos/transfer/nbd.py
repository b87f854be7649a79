"""A client of QEMU's NBD server on a Unix socket, for one transfer: no more of the protocol than that needs.

Requests are sent ahead of their replies, so that QEMU reads the next blocks while this process sends the last ones.
Data is received where it is wanted and copied by nobody.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

AHEAD: Final = 4
"""Requests under way at once."""
BLOCK: Final = 1 << 20
"""Bytes of one read or write. QEMU takes up to 32 MiB; more than this gains nothing and costs memory."""
_FAR: Final = 1 << 30
"""Bytes of one request that moves no data."""

_OPTION_MAGIC, _REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
_REQUEST_MAGIC, _SIMPLE_MAGIC, _STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
_GO, _STRUCTURED, _SET_META = 7, 8, 10
_ACK, _INFO, _META = 1, 3, 4
_READ, _WRITE, _DISCONNECT, _FLUSH, _ZEROES, _STATUS = 0, 1, 2, 3, 6, 7
_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE = struct.Struct(">IIQ")
_STRUCTURED_HEAD = struct.Struct(">IHHQI")
_EXTENT = struct.Struct(">II")
_DONE, _BLOCK_STATUS, _ERROR_BIT = 1, 5, 0x8000
_HOLE, _READS_ZERO = 1, 2
_LONGEST_REPLY = 16 << 20

ALLOCATION: Final = "base:allocation"
DEPTH: Final = "qemu:allocation-depth"


class NBDGone(OSError):
    """The server ended the connection, or said what it should not."""


class Connection:
    """One connection. `context` asks for block status in that metadata context; such a one moves no data."""

    def __init__(self, sock: socket.socket, context: str = "") -> None:
        self._socket = sock
        self._handle = 0
        self._writes = 0
        self._head = memoryview(bytearray(_SIMPLE.size))
        self.size = self._shake_hands(context)

    # --- the handshake -----------------------------------------------------------------------------------------

    def _shake_hands(self, context: str) -> int:
        hello = self._exactly(18)
        if hello[:16] != b"NBDMAGICIHAVEOPT":
            raise NBDGone(errno.EPROTO, "not an NBD server")
        self._socket.sendall(struct.pack(">I", struct.unpack_from(">H", hello, 16)[0] & 3))
        if context:
            self._option(_STRUCTURED, b"")
            self._ask(_STRUCTURED)
            name = context.encode()
            self._option(_SET_META, struct.pack(">III", 0, 1, len(name)) + name)
            if not any(kind == _META for kind, _ in self._ask(_SET_META)):
                raise NBDGone(errno.EPROTO, f"the server does not tell {context}")
        self._option(_GO, struct.pack(">IH", 0, 0))
        for kind, data in self._ask(_GO):
            if kind == _INFO and struct.unpack_from(">H", data)[0] == 0:
                return int(struct.unpack_from(">Q", data, 2)[0])
        raise NBDGone(errno.EPROTO, "the server does not tell its size")

    def _option(self, option: int, data: bytes) -> None:
        self._socket.sendall(struct.pack(">QII", _OPTION_MAGIC, option, len(data)) + data)

    def _ask(self, option: int) -> list[tuple[int, bytes]]:
        """Replies to an option up to the last one."""
        found: list[tuple[int, bytes]] = []
        while True:
            magic, about, kind, length = struct.unpack(">QIII", self._exactly(20))
            if magic != _REPLY_MAGIC or about != option or length > _LONGEST_REPLY:
                raise NBDGone(errno.EPROTO, "an odd reply in the handshake")
            data = self._exactly(length)
            if kind & 0x80000000:
                raise NBDGone(errno.EPROTO, f"the server refuses option {option}: {data[:200]!r}")
            if kind == _ACK:
                return found
            found.append((kind, data))

    # --- reading -----------------------------------------------------------------------------------------------

    def blocks(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        """The content at each (offset, length), in order; no length is more than BLOCK.

        A view is good until the next one is asked for. The iterator is read to its end, or the connection closed.
        """
        buffers = [memoryview(bytearray(BLOCK)) for _ in range(AHEAD + 1)]
        asked: list[tuple[int, int, int]] = []  # handle, offset, length
        arrived: set[int] = set()
        wanted = iter(places)
        first = self._handle
        more = True
        while True:
            while more and len(asked) < AHEAD:
                place = next(wanted, None)
                if place is None:
                    more = False
                    break
                offset, length = place
                asked.append((self._send(_READ, offset, length), offset, length))
            if not asked:
                return
            handle, offset, length = asked[0]
            while handle not in arrived:
                answered = self._simple_reply()
                size = next((size for each, _, size in asked if each == answered), None)
                if size is None:
                    raise NBDGone(errno.EPROTO, "an answer to nothing")
                self._receive(buffers[(answered - first) % len(buffers)][:size])
                arrived.add(answered)
            arrived.discard(handle)
            asked.pop(0)
            yield offset, buffers[(handle - first) % len(buffers)][:length]

    def status(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(offset, length, flags) of the runs from `start` to `end`, in order."""
        while start < end:
            for length, flags in self._status_of(start, min(_FAR, end - start)):
                length = min(length, end - start)
                if length:
                    yield start, length, flags
                    start += length

    def _status_of(self, offset: int, length: int) -> list[tuple[int, int]]:
        self._send(_STATUS, offset, length)
        found: list[tuple[int, int]] = []
        while True:
            magic, flags, kind, _, size = _STRUCTURED_HEAD.unpack(self._exactly(_STRUCTURED_HEAD.size))
            if magic != _STRUCTURED_MAGIC or size > _LONGEST_REPLY:
                raise NBDGone(errno.EPROTO, "an odd reply")
            data = self._exactly(size)
            if kind & _ERROR_BIT:
                raise OSError(struct.unpack_from(">I", data)[0], "reading what a disk holds")
            if kind == _BLOCK_STATUS:
                found += _EXTENT.iter_unpack(data[4:])
            if flags & _DONE:
                if not any(size for size, _ in found):
                    raise NBDGone(errno.EPROTO, "the server tells nothing of a block")
                return found

    # --- writing -----------------------------------------------------------------------------------------------

    def write(self, offset: int, data: memoryview) -> None:
        """Write at most BLOCK bytes. An error may be told by a later call; `flush` tells all. Raises OSError."""
        self._send(_WRITE, offset, len(data))
        self._socket.sendall(data)
        self._await(AHEAD)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""
        while length:
            step = min(length, _FAR)
            self._send(_ZEROES, offset, step)
            self._await(AHEAD)
            offset, length = offset + step, length - step

    def flush(self) -> None:
        """Everything that was written is on disk when this returns. Raises OSError."""
        self._await(1)
        self._send(_FLUSH, 0, 0)
        self._await(1)

    def _await(self, below: int) -> None:
        while self._writes >= below:
            self._simple_reply()
            self._writes -= 1

    # --- bytes -------------------------------------------------------------------------------------------------

    def _send(self, kind: int, offset: int, length: int) -> int:
        handle = self._handle
        self._handle += 1
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, kind, handle, offset, length))
        if kind in (_WRITE, _ZEROES, _FLUSH):
            self._writes += 1
        return handle

    def _simple_reply(self) -> int:
        """The handle of the next answer. Raises OSError."""
        self._receive(self._head)
        magic, error, handle = _SIMPLE.unpack(self._head)
        if magic != _SIMPLE_MAGIC:
            raise NBDGone(errno.EPROTO, "an odd reply")
        if error:
            raise OSError(error, os.strerror(error))
        return int(handle)

    def _exactly(self, size: int) -> bytes:
        buffer = bytearray(size)
        self._receive(memoryview(buffer))
        return bytes(buffer)

    def _receive(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise NBDGone(errno.ECONNRESET, "QEMU ended the connection")
            view = view[count:]

    def close(self) -> None:
        """Say goodbye; what was not flushed may be lost."""
        try:
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        except OSError:
            pass  # it has gone already
        self._socket.close()


def reads_zero(flags: int) -> bool:
    """Whether a run in the context ALLOCATION needs no reading."""
    return bool(flags & _READS_ZERO)
