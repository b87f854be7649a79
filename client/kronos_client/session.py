"""A session that blocks: XenAPI's messages as methods, `xapi.VM.start(vm, False, False)`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import httpx

from kronos_client import protocol
from kronos_client.calls import Classes, Tasks
from kronos_client.errors import Failure, Malformed, NoAnswer

LONG = 30.0
"""Seconds that an event.from of ours waits at most for news."""
TROUBLE = (Failure, NoAnswer, Malformed, httpx.HTTPError)
"""What a call raises, one way or the other."""


class Session(Classes):
    """A login to a pool, through its master. To be used as a context manager, by any number of threads.

    `Async` has the same classes, whose calls answer a task at once; `awaited` those whose calls are made as tasks and
    waited for, which is better for what takes long: nothing has to hold a connection open for it.

    Raises Failure as the host says, NoAnswer where it does not, and httpx's own errors where the connection cannot be
    made in the first place.
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Log in. `host`: a name, a URL, or the path of a host's own Unix socket, which asks for no password.

        `verify` is what httpx takes: True, False, an ssl.SSLContext, or the file of a certificate, since hosts sign
        their own. `timeout` is in seconds, of one call.
        """
        self._login = (user, password, protocol.API_VERSION, name)
        self._verify, self._timeout, self._transport = verify, timeout, transport
        self._renewal = threading.Lock()
        self._connect(protocol.address(host))
        self._closed = False
        self.ref = ""
        super().__init__(self._perform)
        self.Async = Tasks(self._perform_async)
        self.awaited = Classes(self._perform_awaited)
        try:
            self._log_in()
        except BaseException:
            self._http.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out and hang up."""
        self._closed = True
        with suppress(*TROUBLE):
            self.raw("session.logout", self.ref)
        self._http.close()

    # --- calls -------------------------------------------------------------------------------------------------

    def call(self, method: str, *args: Any) -> Any:
        """A call by its name, without this session as its first argument: `call("VM.start", vm, False, False)`.

        A session that the host has forgotten is renewed, once, and the call is made again: it was refused before
        anything was done.
        """
        used = self.ref
        try:
            return self._read(method, used, *args)
        except Failure as failure:
            if self._closed or failure.code != "SESSION_INVALID" or failure.params[:1] != (used,):
                raise
        with self._renewal:  # of many threads that are told so one logs in
            if self.ref == used:
                self._log_in()
        return self._read(method, self.ref, *args)

    def raw(self, method: str, *args: Any) -> Any:
        """A call of which every argument is given, the session among them."""
        if self._http.is_closed:
            raise NoAnswer(f"{method}: the session is closed")
        try:
            reply = self._http.post(protocol.PATH, content=protocol.request(method, args))
        except (httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent
            raise
        except httpx.HTTPError as error:
            raise NoAnswer(f"{method}: {error!r}") from error
        return protocol.result(reply.status_code, reply.content)

    def wait(
        self,
        task: str,
        timeout: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Any:
        """What a task answered; it is destroyed. `progress` is told how much is done, 0 to 1, as that changes.

        Raises the Failure that it ended with, and TimeoutError after `timeout` seconds; the task goes on then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        token, told = "", -1.0
        while (row := self.call("task.get_record", task))["status"] in ("pending", "cancelling"):
            if progress is not None and row["progress"] != told:
                told = row["progress"]
                progress(told)
            left = LONG if deadline is None else min(LONG, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"task {task} is still {row['status']}")
            token = self.call("event.from", [f"task/{task}"], token, left)["token"]
        with suppress(Failure):  # somebody else did
            self.call("task.destroy", task)
        return protocol.task_result(row["status"], row["result"], row["error_info"])

    @contextmanager
    def cancelled_on_error(self, task: str) -> Iterator[str]:
        """A task that is asked to end where the block is left by an exception, such as Ctrl-C."""
        try:
            yield task
        except BaseException:
            with suppress(*TROUBLE):
                self.call("task.cancel", task)
            raise

    # --- inside ------------------------------------------------------------------------------------------------

    def _connect(self, address: protocol.Address) -> None:
        self.url = address.url
        transport = self._transport
        if transport is None and address.socket is not None:
            transport = httpx.HTTPTransport(uds=address.socket)
        self._http = httpx.Client(
            **protocol.options(address, self._verify),
            transport=transport,
            timeout=httpx.Timeout(self._timeout, connect=protocol.CONNECTING),
        )

    def _log_in(self) -> None:
        try:
            self.ref = self.raw("session.login_with_password", *self._login)
        except Failure as failure:
            master = protocol.master(failure, self.url)
            if master is None:
                raise
            self._http.close()
            self._connect(protocol.Address(master))
            self.ref = self.raw("session.login_with_password", *self._login)

    def _read(self, method: str, *args: Any) -> Any:
        try:
            return self.raw(method, *args)
        except NoAnswer:
            if not protocol.repeatable(method):
                raise
        return self.raw(method, *args)

    def _perform(self, cls: str, message: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        args = protocol.arguments(cls, message, given, named)
        method = f"{cls}.{message}"
        made = self.call if protocol.takes_session(cls, message) else self.raw
        return protocol.answered(cls, message, made(method, *args))

    def _perform_async(self, cls: str, message: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return self.call(f"Async.{cls}.{message}", *protocol.arguments(cls, message, given, named))

    def _perform_awaited(self, cls: str, message: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        task = self._perform_async(cls, message, given, named)
        with self.cancelled_on_error(task):
            return protocol.answered(cls, message, self.wait(task))
