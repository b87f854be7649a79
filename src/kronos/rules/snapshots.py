"""Snapshots: what one remembers of its VM's record, and what a revert brings back of that."""

from __future__ import annotations

from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Field, model
from kronos.datamodel.types import RefType
from kronos.db.database import Database
from kronos.db.dump import value_of
from kronos.db.query import db_string
from kronos.db.records import VM
from kronos.rules.cloning import VM_KEPT

_OWN: Final = frozenset({"snapshot_metadata", "channel_config", "channel_data"})
"""What no other toolstack could read, and the memory of an earlier snapshot."""
_LASTING: Final = frozenset({"tags", "affinity"})
"""What a VM keeps through its reverts."""
BROUGHT_BACK: Final = (VM_KEPT - _LASTING) | {
    "name_label",
    "other_config",
    "blocked_operations",
    "ha_restart_priority",
    "start_delay",
    "shutdown_delay",
    "order",
    "appliance",
    "suspend_SR",
    "version",
}
_OF_THE_SNAPSHOT: Final = (VM_KEPT - _LASTING - {"ha_restart_priority"}) | {"other_config"}
"""What a snapshot's own record has of its VM: all that is known where it remembers nothing."""


def metadata(vm: VM) -> str:
    """A VM's record as its snapshots remember it, in the form that other toolstacks read."""
    stored = vm.stored()
    return db_string({each.column: db_string(stored[each.name]) for each in _remembered()})


def _remembered() -> list[Field]:
    fields = model().classes["VM"].fields.values()
    return [
        each
        for each in fields
        if each.persist and not each.internal_only and each.mirror_of is None and each.name not in _OWN
    ]


def brought_back(db: Database, snapshot: VM) -> dict[str, Any]:
    """The fields that a revert to a snapshot gives its VM: as they were in the VM then, not as the snapshot's are now.

    What it remembers may come from elsewhere, with an archive: what cannot be read, or refers to nothing here, is
    passed over.
    """
    own = snapshot.stored()
    found = {name: own[name] for name in _OF_THE_SNAPSHOT}
    remembered = _read(snapshot.snapshot_metadata)
    for field in _remembered():
        if field.name not in BROUGHT_BACK or field.column not in remembered:
            continue
        try:
            value = value_of(field.type, remembered[field.column])
        except (Failure, ValueError):
            continue
        if not isinstance(field.type, RefType) or value in db.rows:
            found[field.name] = value
        elif field.name not in found:
            found[field.name] = field.type.zero
    return found | {"ha_always_run": False}


def _read(untrusted_text: str) -> dict[str, str]:
    columns = model().classes["VM"].fields["xenstore_data"].type  # a map from text to text, as this is
    try:
        read: dict[str, str] = value_of(columns, untrusted_text)
    except (Failure, ValueError):
        return {}
    return read
