"""What an SR holds: its VDIs' records, and how much room it has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from kronos.api.vdi import volumes
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import SR, VBD, VDI
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.storage.base import StorageDriver, Volume

log = logging.getLogger(__name__)

LOOK_AGAIN_AFTER = 1.0
"""Seconds from a change of a VDI to the next look at its SR: many changes in a row cost one look."""

_STEP = 250
_turn = threading.Lock()
_awaited: WeakKeyDictionary[Database, set[str]] = WeakKeyDictionary()


@message("SR.scan", holds="scan")
def scan(call: Call, sr: str) -> None:
    """Bring the records of an SR's VDIs up to date with what is there. Raises SR_HAS_NO_PBDS, SR_BACKEND_FAILURE_40."""
    row = call.db.get(SR, sr)
    with volumes.named_by_reference(row):
        synchronise(call.db, call.machine, row, volumes.plugged(call.machine, row))


@message("SR.update", holds="update")
def update(call: Call, sr: str) -> None:
    """Bring an SR's sizes up to date. Raises SR_HAS_NO_PBDS."""
    row = call.db.get(SR, sr)
    with volumes.named_by_reference(row):
        measure(call.db, row, volumes.plugged(call.machine, row))


def synchronise(db: Database, machine: Machine, sr: SR, driver: StorageDriver) -> None:
    """Introduce, update and forget VDI records until they say what the SR holds.

    What is being made at this moment gets its record from whoever makes it.
    """
    making = volumes.unfinished(machine, sr)
    found = driver.scan()
    making |= volumes.unfinished(machine, sr)
    known = {row.uuid: row for row in (db.get(VDI, ref) for ref in sr.VDIs)}
    # Sources come before their snapshots, which refer to them.
    ordered = sorted(found, key=lambda volume: volume.is_a_snapshot)
    for part in _parts(ordered):
        with db.transaction():
            for volume in part:
                _enter(db, sr, volume, known.pop(volume.uuid, None), making)
    for row in known.values():
        _vanished(db, row)
    measure(db, sr, driver)


def _parts(found: Sequence[Volume]) -> Iterator[Sequence[Volume]]:
    """A few at a time: other writers wait for each transaction."""
    return (found[start : start + _STEP] for start in range(0, len(found), _STEP))


def _enter(db: Database, sr: SR, volume: Volume, row: VDI | None, making: set[str]) -> None:
    if row is not None:
        volumes.refresh(db, sr, row, volume)
    elif volume.uuid in making:
        return
    elif db.tables["VDI"].by_uuid(volume.uuid) is not None:
        log.warning("SR %s holds a VDI %s that another SR holds too; it is left out", sr.uuid, volume.uuid)
    else:
        volumes.introduce(db, sr, volume)


def _vanished(db: Database, row: VDI) -> None:
    """A disk that its SR no longer has; while a VM has it open its record stays, marked as missing."""
    if any(db.get(VBD, ref).currently_attached for ref in row.VBDs):
        row.missing = True
        return
    log.info("VDI %s is no longer in its SR", row.uuid)
    volumes.forget(db, row)


def measure(db: Database, sr: SR, driver: StorageDriver) -> None:
    """Write down how big an SR is and how full."""
    space = driver.stat()
    fields = {
        "physical_size": space.physical_size,
        "physical_utilisation": space.physical_utilisation,
        "virtual_allocation": space.virtual_allocation,
    }
    with db.transaction():
        if sr.ref in db.rows:
            db.write(sr, fields)


# --- after a change --------------------------------------------------------------------------------------------------


def look_again(call: Call, sr: SR) -> None:
    """A VDI has changed: soon look at how full its SR is and which parents its chains have."""
    with _turn:
        awaited = _awaited.setdefault(call.db, set())
        if sr.ref in awaited:
            return
        awaited.add(sr.ref)
    timer = threading.Timer(LOOK_AGAIN_AFTER, _look, (call.db, call.machine, sr))
    timer.daemon = True
    timer.start()


def _look(db: Database, machine: Machine, sr: SR) -> None:
    with _turn:
        _awaited[db].discard(sr.ref)
    try:
        look(db, machine, sr)
    except Failure as failure:  # it was unplugged meanwhile, or is out of reach
        log.warning("Looking at SR %s: %s", sr.uuid, failure)
    except Exception:  # nobody waits for this thread
        log.exception("Looking at SR %s", sr.uuid)


def look(db: Database, machine: Machine, sr: SR) -> None:
    """Bring an SR's sizes, those of its disks, and the records of its chains' parents up to date.

    Which disks there are is left to the calls that make and destroy them.
    """
    driver = machine.storage.get(sr.uuid)
    if driver is None or sr.ref not in db.rows:
        return
    found = {volume.uuid: volume for volume in driver.scan()}
    hidden = {uuid: volume for uuid, volume in found.items() if not volume.managed}
    with db.transaction():
        for row in (db.get(VDI, ref) for ref in sr.VDIs):
            if row.managed and row.uuid in found:
                row.physical_utilisation = found[row.uuid].physical_utilisation
            elif not row.managed and row.uuid not in hidden:
                volumes.forget(db, row)
        for uuid, volume in hidden.items():
            ref = db.tables["VDI"].by_uuid(uuid)
            if ref is None:
                volumes.introduce(db, sr, volume)
            elif not (known := db.get(VDI, ref)).managed:
                volumes.refresh(db, sr, known, volume)
    measure(db, sr, driver)
