"""Consoles as clients open them: by CONNECT, over a WebSocket, and with xe on a terminal."""

from __future__ import annotations

import base64
import os
import pty
import select
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from harness import guests
from harness.client import Client
from harness.console import Refused, WebSocket, open_by_connect, screen_of, serial_of
from harness.daemon import Daemon, wait_until
from harness.host import PASSWORD
from harness.raw import Reply, exchange

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

XE = Path(__file__).resolve().parents[2] / "src" / "kronos" / "xe" / "xe"


@pytest.fixture(scope="module")
def vm(daemon: Daemon) -> str:
    """A running guest that echoes what its serial line says, with a screen."""
    client = daemon.client()
    made = client("VM.create", guests.vm_record(daemon.state, "console", platform={"usb": "false"}))
    client("VM.start", made, False, False)
    log = daemon.directory / "run" / client("VM.get_uuid", made) / "serial.log"
    wait_until(lambda: log.exists() and b"ready\n" in log.read_bytes(), 60, "the guest does not print")
    client.close()
    return str(made)


def test_connect_leads_to_the_serial_line_and_its_past(daemon: Daemon, client: Client, vm: str) -> None:
    query = f"ref={serial_of(daemon, vm)}&session_id={client.session}"
    with open_by_connect(daemon, query) as console:
        assert console.recv(100) == b"ready\n"
        console.sendall(b"x")
        assert console.recv(100) == b"x"


@pytest.mark.parametrize("kind", ["console reference", "console uuid", "VM reference", "VM uuid"])
def test_connect_leads_to_the_screen(daemon: Daemon, client: Client, vm: str, kind: str) -> None:
    screen = screen_of(daemon, vm)
    query = {
        "console reference": f"ref={screen}",
        "console uuid": f"uuid={client('console.get_uuid', screen)}",
        "VM reference": f"ref={vm}",
        "VM uuid": f"uuid={client('VM.get_uuid', vm)}",
    }[kind]
    with open_by_connect(daemon, f"{query}&session_id={client.session}") as console:
        assert console.recv(100) == b"RFB 003.008\n"


def test_the_location_of_a_console_leads_to_it(daemon: Daemon, client: Client, vm: str) -> None:
    location = client("console.get_location", screen_of(daemon, vm))
    scheme, rest = location.split("://")
    address, _, query = rest.partition("/console?")
    assert (scheme, address) == ("https", daemon.host.address)
    with open_by_connect(daemon, f"{query}&session_id={client.session}") as console:
        assert console.recv(100) == b"RFB 003.008\n"


@pytest.mark.parametrize("how", ["session in the query", "session as a cookie", "name and password"])
def test_a_websocket_leads_to_the_screen(daemon: Daemon, client: Client, vm: str, how: str) -> None:
    query, headers = f"ref={screen_of(daemon, vm)}", []
    if how == "session in the query":
        query += f"&session_id={client.session}"
    elif how == "session as a cookie":
        headers = [f"Cookie: session_id={client.session}"]
    else:
        headers = [f"Authorization: Basic {base64.b64encode(f'root:{PASSWORD}'.encode()).decode()}"]
    console = WebSocket(daemon, query, *headers)
    assert console.headers["sec-websocket-protocol"] == "binary"
    assert console.receive() == b"RFB 003.008\n"
    console.send(b"RFB 003.008\n")
    assert console.receive()[:2] == b"\x01\x01"  # one way to authenticate: none
    console.close()


def test_a_websocket_leads_to_the_serial_line(daemon: Daemon, client: Client, vm: str) -> None:
    console = WebSocket(daemon, f"ref={serial_of(daemon, vm)}&session_id={client.session}")
    assert console.receive().startswith(b"ready\n")
    console.send(b"y")
    assert console.receive() == b"y"
    console.close()


