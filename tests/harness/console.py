"""A guest's console as a client has it: by CONNECT or a WebSocket, and a shell on the serial line."""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket
import ssl
import struct
import time

from harness.daemon import Daemon
from harness.raw import Door, connect

_NUDGE = 10.0
"""Seconds without a prompt after which another line is typed."""


class Refused(Exception):
    """The server answered with another status than the one that opens a console."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def open_by_connect(daemon: Daemon, query: str, *headers: str, door: Door = "https") -> socket.socket:
    """The bytes of a console, after CONNECT. Raises Refused."""
    connection = connect(daemon, door)
    lines = [f"CONNECT /console?{query} HTTP/1.0", *headers]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    status, _ = _head(connection)
    if status != 200:
        connection.close()
        raise Refused(status)
    return connection


class WebSocket:
    """A console over a WebSocket with the subprotocol `binary`, as web clients open it. Raises Refused."""

    def __init__(self, daemon: Daemon, query: str, *headers: str) -> None:
        self.connection = connect(daemon, "https")
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = [
            f"GET /console?{query} HTTP/1.1",
            f"Host: {daemon.host.address}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: binary",
            *headers,
        ]
        self.connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status, self.headers = _head(self.connection)
        if status != 101:
            self.connection.close()
            raise Refused(status)

    def send(self, data: bytes) -> None:
        """One masked binary frame, as browsers send them."""
        assert len(data) < 126
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.connection.sendall(struct.pack("!BB", 0x82, 0x80 | len(data)) + mask + masked)

    def receive(self) -> bytes:
        """The payload of the next binary frame."""
        first, second = self._exactly(2)
        length = second & 0x7F
        assert not second & 0x80, "a server does not mask"
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        payload = self._exactly(length)
        assert first == 0x82, f"frame {first:#x}: {payload!r}"
        return payload

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            data = self.connection.recv(size - len(found))
            assert data, "the connection ended"
            found += data
        return found

    def close(self) -> None:
        self.connection.close()


def _head(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and headers of a reply; what follows them is left unread."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        data = connection.recv(1)
        if not data:
            raise Refused(0)
        found += data
    status, *lines = found.decode("latin-1").strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


class Shell:
    """root's shell on the serial line of the tiny guest, through the console door."""

    def __init__(self, daemon: Daemon, session: str, vm: str) -> None:
        console = serial_of(daemon, vm)
        self.connection = open_by_connect(daemon, f"ref={console}&session_id={session}")
        self.connection.settimeout(0.2)
        self.seen = ""

    def log_in(self, timeout: float = 60) -> Shell:
        """Log in at the prompt, or find oneself logged in from before."""
        self._send("\n")
        deadline = time.monotonic() + timeout
        nudge = time.monotonic() + _NUDGE
        while not re.search(r"# $", self.seen):
            if re.search(r"login: $", self.seen):
                self.seen = ""
                self._send("root\n")
            self._receive(deadline)
            if (
                time.monotonic() > nudge
            ):  # a program that began to read just then threw away what was typed before
                self._send("\n")
                nudge = time.monotonic() + _NUDGE
        return self

    def run(self, command: str, timeout: float = 60) -> str:
        """What a command prints."""
        begin, end = secrets.token_hex(4), secrets.token_hex(4)
        self.seen = ""
        # The echo of what is typed does not hold the marks in one piece.
        self._send(f"echo {begin[:4]}''{begin[4:]}; {command}; echo {end[:4]}''{end[4:]}\n")
        deadline = time.monotonic() + timeout
        while end not in self.seen:
            self._receive(deadline)
        return self.seen.partition(begin)[2].partition(end)[0].replace("\r", "").strip()

    def _send(self, text: str) -> None:
        self.connection.sendall(text.encode())

    def _receive(self, deadline: float) -> None:
        assert time.monotonic() < deadline, f"the console says {self.seen[-500:]!r}"
        try:
            data = self.connection.recv(65536)
        except (TimeoutError, ssl.SSLWantReadError):
            return
        assert data, f"the console ended, after {self.seen[-500:]!r}"
        # A shell asks the terminal where its cursor is, among other things.
        self.seen = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.seen + data.decode(errors="replace"))

    def close(self) -> None:
        self.connection.close()


def serial_of(daemon: Daemon, vm: str) -> str:
    """The console record of a VM's serial line."""
    return _console(daemon, vm, "vt100")


def screen_of(daemon: Daemon, vm: str) -> str:
    """The console record of a VM's screen."""
    return _console(daemon, vm, "rfb")


def _console(daemon: Daemon, vm: str, protocol: str) -> str:
    client = daemon.client()
    found = [ref for ref in client("VM.get_consoles", vm) if client("console.get_protocol", ref) == protocol]
    client.close()
    assert len(found) == 1, f"{found} speak {protocol}"
    return str(found[0])
