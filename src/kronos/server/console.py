"""The door to consoles: a guest's screen (RFB) or serial line, as raw bytes after CONNECT or over a WebSocket.

Which console a request means, and whether its caller may see it, is decided by a function that the daemon gives; here
bytes are copied between the client and the console's Unix socket, on the loop: a thousand open consoles take no thread.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kronos.datamodel.errors import Failure
from kronos.server import websocket
from kronos.server.replies import reply_to_error, whole_reply
from kronos.server.routing import (
    Credentials,
    Doors,
    OnLoop,
    Redirect,
    Reply,
    Request,
    credentials,
    error_page,
)
from kronos.server.streams import Duplex

log = logging.getLogger(__name__)

PATH: Final = "/console"
CHUNK: Final = 64 << 10
QUEUE_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts at a console whose queue of clients is full."""
PING_EVERY: Final = 30.0
"""Seconds; proxies commonly end a connection that is quiet for a minute."""
_CONNECTED: Final = b"HTTP/1.0 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a console's bytes are: a Unix socket of this host, and what was on the console before."""

    path: Path
    scrollback: bytes = b""
    """Sent first. Of a serial line, whose past output is otherwise lost; a screen draws itself anew."""


Resolve = Callable[[Mapping[str, str], Credentials], Endpoint | Awaitable[Endpoint]]
"""From the query (`ref` of a console or a VM, or `uuid`) and the caller's unchecked credentials to the console.

Raises Failure: SESSION_INVALID and SESSION_AUTHENTICATION_FAILED become 401, RBAC_PERMISSION_DENIED 403,
HANDLE_INVALID and UUID_INVALID 404, others 500. Raises Redirect for a console of another host.
"""


def add_doors(doors: Doors, resolve: Resolve) -> None:
    """Serve consoles on their path."""
    door = OnLoop(ConsoleDoor(resolve).handle)
    doors.add("CONNECT", PATH, door)
    doors.add("GET", PATH, door)


class ConsoleDoor:
    """Serves one kind of request in two forms: CONNECT, and GET that asks for a WebSocket."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def handle(self, request: Request, duplex: Duplex) -> None:
        try:
            greeting = _CONNECTED if request.method == b"CONNECT" else websocket.accept(request)
            endpoint = await self._find(request)
            reader, writer = await _open(endpoint.path)
        except websocket.HandshakeRefused as refused:
            await _refuse(request, duplex, refused.reply)
        except (Failure, Redirect) as error:
            await _refuse(request, duplex, reply_to_error(error, request))
        except OSError as error:
            log.warning("a console cannot be reached: %s", error)
            await _refuse(request, duplex, error_page(503, "the console cannot be reached"))
        else:
            duplex.write(greeting)
            client = duplex if request.method == b"CONNECT" else websocket.WebSocket(duplex)
            await _bridge(client, endpoint.scrollback, reader, writer)

    async def _find(self, request: Request) -> Endpoint:
        given = credentials(request)
        if not given.given:
            raise Failure("SESSION_INVALID", "")
        found = self._resolve(request.query, given)
        return await found if inspect.isawaitable(found) else found


async def _open(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a console. An emulator takes one client after the other, and its queue is short: wait a moment."""
    for pause in QUEUE_PAUSES:
        try:
            return await asyncio.open_unix_connection(path, limit=CHUNK)
        except BlockingIOError:
            await asyncio.sleep(pause)
    return await asyncio.open_unix_connection(path, limit=CHUNK)


async def _refuse(request: Request, duplex: Duplex, reply: Reply) -> None:
    duplex.write(whole_reply(request, reply))
    await duplex.drain()


async def _bridge(
    client: Duplex | websocket.WebSocket,
    scrollback: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until either side ends."""
    if scrollback:
        client.write(scrollback)
    copies = [
        asyncio.ensure_future(_to_console(client, writer)),
        asyncio.ensure_future(_to_client(reader, client)),
    ]
    if isinstance(client, websocket.WebSocket):
        copies.append(asyncio.ensure_future(_keep_alive(client)))
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        writer.close()
        client.close()


async def _to_console(client: Duplex | websocket.WebSocket, writer: asyncio.StreamWriter) -> None:
    while data := await client.read():
        writer.write(data)
        await writer.drain()


async def _to_client(reader: asyncio.StreamReader, client: Duplex | websocket.WebSocket) -> None:
    while data := await reader.read(CHUNK):
        client.write(data)
        await client.drain()


async def _keep_alive(client: websocket.WebSocket) -> None:
    while True:
        await asyncio.sleep(PING_EVERY)
        client.ping()
        await client.drain()