def test_strangers_and_wrong_consoles_are_refused(daemon: Daemon, client: Client, vm: str) -> None:
    screen = screen_of(daemon, vm)
    page = "Origin: https://elsewhere.example", f"Cookie: session_id={client.session}"
    for query, headers, status in (
        (f"ref={screen}", (), 401),
        (f"ref={screen}&session_id=none", (), 401),
        (f"ref={screen}", page, 401),
        (f"ref=OpaqueRef:none&session_id={client.session}", (), 404),
    ):
        with pytest.raises(Refused) as refused:
            open_by_connect(daemon, query, *headers)
        assert refused.value.status == status


@pytest.mark.parametrize("kind", ["console", "VM"])
def test_a_picture_of_the_screen(daemon: Daemon, client: Client, vm: str, kind: str) -> None:
    ref = screen_of(daemon, vm) if kind == "console" else vm
    uuid = client(f"{kind}.get_uuid", ref)
    picture = _ask(daemon, f"uuid={uuid}&session_id={client.session}")
    assert (picture.status, picture.headers["content-type"]) == (200, "image/png")
    width, height, rows = _png(picture.body)
    assert (width, height) >= (640, 400)
    assert len(rows) == height * (3 * width + 1)


def test_no_picture_of_a_serial_line_or_for_a_stranger(daemon: Daemon, client: Client, vm: str) -> None:
    assert _ask(daemon, f"ref={serial_of(daemon, vm)}&session_id={client.session}").status == 404
    assert _ask(daemon, f"ref={vm}").status == 401


def _ask(daemon: Daemon, query: str) -> Reply:
    request = f"GET /vncsnapshot?{query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    reply = exchange(daemon, request.encode(), "https", 30.0)
    assert reply is not None
    return reply


def _png(data: bytes) -> tuple[int, int, bytes]:
    """Width and height in pixels, and the rows, each with a byte for its filter before its red, green and blue."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack_from("!I4s", data, at)
        part = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colours = struct.unpack_from("!IIBB", part)
            assert (depth, colours) == (8, 2)
        if kind == b"IDAT":
            packed += part
        at += 12 + length
    return width, height, zlib.decompress(packed)


def test_two_readers_do_not_disturb_the_daemon_when_they_go(daemon: Daemon, client: Client, vm: str) -> None:
    query = f"ref={screen_of(daemon, vm)}&session_id={client.session}"
    for _ in range(20):
        open_by_connect(daemon, query).close()
    # The guest's emulator notices those that went when it comes to it: on a busy machine it may be full until then.
    deadline = time.monotonic() + 60
    while True:
        try:
            with open_by_connect(daemon, query) as console:
                banner = console.recv(100)
        except (OSError, AssertionError):
            banner = b""
        if banner or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert banner == b"RFB 003.008\n"


def test_a_console_ends_with_its_guest(daemon: Daemon, client: Client) -> None:
    vm = client("VM.create", guests.vm_record(daemon.state, "short", platform={"usb": "false"}))
    client("VM.start", vm, False, False)
    with open_by_connect(daemon, f"ref={serial_of(daemon, vm)}&session_id={client.session}") as console:
        client("VM.hard_shutdown", vm)
        while console.recv(100):
            pass


def test_xe_console_is_a_terminal_of_the_guest(
    daemon: Daemon, client: Client, vm: str, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    environment = os.environ | {"XE_EXTRA_ARGS": "", "TERM": "vt100", "HOME": str(tmp_path)}
    argv = [sys.executable, str(XE), "-s", daemon.host.address, "-u", "root", "-pw", PASSWORD]
    argv += ["console", f"uuid={client('VM.get_uuid', vm)}"]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    try:
        seen = _read_until(master, b"ready")
        os.write(master, b"z")
        seen = _read_until(master, b"z")
        os.write(master, b"\x1d")
        assert process.wait(60) == 0, seen
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _read_until(descriptor: int, text: bytes, timeout: float = 60) -> bytes:
    seen, deadline = b"", time.monotonic() + timeout
    while text not in seen:
        left = deadline - time.monotonic()
        assert left > 0, f"the terminal shows {seen!r}"
        if select.select([descriptor], [], [], left)[0]:
            seen += os.read(descriptor, 4096)
    return seen
