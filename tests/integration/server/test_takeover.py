"""Doors that take the connection: to a thread with a blocking stream, and consoles on the loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.server import console
from kronos.server.console import Endpoint
from kronos.server.limits import Limits
from kronos.server.routing import BULK, Credentials, OnLoop, OnThread, Redirect, Request
from kronos.server.streams import BlockingStream, Duplex

pytestmark = pytest.mark.integration

SECURE = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


def read_until_closed(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def read_exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = connection.recv(size - len(found))
        assert data, f"ended after {found!r}"
        found += data
    return found


def read_head(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        found += read_exactly(connection, 1)
    return found


def echo(request: Request, stream: BlockingStream) -> None:
    stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while data := stream.recv(65536):
        stream.sendall(data)


@SECURE
def test_a_thread_gets_the_connection_with_what_came_behind_the_headers(server: Any, secure: bool) -> None:
    server.doors.add("CONNECT", "/echo", OnThread(echo))
    with server.socket(secure) as raw:
        raw.sendall(b"CONNECT /echo?x=1 HTTP/1.0\r\n\r\nearly ")
        assert read_exactly(raw, 25).endswith(b"early ")
        for number in range(5):
            raw.sendall(b"late%d" % number)
            assert read_exactly(raw, 5) == b"late%d" % number


@SECURE
@pytest.mark.parametrize("step", [1, 7, 30])
def test_headers_in_pieces_lose_nothing(server: Any, secure: bool, step: int) -> None:
    server.doors.add("PUT", "/echo", OnThread(echo))
    wire = b"PUT /echo HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\nbody of no known length"
    with server.socket(secure) as raw:
        for at in range(0, len(wire), step):
            raw.sendall(wire[at : at + step])
            time.sleep(0.001)
        head = read_head(raw)
        assert read_exactly(raw, 23) == b"body of no known length"
        assert head.startswith(b"HTTP/1.1 200")


def test_a_door_on_the_unix_socket(server: Any) -> None:
    server.doors.add("POST", "/cli", OnThread(echo))
    with server.local() as raw:
        raw.sendall(b"POST /cli HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
        raw.shutdown(socket.SHUT_WR)
        assert read_until_closed(raw).endswith(b"hello")


@SECURE
def test_a_door_waits_for_the_replies_before_it(server: Any, secure: bool) -> None:
    server.doors.add("PUT", "/echo", OnThread(echo))
    body = b"<methodCall><methodName>wait</methodName><params><param><value>0.3</value></param></params></methodCall>"
    with server.socket(secure) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.1)
        raw.sendall(b"PUT /echo HTTP/1.1\r\n\r\nabc")
        assert b"Content-Type: text/xml" in read_head(raw)
        found = b""
        while not found.endswith(b"abc"):
            found += read_exactly(raw, 1)
    assert found.index(b"waited") < found.index(b"HTTP/1.1 200 OK")


@SECURE
def test_a_door_waits_until_a_slow_client_has_read_the_reply_before_it(server: Any, secure: bool) -> None:
    server.doors.add("PUT", "/echo", OnThread(echo))
    size = 3_000_000
    call = b"<methodCall><methodName>large</methodName><params><param><value>%d</value></param></params></methodCall>"
    body = call % size
    with server.socket(secure) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.2)
        raw.sendall(b"PUT /echo HTTP/1.1\r\n\r\nabc")
        time.sleep(0.2)
        found = b""
        while not found.endswith(b"abc"):
            found += raw.recv(1 << 16)
            time.sleep(0.0005)
    assert found.count(b"x") >= size
    assert found.endswith(b"</methodResponse>HTTP/1.1 200 OK\r\n\r\nabc")


@SECURE
def test_bulk_data_moves_both_ways_at_once(server: Any, secure: bool) -> None:
    """One thread reads while another writes, each more than any buffer between holds."""
    size = 24 << 20
    block = os.urandom(1 << 20)
    sums: list[str] = []

    def swap(request: Request, stream: BlockingStream) -> None:
        def send() -> None:
            for _ in range(size // len(block)):
                stream.sendall(block)

        sender = threading.Thread(target=send)
        sender.start()
        buffer, digest, left = memoryview(bytearray(1 << 20)), hashlib.sha1(), size
        while left:
            count = stream.recv_into(buffer[: min(left, len(buffer))])
            assert count
            digest.update(buffer[:count])
            left -= count
        sender.join()
        sums.append(digest.hexdigest())

    server.doors.add("PUT", "/swap", OnThread(swap))
    with server.socket() as raw:
        if (
            secure
        ):  # the client's own TLS object must not be shared by threads either: one direction after the other
            raw.close()
            raw = server.socket(True)
        raw.settimeout(60)
        raw.sendall(b"PUT /swap HTTP/1.1\r\n\r\n")
        received = hashlib.sha1()

        def receive() -> None:
            left = size
            while left:
                data = raw.recv(min(left, 1 << 20))
                assert data
                received.update(data)
                left -= len(data)

        reader = threading.Thread(target=receive)
        reader.start()
        for _ in range(size // len(block)):
            raw.sendall(block)
        reader.join(60)
        while not sums:
            time.sleep(0.01)
        raw.close()
    expected = hashlib.sha1(block * (size // len(block))).hexdigest()
    assert sums == [expected]
    assert received.hexdigest() == expected


@SECURE
def test_waiting_for_input_knows_what_is_buffered(server: Any, secure: bool) -> None:
    found: list[Any] = []
    done = threading.Event()

    def look(request: Request, stream: BlockingStream) -> None:
        found.append(stream.readable(0))
        found.append(stream.recv(5))
        found.append(stream.readable(0.05))
        stream.sendall(b"go")
        found.append(stream.readable(5))
        found.append(stream.recv(2))
        found.append(stream.readable(0))
        found.append(stream.recv(100))
        found.append(stream.readable(5))  # the end is something that can be read
        found.append(stream.recv(1))
        done.set()

    server.doors.add("PUT", "/look", OnThread(look))
    with server.socket(secure) as raw:
        raw.sendall(b"PUT /look HTTP/1.1\r\n\r\nearly")
        assert read_exactly(raw, 2) == b"go"
        raw.sendall(b"later")
        if secure:
            raw.unwrap()
        else:
            raw.shutdown(socket.SHUT_WR)
        assert done.wait(30)
    assert found == [True, b"early", False, True, b"la", True, b"ter", True, b""]


def test_only_a_stream_without_tls_shows_its_socket(server: Any) -> None:
    seen: list[bool] = []
    server.doors.add("PUT", "/s", OnThread(lambda _request, stream: seen.append(stream.socket is not None)))
    for secure in (False, True):
        with server.socket(secure) as raw:
            raw.sendall(b"PUT /s HTTP/1.1\r\n\r\n")
            assert read_until_closed(raw) == b""
    assert seen == [True, False]


def test_the_thread_of_a_door_of_bulk_alone_gives_way(server: Any) -> None:
    nice: dict[str, int] = {}

    def tell(request: Request, _stream: BlockingStream) -> None:
        nice[request.path] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    server.doors.add("PUT", "/bulk", OnThread(tell, BULK))
    server.doors.add("PUT", "/call", OnThread(tell))
    before = os.getpriority(os.PRIO_PROCESS, 0)
    for path in ("bulk", "call"):
        with server.socket(False) as raw:
            raw.sendall(b"PUT /%s HTTP/1.1\r\n\r\n" % path.encode())
            assert read_until_closed(raw) == b""
    assert nice == {"/bulk": min(before + BULK, 19), "/call": before}


@SECURE
def test_a_waiting_stream_can_be_bounded_and_told_to_end(server: Any, secure: bool) -> None:
    outcome: list[str] = []
    bounded, ended = threading.Event(), threading.Event()

    def wait(request: Request, stream: BlockingStream) -> None:
        stream.settimeout(0.1)
        try:
            stream.recv(1)
        except TimeoutError:
            outcome.append("timeout")
        stream.settimeout(None)
        bounded.set()
        try:
            outcome.append(f"read {stream.recv(1)!r}")
        except OSError:
            outcome.append("error")
        ended.set()

    server.doors.add("PUT", "/wait", OnThread(wait))
    with server.socket(secure) as raw:
        raw.sendall(b"PUT /wait HTTP/1.1\r\n\r\n")
        assert bounded.wait(30)
        server.stop(0.1)
        assert ended.wait(30)
    assert outcome[0] == "timeout"
    assert outcome[1] in ("read b''", "error")


def test_a_failing_door_ends_its_connection_alone(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request, stream: BlockingStream) -> None:
        raise RuntimeError("a defect")

    async def fail_on_loop(request: Request, duplex: Duplex) -> None:
        raise RuntimeError("another defect")

    server.doors.add("PUT", "/fail", OnThread(fail))
    server.doors.add("GET", "/fail", OnLoop(fail_on_loop))
    for method in (b"PUT", b"GET"):
        with server.socket() as raw:
            raw.sendall(method + b" /fail HTTP/1.1\r\n\r\n")
            assert read_until_closed(raw) == b""
    # What ends the connection and what tells of it are two.
    _wait_until(lambda: "a defect" in caplog.text and "another defect" in caplog.text)
    _wait_until(lambda: server.server.connections == 0)


def test_threads_are_bounded(start: Any) -> None:
    server = start(Limits(threads=1))
    server.doors.add("PUT", "/echo", OnThread(echo))
    with server.socket() as first, server.socket() as second:
        first.sendall(b"PUT /echo HTTP/1.1\r\n\r\na")
        read_exactly(first, 20)
        second.sendall(b"PUT /echo HTTP/1.1\r\n\r\n")
        assert second.recv(100).startswith(b"HTTP/1.1 503 ")
    _wait_until(lambda: server.server.connections == 0)
    with server.socket() as third:
        third.sendall(b"PUT /echo HTTP/1.1\r\n\r\na")
        assert read_exactly(third, 20).endswith(b"a")


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- consoles ---------------------------------------------------------------------------------------------------


class Guest:
    """A console's Unix socket that answers in capitals; "bye" ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data.upper())
                if data.endswith(b"bye"):
                    return
        self.ended.set()


