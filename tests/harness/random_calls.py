"""Calls made up from the facts: every message that may be called, with arguments of the right types.

Most references are of rows that exist and most values are plausible, so that much of what is called really happens.
The same seed gives the same choices for the same rows.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from harness.client import Client, NoAnswer
from kronos.datamodel.model import Class, Message, Param, model
from kronos.datamodel.types import (
    BoolType,
    DateTimeType,
    EnumType,
    FloatType,
    IntType,
    MapType,
    OptionType,
    RecordType,
    RefType,
    SetType,
    Type,
)

NULL = "OpaqueRef:NULL"
MOST_ROWS = 60
"""Rows of a class from which on no more are made: what is looked for is not what a full host does."""

ON_THE_MACHINE = (
    *("host.shutdown", "host.reboot", "host.power_on", "host.restart_agent", "host.shutdown_agent"),
    *("host.prepare_for_poweroff", "host.emergency", "host.apply_", "host.dmesg", "host.set_hostname_live"),
    *(
        "host.enable_ssh",
        "host.disable_ssh",
        "host.set_ssh",
        "host.set_ntp",
        "host.enable_ntp",
        "host.disable_ntp",
    ),
    *("host.set_servertime", "host.set_timezone", "host.syslog_reconfigure", "host.call_", "host.bugreport"),
    *(
        "host.send_debug_keys",
        "host.management_",
        "host.local_management",
        "host.sm_dp_destroy",
        "host.destroy",
    ),
    *("host.declare_dead", "host.set_console_idle_timeout", "host.update_firewalld_service_status"),
    *(
        "host.update_",
        "pool.set_ssh",
        "pool.enable_ssh",
        "pool.disable_ssh",
        "pool.set_console",
        "pool.management_",
    ),
    *(
        "pool.sync_updates",
        "pool.eject",
        "pool.join",
        "Repository.",
        "pool_update.",
        "pool_patch.",
        "host_patch.",
    ),
    *(
        "PCI.disable_dom0_access",
        "PCI.enable_dom0_access",
        "PIF.",
        "host.enable_external",
        "pool.enable_external",
    ),
    *(
        "host.disable_external",
        "pool.disable_external",
        "Diagnostics.gc_compact",
        "pool.set_ntp",
        "pool.set_timezone",
    ),
    *(
        "host.set_numa",
        "pool.exchange_",
        "pool.install_",
        "host.install_",
        "host.reset_server",
        "host.refresh_",
    ),
)
"""Those reach beyond the daemon, to the machine that the tests run on, or take the way to the daemon away."""

LEAVING_STORAGE = (
    "VDI.forget",
    "VDI.db_",
    "SR.forget",
    "SR.destroy",
    "SR.introduce",
    "PBD.unplug",
    "PBD.destroy",
)
"""After those a host has disks that it does not know, as it should; nearly everything else would be refused then."""

ENDING_SESSIONS = ("session.", "auth.", "subject.")
OF_OTHERS = ("task.set_",)
"""A client may say that a task of somebody else is pending again, and then it is for ever."""

DELAYS = ("start_delay", "shutdown_delay")
"""Seconds that a start or a shutdown waits; a random number of them would be waited for."""

WAITING = (
    *("VM.clean_shutdown", "VM.clean_reboot", "VM.shutdown", "VM_appliance.", "VM.wait_memory_target_live"),
    *("event.next", "host.evacuate", "VM.set_memory_target_live"),
)
"""May wait for a guest, minutes if need be: made as tasks, where there is such a form."""

WORDS = (
    "",
    "a",
    "web",
    "vda",
    "0",
    "1",
    "255.255.255.0",
    "192.0.2.7",
    "autodetect",
    "xenapi",
    "qos",
    "true",
    "é\u4e2d",
)
NUMBERS = (-1, 0, 1, 2, 7, 512, 4096, 1 << 20, 16 << 20, 64 << 20, 1 << 30, -(1 << 63), (1 << 63) - 1)


def messages() -> list[Message]:
    """What may be called at random."""
    return [
        message
        for message in model().messages.values()
        if message.state != "removed"
        and message.session
        and message.roles  # the others are the toolstack's own, which write what they are told into the database
        and not message.pool_internal
        and not message.name.endswith(DELAYS)
        and not message.full_name.startswith(
            (*ON_THE_MACHINE, *LEAVING_STORAGE, *ENDING_SESSIONS, *OF_OTHERS)
        )
        and (message.asynchronous or not message.full_name.startswith(WAITING))
    ]


def classes() -> list[Class]:
    """Those of which all records can be had."""
    found = [cls for cls in model().classes.values() if cls.in_database and "get_all_records" in cls.messages]
    return [cls for cls in found if cls.messages["get_all_records"].state != "removed"]


class Caller:
    """One client that calls at random. `seen` counts what was answered: a code, or "" for a result."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.random = random.Random(seed)
        self.messages = messages()
        self.rows: dict[str, list[str]] = {}
        self.uuids: list[str] = [NULL]
        self.seen: Counter[str] = Counter()
        self.defects: dict[str, str] = {}
        self.look()

    def look(self) -> None:
        """See which rows there are now."""
        self.uuids = []
        for cls in classes():
            if cls.name not in ("role", "session"):
                records = self.client(f"{cls.name}.get_all_records")
                self.rows[cls.name] = list(records)
                self.uuids += [str(row["uuid"]) for row in records.values() if "uuid" in row]

    def batch(self, size: int = 50) -> int:
        """Make some calls in one request; how many. Raises NoAnswer."""
        calls = list(self._calls(size))
        body = json.dumps(calls)
        connection = self.client.connection
        try:
            connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
            replies = json.loads(connection.getresponse().read())
        except (OSError, ValueError) as error:
            raise NoAnswer(f"{error!r} after {calls}") from error
        assert isinstance(replies, list) and len(replies) == size, replies
        for call, reply in zip(calls, replies, strict=True):
            self._note(call, reply)
        return size

    def _calls(self, size: int) -> Iterator[dict[str, Any]]:
        for number in range(size):
            message = self.random.choice(self.messages)
            while self._grows(message):
                message = self.random.choice(self.messages)
            name = message.full_name
            later = message.asynchronous and (name.startswith(WAITING) or self.random.random() < 0.1)
            args = [self.client.session, *(self.argument(param, message) for param in message.params)]
            yield {
                "jsonrpc": "2.0",
                "id": number,
                "method": f"Async.{name}" if later else name,
                "params": args,
            }

    def _grows(self, message: Message) -> bool:
        makes = message.name in (
            "create",
            "clone",
            "copy",
            "introduce",
            "snapshot",
            "provision",
            "checkpoint",
        )
        return makes and len(self.rows.get(message.cls, ())) > MOST_ROWS

    def _note(self, call: dict[str, Any], reply: dict[str, Any]) -> None:
        code = str(reply["error"]["message"]) if "error" in reply else ""
        self.seen[code] += 1
        if code == "INTERNAL_ERROR":
            self.defects.setdefault(f"{call['method']} {reply['error']['data'][:1]}", json.dumps(call)[:500])

    # --- values ------------------------------------------------------------------------------------------------

    def argument(self, param: Param, message: Message) -> Any:
        if param.name in ("timeout", "patience"):  # it would be waited for
            return self.random.random() / 50 if isinstance(param.type, FloatType) else 0
        return self.value(param.type, message.cls if param.name == "self" else "")

    def value(self, kind: Type, cls: str = "", depth: int = 0) -> Any:
        pick = self.random
        match kind:
            case RefType():
                return self._reference(kind.cls)
            case EnumType():
                return pick.choice(kind.values)
            case BoolType():
                return pick.random() < 0.5
            case IntType():
                return pick.choice(NUMBERS) if pick.random() < 0.7 else pick.randrange(1 << 32)
            case FloatType():
                return pick.choice((0.0, 1.0, -1.0, 1e300, pick.random()))
            case DateTimeType():
                return pick.choice(("19700101T00:00:00Z", "20261121T10:00:00Z", "99991231T23:59:59Z"))
            case SetType():
                return [self.value(kind.item, cls, depth + 1) for _ in range(pick.randrange(3))]
            case MapType():
                pairs = range(pick.randrange(3))
                return {self._key(kind.key): self.value(kind.value, cls, depth + 1) for _ in pairs}
            case RecordType():
                return self._record(kind)
            case OptionType():
                return self.value(kind.item, cls, depth + 1)
        return self._text()

    def _key(self, kind: Type) -> str:
        key = self.value(kind)
        return key if isinstance(key, str) else json.dumps(key)

    def _reference(self, cls: str) -> str:
        chance = self.random.random()
        if chance < 0.9 and self.rows.get(cls):
            return self.random.choice(self.rows[cls])
        if chance < 0.95:
            return NULL
        return f"OpaqueRef:{self.random.randrange(1 << 64):x}"

    def _record(self, kind: RecordType) -> dict[str, Any]:
        fields = kind.fields.items()
        made = {name: self.value(each) for name, each in fields if self.random.random() < 0.9}
        return made | {name: 0 for name in DELAYS if name in made}

    def _text(self) -> str:
        chance = self.random.random()
        if chance < 0.3 and self.uuids:
            return self.random.choice(self.uuids)
        if chance < 0.97:
            return self.random.choice(WORDS)
        return "x" * self.random.randrange(5000)
