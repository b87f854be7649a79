"""Bad input over real sockets: the right error, at once, and a daemon that goes on as before."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import time
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest

from harness.client import Client
from harness.daemon import Daemon
from harness.guests import default_sr, new_disk, vm_record
from harness.host import PASSWORD
from harness.raw import Door, connect, exchange, failure, json_body, post, xml_body

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

FAST = 4.0
"""Seconds in which any refusal is answered, on a machine that does other work too: less than the five that a wrong
password costs, and than the half minute for a head."""
GROWTH = 160 << 20
"""Bytes by which the daemon's memory may grow meanwhile: what was freed stays with the allocator."""
NOWHERE = "OpaqueRef:00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module", autouse=True)
def unharmed(daemon: Daemon) -> Iterator[None]:
    """The same process serves as well after all of it as before, and met no error that it did not expect."""
    pid, before = daemon.pid, daemon.resident()
    yield
    assert daemon.process is not None and daemon.process.poll() is None and daemon.pid == pid
    assert "Traceback" not in daemon.log.read_text()
    assert daemon.resident() - before < GROWTH
    client = daemon.client()
    assert len(client("host.get_all")) == 1
    client.close()


@pytest.fixture(scope="module", autouse=True)
def crowd(daemon: Daemon) -> Iterator[tuple[float, list[socket.socket]]]:
    """A hundred clients that begin a request and never end it: some its head, some its body, some the TLS handshake."""
    began = time.monotonic()
    slow = []
    for number in range(99):
        if number % 3 == 2:
            plain = socket.create_connection((daemon.host.address, 443), 10)
            plain.sendall(b"\x16\x03\x01\x02\x00\x01")
            slow.append(plain)
        else:
            half = [b"POST /jsonrpc HTTP/1.1\r\nHost: h\r\nX-", post("/", b"x" * 1000)[:-990]][number % 3]
            slow.append(connect(daemon, "http"))
            slow[-1].sendall(half)
    yield began, slow
    for connection in slow:
        connection.close()


# --- calls -----------------------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[str, list[Any], list[str]]] = {
    "unknown method": ("VM.fly", ["SESSION"], ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]),
    "unknown method without arguments": ("VM.fly", [], ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]),
    "unknown class": ("Spaceship.get_all", ["SESSION"], ["MESSAGE_METHOD_UNKNOWN", "Spaceship.get_all"]),
    "removed message": ("VMPP.get_all", ["SESSION"], ["MESSAGE_REMOVED"]),
    "too few arguments": (
        "VM.start",
        ["SESSION", NOWHERE],
        ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1"],
    ),
    "too many arguments": (
        "VM.get_record",
        ["SESSION", NOWHERE, "x"],
        ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_record", "1", "2"],
    ),
    "no arguments": ("VM.get_all", [], ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_all", "0", "0"]),
    "a string for a number": ("VDI.resize", ["SESSION", NOWHERE, "many"], ["INTERNAL_ERROR"]),
    "a map for a string": ("VM.set_name_label", ["SESSION", NOWHERE, {"a": "b"}], ["INTERNAL_ERROR"]),
    "a string for a map": ("VM.set_other_config", ["SESSION", NOWHERE, "text"], ["INTERNAL_ERROR"]),
    "a string for a record": ("VM.create", ["SESSION", "text"], ["INTERNAL_ERROR"]),
    "a set of the wrong things": ("VM.set_tags", ["SESSION", NOWHERE, [{"a": "b"}]], ["INTERNAL_ERROR"]),
    "a record with holes": ("VM.create", ["SESSION", {}], ["INTERNAL_ERROR"]),
    "an unknown enum value": (
        "VM.set_actions_after_crash",
        ["SESSION", NOWHERE, "explode"],
        ["INVALID_VALUE"],
    ),
    "a reference to nothing": (
        "VM.start",
        ["SESSION", NOWHERE, False, False],
        ["HANDLE_INVALID", "VM", NOWHERE],
    ),
    "a reference to another class": ("VM.get_record", ["SESSION", "HOST"], ["HANDLE_INVALID", "VM", "HOST"]),
    "a uuid of nothing": ("VM.get_by_uuid", ["SESSION", "no such"], ["UUID_INVALID", "VM", "no such"]),
    "a query that cannot be read": (
        "VM.get_all_records_where",
        ["SESSION", "field ="],
        ["INVALID_VALUE", "field ="],
    ),
    "no session": ("VM.get_all", ["no session"], ["SESSION_INVALID", "no session"]),
    "no session, and what is wrong besides": ("VM.get_record", ["x", "y"], ["SESSION_INVALID", "x"]),
    "a session that is no string": ("VM.get_all", [{"a": "b"}], ["SESSION_INVALID"]),
    "an event token that is none": (
        "event.from",
        ["SESSION", ["*"], "token", 1.0],
        ["EVENT_FROM_TOKEN_PARSE_FAILURE", "token"],
    ),
    "an event class that is none": (
        "event.from",
        ["SESSION", ["spaceship"], "", 1.0],
        ["EVENT_SUBSCRIPTION_PARSE_FAILURE", "spaceship"],
    ),
    "an unwanted bridge": (
        "network.create",
        ["SESSION", {"name_label": "x", "other_config": {}, "bridge": "../../etc", "MTU": 1500}],
        ["INVALID_VALUE", "bridge", "../../etc"],
    ),
}