class Consoles:
    """What the daemon does: finds the console and says who may see it."""

    def __init__(self, guest: Path) -> None:
        self.guest = guest
        self.asked: list[tuple[Mapping[str, str], Credentials]] = []

    async def resolve(self, query: Mapping[str, str], given: Credentials) -> Endpoint:
        self.asked.append((query, given))
        await asyncio.sleep(0)
        if given.session == "OpaqueRef:stale":
            raise Failure("SESSION_INVALID", given.session)
        if given.session == "OpaqueRef:reader":
            raise Failure("RBAC_PERMISSION_DENIED", "http/connect_console", "")
        if query.get("ref") == "OpaqueRef:serial":
            return Endpoint(self.guest, b"booted\r\n")
        if query.get("ref") == "OpaqueRef:off":
            return Endpoint(self.guest.with_name("nobody"))
        if query.get("ref") == "OpaqueRef:elsewhere":
            raise Redirect("https://192.0.2.1/console?ref=OpaqueRef:elsewhere")
        if query.get("ref") != "OpaqueRef:screen":
            raise Failure("HANDLE_INVALID", "console", query.get("ref", ""))
        return Endpoint(self.guest)


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path / "vnc")


@pytest.fixture
def consoles(server: Any, guest: Guest) -> Consoles:
    consoles = Consoles(guest.path)
    console.add_doors(server.doors, consoles.resolve)
    return consoles


