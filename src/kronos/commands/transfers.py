"""Bulk data between a file of the user's and the server: images, exports, backups, logs, databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from kronos.commands import progress
from kronos.commands.errors import CommandError, Leave
from kronos.commands.invocation import Invocation
from kronos.commands.protocol import NULL
from kronos.datamodel.errors import Failure

_PENDING = ("pending", "cancelling")
# Seconds between two looks at a task that goes on after its data has been sent, and seconds that a server gets to
# note why it cut a transfer short.
_INTERVAL = 0.5
_GRACE = 1.0


def get(invocation: Invocation, path: str, address: str, label: str, **query: object) -> Any:
    """Save what the server sends as the user's file `path`; returns the task's result. Raises Failure."""
    return _transfer(invocation, invocation.terminal.http_get, path, address, label, query)


def put(invocation: Invocation, path: str, address: str, label: str, **query: object) -> Any:
    """Send the user's file `path` to the server; returns the task's result. Raises Failure."""
    return _transfer(invocation, invocation.terminal.http_put, path, address, label, query)


def _transfer(
    invocation: Invocation,
    move: Callable[..., bool],
    path: str,
    address: str,
    label: str,
    query: dict[str, object],
) -> Any:
    shown = invocation.arguments.flag("progress")
    with _task(invocation, label) as task:
        bar = _bar(invocation, task) if shown else None
        done = move(path, url(invocation, address, task_id=task, **query), bar)
        if not done:
            _explain(invocation, task)
        result = _finished(invocation, task, bar)
        if bar:
            invocation.printer.remark("\n")
        return result


def url(invocation: Invocation, address: str, **query: object) -> str:
    """The address with the session and the query."""
    known = {name.replace("__", ":"): _text(value) for name, value in query.items() if value != ""}
    return f"{address}?{urlencode({'session_id': invocation.api.session} | known, quote_via=quote)}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def at_host(invocation: Invocation, host: str, path: str) -> str:
    """`path` on a given host: as it is where the host is the one spoken to, absolute elsewhere."""
    if host == NULL or host == invocation.this_host():
        return path
    address = str(invocation.records.value("host", host, "address"))
    return f"https://{f'[{address}]' if ':' in address else address}{path}"


@contextmanager
def _task(invocation: Invocation, label: str) -> Iterator[str]:
    """A task for the transfer: the one of `task-uuid=`, which its owner destroys, or one of our own."""
    api = invocation.api
    if "task-uuid" in invocation.arguments:
        yield invocation.ref("task", "task-uuid")
        return
    task = api("task.create", label, "")
    try:
        yield task
    finally:
        try:
            api("task.destroy", task)
        except Failure:
            # Gone with its session, or never ours: nothing is left to tidy.
            pass


def _bar(invocation: Invocation, task: str) -> Callable[[], None]:
    return lambda: progress.show(invocation, invocation.api("task.get_progress", task))


def _explain(invocation: Invocation, task: str) -> None:
    """Raise what the server has to say of a transfer that the client reports as failed."""
    deadline = time.monotonic() + _GRACE
    while True:
        info = invocation.api("task.get_error_info", task)
        if info:
            raise Failure(*info)
        if time.monotonic() > deadline:
            raise Failure("CLIENT_ERROR")
        time.sleep(_GRACE / 10)


def _finished(invocation: Invocation, task: str, bar: Callable[[], None] | None) -> Any:
    """Wait for the end of the task that the data went to, and return its result."""
    api = invocation.api
    while (status := api("task.get_status", task)) in _PENDING:
        time.sleep(_INTERVAL)
        if bar:
            bar()
        if not invocation.terminal.alive():
            raise Leave(1)
    if status == "cancelled":
        raise Failure("TASK_CANCELLED", task)
    if status != "success":
        raise Failure(*(api("task.get_error_info", task) or ("INTERNAL_ERROR",)))
    return api("task.get_result", task)


def references(result: str) -> list[str]:
    """The references in a task's result, which is an XML-RPC value as text."""
    found = []
    for part in result.replace("</value>", "<").replace("<", " ").replace(">", " ").split():
        if part.startswith("OpaqueRef:"):
            found.append(part)
    return found


def one_source(invocation: Invocation, first: str, second: str) -> str:
    """Which of two parameters is given. Raises CommandError unless it is exactly one."""
    given = [name for name in (first, second) if name in invocation.arguments]
    if len(given) == 2:
        raise CommandError(f"The parameters '{first}' and '{second}' cannot be used together.")
    if not given:
        raise CommandError(f"Required parameter not found: {first}")
    return given[0]