@pytest.fixture(scope="module")
def session(daemon: Daemon) -> str:
    return daemon.client().session


@pytest.mark.parametrize("door", ["http", "https", "unix"])
@pytest.mark.parametrize("protocol", ["xml", "json"])
@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_call_gets_its_error_code(
    daemon: Daemon, session: str, case: str, protocol: str, door: Door
) -> None:
    method, args, expected = CALLS[case]
    host = daemon_host(daemon, session)
    args = [{"SESSION": session, "HOST": host}.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
    expected = [host if each == "HOST" else each for each in expected]
    if protocol == "xml":
        reply = exchange(daemon, post("/", xml_body(method, args)), door)
    else:
        reply = exchange(daemon, post("/jsonrpc", json_body(method, args)), door)
    assert failure(reply)[: len(expected)] == expected
    assert reply is not None and reply.seconds < FAST


_hosts: dict[int, str] = {}


def daemon_host(daemon: Daemon, session: str) -> str:
    if daemon.pid not in _hosts:
        reply = exchange(daemon, post("/jsonrpc", json_body("host.get_all", [session])))
        assert reply is not None
        (_hosts[daemon.pid],) = json.loads(reply.body)["result"]
    return _hosts[daemon.pid]


def test_a_refused_call_changes_nothing(daemon: Daemon, client: Client) -> None:
    before = {name: client(f"{name}.get_all_records") for name in ("VM", "network", "VDI", "pool")}
    for method, args, _ in CALLS.values():
        args = [client.session if arg == "SESSION" else arg for arg in args]
        exchange(daemon, post("/jsonrpc", json_body(method, args)))
    assert {name: client(f"{name}.get_all_records") for name in before} == before


def test_an_asynchronous_call_of_a_message_that_has_no_such_mode_is_a_fault(
    daemon: Daemon, session: str
) -> None:
    reply = exchange(daemon, post("/", xml_body("Async.VM.get_all", [session])))
    assert reply is not None
    with pytest.raises(xmlrpc.client.Fault, match="No async mode"):
        xmlrpc.client.loads(reply.body.decode())


def test_states_and_objects_in_use_are_told_apart(daemon: Daemon, client: Client) -> None:
    vm = client("VM.create", vm_record(daemon.state, "vm"))
    disk = new_disk(client, "disk")
    cases: dict[tuple[Any, ...], list[str]] = {
        ("VM.pause", vm): ["VM_BAD_POWER_STATE", vm, "running", "halted"],
        ("VM.add_to_other_config", vm, "mac_seed", "x"): [
            "MAP_DUPLICATE_KEY",
            "VM",
            "other_config",
            vm,
            "mac_seed",
        ],
        ("VDI.resize", disk, 512): ["SR_BACKEND_FAILURE_79"],
        ("SR.destroy", default_sr(client)): ["SR_HAS_PBD"],
    }
    for (method, *args), expected in cases.items():
        reply = exchange(daemon, post("/jsonrpc", json_body(method, [client.session, *args])))
        assert failure(reply)[: len(expected)] == expected, method


def test_a_login_without_the_right_name_and_password_is_refused(daemon: Daemon) -> None:
    for name, password in (("nobody", PASSWORD), ("root", ""), ("", "")):
        reply = exchange(daemon, post("/jsonrpc", json_body("session.login_with_password", [name, password])))
        assert failure(reply)[0] == "SESSION_AUTHENTICATION_FAILED"


# --- XML and JSON ----------------------------------------------------------------------------------------------------

CALL = "<methodCall><methodName>{}</methodName><params>{}</params></methodCall>"
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
    + CALL.format("&j;", "")
)
XML = {
    "nothing": "",
    "no XML": "POST",
    "no call": "<methodResponse/>",
    "cut short": CALL.format("VM.get_all", "<param><value>x")[:60],
    "an entity bomb": BOMB,
    "a file as an entity": '<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/shadow">]>' + CALL.format("&x;", ""),
    "an entity of another host": '<!DOCTYPE m [<!ENTITY x SYSTEM "http://192.0.2.1/">]>'
    + CALL.format("&x;", ""),
    "an empty document type": "<!DOCTYPE m>" + CALL.format("VM.get_all", ""),
    "a hundred thousand open elements": "<methodCall>" + "<value><array><data>" * 100_000,
    "a value that is too deep": CALL.format(
        "x", "<param>" + "<value><array><data>" * 5000 + "</data></array></value>" * 5000 + "</param>"
    ),
    "an int that is none": CALL.format("x", "<param><value><int>1e9</int></value></param>"),
    "a boolean that is none": CALL.format("x", "<param><value><boolean>yes</boolean></value></param>"),
    "an unknown type": CALL.format("x", "<param><value><ex:i8 xmlns:ex='x'>1</ex:i8></value></param>"),
    "a NUL": CALL.format("x\0", ""),
}


