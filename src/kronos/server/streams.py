"""Connections that a door has taken over: blocking ones for threads, and one for the loop.

A thread gets the socket itself, taken out of the loop. Under TLS it gets the session with it: encryption is done by
this process over memory buffers (see connection.py), so that the session moves to the thread like the socket does,
and bulk data never crosses the loop.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

RECORD_BATCH: Final = 256 << 10
"""Bytes encrypted or received in one step: large enough to make system calls rare, small enough for the cache."""
RECORD: Final = 16 << 10
"""The most that one TLS record holds."""
GOODBYE: Final = 5.0
"""Seconds that TLS's goodbye may take."""
DUPLEX_BUFFER: Final = 256 << 10
_NO_LINGER: Final = struct.pack("ii", 1, 0)
"""With it, closing a TCP socket resets the connection."""


class BlockingStream(Protocol):
    """A connection on a thread, with the meaning that `socket.socket` gives these names."""

    @property
    def socket(self) -> socket.socket | None:
        """The socket itself where its bytes are the stream's bytes (no TLS), for sendfile and splice.

        `buffered` bytes have been read from it already.
        """

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and that `recv` returns before it asks the socket."""

    def recv(self, size: int) -> bytes: ...
    def recv_into(self, buffer: bytearray | memoryview) -> int: ...
    def sendall(self, data: bytes | bytearray | memoryview) -> None: ...
    def shutdown_write(self) -> None:
        """Tell the peer that nothing more comes; reading goes on."""

    def fileno(self) -> int:
        """The socket's descriptor. That it is not readable does not mean that nothing is `buffered`; see `readable`."""

    def readable(self, seconds: float) -> bool:
        """Wait at most this long; whether `recv` would now return at once."""

    def settimeout(self, seconds: float | None) -> None:
        """Bound each wait for the peer; past it `recv` and `sendall` raise TimeoutError."""

    def close(self) -> None: ...
    def reset(self) -> None:
        """Have `close` break the connection off: the peer is not to take what it has for the whole."""

    def abort(self) -> None:
        """End a transfer from another thread: whoever waits in `recv` or `sendall` is woken by an OSError or an end."""


class _SocketStream:
    """What streams with and without TLS have in common."""

    def __init__(self, sock: socket.socket, arrived: bytes) -> None:
        self._socket = sock
        self._arrived = memoryview(arrived)
        self._broken_off = False

    @property
    def buffered(self) -> int:
        return len(self._arrived)

    def reset(self) -> None:
        self._broken_off = True
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    def _take(self, buffer: bytearray | memoryview) -> int:
        """What had arrived before the stream was made."""
        count = min(len(buffer), len(self._arrived))
        buffer[:count] = self._arrived[:count]
        self._arrived = self._arrived[count:]
        return count

    def fileno(self) -> int:
        return self._socket.fileno()

    def readable(self, seconds: float) -> bool:
        if self.buffered:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def abort(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was quicker


class PlainStream(_SocketStream):
    """A TCP or Unix socket without TLS."""

    @property
    def socket(self) -> socket.socket | None:
        return self._socket

    def recv(self, size: int) -> bytes:
        if self._arrived:
            data = bytes(self._arrived[:size])
            self._arrived = self._arrived[size:]
            return data
        return self._socket.recv(size)

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        if self._arrived:
            return self._take(buffer)
        return self._socket.recv_into(buffer)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        self._socket.sendall(data)

    def shutdown_write(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


class TlsStream(_SocketStream):
    """A socket with the TLS session that the loop began on it. One thread may read while another writes."""

    def __init__(
        self,
        sock: socket.socket,
        session: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        arrived: bytes,
    ) -> None:
        super().__init__(sock, arrived)
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing
        self._encrypted = memoryview(bytearray(RECORD_BATCH))
        # OpenSSL's session must not be used by two threads at once; what it made must be sent in order.
        self._session_lock = threading.Lock()
        self._send_lock = threading.Lock()

    @property
    def socket(self) -> socket.socket | None:
        return None

    @property
    def buffered(self) -> int:
        return len(self._arrived) + self._session.pending()

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        if self._arrived:
            return self._take(buffer)
        while True:
            count = self._decrypt(buffer)
            if count is not None:
                return count
            self._receive()

    def readable(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.buffered:
            record = bytearray(RECORD)
            count = self._decrypt(record)
            if count is not None:
                self._arrived = memoryview(record)[:count]
                return True
            if not super().readable(max(0.0, deadline - time.monotonic())):
                return False
            self._receive()
        return True

    def _decrypt(self, buffer: bytearray | memoryview) -> int | None:
        """Bytes that could be decrypted, 0 at the end, None when more must be received for it."""
        try:
            with self._session_lock:
                # The stubs know no buffer that is written into.
                return self._session.read(len(buffer), buffer)  # type: ignore[arg-type,return-value]
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # many clients close without TLS's goodbye
            return 0

    def _receive(self) -> None:
        if self._outgoing.pending:  # an answer of TLS itself, to a change of keys for example
            with self._send_lock:
                self._socket.sendall(self._outgoing.read())
        count = self._socket.recv_into(self._encrypted)
        with self._session_lock:
            if count:
                self._incoming.write(self._encrypted[:count])
            else:
                self._incoming.write_eof()

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), RECORD_BATCH):
            with self._send_lock:
                with self._session_lock:
                    self._session.write(view[start : start + RECORD_BATCH])
                    encrypted = self._outgoing.read()
                self._socket.sendall(encrypted)

    def shutdown_write(self) -> None:
        with self._send_lock:
            with self._session_lock:
                try:
                    self._session.unwrap()
                except ssl.SSLError:
                    pass  # it waits for the peer's goodbye, which may never come; ours is in the buffer
                encrypted = self._outgoing.read()
            self._socket.sendall(encrypted)
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if not self._broken_off:
            self._socket.settimeout(GOODBYE)
            try:
                self.shutdown_write()
            except OSError:
                pass  # the peer has gone; nothing is left to say
        self._socket.close()


class Duplex:
    """A connection on the loop: bytes in, bytes out, with the pace set by the slower side."""

    def __init__(
        self,
        arrived: bytes,
        write: Callable[[bytes], None],
        close: Callable[[], None],
        pause_reading: Callable[[bool], None],
    ) -> None:
        self._buffer = bytearray(arrived)
        self._write = write
        self._close = close
        self._pause_reading = pause_reading
        self._ended = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._writing_paused = False

    async def read(self) -> bytes:
        """What has arrived, waiting for the first byte; b"" at the end of the connection."""
        while not self._buffer and not self._ended:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._reading_paused:
            self._reading_paused = False
            self._pause_reading(False)
        return data

    def write(self, data: bytes) -> None:
        """Send; follow it by `drain`, or a slow client piles up what it has not read."""
        if not self._ended:
            self._write(data)

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written. Raises ConnectionResetError once it has gone."""
        while self._writing_paused and not self._ended:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self._ended:
            raise ConnectionResetError("the client has gone")

    def close(self) -> None:
        """Close once everything written has gone out."""
        self._close()

    # The connection's side:

    def feed(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= DUPLEX_BUFFER and not self._reading_paused:
            self._reading_paused = True
            self._pause_reading(True)
        _wake(self._reader)

    def pause_writing(self, paused: bool) -> None:
        self._writing_paused = paused
        if not paused:
            _wake(self._writer)

    def end(self) -> None:
        self._ended = True
        _wake(self._reader)
        _wake(self._writer)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
