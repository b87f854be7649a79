"""A server on loopback, on a loop of its own in another thread, as the daemon runs it."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import STRING
from kronos.dispatch.answer import Answer
from kronos.dispatch.call import Origin
from kronos.dispatch.pipeline import Fault
from kronos.server import rpc, tls
from kronos.server.http import Server, TcpListener, UnixListener
from kronos.server.limits import Limits
from kronos.server.routing import Doors

LIMITS = Limits(body=4 << 20, inline_body=64 << 10)


@dataclass
class Road:
    """A pipeline of a few calls, each with one way to answer."""

    calls: list[tuple[Origin, str, Sequence[object]]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def call(self, origin: Origin, name: str, args: Sequence[object]) -> Answer | Awaitable[Answer]:
        self.calls.append((origin, name, args))
        if name == "echo":
            return Answer(STRING, args[0])
        if name == "large":
            return Answer(STRING, "x" * int(str(args[0])))
        if name == "wait":
            return self._wait(float(str(args[0])))
        if name == "failure":
            raise Failure("HANDLE_INVALID", "VM", "OpaqueRef:1")
        if name == "fault":
            raise Fault("No async mode for this operation")
        if name == "later-failure":
            return self._fail()
        raise ZeroDivisionError("a defect")

    async def _wait(self, seconds: float) -> Answer:
        self.waiting.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Answer(STRING, "waited")

    async def _fail(self) -> Answer:
        await asyncio.sleep(0)
        raise Failure("VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "running")


class Running:
    """A server that runs, and ways to reach it."""

    def __init__(
        self, new_loop: Callable[[], asyncio.AbstractEventLoop], directory: Path, limits: Limits
    ) -> None:
        self.road = Road()
        self.doors = Doors()
        rpc.add_doors(self.doors, self.road, limits.inline_body)
        self.pem = directory / "host.pem"
        tls.ensure_certificate(self.pem, "localhost", ["127.0.0.1"])
        self.unix = directory / "xapi"
        self.loop = new_loop()
        self.server = Server(self.doors, limits)
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        listeners = [
            TcpListener("127.0.0.1", 0),
            TcpListener("127.0.0.1", 0, tls.server_context(self.pem)),
            UnixListener(self.unix),
        ]
        self.run(self.server.start(listeners))
        (_, self.port), (_, self.tls_port) = self.server.addresses

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self, grace: float = 1.0) -> None:
        self.run(self.server.stop(grace))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    # --- clients -----------------------------------------------------------------------------------------------

    def http(self, timeout: float = 30) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def https(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "127.0.0.1", self.tls_port, timeout=30, context=self.client_context()
        )

    def client_context(self) -> ssl.SSLContext:
        text = self.pem.read_text()
        return ssl.create_default_context(cadata=text[text.index("-----BEGIN CERT") :])

    def socket(self, secure: bool = False) -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self.tls_port if secure else self.port), timeout=30)
        return self.client_context().wrap_socket(raw, server_hostname="127.0.0.1") if secure else raw

    def local(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(30)
        raw.connect(str(self.unix))
        return raw


def loops() -> list[Any]:
    found: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    try:
        import uvloop
    except ImportError:
        return found
    return [*found, pytest.param(uvloop.new_event_loop, id="uvloop")]


Start = Callable[[Limits], Running]


@pytest.fixture(params=loops())
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a server with other limits; it is stopped at the end."""
    started: list[Running] = []

    def begin(limits: Limits) -> Running:
        running = Running(request.param, tmp_path, limits)
        started.append(running)
        return running

    yield begin
    for running in started:
        if not running.loop.is_closed():
            running.stop(0.2)


@pytest.fixture
def server(start: Start) -> Running:
    return start(LIMITS)