@pytest.mark.parametrize("case", XML)
def test_what_is_no_xml_rpc_is_refused_at_once(daemon: Daemon, case: str) -> None:
    reply = exchange(daemon, post("/", XML[case].encode()))
    assert reply is not None
    assert reply.status == 500 or b"Failure" in reply.body or b"fault" in reply.body
    assert b"root:" not in reply.body
    assert reply.seconds < FAST


JSON: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", -32700),
    "no JSON": (b"{", -32700),
    "not UTF-8": (b'{"method": "\xff"}', -32700),
    "a hundred thousand open arrays": (b"[" * 100_000, -32700),
    "an array of nothing": (b"[]", -32600),
    "a number": (b"5", -32600),
    "no method": (b'{"jsonrpc": "2.0", "id": 1, "params": []}', -32600),
    "a method that is no string": (b'{"jsonrpc": "2.0", "id": 1, "method": 5, "params": []}', -32600),
    "parameters by name": (b'{"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"a": 1}}', -32600),
    "no id": (b'{"jsonrpc": "2.0", "method": "x", "params": []}', -32600),
}


@pytest.mark.parametrize("case", JSON)
def test_what_is_no_json_rpc_is_refused_at_once(daemon: Daemon, case: str) -> None:
    body, code = JSON[case]
    reply = exchange(daemon, post("/jsonrpc", body))
    assert reply is not None and reply.status == 200
    assert json.loads(reply.body)["error"]["code"] == code
    assert reply.seconds < FAST


def test_text_that_no_xml_can_hold_does_not_break_the_answers_of_others(
    daemon: Daemon, client: Client
) -> None:
    vm = client("VM.create", vm_record(daemon.state, "bell \u0007 and \ufffe"))
    reply = exchange(daemon, post("/", xml_body("VM.get_record", [client.session, vm])))
    assert reply is not None
    record = xmlrpc.client.loads(reply.body.decode())[0][0]["Value"]
    assert record["name_label"].startswith("bell ")


@pytest.mark.parametrize(
    "body", [rb'{"id": 1, "method": "x", "params": ["\ud83d"]}', b'{"id": 1, "method": "\xff"}']
)
def test_half_a_character_is_refused(daemon: Daemon, body: bytes) -> None:
    reply = exchange(daemon, post("/jsonrpc", body))
    assert reply is not None
    assert b"Invalid UTF-8" in reply.body or json.loads(reply.body)["error"]["code"] == -32700


# --- HTTP ------------------------------------------------------------------------------------------------------------

# 301: a browser that asks for a page over plain HTTP is sent to HTTPS.
HTTP: dict[str, tuple[bytes, set[int]]] = {
    "noise": (bytes(range(256)) * 4, {400}),
    "no request line": (b"\r\n\r\n\r\n\r\nx\r\n\r\n", {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "TLS on the plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500, {400}),
    "two lengths": (post("/", b"xx", "Content-Length: 3"), {400}),
    "a length that is none": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: two\r\n\r\n", {400}),
    "a negative length": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", {400}),
    "a length and chunks": (post("/", b"0\r\n\r\n", "Transfer-Encoding: chunked"), {400}),
    "a chunk of no size": (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        {400},
    ),
    "a gigabyte announced": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741824\r\n\r\n", {413}),
    "an endless header": (b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 20), {400, 431}),
    "a thousand headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", {400, 431}),
    "a path to elsewhere": (b"GET /../../../../etc/shadow HTTP/1.1\r\nHost: h\r\n\r\n", {301, 400, 404}),
    "a path to elsewhere, encoded": (
        b"GET /%2e%2e/%2e%2e/etc/shadow HTTP/1.1\r\nHost: h\r\n\r\n",
        {301, 400, 404},
    ),
    "an unknown path": (post("/nowhere", b""), {404}),
    "a wrong method": (b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", {404, 405, 501}),
    "a proxy's CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", {400, 404, 405}),
    "a console without a session": (b"GET /console?uuid=x HTTP/1.1\r\nHost: h\r\n\r\n", {400, 401, 426}),
}


