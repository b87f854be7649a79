"""WebSocket (RFC 6455), the server's side: the handshake, the frames, and a stream of bytes over them.

Consoles are streams, so the bounds of messages have no meaning here: the payload of each frame is passed on as it
comes, and what is sent goes in binary frames. Text frames are taken as the bytes that they hold.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha1
from typing import Final, Protocol

from kronos.server.routing import Reply, Request, error_page

MAX_FRAME: Final = 1 << 20
"""Payload that a client may send in one frame; browsers stay far below."""
SUBPROTOCOL: Final = "binary"

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
TOO_BIG: Final = 1009

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_CONTROL: Final = 125


class HandshakeRefused(Exception):
    """The request is no WebSocket handshake that this server can take up; `reply` says so to the client."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class ProtocolError(Exception):
    """The client broke the protocol; `code` is what the connection is closed with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def is_upgrade(request: Request) -> bool:
    """Whether the request asks for a WebSocket."""
    return "websocket" in _tokens(request.header("upgrade")) and "upgrade" in _tokens(
        request.header("connection")
    )


def accept(request: Request) -> bytes:
    """The reply that begins the WebSocket. Raises HandshakeRefused."""
    if request.method != b"GET" or not is_upgrade(request):
        raise HandshakeRefused(error_page(400, "a WebSocket handshake is expected here"))
    if request.header("sec-websocket-version") != "13":
        headers = (("Sec-WebSocket-Version", "13"),)
        raise HandshakeRefused(error_page(426, "WebSocket version 13 is spoken here", headers))
    key = request.headers.get(b"sec-websocket-key", b"").strip()
    try:
        if len(b64decode(key, validate=True)) != 16:
            raise ValueError("a key of a wrong size")
    except (binascii.Error, ValueError):
        raise HandshakeRefused(error_page(400, "a wrong Sec-WebSocket-Key")) from None
    # RFC 6455 prescribes SHA-1 here; it protects nothing.
    accepted = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accepted}",
    ]
    if SUBPROTOCOL in _tokens(request.header("sec-websocket-protocol")):
        lines.append(f"Sec-WebSocket-Protocol: {SUBPROTOCOL}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


@dataclass(slots=True)
class Frame:
    opcode: int
    payload: bytes
    final: bool = True


class FrameReader:
    """Cuts a client's bytes into frames, and checks what RFC 6455 demands of each."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()
        self._fragmented = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises ProtocolError."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        final, opcode = bool(buffer[0] & 0x80), buffer[0] & 0x0F
        length, start = buffer[1] & 0x7F, 2
        self._check(buffer[0] & 0x70, final, opcode, length, bool(buffer[1] & 0x80))
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if length > self._max_frame:
            raise ProtocolError(TOO_BIG, f"a frame of {length} bytes")
        end = start + 4 + length
        if len(buffer) < end:
            return None
        payload = mask(bytes(buffer[start + 4 : end]), bytes(buffer[start : start + 4]))
        del buffer[:end]
        if opcode < CLOSE:
            self._fragmented = not final
        return Frame(opcode, payload, final)

    def _check(self, reserved: int, final: bool, opcode: int, length: int, masked: bool) -> None:
        if reserved:
            raise ProtocolError(PROTOCOL_ERROR, "reserved bits are set")
        if not masked:
            raise ProtocolError(PROTOCOL_ERROR, "a frame that is not masked")
        if opcode in (CLOSE, PING, PONG):
            if not final or length > _MAX_CONTROL:
                raise ProtocolError(PROTOCOL_ERROR, "a control frame that is long or in parts")
        elif opcode not in (CONTINUATION, TEXT, BINARY):
            raise ProtocolError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != self._fragmented:
            raise ProtocolError(PROTOCOL_ERROR, "a fragment out of place")


def mask(payload: bytes, key: bytes) -> bytes:
    """The payload with the mask laid over it; doing it twice gives the payload back."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def frame_head(opcode: int, length: int) -> bytes:
    """The head of a frame from the server, whose frames are whole and not masked."""
    if length < 126:
        return bytes((0x80 | opcode, length))
    if length < 1 << 16:
        return bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big")


class Channel(Protocol):
    """Bytes in and out, as `kronos.server.streams.Duplex` has them."""

    async def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


class WebSocket:
    """A channel of bytes over the frames of another: pings are answered, and a close is answered and ends it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._frames = FrameReader()
        self._closed = False

    async def read(self) -> bytes:
        """Payload that has arrived; b"" once the client has closed, gone, or broken the protocol."""
        while not self._closed:
            data = await self._channel.read()
            if not data:
                self._closed = True
                break
            try:
                payload = self._take(self._frames.feed(data))
            except ProtocolError as error:
                self._send_close(error.code)
                break
            if payload:
                return payload
            await self._channel.drain()
        return b""

    def _take(self, frames: list[Frame]) -> bytes:
        payload = []
        for frame in frames:
            if frame.opcode == CLOSE:
                self._send_close(
                    int.from_bytes(frame.payload[:2], "big") if len(frame.payload) >= 2 else NORMAL
                )
                break
            if frame.opcode == PING:
                self._send(PONG, frame.payload)
            elif frame.opcode != PONG:
                payload.append(frame.payload)
        return b"".join(payload)

    def write(self, data: bytes) -> None:
        self._send(BINARY, data)

    def ping(self) -> None:
        """Say that this side lives, so that no proxy between takes a quiet console for a dead one."""
        self._send(PING, b"")

    async def drain(self) -> None:
        await self._channel.drain()

    def close(self) -> None:
        self._send_close(NORMAL)
        self._channel.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        if not self._closed:
            self._channel.write(frame_head(opcode, len(payload)) + payload)

    def _send_close(self, code: int) -> None:
        self._send(CLOSE, code.to_bytes(2, "big"))
        self._closed = True
