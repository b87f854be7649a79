"""The server's clock: it runs while somebody is connected, and not otherwise."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from kronos.server import http
from kronos.server.http import Server, UnixListener
from kronos.server.limits import Limits
from kronos.server.routing import Doors, Page, Reply

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_TICK", 0.01)


async def started(path: Path, limits: Limits | None = None) -> Server:
    doors = Doors()
    doors.add("GET", "/", Page(lambda request: Reply(200, (b"here",))))
    server = Server(doors, limits)
    await server.start([UnixListener(path)])
    return server


async def until(true) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


def test_a_server_that_nobody_is_connected_to_sleeps(tmp_path: Path) -> None:
    async def live() -> None:
        server = await started(tmp_path / "s")
        assert server._timer is None
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            date = next(line for line in head.decode().splitlines() if line.startswith("Date: "))
            assert parsedate_to_datetime(date.removeprefix("Date: ")).year > 2000
            await asyncio.sleep(0.05)
            assert server._timer is not None
            writer.close()
            await until(lambda: server._timer is None)
        await server.stop(0)

    asyncio.run(live())


def test_who_comes_after_a_long_sleep_is_not_late(tmp_path: Path) -> None:
    async def live() -> None:
        server = await started(tmp_path / "s", Limits(first_request=2.0))
        await asyncio.sleep(2.5)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await asyncio.sleep(0.1)
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        await server.stop(0)

    asyncio.run(live())


def test_who_says_nothing_is_still_sent_away(tmp_path: Path) -> None:
    async def live() -> None:
        server = await started(tmp_path / "s", Limits(first_request=0.05))
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()
        await server.stop(0)

    asyncio.run(live())
