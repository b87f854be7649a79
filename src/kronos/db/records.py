"""A class of records for every class of XenAPI: VM, Host, VM_metrics… (first letter in upper case).

They are made from the facts; their fields are typed in `records.pyi`, which tools/stubs.py writes.
"""

from __future__ import annotations

from kronos.datamodel.model import model
from kronos.db.record import Record

KINDS: dict[str, type[Record]] = {}


def python_name(cls: str) -> str:
    """The name of a XenAPI class as a Python class: `host_metrics` is `Host_metrics`."""
    return cls[0].upper() + cls[1:]


for _cls in model().classes.values():
    _kind = type(python_name(_cls.name), (Record,), {"__slots__": (), "kind": _cls})
    KINDS[_cls.name] = _kind
    globals()[python_name(_cls.name)] = _kind