def connect(raw: socket.socket, ref: str, session: str = "OpaqueRef:me", tail: bytes = b"") -> bytes:
    raw.sendall(f"CONNECT /console?ref={ref}&session_id={session} HTTP/1.0\r\n\r\n".encode() + tail)
    return read_head(raw)


@SECURE
def test_connect_gives_the_raw_console(server: Any, consoles: Consoles, guest: Guest, secure: bool) -> None:
    with server.socket(secure) as raw:
        assert connect(raw, "OpaqueRef:screen", tail=b"early").startswith(b"HTTP/1.0 200 ")
        assert read_exactly(raw, 5) == b"EARLY"
        raw.sendall(b"rfb")
        assert read_exactly(raw, 3) == b"RFB"
    assert guest.ended.wait(30)
    query, given = consoles.asked[0]
    assert query["ref"] == "OpaqueRef:screen"
    assert given.session == "OpaqueRef:me"


def test_what_was_on_a_serial_line_comes_first(server: Any, consoles: Consoles) -> None:
    with server.socket() as raw:
        connect(raw, "OpaqueRef:serial")
        assert read_exactly(raw, 8) == b"booted\r\n"


def test_the_connection_ends_with_the_console(server: Any, consoles: Consoles) -> None:
    with server.socket() as raw:
        connect(raw, "OpaqueRef:screen", tail=b"bye")
        assert read_until_closed(raw) == b"BYE"


def test_a_console_does_not_hold_up_a_server_that_stops(server: Any, consoles: Consoles) -> None:
    with server.socket() as raw:
        connect(raw, "OpaqueRef:screen")
        began = time.monotonic()
        server.stop(25)
        assert time.monotonic() - began < 20
        assert read_until_closed(raw) == b""


@SECURE
def test_much_output_reaches_a_slow_client_whole(server: Any, consoles: Consoles, secure: bool) -> None:
    size = 6_000_000
    with server.socket(secure) as raw:
        connect(raw, "OpaqueRef:screen")
        sender = threading.Thread(target=raw.sendall, args=(b"a" * size,))
        sender.start()
        found = 0
        while found < size:
            data = raw.recv(1 << 18)
            assert data.strip(b"A") == b""
            found += len(data)
            time.sleep(0.001)
        sender.join()


