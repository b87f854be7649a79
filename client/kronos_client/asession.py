"""A session for asyncio: XenAPI's messages as coroutines, `await xapi.VM.start(vm, False, False)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import httpx

from kronos_client import protocol
from kronos_client.acalls import AsyncClasses, AsyncTasks
from kronos_client.errors import Failure, NoAnswer
from kronos_client.session import LONG, TROUBLE


class AsyncSession(AsyncClasses):
    """As Session, for one event loop; to be used with `async with`, which logs in and out.

    Connections are shared: a thousand calls may wait at once.
    """

    def __init__(
        self,
        host: str,
        user: str = "root",
        password: str = "",
        *,
        verify: Any = True,
        timeout: float = 600.0,
        name: str = "kronos-client",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As Session's; nothing is asked of the host yet."""
        self._login = (user, password, protocol.API_VERSION, name)
        self._verify, self._timeout, self._transport = verify, timeout, transport
        self._renewal = asyncio.Lock()
        self._connect(protocol.address(host))
        self._closed = False
        self.ref = ""
        super().__init__(self._perform)
        self.Async = AsyncTasks(self._perform_async)
        self.awaited = AsyncClasses(self._perform_awaited)

    async def __aenter__(self) -> Self:
        try:
            await self._log_in()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Log out and hang up."""
        self._closed = True
        with suppress(*TROUBLE):
            await self.raw("session.logout", self.ref)
        await self._http.aclose()

    # --- calls -------------------------------------------------------------------------------------------------

    async def call(self, method: str, *args: Any) -> Any:
        """As Session.call."""
        used = self.ref
        try:
            return await self._read(method, used, *args)
        except Failure as failure:
            if self._closed or failure.code != "SESSION_INVALID" or failure.params[:1] != (used,):
                raise
        async with self._renewal:
            if self.ref == used:
                await self._log_in()
        return await self._read(method, self.ref, *args)

    async def raw(self, method: str, *args: Any) -> Any:
        """A call of which every argument is given, the session among them."""
        if self._http.is_closed:
            raise NoAnswer(f"{method}: the session is closed")
        try:
            reply = await self._http.post(protocol.PATH, content=protocol.request(method, args))
        except (httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent
            raise
        except httpx.HTTPError as error:
            raise NoAnswer(f"{method}: {error!r}") from error
        return protocol.result(reply.status_code, reply.content)

    async def wait(self, task: str, progress: Callable[[float], None] | None = None) -> Any:
        """What a task answered; it is destroyed. `asyncio.timeout` bounds it; the task goes on then."""
        token, told = "", -1.0
        while (row := await self.call("task.get_record", task))["status"] in ("pending", "cancelling"):
            if progress is not None and row["progress"] != told:
                told = row["progress"]
                progress(told)
            token = (await self.call("event.from", [f"task/{task}"], token, LONG))["token"]
        with suppress(Failure):  # somebody else did
            await self.call("task.destroy", task)
        return protocol.task_result(row["status"], row["result"], row["error_info"])

    @asynccontextmanager
    async def cancelled_on_error(self, task: str) -> AsyncIterator[str]:
        """A task that is asked to end where the block is left by an exception, such as a cancellation."""
        try:
            yield task
        except BaseException:
            with suppress(*TROUBLE):
                await self.call("task.cancel", task)
            raise

    # --- inside ------------------------------------------------------------------------------------------------

    def _connect(self, address: protocol.Address) -> None:
        self.url = address.url
        transport = self._transport
        if transport is None and address.socket is not None:
            transport = httpx.AsyncHTTPTransport(uds=address.socket)
        self._http = httpx.AsyncClient(
            **protocol.options(address, self._verify),
            transport=transport,
            timeout=httpx.Timeout(self._timeout, connect=protocol.CONNECTING, pool=None),
        )

    async def _log_in(self) -> None:
        try:
            self.ref = await self.raw("session.login_with_password", *self._login)
        except Failure as failure:
            master = protocol.master(failure, self.url)
            if master is None:
                raise
            await self._http.aclose()
            self._connect(protocol.Address(master))
            self.ref = await self.raw("session.login_with_password", *self._login)

    async def _read(self, method: str, *args: Any) -> Any:
        try:
            return await self.raw(method, *args)
        except NoAnswer:
            if not protocol.repeatable(method):
                raise
        return await self.raw(method, *args)

    async def _perform(self, cls: str, message: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        args = protocol.arguments(cls, message, given, named)
        method = f"{cls}.{message}"
        made = self.call if protocol.takes_session(cls, message) else self.raw
        return protocol.answered(cls, message, await made(method, *args))

    async def _perform_async(
        self, cls: str, message: str, given: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        args = protocol.arguments(cls, message, given, named)
        return await self.call(f"Async.{cls}.{message}", *args)

    async def _perform_awaited(
        self, cls: str, message: str, given: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        task = await self._perform_async(cls, message, given, named)
        async with self.cancelled_on_error(task):
            return protocol.answered(cls, message, await self.wait(task))
