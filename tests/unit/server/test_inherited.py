"""Sockets that the service manager holds: the server takes them, and leaves them in place."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kronos.server.http import Server, TcpListener, UnixListener
from kronos.server.routing import Doors, Page, Reply

LOOPS = ["asyncio", "uvloop"]


@pytest.fixture(params=LOOPS)
def policy(request):
    if request.param == "asyncio":
        return asyncio.DefaultEventLoopPolicy()
    return pytest.importorskip("uvloop").EventLoopPolicy()


def run(policy, coroutine) -> object:
    loop = policy.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def made() -> Doors:
    doors = Doors()
    doors.add("GET", "/", Page(lambda request: Reply(200, (b"here",))))
    return doors


def held(path: Path) -> socket.socket:
    """What the service manager has opened."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    return sock


def asked(path: Path) -> socket.socket:
    """A client that has connected and asked."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(str(path))
    client.sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    return client


async def answer(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: client.recv(1 << 16))


def test_a_client_that_asked_before_the_start_is_answered(policy, tmp_path):
    manager = held(tmp_path / "xapi")
    client = asked(tmp_path / "xapi")

    async def serve() -> bytes:
        server = Server(made(), inherited=[manager.dup()])
        await server.start([UnixListener(tmp_path / "xapi")])
        try:
            return await answer(client)
        finally:
            await server.stop(0)

    assert run(policy, serve()).endswith(b"here")


def test_a_client_of_a_server_that_has_stopped_waits_for_the_next(policy, tmp_path):
    manager = held(tmp_path / "xapi")

    async def serve() -> bytes:
        first = Server(made(), inherited=[manager.dup()])
        await first.start([UnixListener(tmp_path / "xapi")])
        await first.stop(0)
        client = asked(tmp_path / "xapi")
        second = Server(made(), inherited=[manager.dup()])
        await second.start([UnixListener(tmp_path / "xapi")])
        try:
            return await answer(client)
        finally:
            await second.stop(0)

    assert run(policy, serve()).endswith(b"here")
    assert (tmp_path / "xapi").is_socket()


def test_a_port_is_taken_too_and_what_fits_no_listener_is_left(policy, tmp_path):
    port = socket.create_server(("127.0.0.1", 0))
    number = port.getsockname()[1]
    other = held(tmp_path / "other")

    async def serve() -> tuple[list[tuple[str, int]], bool]:
        server = Server(made(), inherited=[other.dup(), port.dup()])
        await server.start([UnixListener(tmp_path / "own"), TcpListener("127.0.0.1", number)])
        addresses = server.addresses
        await server.stop(0)
        return addresses, (tmp_path / "own").exists()

    assert run(policy, serve()) == ([("127.0.0.1", number)], False)


PROGRAM = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
os.environ["LISTEN_FDS"] = "1"
from kronos.system.activation import inherited
print([sock.getsockname() for sock in inherited()], [sock.fileno() for sock in inherited()], "LISTEN_FDS" in os.environ)
"""


@pytest.mark.parametrize("to", [0, 1])
def test_sockets_that_were_given_to_this_process_are_found(tmp_path, to):
    manager = held(tmp_path / "xapi")
    script = f'exec 3<&{manager.fileno()}; exec "$@"'
    command = ["bash", "-c", script, "bash", sys.executable, "-c", PROGRAM, str(to)]
    done = subprocess.run(command, pass_fds=[manager.fileno()], check=True, capture_output=True, text=True)
    wanted = [str(tmp_path / "xapi")] if to == 0 else []
    assert done.stdout.strip() == f"{wanted} [] False"
