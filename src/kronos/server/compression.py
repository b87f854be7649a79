"""gzip for large replies, where the client asks for it and the network between is the slower part."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Final

from kronos.server.routing import Reply, Request

try:
    from isal import isal_zlib as fast_zlib  # type: ignore[import-not-found]  # not every host has it
except ImportError:
    fast_zlib = zlib

FROM: Final = 64 << 10
"""Bytes; a smaller reply leaves in a few packets anyhow."""
LEVEL: Final = 1
KEPT: Final = 4
"""Bodies that are remembered compressed."""
KEPT_FOR: Final = 60.0
"""Seconds after its last use that one is: it holds on to records' old forms meanwhile."""
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


def wanted(request: Request, reply: Reply) -> bool:
    """Whether to compress a reply of at least `FROM` bytes: never on a Unix socket, where it only costs."""
    return (
        not request.origin.local
        and request.method != b"HEAD"
        and b"gzip" in request.headers.get(b"accept-encoding", b"")
        and all(name != "Content-Encoding" for name, _ in reply.headers)
    )


class _Kept:
    """The last large bodies and what they were compressed to: dashboards ask for the same list again and again, and
    a list of records that have not changed is made of the very same pieces."""

    def __init__(self) -> None:
        self._bodies: list[tuple[float, tuple[bytes, ...], tuple[bytes, ...]]] = []

    def find(self, parts: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
        now = time.monotonic()
        for number, (_, body, packed) in enumerate(self._bodies):
            if len(body) == len(parts) and all(map(_same, body, parts)):
                self._bodies[number] = (now, body, packed)
                return packed
        return None

    def keep(self, parts: tuple[bytes, ...], packed: tuple[bytes, ...]) -> None:
        now = time.monotonic()
        fresh = [each for each in self._bodies if now - each[0] < KEPT_FOR]
        self._bodies = [*sorted(fresh, key=_used)[-(KEPT - 1) :], (now, parts, packed)]

    def forget_old(self) -> None:
        now = time.monotonic()
        self._bodies = [each for each in self._bodies if now - each[0] < KEPT_FOR]


def _used(each: tuple[float, tuple[bytes, ...], tuple[bytes, ...]]) -> float:
    return each[0]


def _same(one: bytes, other: bytes) -> bool:
    """Large pieces are records' kept forms: another object is another form. Small ones are heads with a call's id."""
    return one is other or (len(one) < 256 and one == other)


_kept = _Kept()


async def compress(reply: Reply) -> Reply:
    """The reply with its body compressed, on a thread: zlib takes tens of milliseconds for a large one."""
    body = _kept.find(reply.body)
    if body is None:
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, _gzip, reply.body)
        _kept.keep(reply.body, body)
        loop.call_later(KEPT_FOR + 1, _kept.forget_old)
    headers = (*reply.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return Reply(reply.status, body, reply.content_type, headers)


def _gzip(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    packer = fast_zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return tuple(piece for part in parts if (piece := packer.compress(part))) + (packer.flush(),)
