"""Several calls at once, as parts of one: each with a task of its own that its caller's cancellation reaches."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.dispatch.call import Call
from kronos.dispatch.workers import only_waiting


def all_of(call: Call, name: str, arguments: Iterable[tuple[object, ...]]) -> list[Any]:
    """Make the call `Async.<name>` once for each tuple of arguments, all at once, and wait until the last has ended.

    Returns what came of each, in their order: the value, or the Failure. Their tasks are gone then.
    """
    begun = [_begin(call, f"Async.{name}", each) for each in arguments]
    with only_waiting():
        return [future.result() for future in begun]


def _begin(call: Call, name: str, arguments: tuple[object, ...]) -> Future[Any]:
    # In a copy of the context, so that a trace of the whole shows its parts.
    future = call.pipeline.task_workers.submit(copy_context().run, _made, call, name, arguments)
    assert isinstance(future, Future)
    return future


def _made(call: Call, name: str, arguments: tuple[object, ...]) -> Any:
    parent = call.task.row.ref if call.task.row is not None else NULL
    try:
        call.task.check()
        return call.pipeline.perform(
            call.origin, call.session, name, arguments, call.task, part=True, subtask_of=parent
        )
    except Failure as failure:
        return failure
