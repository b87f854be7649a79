"""Clients: one that keeps its connection and reads replies whole, and wrk for load."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.process import CLIENT_CORE

XML, JSON = "/", "/jsonrpc"


def xml_call(name: str, *args: str) -> bytes:
    """An XML-RPC call as Python's and most other clients write it."""
    params = "".join(f"<param><value><string>{escape(arg)}</string></value></param>\n" for arg in args)
    call = f"<methodName>{name}</methodName>\n<params>\n{params}</params>\n"
    return f"<?xml version='1.0'?>\n<methodCall>\n{call}</methodCall>\n".encode()


def json_call(name: str, *args: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": args}).encode()


class Client:
    """One keep-alive connection."""

    def __init__(self, address: int | str, *, tls: bool = False, gzip: bool = False) -> None:
        """`address` is a port of this machine, or a Unix socket's path. A reply with gzip is not unpacked."""
        self.head = "Accept-Encoding: gzip\r\n" if gzip else ""
        self.socket: socket.socket
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self.socket = _trusting().wrap_socket(self.socket)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        self.buffer = bytearray(1 << 20)

    def post(self, path: str, body: bytes) -> memoryview:
        """The body of the reply; it holds until the next call."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\n{self.head}Content-Length: {len(body)}\r\n\r\n".encode()
        )
        self.socket.sendall(head + body)
        view, filled, whole, begins = memoryview(self.buffer), 0, 0, 0
        while not whole or filled < whole:
            received = self.socket.recv_into(view[filled:])
            if not received:
                raise ConnectionError("the server closed the connection")
            filled += received
            if not whole:
                end = self.buffer.find(b"\r\n\r\n", 0, filled)
                if end >= 0:
                    begins = end + 4
                    whole = begins + content_length(bytes(view[:end]))
                    if whole > len(self.buffer):
                        view.release()
                        self.buffer.extend(bytes(whole - len(self.buffer)))
                        view = memoryview(self.buffer)
        return view[begins:whole]

    def call(self, name: str, *args: object) -> Any:
        """A call's value, by JSON-RPC. Raises RuntimeError for a XenAPI error."""
        answer = json.loads(bytes(self.post(JSON, json_call(name, *args))))
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        self.socket.close()


def _trusting() -> ssl.SSLContext:
    """The server is our own child."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def content_length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
    if found is None:
        raise ConnectionError("a reply without a length")
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured; latencies in microseconds."""

    rate: float
    p50: float
    p99: float


NOTHING: Final = Load(0.0, math.inf, math.inf)
_TIMES = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


def parse_wrk(output: str) -> Load:
    """Raises ValueError where requests failed or nothing was measured."""
    failed = re.search(r"Non-2xx or 3xx responses: ([0-9]+)|Socket errors: .*", output)
    rate = re.search(r"Requests/sec: +([0-9.]+)", output)
    if failed or rate is None:
        raise ValueError(f"wrk: {failed[0] if failed else output}")
    latency = {
        share: float(value) * _TIMES[unit]
        for share, value, unit in re.findall(r"^ +([0-9]+)% +([0-9.]+)(us|ms|s|m)$", output, re.MULTILINE)
    }
    return Load(float(rate[1]), latency["50"], latency["99"])


_LUA = """\
local head, tail = {head}, {tail}
local number, thread = 0, 0
wrk.method = "POST"
wrk.path = {path}
function request()
    number = number + 1
    return wrk.format(nil, nil, nil, {body})
end
"""


def wrk(
    port: int,
    path: str,
    body: bytes,
    connections: int,
    seconds: float,
    marker: bytes = b"",
    *,
    tls: bool = False,
) -> Load:
    """Load a server from the other core; `marker` in the body is replaced by a number that grows."""
    program = shutil.which("wrk")
    if program is None:
        raise FileNotFoundError("wrk is not installed")
    head, _, tail = body.partition(marker) if marker else (body, b"", b"")
    script = _LUA.format(
        head=_quoted(head),
        tail=_quoted(tail),
        path=_quoted(path.encode()),
        body="head .. number .. tail" if marker else "head",
    )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "call.lua")
        file.write_text(script)
        argv = [
            program,
            "-t",
            "1",
            "-c",
            str(connections),
            "-d",
            f"{seconds:g}s",
            "--latency",
            "-s",
            str(file),
        ]
        done = subprocess.run(
            ["taskset", "-c", str(CLIENT_CORE), *argv, f"http{'s' if tls else ''}://127.0.0.1:{port}"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return parse_wrk(done.stdout)


def _quoted(text: bytes) -> str:
    """A Lua string; every byte that might mean something is escaped."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03}" for b in text) + '"'
