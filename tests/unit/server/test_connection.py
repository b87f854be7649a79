"""Bytes of a connection to requests and replies, without a socket: any bytes, in any pieces."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.server.connection import Connection
from kronos.server.limits import Gate, Limits
from kronos.server.reading import Shared
from kronos.server.routing import Doors, Page, Reply, Request

LIMITS = Limits(head=4096, headers=20, body=1000, pipelined=50)


class Transport:
    """What the loop's transport would be; it takes everything at once."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False
        self.aborted = False
        self.reading = True

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 80) if name in ("peername", "sockname") else None

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent += data

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Client:
    """A connection, what it answered, and the requests that reached a door."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.seen: list[Request] = []
        doors = Doors()
        doors.add("POST", "/echo", Page(self._echo))
        doors.add("GET", "/echo", Page(self._echo))
        # Nothing here waits, so that no loop is needed.
        self.shared = Shared(doors, limits, Gate(limits, lambda: False), None, 443, date=b"Date: now\r\n")  # type: ignore[arg-type]
        self.connection = Connection(self.shared, local=False)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    def _echo(self, request: Request) -> Reply:
        self.seen.append(request)
        return Reply(200, (request.body,))

    def send(self, *pieces: bytes) -> Client:
        for piece in pieces:
            if self.transport.closed and self.transport.aborted:
                break
            self.connection.data_received(piece)
        return self

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", self.transport.sent)]


def post(body: bytes, *headers: bytes, path: bytes = b"/echo") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    head = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks if each) + b"0\r\n\r\n"


REQUESTS = st.one_of(
    st.binary(max_size=40).map(post),
    st.binary(max_size=40).map(
        lambda body: post(body, b"Expect: 100-continue", b"Cookie: a=b", b"Cookie: c=d")
    ),
    st.lists(st.binary(max_size=40), max_size=4).map(lambda chunks: chunked(*chunks)),
    st.just(b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"),
    st.just(b"GET /missing HTTP/1.1\r\nHost: h\r\n\r\n"),
)


@given(st.lists(REQUESTS, max_size=5), st.lists(st.integers(1, 60), min_size=1))
def test_replies_are_the_same_however_the_requests_arrive(requests: list[bytes], steps: list[int]) -> None:
    wire = b"".join(requests)
    whole = Client().send(wire)
    pieces, at, turn = [], 0, 0
    while at < len(wire):
        step = steps[turn % len(steps)]
        pieces.append(wire[at : at + step])
        at, turn = at + step, turn + 1
    cut = Client().send(*pieces)
    assert len([status for status in whole.statuses if status != 100]) == len(requests)
    assert cut.transport.sent == whole.transport.sent
    assert [each.body for each in cut.seen] == [each.body for each in whole.seen]


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_random_bytes_never_raise(pieces: list[bytes]) -> None:
    assert 500 not in Client().send(*pieces).statuses  # what a defect of the reader would become


ODD = st.sampled_from(
    [b"GET ", b"POST ", b"/echo", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r\n\r\n", b"Host: h", b": ", b"\x00",
     b"Content-Length: 5", b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Connection: close", b"Upgrade: x",
     b"Connection: upgrade", b"Expect: 100-continue", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n", b"hello",
     b"CONNECT ", b"OPTIONS * HTTP/1.1", b"http://[::1", b"%zz?x=%", b"HEAD "]
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(ODD, max_size=30).map(b"".join), st.integers(1, 40))
def test_near_requests_never_raise(wire: bytes, step: int) -> None:
    assert 500 not in Client().send(*[wire[at : at + step] for at in range(0, len(wire), step)]).statuses


def test_pipelined_requests_are_answered_in_order() -> None:
    client = Client().send(post(b"first") + post(b"second") + post(b"third"))
    assert [each.body for each in client.seen] == [b"first", b"second", b"third"]
    sent = client.transport.sent
    assert sent.index(b"first") < sent.index(b"second") < sent.index(b"third")


def test_each_reply_is_one_write() -> None:
    client = Client()
    writes: list[bytes] = []
    client.transport.write = writes.append  # type: ignore[method-assign]
    client.send(post(b"a"))
    assert len(writes) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n Transfer-Encoding: chunked\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    ],
)
def test_a_body_of_two_readings_is_refused_and_what_follows_it_unread(head: bytes) -> None:
    client = Client().send(head + post(b"smuggled"))
    assert client.seen == []
    assert client.statuses in ([400], [501])
    assert client.transport.closed


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"FOO / HTTP/1.1\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\n\r\n", 505),
        (b"GET /echo?" + b"a=1&" * 300 + b" HTTP/1.1\r\n\r\n", 400),
        (
            b"GET /echo HTTP/1.1\r\n" + b"X: y\r\n" * 21 + b"\r\n",
            200,
        ),  # one header's lines are joined: 21 is too many
        (b"PUT /missing HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 404),
        (b"DELETE /echo HTTP/1.1\r\n\r\n", 405),
        (b"GET /missing HTTP/1.1\r\nHost: h\r\n\r\n", 301),
    ],
)
def test_what_is_wrong_with_a_request_has_its_status(wire: bytes, status: int) -> None:
    expected = 431 if b"X: y" in wire else status
    assert Client().send(wire).statuses == [expected]


@pytest.mark.parametrize("pieces", [1, 64, 4096])
def test_headers_beyond_the_limit_are_refused(pieces: int) -> None:
    wire = b"GET /echo HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n\r\n"
    client = Client().send(*[wire[at : at + pieces] for at in range(0, len(wire), pieces)])
    assert client.statuses == [431]
    assert client.seen == []


def test_endless_headers_are_refused_before_they_end() -> None:
    client = Client().send(b"GET /echo HTTP/1.1\r\n", *[b"X-%d: a\r\n" % i for i in range(1000)])
    assert client.statuses == [431]


def test_a_declared_length_beyond_the_limit_is_refused_before_the_body() -> None:
    client = Client().send(b"POST /echo HTTP/1.1\r\nContent-Length: 104857600\r\n\r\n")
    assert client.statuses == [413]
    assert client.transport.closed


def test_chunks_beyond_the_limit_are_refused() -> None:
    client = Client().send(chunked(b"x" * 600, b"x" * 600))
    assert client.statuses == [413]
    assert client.seen == []


def test_the_body_is_asked_for_once_it_is_known_to_fit() -> None:
    client = Client().send(b"POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert client.transport.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"ok")
    assert client.statuses == [100, 200]
    client = Client().send(b"POST /echo HTTP/1.1\r\nContent-Length: 20000\r\nExpect: 100-continue\r\n\r\n")
    assert client.statuses == [413]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /echo HTTP/1.0\r\n\r\n",
        b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n",
    ],
)
def test_the_connection_ends_when_the_client_cannot_or_will_not_keep_it(head: bytes) -> None:
    client = Client().send(head + b"GET /echo HTTP/1.1\r\n\r\n")
    assert client.statuses == [200]
    assert b"\r\nConnection: close\r\n" in client.transport.sent
    assert client.transport.closed


def test_the_connection_is_kept_otherwise() -> None:
    client = Client().send(b"GET /echo HTTP/1.1\r\n\r\n")
    assert b"Connection" not in client.transport.sent
    assert not client.transport.closed


def test_the_users_agent_follows_the_request() -> None:
    client = Client().send(post(b"", b"User-Agent: first"), post(b"", b"User-Agent: second"), post(b""))
    assert [each.origin.user_agent for each in client.seen] == ["first", "second", ""]
    assert client.seen[0].origin.address == "192.0.2.1"


def test_an_upgrade_that_no_door_wants_is_not_taken_up() -> None:
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    wire = post(b"first", *upgrade) + post(b"second")
    for step in (1, 50, 1000):
        client = Client().send(*[wire[at : at + step] for at in range(0, len(wire), step)])
        assert [each.body for each in client.seen] == [b"first", b"second"]
        assert client.statuses == [200, 200]


def test_a_door_that_fails_costs_its_client_a_500_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()

    def fail(request: Request) -> Reply:
        raise RuntimeError("a defect")

    client.shared.doors.add("GET", "/broken", Page(fail))
    client.send(b"GET /broken HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\n\r\n")
    assert client.statuses == [500, 200]
    assert "a defect" in caplog.text
    assert b"a defect" not in client.transport.sent


def wait(client: Client, seconds: float) -> None:
    client.shared.now += seconds
    client.transport.get_write_buffer_size = lambda: 0  # type: ignore[attr-defined]
    client.connection.check()


def test_a_client_that_says_nothing_is_closed() -> None:
    client = Client()
    wait(client, LIMITS.first_request - 1)
    assert not client.transport.aborted
    wait(client, 2)
    assert client.transport.aborted


def test_headers_that_trickle_in_are_not_waited_for() -> None:
    client = Client().send(b"GET /echo HTTP/1.1\r\n")
    for _ in range(int(LIMITS.head_time) + 1):
        wait(client, 1)
        if not client.transport.aborted:
            client.send(b"X: y\r\n"[:1])
    assert client.transport.aborted


def test_a_body_may_take_longer_the_more_of_it_has_come() -> None:
    client = Client(Limits(body_time=10, body_rate=100)).send(
        b"POST /echo HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"
    )
    client.send(b"x" * 500)
    wait(client, 14)
    assert not client.transport.aborted
    wait(client, 2)
    assert client.transport.aborted


def test_a_kept_connection_may_be_idle_for_long() -> None:
    client = Client().send(post(b"a"))
    wait(client, LIMITS.idle - 1)
    assert not client.transport.aborted
    assert client.connection.is_idle
    wait(client, 2)
    assert client.transport.aborted


def test_a_reply_that_is_not_read_ends_the_connection() -> None:
    client = Client().send(post(b"a"))
    client.transport.get_write_buffer_size = lambda: 7  # type: ignore[attr-defined]
    client.connection.check()
    for _ in range(int(LIMITS.stalled) + 1):
        client.shared.now += 1
        assert client.connection.check() == 7
    assert client.transport.aborted


def test_requests_behind_an_unread_reply_wait_for_it() -> None:
    client = Client()
    client.connection.pause_writing()
    client.send(post(b"a") + post(b"b") + post(b"c"))
    assert [each.body for each in client.seen] == [b"a"]
    client.connection.resume_writing()
    assert [each.body for each in client.seen] == [b"a", b"b", b"c"]


def test_reading_pauses_while_many_requests_wait() -> None:
    client = Client()
    client.connection.pause_writing()
    client.send(post(b"x") * 20)
    assert not client.transport.reading
    client.connection.resume_writing()
    assert client.transport.reading
    assert len(client.seen) == 20


def test_too_many_requests_ahead_of_their_replies_end_the_connection() -> None:
    client = Client()
    client.connection.pause_writing()
    client.send(post(b"") * (LIMITS.pipelined + 2))
    assert client.transport.aborted


def test_a_stopping_server_ends_the_connection_with_the_reply() -> None:
    client = Client()
    client.shared.stopping = True
    client.send(post(b"a"))
    assert client.statuses == [200]
    assert b"Connection: close" in client.transport.sent
    assert client.transport.closed
