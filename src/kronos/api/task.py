"""task: what long calls show, and what clients make for their own transfers."""

from __future__ import annotations

from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db.records import Session, Task
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.task import ENDED


def _own(call: Call, ref: str) -> Task:
    """A task that the caller may change: its own, or any with `task.destroy/any`.

    Raises HANDLE_INVALID, RBAC_PERMISSION_DENIED.
    """
    row = call.db.get(Task, ref)
    owner = call.db.find(Session, row.session)
    if owner is None or owner.auth_user_sid != call.user.auth_user_sid or not call.user.auth_user_sid:
        roles.require(call.user, "task.destroy/any")
    return row


@message("task.create", inline=True)
def create(call: Call, label: str, description: str) -> str:
    """A pending task for the client's own use; the client destroys it."""
    return call.pipeline.tasks.make_for_client(label, description, call.user.ref, call.machine.host_ref).ref


@message("task.destroy", inline=True)
def destroy(call: Call, self: str) -> None:
    """Forget a task; one that still runs goes when it has ended."""
    call.pipeline.tasks.destroy(_own(call, self))


@message("task.cancel", inline=True)
def cancel(call: Call, task: str) -> None:
    """Ask for a task's work to stop. Raises OPERATION_NOT_ALLOWED for one that has ended."""
    call.pipeline.tasks.cancel(_own(call, task))


def _set(call: Call, ref: str, **fields: Any) -> None:
    call.db.write(_own(call, ref), fields)


@message("task.set_status", inline=True)
def set_status(call: Call, self: str, value: str) -> None:
    """Set the state of a task that the client made."""
    row = _own(call, self)
    if row.status in ENDED and value == "pending":
        raise Failure("OPERATION_NOT_ALLOWED", f"task {self} has ended")
    ended = {"finished": now(), "progress": 1.0} if value in ENDED else {}
    if ended and row.status not in ENDED:
        call.pipeline.tasks.over(row)
    call.db.write(row, {"status": value} | ended)


@message("task.set_progress", inline=True)
def set_progress(call: Call, self: str, value: float) -> None:
    _set(call, self, progress=value)


@message("task.set_result", inline=True)
def set_result(call: Call, self: str, value: str) -> None:
    _set(call, self, result=value)


@message("task.set_error_info", inline=True)
def set_error_info(call: Call, self: str, value: tuple[str, ...]) -> None:
    _set(call, self, error_info=value)


@message("task.set_other_config", inline=True)
def set_other_config(call: Call, self: str, value: dict[str, str]) -> None:
    _set(call, self, other_config=value)


@message("task.add_to_other_config", inline=True)
def add_to_other_config(call: Call, self: str, key: str, value: str) -> None:
    """Raises MAP_DUPLICATE_KEY."""
    row = _own(call, self)
    if key in row.other_config:
        raise Failure("MAP_DUPLICATE_KEY", "task", "other_config", self, key)
    call.db.write(row, {"other_config": row.other_config | {key: value}})


@message("task.remove_from_other_config", inline=True)
def remove_from_other_config(call: Call, self: str, key: str) -> None:
    row = _own(call, self)
    call.db.write(row, {"other_config": {k: v for k, v in row.other_config.items() if k != key}})
