"""What a reply shows is on disk before it leaves, also what was written while the reply was."""

from __future__ import annotations

import asyncio

import pytest

from kronos.db.database import Database
from kronos.db.records import VM
from kronos.dispatch.answer import RecordAnswer
from kronos.dispatch.call import Origin
from kronos.server.routing import Reply, Request
from kronos.server.rpc import JsonDoor, XmlDoor

XML = b"<methodCall><methodName>VM.get_record</methodName><params/></methodCall>"
JSON = b'{"jsonrpc":"2.0","id":1,"method":"VM.get_record","params":[]}'


class SlowDisk:
    """A road whose answers show a row that is changed while they are written down."""

    def __init__(self) -> None:
        self.db = Database()
        self.vm = self.db.create(VM, name_label="old")
        self.on_disk = asyncio.Event()

    def call(self, origin, name, args):
        self.vm.name_label = "new"
        return RecordAnswer(self.vm)

    def settled(self) -> bool:
        return self.on_disk.is_set()

    async def settle(self) -> None:
        await self.on_disk.wait()


@pytest.mark.parametrize(("kind", "body"), [(XmlDoor, XML), (JsonDoor, JSON)])
def test_a_record_waits_for_the_disk_after_it_was_written_down(kind, body):
    async def scenario() -> None:
        road = SlowDisk()
        request = Request(b"POST", b"/", {}, Origin(local=True), True)
        request.body = body
        pending = asyncio.ensure_future(kind(road, 1 << 20).handle(request))
        await asyncio.sleep(0.01)
        assert not pending.done()
        road.on_disk.set()
        reply = await pending
        assert isinstance(reply, Reply)
        assert b"new" in b"".join(reply.body)

    asyncio.run(scenario())
