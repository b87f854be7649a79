"""What one client may take from the server: sizes, times and counts, and who is let in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the HTTP server; sizes in bytes, times in seconds."""

    head: int = 64 << 10
    """Request line and headers."""
    headers: int = 100
    body: int = 16 << 20
    """A body that is read whole, as for every call; transfers have no limit."""
    inline_body: int = 256 << 10
    """A longer body is parsed on a thread, off the loop."""
    pipelined: int = 256
    """Requests that one connection may send ahead of their replies."""

    first_request: float = 60.0
    """From the connection (its TLS handshake included) to the first byte of a request."""
    head_time: float = 30.0
    """From the first byte of a request to the end of its headers."""
    body_time: float = 60.0
    body_rate: int = 16 << 10
    """A body may take `body_time`, and one second more for each `body_rate` bytes that have come."""
    idle: float = 3600.0
    """Between two requests. Long: clients keep their connections, and a new TLS handshake costs milliseconds."""
    stalled: float = 120.0
    """A reply of which the client takes nothing."""
    linger: float = 5.0
    """After a refusal, how long the rest of the request is read and thrown away so that the reply arrives."""

    connections: int = 4096
    """Over TCP, all addresses together; Unix sockets are counted apart, so that the local `xe` always gets in."""
    per_address: int = 512
    local_connections: int = 1024
    threads: int = 256
    """Connections that have a thread of their own: transfers and the command line."""
    unsent: int = 512 << 20
    """Bytes of replies that slow clients have not read yet, all together."""


class Gate:
    """Counts connections and turns away those above the limits.

    When the whole server is full, the connection that has been idle longest makes room: `evict` closes it and tells
    whether there was one.
    """

    def __init__(self, limits: Limits, evict: Callable[[], bool]) -> None:
        self._limits = limits
        self._evict = evict
        self._by_address: Counter[str] = Counter()
        self._remote = 0
        self._local = 0

    def enter(self, address: str) -> bool:
        """Count a connection in; an empty address is a Unix socket. False when it must be turned away."""
        if not address:
            if self._local >= self._limits.local_connections:
                return False
            self._local += 1
            return True
        if self._by_address[address] >= self._limits.per_address:
            return False
        if self._remote >= self._limits.connections and not self._evict():
            return False
        self._by_address[address] += 1
        self._remote += 1
        return True

    def leave(self, address: str) -> None:
        """Count out a connection that `enter` let in."""
        if not address:
            self._local -= 1
            return
        self._remote -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    @property
    def count(self) -> int:
        return self._local + self._remote
