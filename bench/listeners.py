"""Many clients that wait for events on connections of their own; run by bench.process.Child.

Options: `port`, `clients`, and `session` with `vm` for XenAPI's event.from; without them requests have no meaning, as
for a bare server. Each reply has the moment of the change in it; `collect` tells how late they came.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

from bench.client import JSON, content_length, json_call
from bench.process import CLIENT_CORE, ender, listen, pin, say
from bench.server import run

_MOMENT = re.compile(rb'"at ([0-9]+)"')
_TOKEN = re.compile(rb'"token": ?"([0-9,]+)"')


class Listener(asyncio.Protocol):
    """Asks, notes how old the news of the reply is, asks again."""

    def __init__(self, options: dict[str, Any], lateness: list[float]) -> None:
        self.options = options
        self.lateness = lateness
        self.transport: Any = None
        self.arrived = b""
        self.needed = 0
        self.token = options.get("token", "")

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        body = b"{}"
        if "session" in self.options:
            classes = [f"VM/{self.options['vm']}"]
            body = json_call("event.from", self.options["session"], classes, self.token, 30.0)
        head = f"POST {JSON} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self.transport.write(head + body)

    def data_received(self, data: bytes) -> None:
        self.arrived += data
        if not self.needed:
            end = self.arrived.find(b"\r\n\r\n")
            if end < 0:
                return
            self.needed = end + 4 + content_length(self.arrived[:end])
        if len(self.arrived) < self.needed:
            return
        now = time.monotonic_ns()
        for moment in _MOMENT.findall(self.arrived):
            self.lateness.append((now - int(moment)) / 1e6)
        token = _TOKEN.search(self.arrived)
        if token is not None:
            self.token = token[1].decode()
        self.arrived, self.needed = b"", 0
        self.ask()


async def main() -> None:
    options = json.loads(sys.argv[1])
    pin(CLIENT_CORE)
    loop = asyncio.get_running_loop()
    lateness: list[float] = []
    for _ in range(options["clients"]):
        await loop.create_connection(lambda: Listener(options, lateness), "127.0.0.1", options["port"])
    ended = asyncio.Event()

    def collect() -> dict[str, Any]:
        """How late each piece of news came, in milliseconds."""
        found = sorted(lateness)
        lateness.clear()
        count = len(found)
        if not count:
            return {"count": 0, "p50": 0.0, "p99": 0.0}
        return {"count": count, "p50": found[count // 2], "p99": found[min(count - 1, count * 99 // 100)]}

    say({"clients": options["clients"]})
    listen({"collect": collect}, ender(loop, ended))
    await ended.wait()


if __name__ == "__main__":
    run(main())