@pytest.mark.parametrize("door", ["http", "unix"])
@pytest.mark.parametrize("case", HTTP)
def test_what_is_no_request_is_refused_at_once(daemon: Daemon, case: str, door: Door) -> None:
    sent, statuses = HTTP[case]
    reply = exchange(daemon, sent, door)
    assert reply is not None and reply.status in statuses
    assert b"root:" not in reply.body
    assert reply.seconds < FAST


def test_plain_http_to_the_tls_port_ends_the_connection(daemon: Daemon) -> None:
    with socket.create_connection((daemon.host.address, 443), 10) as connection:
        connection.sendall(post("/", b""))
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass


def test_a_large_call_is_served_and_a_larger_one_refused(daemon: Daemon, client: Client) -> None:
    vm = client("VM.create", vm_record(daemon.state, "vm"))
    text = "x" * (8 << 20)
    reply = exchange(
        daemon, post("/jsonrpc", json_body("VM.set_name_description", [client.session, vm, text]))
    )
    assert reply is not None and json.loads(reply.body)["result"] in ("", None)
    assert len(client("VM.get_name_description", vm)) == len(text)
    too_large = post("/jsonrpc", json_body("VM.set_name_description", [client.session, vm, text * 3]))
    reply = exchange(daemon, too_large)
    assert reply is not None and reply.status == 413
    client("VM.set_name_description", vm, "")


def test_chunks_without_end_are_cut_off_at_the_largest_body(daemon: Daemon) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = b"POST /jsonrpc HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = exchange(daemon, head + chunk * 400)
    assert reply is not None and reply.status == 413


# --- noise and crowds ------------------------------------------------------------------------------------------------


def test_requests_with_random_faults_never_hurt(daemon: Daemon, session: str) -> None:
    seed = int(os.environ.get("KRONOS_SEED", "0")) or secrets.randbits(32)
    print(f"KRONOS_SEED={seed}")
    chance = random.Random(seed)
    good = [
        post("/", xml_body("VM.get_all", [session])),
        post("/jsonrpc", json_body("VM.get_all_records_where", [session, 'field "uuid"="x"'])),
        b"GET /console?uuid=x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ]
    for _ in range(300):
        sent = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 8)):
            place = chance.randrange(len(sent))
            match chance.randrange(3):
                case 0:
                    sent[place] = chance.randrange(256)
                case 1:
                    del sent[place : place + chance.randrange(1, 40)]
                case _:
                    sent[place:place] = chance.randbytes(chance.randrange(1, 40))
            if not sent:
                break
        with connect(daemon, chance.choice(("http", "unix"))) as connection:
            connection.settimeout(30)
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except TimeoutError:
                raise  # it is neither answered nor sent away
            except OSError:
                pass  # refused, it may be before all was sent: then there is no connection left to be shut down


def test_clients_that_never_finish_do_not_slow_others(
    daemon: Daemon, session: str, crowd: tuple[float, list[socket.socket]]
) -> None:
    for door in ("http", "https", "unix"):
        reply = exchange(daemon, post("/jsonrpc", json_body("VM.get_all", [session])), door)
        assert reply is not None and reply.seconds < FAST


def test_clients_that_never_read_do_not_slow_others(daemon: Daemon, session: str) -> None:
    request = post("/jsonrpc", json_body("VM.get_all_records", [session]))
    with contextlib.ExitStack() as undo:
        for _ in range(20):
            greedy = undo.enter_context(connect(daemon, "http"))
            greedy.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                for _ in range(100):
                    greedy.sendall(request)
        reply = exchange(daemon, request, "unix")
        assert reply is not None and reply.seconds < FAST


def test_clients_that_never_finish_are_sent_away(
    daemon: Daemon, crowd: tuple[float, list[socket.socket]]
) -> None:
    """Half a minute for a head, a minute for a body and for a first request."""
    began, slow = crowd
    # Whoever comes here late, after slow tests, is to find that they have gone.
    deadline = max(began + 90, time.monotonic() + 20)
    for connection in slow:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    assert time.monotonic() < deadline
