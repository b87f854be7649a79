"""WebSocket: the handshake, the frames, and the stream over them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.dispatch.call import Origin
from kronos.server import websocket
from kronos.server.routing import Request
from kronos.server.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, FrameReader, ProtocolError

KEY = b"\x01\x02\x03\x04"


def client_frame(
    opcode: int, payload: bytes = b"", final: bool = True, key: bytes = KEY, head: int = 0
) -> bytes:
    first = bytes([(0x80 if final else 0) | opcode | head])
    if len(payload) < 126:
        size = bytes([0x80 | len(payload)])
    elif len(payload) < 1 << 16:
        size = bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
    else:
        size = bytes([0x80 | 127]) + len(payload).to_bytes(8, "big")
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return first + size + key + masked


def upgrade(**changes: str | None) -> Request:
    headers = {
        "upgrade": "websocket",
        "connection": "keep-alive, Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for name, value in changes.items():
        headers[name.replace("_", "-")] = value or ""
    encoded = {name.encode(): value.encode() for name, value in headers.items() if value}
    return Request(b"GET", b"/console", encoded, Origin(), True)


def test_the_handshake_of_the_rfcs_own_example() -> None:
    reply = websocket.accept(upgrade()).decode()
    assert reply.startswith("HTTP/1.1 101 ")
    assert "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in reply
    assert "Protocol" not in reply.split("\r\n", 1)[1]
    assert reply.endswith("\r\n\r\n")


def test_the_binary_subprotocol_is_taken_up_when_offered() -> None:
    reply = websocket.accept(upgrade(sec_websocket_protocol="base64, binary")).decode()
    assert "\r\nSec-WebSocket-Protocol: binary\r\n" in reply


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"upgrade": None}, 400),
        ({"connection": "keep-alive"}, 400),
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": "c2hvcnQ="}, 400),
        ({"sec_websocket_key": "***"}, 400),
        ({"sec_websocket_version": "8"}, 426),
    ],
)
def test_a_wrong_handshake_is_refused(changes: dict[str, str | None], status: int) -> None:
    with pytest.raises(websocket.HandshakeRefused) as raised:
        websocket.accept(upgrade(**changes))
    assert raised.value.reply.status == status


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
def test_masking_twice_gives_the_payload_back(payload: bytes, key: bytes) -> None:
    masked = websocket.mask(payload, key)
    assert masked[:8] == bytes(byte ^ key[i % 4] for i, byte in enumerate(payload[:8]))
    assert websocket.mask(masked, key) == payload


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=120)), max_size=6),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_are_the_same_however_they_arrive(frames: list[tuple[int, bytes]], steps: list[int]) -> None:
    wire = b"".join(client_frame(opcode, payload) for opcode, payload in frames)
    reader, found, at, turn = FrameReader(), [], 0, 0
    while at < len(wire):
        step = steps[turn % len(steps)]
        found += reader.feed(wire[at : at + step])
        at, turn = at + step, turn + 1
    assert [(frame.opcode, frame.payload) for frame in found] == frames


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 1 << 20])
def test_every_form_of_a_length(size: int) -> None:
    (frame,) = FrameReader().feed(client_frame(BINARY, b"x" * size))
    assert len(frame.payload) == size
    head = websocket.frame_head(BINARY, size)
    unmasked = client_frame(BINARY, b"x" * size)
    assert head == bytes([unmasked[0], unmasked[1] & 0x7F]) + unmasked[2 : len(head)]


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_a_protocol_error(data: bytes) -> None:
    try:
        FrameReader().feed(data)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (client_frame(BINARY, head=0x40), 1002),
        (client_frame(0x3), 1002),
        (client_frame(0xB), 1002),
        (client_frame(PING, final=False), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(CONTINUATION), 1002),
        (client_frame(BINARY, final=False) + client_frame(BINARY), 1002),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009),
    ],
)
def test_what_the_rfc_forbids_is_refused(wire: bytes, code: int) -> None:
    with pytest.raises(ProtocolError) as raised:
        FrameReader().feed(wire)
    assert raised.value.code == code


class Channel:
    """What a client sent, piece by piece, and what it was sent."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.closed = False

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None: ...

    def close(self) -> None:
        self.closed = True


async def read_all(socket: websocket.WebSocket) -> bytes:
    found = b""
    while data := await socket.read():
        found += data
    return found


def test_fragments_and_messages_become_one_stream() -> None:
    wire = (
        client_frame(BINARY, b"ab", final=False)
        + client_frame(PING, b"?")
        + client_frame(CONTINUATION, b"cd")
        + client_frame(TEXT, b"ef")
    )
    channel = Channel(wire[:9], wire[9:])
    assert asyncio.run(read_all(websocket.WebSocket(channel))) == b"abcdef"
    assert channel.sent == b"\x8a\x01?"


def test_a_close_is_answered_with_its_code_and_ends_the_stream() -> None:
    channel = Channel(
        client_frame(BINARY, b"a") + client_frame(CLOSE, b"\x03\xe8bye") + client_frame(BINARY, b"b")
    )
    assert asyncio.run(read_all(websocket.WebSocket(channel))) == b"a"
    assert channel.sent == b"\x88\x02\x03\xe8"


def test_a_broken_frame_closes_with_a_protocol_error() -> None:
    channel = Channel(b"\x82\x01x")
    socket = websocket.WebSocket(channel)
    assert asyncio.run(read_all(socket)) == b""
    assert channel.sent == b"\x88\x02\x03\xea"
    socket.write(b"late")
    assert channel.sent == b"\x88\x02\x03\xea"


def test_data_goes_out_in_binary_frames_and_closing_says_so() -> None:
    channel = Channel()
    socket = websocket.WebSocket(channel)
    socket.write(b"abc")
    socket.close()
    assert channel.sent == b"\x82\x03abc" + b"\x88\x02\x03\xe8"
    assert channel.closed
