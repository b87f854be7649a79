"""A pipeline with every handler on an empty database: what the facts alone are enough for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kronos.api import catalogue
from kronos.db.database import Database
from kronos.db.records import KINDS, Host, Pool
from kronos.dispatch.call import Origin
from kronos.dispatch.machine import Machine
from kronos.dispatch.pipeline import Pipeline
from kronos.hypervisor.fake import Fake
from kronos.network.fake import FakeNetwork
from kronos.storage import registry
from kronos.system.intents import Intents

catalogue.load()


class Contract:
    """Calls made as root, and rows made as the system makes them."""

    def __init__(self, directory: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.db = Database()
        host = self.db.create(Host)
        self.db.create(Pool, master=host.ref)
        machine = Machine(
            hypervisor=Fake(directory / "run"),
            network=FakeNetwork(),
            state=directory,
            intents=Intents(directory / "intents"),
            open_storage=registry.build,
            host_ref=host.ref,
        )
        self.pipeline = Pipeline(self.db, machine, self.loop)
        self.session = self.answer("session.login_with_password", "root", "").value

    def answer(self, name: str, *args: object) -> Any:
        async def serve() -> Any:
            answer = self.pipeline.call(Origin(local=True), name, args)
            return answer if not hasattr(answer, "__await__") else await answer

        return asyncio.run_coroutine_threadsafe(serve(), self.loop).result(30)

    def __call__(self, name: str, *args: object) -> Any:
        return self.answer(name, self.session, *args).value

    def row(self, cls: str, **fields: Any) -> Any:
        """A row of a class with everything at its default."""
        return self.db.create(KINDS[cls], **fields)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.pipeline.close()


@pytest.fixture(scope="session")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Contract(tmp_path_factory.mktemp("contract"))
    yield made
    made.close()
