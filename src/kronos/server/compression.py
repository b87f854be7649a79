"""gzip for large replies, where the client asks for it and the network between is the slower part."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from kronos.server.routing import Reply, Request

try:
    from isal import isal_zlib as fast_zlib  # type: ignore[import-not-found]
except ImportError:
    fast_zlib = zlib

FROM: Final = 64 << 10
"""Bytes; a smaller reply leaves in a few packets anyhow."""
LEVEL: Final = 1
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


def wanted(request: Request, reply: Reply) -> bool:
    """Whether to compress a reply of at least `FROM` bytes: never on a Unix socket, where it only costs."""
    return (
        not request.origin.local
        and request.method != b"HEAD"
        and b"gzip" in request.headers.get(b"accept-encoding", b"")
        and all(name != "Content-Encoding" for name, _ in reply.headers)
    )


async def compress(reply: Reply) -> Reply:
    """The reply with its body compressed, on a thread: zlib takes tens of milliseconds for a large one."""
    body = await asyncio.get_running_loop().run_in_executor(None, _gzip, reply.body)
    headers = (*reply.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return Reply(reply.status, body, reply.content_type, headers)


def _gzip(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    packer = fast_zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return (*(packer.compress(part) for part in parts), packer.flush())
