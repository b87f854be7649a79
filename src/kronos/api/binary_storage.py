"""Binary storage: whether this host keeps blobs and archives of metrics in files. Messages go with them when it ends.

What was chosen is a key of the host's own: a database that came from another host must not decide it. Clients see it
in the host's other_config.
"""

from __future__ import annotations

import threading
from typing import Final

from kronos.api.blob import files
from kronos.datamodel.types import EPOCH
from kronos.db.database import Database
from kronos.db.records import Blob, Host, Message
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message

SHOWN: Final = "no_local_storage"
"""The key of a host's other_config that says that it is off."""
_KEY: Final = "binary_storage"
_OFF: Final = "off"
_ENDING: Final = "ending"
"""It is off, and what it held may not all be gone yet."""
_changing: Final = threading.Lock()


@message("host.enable_binary_storage")
def enable(call: Call, host: str) -> None:
    """Keep blobs and archives of metrics in files from now on. Without effect where it is so already."""
    row = call.db.get(Host, host)
    with _changing:
        call.machine.keys.put(_KEY, "")
        _keep(call.db, call.machine, row, keeping=True)


@message("host.disable_binary_storage")
def disable(call: Call, host: str) -> None:
    """Destroy the bytes of all blobs, the messages and the archives of metrics, and keep no more of those in files.

    What is measured stays in memory, and the records of blobs stay, empty. When this returns, all of it is gone for
    good; a kill before that leaves it off, and the next start removes the rest.
    """
    row = call.db.get(Host, host)
    with _changing:
        call.machine.keys.put(_KEY, _ENDING)
        _end(call.db, call.machine, row)


@message("pool.enable_binary_storage")
def enable_everywhere(call: Call) -> None:
    for row in call.db.all(Host):
        call.invoke("host.enable_binary_storage", row.ref)


@message("pool.disable_binary_storage")
def disable_everywhere(call: Call) -> None:
    for row in call.db.all(Host):
        call.invoke("host.disable_binary_storage", row.ref)


def resume(db: Database, machine: Machine) -> None:
    """At the start of the daemon: as it was chosen, with what a crash left of the choosing."""
    row = db.get(Host, machine.host_ref)
    chosen = machine.keys.get(_KEY)
    if chosen == _ENDING:
        _end(db, machine, row)
    else:
        _keep(db, machine, row, keeping=chosen != _OFF)


def _end(db: Database, machine: Machine, row: Host) -> None:
    with db.transaction():
        _show(machine, row, keeping=False)
        for each in db.all(Message):
            db.delete(each)
        for blob in db.all(Blob):
            db.write(blob, {"size": 0, "last_updated": EPOCH})
    if db.journal is not None:
        db.journal.wait(db.written())
    _keep_files(machine, keeping=False)
    machine.keys.put(_KEY, _OFF)


def _keep(db: Database, machine: Machine, row: Host, *, keeping: bool) -> None:
    with db.transaction():
        _show(machine, row, keeping=keeping)
    _keep_files(machine, keeping=keeping)


def _keep_files(machine: Machine, *, keeping: bool) -> None:
    machine.metrics.keep_files(keeping)
    if not keeping:
        files(machine).clear()


def _show(machine: Machine, row: Host, *, keeping: bool) -> None:
    """In a transaction: an upload that ends looks in one, too, whether what it wrote is to stay."""
    machine.keeps_blobs = keeping
    shown = {name: value for name, value in row.other_config.items() if name != SHOWN}
    row.other_config = shown if keeping else shown | {SHOWN: "true"}
