"""The doorkeeper: what messages change about the listeners while they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kronos.server.http import Server
from kronos.server.tls import Certificates


class Doorkeeper:
    """The listeners of a running server, for worker threads. The loop does what is asked."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, server: Server, certificates: Certificates | None
    ) -> None:
        self._loop = loop
        self._server = server
        self._certificates = certificates

    def reload_certificates(self) -> None:
        """Show the certificates that are on disk now to who connects from now on. Raises OSError, ssl.SSLError."""
        if self._certificates is not None:
            self._done(self._certificates.reload)

    def allow_plain(self, allowed: bool) -> None:
        """Whether TCP clients without TLS are let in."""
        self._done(lambda: self._server.allow_plain(allowed))

    def allow_remote(self, allowed: bool) -> None:
        """Whether clients are let in that are not on this host."""
        self._done(lambda: self._server.allow_remote(allowed))

    def _done(self, step: Callable[[], None]) -> None:
        async def do() -> None:
            step()

        asyncio.run_coroutine_threadsafe(do(), self._loop).result(30)
