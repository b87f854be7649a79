"""A client's connection under TLS.

Encryption is done here, over memory buffers, and not by the loop's own TLS transport: a session that the loop owns
could not move to a thread with its socket, and every byte of a transfer would have to cross the loop.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kronos.server.connection import Connection
from kronos.server.reading import DETACHED, DISCARD, DUPLEX, HTTP, Shared
from kronos.server.routing import Request
from kronos.server.streams import RECORD, BlockingStream, TlsStream
from kronos.server.tls import names_of

WRITE: Final = 256 << 10
"""Bytes encrypted in one step."""
TURN: Final = 1 << 20
"""Bytes encrypted before the loop's other clients get their turn: about a millisecond."""


class TlsConnection(Connection):
    """A connection with TLS over it."""

    is_tls = True

    __slots__ = (
        "_incoming",
        "_outgoing",
        "_session",
        "_handshaken",
        "_plain",
        "_plain_size",
        "_transport_paused",
        "_then",
    )

    def __init__(self, shared: Shared, context: ssl.SSLContext) -> None:
        super().__init__(shared, local=False)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshaken = False
        self._plain: deque[memoryview] = deque()
        self._plain_size = 0
        self._transport_paused = False
        self._then: Callable[[], None] | None = None

    # --- bytes in ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._mode == DISCARD:
            return
        incoming, session = self._incoming, self._session
        incoming.write(data)
        try:
            if not self._handshaken:
                session.do_handshake()
                self._handshaken = True
                if session.context.verify_mode != ssl.CERT_NONE:
                    self._origin = replace(self._origin, names=names_of(session))
                self._flush()
            # What follows the headers of a hand-over stays encrypted until its door reads it.
            while (incoming.pending or session.pending()) and self._mode in (HTTP, DUPLEX):
                super().data_received(session.read(RECORD))
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError:  # the client's goodbye, or nonsense: what goes out then is an alert that says so
            self._flush()
            self.eof_received()
            self._transport.close()
        else:
            self._flush()

    def _take_over(self, request: Request) -> None:
        super()._take_over(request)
        if self._mode == DUPLEX:
            self.data_received(b"")

    def _stream(self, sock: socket.socket) -> BlockingStream:
        return TlsStream(sock, self._session, self._incoming, self._outgoing, self._arrived)

    # --- bytes out ---------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _transmit(self, parts: tuple[bytes, ...]) -> None:
        for part in parts:
            if part:
                self._plain.append(memoryview(part))
                self._plain_size += len(part)
        self._encrypt()
        self._writing_paused = self._transport_paused or bool(self._plain)
        if self._writing_paused and self._duplex is not None:
            self._duplex.pause_writing(True)

    def _encrypt(self) -> None:
        """Send what waits, until the transport is full or other clients should have their turn."""
        turn, plain = 0, self._plain
        try:
            while plain and not self._transport_paused and turn < TURN:
                piece = self._next_piece()
                self._session.write(piece)
                self._transport.write(self._outgoing.read())
                turn += len(piece)
        except ssl.SSLError:
            plain.clear()
            self._transport.abort()
        self._plain_size -= turn
        if plain and not self._transport_paused:
            self._shared.loop.call_soon(self._continue)

    def _next_piece(self) -> memoryview | bytes:
        """Up to WRITE bytes of what waits: a piece of a long part, or short parts together, as each costs a record."""
        plain = self._plain
        first = plain.popleft()
        if len(first) > WRITE:
            plain.appendleft(first[WRITE:])
            return first[:WRITE]
        together, size = [first], len(first)
        while plain and size + len(plain[0]) <= WRITE:
            size += len(plain[0])
            together.append(plain.popleft())
        return b"".join(together) if len(together) > 1 else first

    def _continue(self) -> None:
        if self._transport_paused or self._mode == DETACHED:
            return
        self._encrypt()
        if self._plain or self._transport_paused:
            return
        then, self._then = self._then, None
        if then is not None:
            then()
        elif self._writing_paused:
            super().resume_writing()

    def pause_writing(self) -> None:
        self._transport_paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._transport_paused = False
        self._continue()

    def _unsent(self) -> int:
        return self._plain_size + super()._unsent()

    def _close(self) -> None:
        if self._plain:
            self._then = self._close
            return
        self._say_goodbye()
        super()._close()

    def _shut_writing(self) -> None:
        if self._plain:
            self._then = self._shut_writing
            return
        self._say_goodbye()
        super()._shut_writing()

    def _say_goodbye(self) -> None:
        if not self._handshaken:
            return
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # it waits for the client's goodbye, which may never come; ours is in the buffer
        self._flush()