@pytest.mark.parametrize(
    ("ref", "session", "status"),
    [
        ("OpaqueRef:screen", "", 401),
        ("OpaqueRef:screen", "OpaqueRef:stale", 401),
        ("OpaqueRef:screen", "OpaqueRef:reader", 403),
        ("OpaqueRef:gone", "OpaqueRef:me", 404),
        ("OpaqueRef:off", "OpaqueRef:me", 503),
        ("OpaqueRef:elsewhere", "OpaqueRef:me", 302),
    ],
)
def test_a_console_that_may_not_be_seen_has_a_status(
    server: Any, consoles: Consoles, ref: str, session: str, status: int
) -> None:
    with server.socket() as raw:
        head = connect(raw, ref, session)
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert (b"Location: https://192.0.2.1/console" in head) == (status == 302)
        read_until_closed(raw)


UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary\r\n"
)


def masked(opcode: int, payload: bytes) -> bytes:
    key = b"abcd"
    return (
        bytes([0x80 | opcode, 0x80 | len(payload)])
        + key
        + bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    )


@SECURE
def test_a_websocket_carries_the_console(server: Any, consoles: Consoles, guest: Guest, secure: bool) -> None:
    with server.socket(secure) as raw:
        target = b"/console?ref=OpaqueRef:screen&session_id=OpaqueRef:me"
        raw.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + UPGRADE + b"\r\n" + masked(2, b"early"))
        head = read_head(raw)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Protocol: binary" in head
        assert read_exactly(raw, 7) == b"\x82\x05EARLY"
        raw.sendall(masked(9, b"?"))
        assert read_exactly(raw, 3) == b"\x8a\x01?"
        raw.sendall(masked(8, b"\x03\xe8"))
        assert read_until_closed(raw) == b"\x88\x02\x03\xe8"
    assert guest.ended.wait(30)


def test_a_get_without_an_upgrade_is_told_so(server: Any, consoles: Consoles) -> None:
    with server.socket() as raw:
        raw.sendall(b"GET /console?ref=OpaqueRef:screen HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_until_closed(raw).startswith(b"HTTP/1.1 400 ")


def test_another_sites_page_does_not_get_a_console_by_the_users_cookie(
    server: Any, consoles: Consoles
) -> None:
    cookie = b"Cookie: session_id=OpaqueRef:me\r\n"
    target = b"GET /console?ref=OpaqueRef:screen HTTP/1.1\r\nHost: h\r\n" + UPGRADE + cookie
    with server.socket() as raw:
        raw.sendall(target + b"Origin: https://evil.example\r\n\r\n")
        assert read_until_closed(raw).startswith(b"HTTP/1.1 401 ")
    with server.socket() as raw:
        raw.sendall(target + b"Origin: http://h\r\n\r\n")
        assert read_head(raw).startswith(b"HTTP/1.1 101 ")


def test_many_consoles_take_no_thread(server: Any, consoles: Consoles) -> None:
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(consoles.guest.with_name("silent")))
    silent.listen(200)
    consoles.guest = consoles.guest.with_name("silent")
    before = threading.active_count()
    clients = [server.socket() for _ in range(100)]
    for raw in clients:
        connect(raw, "OpaqueRef:screen")
    assert threading.active_count() <= before  # threads of another test may go meanwhile
    for raw in clients:
        raw.close()
    _wait_until(lambda: server.server.connections == 0)


def test_a_transfer_under_tls_is_not_slower_than_a_bare_tls_loop_by_much(server: Any) -> None:
    """Moving the session to the thread must be worth it: well above half of a plain SSLSocket on a thread."""
    size, block = 96 << 20, bytes(1 << 20)

    def send(request: Request, stream: BlockingStream) -> None:
        for _ in range(size // len(block)):
            stream.sendall(block)

    server.doors.add("GET", "/bulk", OnThread(send))

    def bare() -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.pem)
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listener, context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                connection.recv(1000)
                for _ in range(size // len(block)):
                    connection.sendall(block)

        threading.Thread(target=serve, daemon=True).start()
        raw = socket.create_connection(listener.getsockname(), timeout=30)
        return server.client_context().wrap_socket(raw, server_hostname="127.0.0.1")  # type: ignore[no-any-return]

    def seconds(raw: socket.socket) -> float:
        with raw:
            raw.sendall(b"GET /bulk HTTP/1.1\r\n\r\n")
            buffer, left = memoryview(bytearray(1 << 20)), size
            began = time.monotonic()
            while left:
                count = raw.recv_into(buffer)
                assert count
                left -= count
            return time.monotonic() - began

    # One after the other, until both had as much of the machine: a door that is slow is so each time.
    for _ in range(10):
        floor, ours = seconds(bare()), seconds(server.socket(True))
        print(f"bare {size / floor / 2**20:.0f} MiB/s, through the door {size / ours / 2**20:.0f} MiB/s")
        if ours < 2.5 * floor:
            return
    raise AssertionError("it is slow")
