"""The HTTP server over loopback, as clients use and misuse it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import stat
import threading
import time
import xmlrpc.client
from typing import Any

import pytest
import XenAPI

from harness.daemon import wait_until
from kronos.server.http import Server, TcpListener
from kronos.server.limits import Limits
from kronos.server.routing import Doors

pytestmark = pytest.mark.integration


def xml(name: str, *args: object) -> bytes:
    return xmlrpc.client.dumps(args, name).encode()


def post(body: bytes, path: str = "/", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def call(connection: http.client.HTTPConnection, name: str, *args: object, path: str = "/") -> Any:
    connection.request("POST", path, xml(name, *args))
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/xml"
    return xmlrpc.client.loads(response.read())[0][0]


def read_until_closed(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


@pytest.mark.parametrize("path", ["/", "/RPC2", "/xmlrpc"])
def test_xml_rpc_is_served_on_its_paths(server: Any, path: str) -> None:
    assert call(server.http(), "echo", "é<", path=path) == {"Status": "Success", "Value": "é<"}


@pytest.mark.parametrize("path", ["/jsonrpc", "/json"])
def test_json_rpc_is_served_on_its_paths_with_a_bare_content_type(server: Any, path: str) -> None:
    connection = server.http()
    body = json.dumps({"jsonrpc": "2.0", "method": "echo", "params": ["é"], "id": 0})
    connection.request("POST", path, body.encode(), {"Content-Type": "application/json; charset=utf-8"})
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.read()) == {"jsonrpc": "2.0", "result": "é", "id": 0}


def test_errors_of_the_api_are_replies_of_status_200(server: Any) -> None:
    connection = server.http()
    assert call(connection, "failure")["ErrorDescription"] == ["HANDLE_INVALID", "VM", "OpaqueRef:1"]
    assert call(connection, "later-failure")["ErrorDescription"][0] == "VM_BAD_POWER_STATE"
    assert call(connection, "unknown")["ErrorDescription"] == [
        "INTERNAL_ERROR",
        "ZeroDivisionError: a defect",
    ]
    with pytest.raises(xmlrpc.client.Fault, match="No async mode"):
        call(connection, "fault")


def test_a_body_that_is_no_call_gets_a_500_page(server: Any) -> None:
    connection = server.http()
    connection.request("POST", "/", b"<nonsense/>")
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Type"]) == (500, "text/html")
    response.read()
    assert call(connection, "echo", "still here")["Value"] == "still here"


def test_a_batch_is_answered_in_order(server: Any) -> None:
    connection = server.http()
    calls = [
        {"jsonrpc": "2.0", "method": "wait", "params": [0.05], "id": 1},
        {"jsonrpc": "2.0", "method": "echo", "params": ["b"], "id": 2},
        {"jsonrpc": "2.0", "method": "failure", "params": [], "id": 3},
        {"jsonrpc": "2.0", "method": "echo", "params": [], "id": None},
    ]
    connection.request("POST", "/jsonrpc", json.dumps(calls))
    replies = json.loads(connection.getresponse().read())
    assert [reply["id"] for reply in replies] == [1, 2, 3, None]
    assert [reply.get("result") for reply in replies] == ["waited", "b", None, None]
    assert replies[2]["error"] == {"code": 1, "message": "HANDLE_INVALID", "data": ["VM", "OpaqueRef:1"]}


def test_a_connection_is_kept_for_many_calls(server: Any) -> None:
    connection = server.http()
    connection.connect()
    port = connection.sock.getsockname()[1]
    for number in range(50):
        assert call(connection, "echo", str(number))["Value"] == str(number)
        assert connection.sock.getsockname()[1] == port


def test_pipelined_calls_are_answered_in_order_also_behind_a_slow_one(server: Any) -> None:
    with server.socket() as raw:
        raw.sendall(
            post(xml("wait", 0.1)) + post(xml("echo", "b")) + post(xml("echo", "c"), "/", "Connection: close")
        )
        replies = read_until_closed(raw)
    assert replies.index(b"waited") < replies.index(b"<value>b</value>") < replies.index(b"<value>c</value>")
    assert replies.count(b"HTTP/1.1 200 OK") == 3


def test_one_waiting_client_does_not_hold_up_others(server: Any) -> None:
    waiting = [server.socket() for _ in range(50)]
    for raw in waiting:
        raw.sendall(post(xml("wait", 60)))
    before = threading.active_count()
    began = time.monotonic()
    assert call(server.http(), "echo", "a")["Value"] == "a"
    assert time.monotonic() - began < 20, "it waited for them"
    assert threading.active_count() <= before  # threads of another test may go meanwhile
    for raw in waiting:
        raw.close()


def test_a_call_whose_client_goes_is_given_up(server: Any) -> None:
    with server.socket() as raw:
        raw.sendall(post(xml("wait", 60)))
        assert server.road.waiting.wait(30)
    assert server.road.cancelled.wait(30)


def test_chunked_bodies_are_read(server: Any) -> None:
    connection = server.http()
    body = xml("echo", "chunked")
    connection.request("POST", "/", iter([body[:10], body[10:]]), encode_chunked=True)
    assert b"chunked" in connection.getresponse().read()


def test_a_large_call_is_read_off_the_loop(server: Any) -> None:
    text = "x" * (server.server.limits.inline_body + 1)
    assert call(server.http(), "echo", text)["Value"] == text
    connection = server.http()
    connection.request("POST", "/jsonrpc", json.dumps({"method": "echo", "params": [text], "id": 1}))
    assert json.loads(connection.getresponse().read())["result"] == text
    connection.request("POST", "/", b"<a>" * server.server.limits.inline_body)
    assert connection.getresponse().status == 500


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Any) -> None:
    with server.socket() as raw:
        began = time.monotonic()
        raw.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 104857600\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - began < 10, "it waited for the body"


def test_a_client_that_sends_a_refused_body_anyhow_sees_the_refusal(server: Any) -> None:
    connection = server.http()
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(20 << 20))
    connection.endheaders()
    try:
        for _ in range(20):
            connection.send(b"x" * (1 << 20))
    except OSError:
        pass
    assert connection.getresponse().status == 413


def test_a_refused_client_that_stays_is_closed(start: Any) -> None:
    server = start(Limits(linger=1.0))
    with server.socket() as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
        deadline = time.monotonic() + 30
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                raw.sendall(b"more")
                time.sleep(0.1)


def test_slow_headers_end_the_connection(start: Any) -> None:
    server = start(Limits(head_time=1.0))
    with server.socket() as raw:
        raw.sendall(b"POST / HTTP/1.1\r\n")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 25:
                time.sleep(0.2)
                raw.sendall(b"X: y\r\n")
        assert time.monotonic() - began < 20


def test_a_client_that_reads_nothing_is_closed_and_its_memory_is_bounded(start: Any) -> None:
    server = start(Limits(stalled=1.0))
    with server.socket() as raw:
        raw.sendall(post(xml("large", 8_000_000)) * 20)
        wait_until(lambda: server.server.connections == 0, 30, "it is not closed")
    assert len(server.road.calls) < 3  # the others waited for the first reply to be taken


@pytest.mark.parametrize("secure", [False, True])
def test_a_slow_reader_gets_all_of_a_large_reply(server: Any, secure: bool) -> None:
    size = 5_000_000
    with server.socket(secure) as raw:
        raw.sendall(post(xml("large", size), "/", "Connection: close"))
        found = 0
        while data := raw.recv(1 << 20):
            found += data.count(b"x")
            time.sleep(0.001)
    assert found >= size


def test_the_slowest_readers_go_when_unread_replies_fill_the_memory(start: Any) -> None:
    server = start(Limits(unsent=4_000_000))
    with server.socket() as greedy, server.socket() as modest:
        greedy.sendall(post(xml("large", 20_000_000)))
        time.sleep(0.2)
        modest.sendall(post(xml("echo", "a")))
        assert b"<value>a</value>" in modest.recv(1000)
        wait_until(lambda: server.server.connections <= 1, 30, "neither is closed")
        modest.sendall(post(xml("echo", "b")))
        assert b"<value>b</value>" in modest.recv(1000)
        assert server.server.connections == 1


def test_large_replies_are_compressed_when_asked(server: Any) -> None:
    proxy = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.port}")
    assert proxy.large("200000")["Value"] == "x" * 200_000  # type: ignore[index,call-overload]
    connection = server.http()
    connection.request("POST", "/", xml("large", 200_000), {"Accept-Encoding": "gzip"})
    response = connection.getresponse()
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(response.read()) < 10_000
    connection.request("POST", "/", xml("large", 200_000))
    assert connection.getresponse().headers["Content-Encoding"] is None


def test_one_address_gets_no_more_connections_than_its_share(start: Any) -> None:
    server = start(Limits(per_address=3))
    kept = [server.http() for _ in range(3)]
    for connection in kept:
        call(connection, "echo", "a")
    with pytest.raises(OSError):
        call(server.http(), "echo", "a")
    with server.local() as raw:
        raw.sendall(post(xml("echo", "local")))
        assert b"local" in raw.recv(1000)
    kept[0].close()
    wait_until(lambda: server.server.connections == 2, 30, "its end is not noticed")
    call(server.http(), "echo", "a")


def test_a_full_server_closes_the_longest_idle_connection_for_a_new_one(start: Any) -> None:
    server = start(Limits(connections=2))
    first, second = server.http(), server.http()
    call(first, "echo", "a")
    time.sleep(1.2)
    call(second, "echo", "a")
    call(server.http(), "echo", "a")
    assert first.sock.recv(1) == b""
    call(second, "echo", "a")


def test_the_unix_socket_is_of_its_owner_alone_and_its_clients_are_local(server: Any) -> None:
    assert stat.S_IMODE(server.unix.stat().st_mode) == 0o600
    with server.local() as raw:
        raw.sendall(post(xml("echo", "a"), "/", "User-Agent: test"))
        raw.recv(1000)
    origin = server.road.calls[-1][0]
    assert (origin.local, origin.address, origin.tls, origin.user_agent) == (True, "", False, "test")


def test_remote_clients_have_an_address(server: Any) -> None:
    call(server.http(), "echo", "a")
    call(server.https(), "echo", "a")
    plain, secure = (each[0] for each in server.road.calls)
    assert (plain.local, plain.address, plain.tls) == (False, "127.0.0.1", False)
    assert (secure.local, secure.address, secure.tls) == (False, "127.0.0.1", True)


def test_the_python_sdk_is_served_over_both_transports(server: Any) -> None:
    for url in (f"http://127.0.0.1:{server.port}", f"https://127.0.0.1:{server.tls_port}"):
        session = XenAPI.Session(url, ignore_ssl=True)
        with pytest.raises(XenAPI.Failure) as raised:
            session.xenapi_request("failure", ())
        assert raised.value.details == ["HANDLE_INVALID", "VM", "OpaqueRef:1"]
        session._session = "OpaqueRef:2"
        assert session.xenapi_request("echo", ()) == "OpaqueRef:2"


def test_plain_get_is_sent_to_https_and_post_never_is(server: Any) -> None:
    connection = server.http()
    connection.request("GET", "/x?y=1", headers={"Host": "localhost:80"})
    response = connection.getresponse()
    assert response.status == 301
    assert response.headers["Location"] == f"https://localhost:{server.tls_port}/x?y=1"
    response.read()
    connection.request("POST", "/x", b"")
    assert connection.getresponse().status == 404


def test_there_is_a_page_for_people(server: Any) -> None:
    connection = server.https()
    connection.request("GET", "/")
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
    size = len(response.read())
    connection.request("HEAD", "/")
    response = connection.getresponse()
    assert (int(response.headers["Content-Length"]), response.read()) == (size, b"")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(server: Any, version: ssl.TLSVersion) -> None:
    context = server.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", server.tls_port), timeout=10) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_tls_serves_calls(server: Any, version: ssl.TLSVersion) -> None:
    context = server.client_context()
    context.minimum_version = context.maximum_version = version
    connection = http.client.HTTPSConnection("127.0.0.1", server.tls_port, timeout=10, context=context)
    for _ in range(3):
        assert call(connection, "echo", "a")["Value"] == "a"
    assert len(call(connection, "large", 3_000_000)["Value"]) == 3_000_000


def test_plain_http_on_the_tls_port_ends_the_connection(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.tls_port), timeout=10) as raw:
        raw.sendall(post(xml("echo", "a")))
        assert b"HTTP/1.1 200" not in read_until_closed(raw)
    assert call(server.https(), "echo", "a")["Value"] == "a"


def test_a_tls_client_that_never_finishes_its_handshake_is_closed(start: Any) -> None:
    server = start(Limits(first_request=1.0))
    with socket.create_connection(("127.0.0.1", server.tls_port), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01")
        assert raw.recv(1) == b""


def test_random_bytes_never_end_the_server(server: Any) -> None:
    from random import Random

    random = Random(7)
    for secure in (False, True):
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", server.tls_port if secure else server.port)) as raw:
                raw.sendall(random.randbytes(random.randrange(1, 2000)))
    assert call(server.http(), "echo", "a")["Value"] == "a"
    assert call(server.https(), "echo", "a")["Value"] == "a"


def test_a_stopping_server_finishes_what_runs(server: Any) -> None:
    waiting, idle = server.http(), server.http()
    call(idle, "echo", "a")
    found: list[Any] = []
    client = threading.Thread(target=lambda: found.append(call(waiting, "wait", 0.5)))
    client.start()
    assert server.road.waiting.wait(30)
    server.stop(20)
    client.join(30)
    assert found == [{"Status": "Success", "Value": "waited"}]
    assert idle.sock.recv(1) == b""
    assert not server.unix.exists()
    with pytest.raises(ConnectionRefusedError):
        server.socket()


def test_a_taken_address_leaves_no_listener_behind(server: Any) -> None:
    second = Server(Doors())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError):
        server.run(second.start([TcpListener("127.0.0.1", port), TcpListener("127.0.0.1", server.port)]))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_every_address_of_the_host_is_served_when_none_is_named(server: Any) -> None:
    everywhere = Server(server.doors)
    server.run(everywhere.start([TcpListener("", 0)]))
    port = everywhere.addresses[0][1]
    try:
        with socket.create_connection(("127.0.0.2", port), timeout=5) as raw:
            raw.sendall(post(xml("echo", "a")))
            raw.recv(1000)
        assert server.road.calls[-1][0].address == "127.0.0.1" or server.road.calls[-1][0].address.startswith(
            "127."
        )
    finally:
        server.run(everywhere.stop(0))


def test_many_clients_that_come_at_once_are_let_in(server: Any) -> None:
    """Only a backlog takes those who connect while the loop is at something else."""
    held, go_on = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        go_on.wait(60)

    clients = []
    holding = threading.Thread(target=server.run, args=(hold(),))
    holding.start()
    try:
        assert held.wait(30)
        for _ in range(500):
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            client.connect(str(server.unix))  # EAGAIN when the backlog is full
    finally:
        go_on.set()
        holding.join(10)
        for client in clients:
            client.close()
