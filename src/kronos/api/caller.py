"""Caller and Rate_limit: who calls, how much, and how much they may."""

from __future__ import annotations

from typing import Any

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import Caller, Rate_limit
from kronos.dispatch.call import Call
from kronos.dispatch.fields import constructor_fields
from kronos.dispatch.registry import message
from kronos.rules import callers
from kronos.rules.callers import Pattern

# --- callers ---------------------------------------------------------------------------------------------------------


@message("Caller.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """A caller by patterns: empty for any, ended by `*` for a beginning. One that is there gets the names anew.

    Raises INVALID_VALUE ["user_agent/client_ip", reason].
    """
    fields = constructor_fields("Caller", args)
    pattern = Pattern(fields["user_agent"], fields["client_ip"])
    pattern.assert_valid()
    with call.db.transaction():
        for row in call.db.all(Caller):
            if Pattern(row.user_agent, row.client_ip) == pattern:
                names = {name: fields[name] for name in ("name_label", "name_description")}
                call.db.write(row, names | {"auto_registered": False})
                return row.ref
        row = call.db.create(Caller, **fields)
    call.pipeline.callers.refresh()
    return row.ref


@message("Caller.destroy")
def destroy(call: Call, self: str) -> None:
    """Forget a caller and what it did."""
    call.db.delete(call.db.get(Caller, self))
    call.pipeline.callers.refresh()


@message("Caller.add_group")
def add_group(call: Call, self: str, group: str) -> None:
    """Raises INVALID_VALUE ["group", reason]."""
    row = call.db.get(Caller, self)
    callers.assert_group(group)
    with call.db.transaction():
        row.groups = tuple(dict.fromkeys((*row.groups, group)))


@message("Caller.remove_group")
def remove_group(call: Call, self: str, group: str) -> None:
    row = call.db.get(Caller, self)
    with call.db.transaction():
        row.groups = tuple(each for each in row.groups if each != group)


@message("Caller.query_token_usage")
def query_token_usage(call: Call, self: str) -> float:
    """Tokens that a caller's calls took since the daemon's start."""
    return call.pipeline.callers.usage(call.db.get(Caller, self).ref)[0]


@message("Caller.query_call_count")
def query_call_count(call: Call, self: str) -> int:
    """Calls of a caller since the daemon's start."""
    return call.pipeline.callers.usage(call.db.get(Caller, self).ref)[1]


@message("Caller.query_group_token_usage")
def query_group_token_usage(call: Call, group: str) -> float:
    """Raises INVALID_VALUE ["group", reason]."""
    return sum(call.pipeline.callers.usage(row.ref)[0] for row in _group(call, group))


@message("Caller.query_group_call_count")
def query_group_call_count(call: Call, group: str) -> int:
    """Raises INVALID_VALUE ["group", reason]."""
    return sum(call.pipeline.callers.usage(row.ref)[1] for row in _group(call, group))


def _group(call: Call, group: str) -> list[Caller]:
    if not group:
        raise Failure("INVALID_VALUE", "group", "empty group name")
    return [row for row in call.db.all(Caller) if group in row.groups]


@message("Caller.query_all_usage")
def query_all_usage(call: Call) -> tuple[tuple[str, ...], ...]:
    """Every caller's uuid, name, tokens and calls since the daemon's start, the greediest first."""
    found = [(row, *call.pipeline.callers.usage(row.ref)) for row in call.db.all(Caller)]
    found.sort(key=lambda each: each[1], reverse=True)
    return tuple((row.uuid, row.name_label, f"{tokens:.3f}", str(calls)) for row, tokens, calls in found)


# --- limits ----------------------------------------------------------------------------------------------------------


@message("Rate_limit.create")
def create_limit(call: Call, args: dict[str, Any]) -> str:
    """A limit: tokens that may be taken at once, and those that come back in a second. Raises INVALID_VALUE."""
    fields = constructor_fields("Rate_limit", args)
    callers.assert_limit(fields["burst_size"], fields["fill_rate"])
    row = call.db.create(Rate_limit, **fields)
    call.pipeline.callers.refresh()
    return row.ref


@message("Rate_limit.destroy")
def destroy_limit(call: Call, self: str) -> None:
    """Forget a limit: its callers have none any more."""
    row = call.db.get(Rate_limit, self)
    with call.db.transaction():
        for each in call.db.all(Caller):
            if each.rate_limit == row.ref:
                each.rate_limit = NULL
        call.db.delete(row)
    call.pipeline.callers.refresh()


@message("Rate_limit.add_caller")
def add_caller(call: Call, self: str, caller: str) -> None:
    """Have a caller share this limit, instead of the one that it may have. It stays then, though nobody named it."""
    row = call.db.get(Caller, caller)
    call.db.write(row, {"rate_limit": call.db.get(Rate_limit, self).ref, "auto_registered": False})


@message("Rate_limit.remove_caller")
def remove_caller(call: Call, self: str, caller: str) -> None:
    """Take a caller off this limit, if it is on it."""
    row = call.db.get(Caller, caller)
    if row.rate_limit == call.db.get(Rate_limit, self).ref:
        row.rate_limit = NULL


@message("Rate_limit.set_burst_size")
def set_burst_size(call: Call, self: str, value: float) -> None:
    """Raises INVALID_VALUE ["burst_size", value]."""
    row = call.db.get(Rate_limit, self)
    callers.assert_limit(value, row.fill_rate)
    row.burst_size = value
    call.pipeline.callers.refresh()


@message("Rate_limit.set_fill_rate")
def set_fill_rate(call: Call, self: str, value: float) -> None:
    """Raises INVALID_VALUE ["fill_rate", value]."""
    row = call.db.get(Rate_limit, self)
    callers.assert_limit(row.burst_size, value)
    row.fill_rate = value
    call.pipeline.callers.refresh()
