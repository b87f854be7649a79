"""A VM's history: the message that each call leaves which changed what the VM does."""

from __future__ import annotations

from typing import Any

from kronos.api.message import tell
from kronos.db.records import VM, Host
from kronos.dispatch.call import Call
from kronos.dispatch.registry import afterwards
from kronos.rules.history import EVENTS


@afterwards(*EVENTS)
def told(call: Call, arguments: tuple[Any, ...], value: Any) -> None:
    """Leave the message of a call that succeeded. A VM that is gone by then has none."""
    db, event = call.db, EVENTS[call.message.full_name]
    row = db.find(VM, arguments[0])
    about: dict[str, Any] = {"host": db.find(Host, call.machine.host_ref)}
    if event.name == "VM_SNAPSHOT_REVERTED" and row is not None:
        about["snapshot"] = row
        row = db.find(VM, row.snapshot_of)
    if isinstance(value, str):
        about["made"] = db.find(VM, value)
    if row is None or None in about.values():
        return
    text = f"VM '{row.name_label}' (uuid: {row.uuid}) {event.text.format(**about)}"
    tell(db, event.name, event.priority, "VM", row.uuid, text)
