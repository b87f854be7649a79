"""Bare servers that bound what any server here could do; run by bench.process.Child.

`{"kind": "echo"}` answers every request with a few bytes; `{"kind": "blob", "path": …}` with a file's bytes;
`{"kind": "poll", "path": …}` holds requests until `update`, which encodes the file's record once and sends it to all.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import httptools

from bench.process import SERVER_CORE, ender, listen, pin, say
from bench.server import run


def _reply(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


class Bare(asyncio.Protocol):
    """Parses requests and answers each with the same bytes, or holds it."""

    reply = _reply(b"<value>Halted</value>")
    held: set[Bare] | None = None

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.held is None:
            self.transport.write(self.reply)
        else:
            self.held.add(self)


def update(
    loop: asyncio.AbstractEventLoop, record: dict[str, Any], count: int, rate: float
) -> dict[str, Any]:
    """Render the record once and write it to everybody who waits, `count` times; the CPU that it took."""

    def send(moment: int) -> None:
        assert Bare.held is not None
        waiting, Bare.held = Bare.held, set()
        record["name_description"] = f"at {moment}"
        reply = _reply(json.dumps(record).encode())
        for each in waiting:
            each.transport.write(reply)

    before, next_at = time.process_time(), time.monotonic()
    for _ in range(count):
        next_at += 1 / rate
        time.sleep(max(0.0, next_at - time.monotonic()))
        loop.call_soon_threadsafe(send, time.monotonic_ns())
    time.sleep(0.3)
    return {"cpu": time.process_time() - before}


async def main() -> None:
    options = json.loads(sys.argv[1])
    pin(SERVER_CORE)
    loop = asyncio.get_running_loop()
    record: dict[str, Any] = {}
    if options["kind"] == "blob":
        Bare.reply = _reply(Path(options["path"]).read_bytes())
    elif options["kind"] == "poll":
        Bare.held = set()
        record = json.loads(Path(options["path"]).read_bytes())
    server = await loop.create_server(Bare, "127.0.0.1", 0)
    ended = asyncio.Event()
    say({"port": server.sockets[0].getsockname()[1]})
    listen(
        {"update": lambda count, rate: update(loop, record, count, rate)},
        ender(loop, ended),
    )
    await ended.wait()


if __name__ == "__main__":
    run(main())
