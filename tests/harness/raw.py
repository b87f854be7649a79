"""Requests byte by byte, as no client should send them."""

from __future__ import annotations

import json
import socket
import ssl
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.daemon import Daemon

Door = Literal["http", "https", "unix"]


@dataclass
class Reply:
    """What came back until the server closed the connection, or until the body that it announced was complete."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def connect(daemon: Daemon, door: Door, timeout: float = 10.0) -> socket.socket:
    """A connection to one of the daemon's doors."""
    if door == "unix":
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(timeout)
        plain.connect(str(daemon.socket))
        return plain
    port = daemon.settings.get(f"{door}_port", {"http": 80, "https": 443}[door])
    plain = socket.create_connection((daemon.host.address, int(port)), timeout)
    if door == "http":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: host", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def exchange(daemon: Daemon, sent: bytes, door: Door = "http", timeout: float = 10.0) -> Reply | None:
    """Send bytes and read one reply. None where the server closed the connection without any."""
    began = time.monotonic()
    with connect(daemon, door, timeout) as connection:
        try:
            connection.sendall(sent)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has seen enough; its reply may still be there
        found = _read(connection)
    return None if not found else _parsed(found, time.monotonic() - began)


def _read(connection: socket.socket) -> bytes:
    """Everything until the end, or until the body is as long as its header says."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
            head, blank, body = found.partition(b"\r\n\r\n")
            if blank and len(body) >= _length(head):
                break
    except (ConnectionResetError, ssl.SSLError):
        pass
    return found


def _length(head: bytes) -> float:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return float("inf")


def _parsed(found: bytes, seconds: float) -> Reply:
    head, _, body = found.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return Reply(int(status.split()[1]), headers, body, seconds)


def xml_body(method: str, args: Sequence[Any]) -> bytes:
    return xmlrpc.client.dumps(tuple(args), method, allow_none=True).encode()


def json_body(method: str, args: Sequence[Any], **changes: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(args)} | changes).encode()


def failure(reply: Reply | None) -> list[str]:
    """The error of a reply of either protocol: its code and parameters."""
    assert reply is not None and reply.status == 200, reply
    if reply.headers["content-type"] == "application/json":
        error = json.loads(reply.body)["error"]
        return [error["message"], *error.get("data", [])]
    result = xmlrpc.client.loads(reply.body.decode())[0][0]
    assert result["Status"] == "Failure", result
    return list(result["ErrorDescription"])
