"""The HTTP server: its listeners, its clock, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any, Final

from kronos.server.connection import Connection
from kronos.server.limits import Gate, Limits
from kronos.server.reading import Shared
from kronos.server.routing import Doors
from kronos.server.tls_connection import TlsConnection

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
GRACE: Final = 3.0
"""Seconds that running calls and transfers get to end when the server stops."""
_TICK: Final = 1.0
_KEEPALIVE_IDLE: Final = 60
_KEEPALIVE_INTERVAL: Final = 15
_KEEPALIVE_COUNT: Final = 4


@dataclass(frozen=True, slots=True)
class TcpListener:
    """A TCP port; with a TLS context it is HTTPS. An empty host is every address, IPv6 and IPv4."""

    host: str
    port: int
    tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None


@dataclass(frozen=True, slots=True)
class UnixListener:
    """A Unix socket. Whoever may open it is root for the API: `mode` decides."""

    path: Path
    mode: int = 0o600


class Server:
    """Serves the doors on any number of listeners, all on the running loop."""

    def __init__(
        self,
        doors: Doors,
        limits: Limits | None = None,
        https_port: int | None = None,
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        """`https_port` is where plain GET requests without a door of their own are sent on to.

        None: to the port of the first listener with TLS, if there is one. `inherited` are sockets that somebody else
        opened: a listener on such a path or port takes it, and leaves it in place when the server stops.
        """
        self._inherited = list(inherited)
        self.doors = doors
        self.limits = limits or Limits()
        self._https_port = https_port
        self._shared: Shared | None = None
        self._plain = True
        self._remote = True
        self._servers: list[asyncio.AbstractServer] = []
        self._unix_paths: list[tuple[Path, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.addresses: list[tuple[str, int]] = []
        """Host and port of the TCP listeners, in the order in which they were given; a port 0 has become real."""

    async def start(self, listeners: Sequence[TcpListener | UnixListener]) -> None:
        """Listen on all of them, or on none. Raises OSError when an address is taken or not this host's."""
        loop = asyncio.get_running_loop()
        shared = Shared(self.doors, self.limits, Gate(self.limits, self._evict), loop, self._https_port)
        shared.plain, shared.remote = self._plain, self._remote
        self._shared = shared
        opened: list[tuple[TcpListener | UnixListener, socket.socket]] = []
        try:
            for listener in listeners:
                opened.append((listener, self._open(listener)))
        except BaseException:
            for _, sock in opened:
                sock.close()
            await self.stop(0)
            raise
        for listener, sock in opened:
            await self._serve(shared, listener, sock)

    def _open(self, listener: TcpListener | UnixListener) -> socket.socket:
        for sock in self._inherited:
            if _fits(sock, listener):
                self._inherited.remove(sock)
                sock.setblocking(False)
                return sock
        if isinstance(listener, UnixListener):
            return self._open_unix(listener)
        return _open_tcp(listener)

    async def _serve(self, shared: Shared, listener: TcpListener | UnixListener, sock: socket.socket) -> None:
        loop = shared.loop  # it listens once more, and takes its own small backlog unless told
        if isinstance(listener, UnixListener):
            make = partial(self._new, partial(Connection, shared, local=True))
            server = await _serve_unix(loop, make, sock)
            self._servers.append(server)
            return
        host, port = sock.getsockname()[:2]
        self.addresses.append((host, port))
        given = listener.tls
        context = (lambda: given) if isinstance(given, ssl.SSLContext) else given
        if context is None:
            server = await loop.create_server(
                lambda: self._new(lambda: Connection(shared, local=False)), sock=sock, backlog=BACKLOG
            )
        else:
            if shared.https_port is None:
                shared.https_port = port
            server = await loop.create_server(
                lambda: self._new(lambda: TlsConnection(shared, context())), sock=sock, backlog=BACKLOG
            )
        self._servers.append(server)

    def _open_unix(self, listener: UnixListener) -> socket.socket:
        """Bound under another name first: at no time does the socket have its name and not yet its mode."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        temporary = listener.path.with_name(f".{listener.path.name}.{os.getpid()}")
        try:
            temporary.unlink(missing_ok=True)
            sock.bind(str(temporary))
            temporary.chmod(listener.mode)
            sock.listen(BACKLOG)
            inode = temporary.stat().st_ino
            temporary.replace(listener.path)
        except BaseException:
            sock.close()
            temporary.unlink(missing_ok=True)
            raise
        sock.setblocking(False)
        self._unix_paths.append((listener.path, inode))
        return sock

    def allow_plain(self, allowed: bool) -> None:
        """Whether TCP clients without TLS are let in from now on; those that are in stay. On the loop, or before."""
        self._plain = allowed
        if self._shared is not None:
            self._shared.plain = allowed

    def allow_remote(self, allowed: bool) -> None:
        """The same for all TCP clients that are not on this host."""
        self._remote = allowed
        if self._shared is not None:
            self._shared.remote = allowed

    async def stop(self, grace: float = GRACE) -> None:
        """Take no more connections, let what runs end within `grace` seconds, then end it."""
        for server in self._servers:
            server.close()
        for path, inode in self._unix_paths:
            # Another daemon may have taken the name over.
            if path.exists() and path.stat().st_ino == inode:
                path.unlink()
        self._servers, self._unix_paths = [], []
        shared = self._shared
        if shared is None:
            return
        shared.stopping = True
        for connection in list(shared.connections):
            connection.stop()
        deadline = shared.loop.time() + grace
        while (shared.connections or shared.streams) and shared.loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(shared.connections):
            connection.abort()
        for stream in list(shared.streams):
            stream.abort()
        await asyncio.sleep(0)  # the loop closes what was aborted
        if self._timer is not None:
            self._timer.cancel()

    @property
    def connections(self) -> int:
        """Connections that are open, those of doors that took over included."""
        return 0 if self._shared is None else self._shared.gate.count

    def _new(self, make: Callable[[], Connection]) -> Connection:
        """A connection, and the clock, which runs as long as there are any: a host that nobody asks sleeps."""
        if self._timer is None:
            self._tick(first=True)
        return make()

    def _tick(self, *, first: bool = False) -> None:
        """Once a second: the clock that connections read, and a look at each for a client that takes too long."""
        shared = self._shared
        assert shared is not None
        shared.now = shared.loop.time()
        shared.date = b"Date: %b\r\n" % formatdate(usegmt=True).encode()
        if not first and not shared.connections:
            self._timer = None
            return
        self._timer = shared.loop.call_later(_TICK, self._tick)
        waiting = [(connection.check(), connection) for connection in list(shared.connections)]
        excess = sum(size for size, _ in waiting) - self.limits.unsent
        if excess > 0:
            self._drop(waiting, excess)

    def _drop(self, waiting: list[tuple[int, Connection]], excess: int) -> None:
        """Slow readers hold too much memory: end those with the most until the rest is within the limit."""
        for size, connection in sorted(waiting, key=lambda each: each[0], reverse=True):
            if excess <= 0:
                return
            log.warning("a client has left %d bytes of its reply unread: closed", size)
            connection.abort()
            excess -= size

    def _evict(self) -> bool:
        shared = self._shared
        assert shared is not None
        idle = [each for each in shared.connections if each.is_idle]
        if not idle:
            return False
        min(idle, key=lambda each: each.idle_since).abort()
        return True


async def _serve_unix(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Connection], sock: socket.socket
) -> asyncio.AbstractServer:
    create: Any = loop.create_unix_server
    try:
        # Newer loops remove the name of a socket that they stop to serve, whoever made it; here `stop` sees to that.
        serving = create(make, sock=sock, backlog=BACKLOG, cleanup_socket=False)
    except TypeError:  # this one does not
        serving = create(make, sock=sock, backlog=BACKLOG)
    server: asyncio.AbstractServer = await serving
    return server


def _fits(sock: socket.socket, listener: TcpListener | UnixListener) -> bool:
    name = sock.getsockname()
    if isinstance(listener, UnixListener):
        return sock.family == socket.AF_UNIX and name == str(listener.path)
    return sock.family in (socket.AF_INET, socket.AF_INET6) and name[1] == listener.port


def _open_tcp(listener: TcpListener) -> socket.socket:
    """A listening socket; what is set on it is inherited by the connections that it accepts."""
    everywhere = not listener.host
    if everywhere and socket.has_dualstack_ipv6():
        family, address = socket.AF_INET6, "::"
    else:
        family, _, _, _, found = socket.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        address = str(found[0])
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Event clients are silent for long; one that has vanished is noticed within two minutes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
        sock.bind((address, listener.port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
