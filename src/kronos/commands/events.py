"""Waiting for something to happen, and the messages that tell what has happened."""

from __future__ import annotations

import re
from datetime import datetime

from kronos.commands import facts, fields
from kronos.commands.errors import CommandError, Leave
from kronos.commands.facts import ClassFacts
from kronos.commands.grammar import STANDARD
from kronos.commands.invocation import Invocation, command
from kronos.commands.records import Records, Row

# Seconds that one event.from waits: also how soon a client that has gone is noticed.
_TURN = 30.0
_UNEQUAL = "/="
_OWNERS = (("vm-uuid", "VM"), ("pool-uuid", "Pool"), ("sr-uuid", "SR"), ("host-uuid", "Host"))


@command("event-wait")
def event_wait(invocation: Invocation) -> None:
    """Return once an object of the class fits every condition, `name=value` or `name=/=value`."""
    name = invocation.arguments["class"]
    cls = facts.classes().get(name)
    if cls is None:
        raise CommandError(f"Waiting for objects of class '{name}' is not possible")
    conditions = [
        pair for pair in invocation.arguments.pairs if pair[0] != "class" and pair[0] not in STANDARD
    ]
    for key, _ in conditions:
        if key not in cls.fields:
            raise CommandError(f"key missing: {key}")
    token = ""
    while True:
        answer = invocation.api("event.from", [cls.api_class.lower()], token, _TURN)
        token = answer["token"]
        # A fresh view for each round: what a condition leads to may have changed with the object.
        records = Records(invocation.api)
        for event in answer["events"]:
            if event["operation"] != "del" and event.get("snapshot"):
                row = Row(records, cls.api_class, event["ref"], event["snapshot"])
                if _fits(row, cls, conditions):
                    return
        if not invocation.terminal.alive():
            raise Leave(1)


def _fits(row: Row, cls: ClassFacts, conditions: list[tuple[str, str]]) -> bool:
    for key, wanted in conditions:
        found = fields.text(row, cls.fields[key])
        if wanted.startswith(_UNEQUAL):
            if found == wanted.removeprefix(_UNEQUAL):
                return False
        elif found != wanted:
            return False
    return True


@command("message-create")
def message_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    priority = arguments.number("priority")
    for parameter, cls in _OWNERS:
        if parameter in arguments:
            invocation.api(
                "message.create", arguments["name"], priority, cls, arguments[parameter], arguments["body"]
            )
            return
    raise CommandError("Need one of: vm-uuid, host-uuid, sr-uuid or pool-uuid")


@command("message-destroy")
def message_destroy(invocation: Invocation) -> None:
    arguments = invocation.arguments
    if ("uuid" in arguments) == ("uuids" in arguments):
        raise CommandError("Need one of uuid, uuids")
    uuids = [arguments["uuid"]] if "uuid" in arguments else arguments.items("uuids")
    found = [invocation.records.by_uuid("message", uuid).ref for uuid in uuids]
    invocation.api("message.destroy_many", found)


@command("message-destroy-all")
def message_destroy_all(invocation: Invocation) -> None:
    arguments = invocation.arguments
    filters = {name: _instant(name, arguments[name]) for name in ("before", "after") if name in arguments}
    if "priority" in arguments:
        filters["priority"] = str(arguments.number("priority"))
    invocation.api("message.destroy_all", filters)


def _instant(name: str, text: str) -> str:
    """A moment as XenAPI writes it, from `2025-01-01T00:00:00Z` or `20250101T00:00:00Z`."""
    plain = re.sub(r"^(\d{4})(\d{2})(\d{2})T", r"\1-\2-\3T", text)
    try:
        datetime.fromisoformat(plain)
    except ValueError:
        raise CommandError(
            f"Invalid timestamp format for '{name}' (expected RFC3339, for example, 2025-01-01T00:00:00Z)"
        ) from None
    return text
