"""Replies that are made of a future once it is done."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kronos.server.http import Server, UnixListener
from kronos.server.routing import Doors, Later, Page, Reply

CALL = b"GET /later HTTP/1.1\r\nHost: h\r\n\r\n"
QUICK = b"GET /now HTTP/1.1\r\nHost: h\r\n\r\n"


def reply_of(future: asyncio.Future[bytes]) -> Reply:
    return Reply(200, (future.result(),))


class World:
    """A server with a door whose replies come when the test says so."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[bytes]] = []

    async def start(self, path: Path) -> None:
        doors = Doors()
        doors.add("GET", "/later", Page(lambda _: self.later()))
        doors.add("GET", "/now", Page(lambda _: Reply(200, (b"now",))))
        self.server = Server(doors)
        await self.server.start([UnixListener(path)])
        self.reader, self.writer = await asyncio.open_unix_connection(path)

    def later(self) -> Later[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        return Later(future, reply_of)

    async def asked(self, count: int = 1) -> asyncio.Future[bytes]:
        while len(self.futures) < count:
            await asyncio.sleep(0.001)
        return self.futures[-1]

    async def read(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        return int(head.split()[1]), await self.reader.readexactly(int(length.split()[1]))

    async def end(self) -> None:
        self.writer.close()
        await self.server.stop(0)


def live(story, path: Path) -> None:
    async def run() -> None:
        world = World()
        await world.start(path / "s")
        try:
            await story(world)
        finally:
            await world.end()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_reply_comes_when_the_future_is_done_and_what_follows_waits(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.writer.write(CALL + QUICK)
        future = await world.asked()
        await asyncio.sleep(0.02)
        assert not world.reader._buffer  # type: ignore[attr-defined]
        future.set_result(b"done")
        assert await world.read() == (200, b"done")
        assert await world.read() == (200, b"now")

    live(story, tmp_path)


def test_a_failure_of_the_future_is_answered_and_the_connection_lives_on(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.writer.write(CALL)
        (await world.asked()).set_exception(ValueError("no"))
        assert (await world.read())[0] == 500
        world.writer.write(QUICK)
        assert await world.read() == (200, b"now")

    live(story, tmp_path)


def test_when_the_client_goes_the_future_is_cancelled(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.writer.write(CALL)
        future = await world.asked()
        world.writer.close()
        while not future.done():
            await asyncio.sleep(0.001)
        assert future.cancelled()

    live(story, tmp_path)


def test_a_client_that_goes_just_then_is_written_nothing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        troubles: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
        world.writer.write(CALL)
        future = await world.asked()
        (connection,) = world.server._shared.connections  # type: ignore[union-attr]
        future.set_result(b"done")
        connection.abort()
        connection.connection_lost(None)
        await asyncio.sleep(0.02)
        assert troubles == []
        assert await world.reader.read() == b""

    live(story, tmp_path)


def test_it_can_be_awaited_too(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        good, bad = world.later(), world.later()
        good.future.set_result(b"x")
        bad.future.set_exception(ValueError("no"))
        assert (await good).body == (b"x",)
        try:
            await bad
        except ValueError:
            return
        raise AssertionError("the failure is the reply's to deal with")

    live(story, tmp_path)
