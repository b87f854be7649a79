"""Disks that are made for a VM, and its records after them: all stay or none, even if the daemon is killed."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kronos.api.vdi import branching, copying, lifecycle
from kronos.db.records import SR, VDI, VM
from kronos.dispatch.call import Call


class NewDisks:
    """Makes disks whose uuids are known to whoever cleans up after a crash before there is anything of them."""

    def __init__(self, call: Call, undo: ExitStack, note: Callable[[str, str], None]) -> None:
        self._call = call
        self._undo = undo
        self._note = note
        self._uuids: list[str] = []

    def create(self, sr: SR, record: dict[str, object]) -> VDI:
        """A new empty disk, as VDI.create makes it."""
        return self._made(lifecycle.create_as(self._call, record | {"SR": sr.ref}, self._announced()))

    def clone(self, source: VDI) -> VDI:
        """A disk that begins with another's content, as VDI.clone makes it."""
        with self._call.pipeline.holds.hold(source, "clone", self._call.task):
            return self._made(branching.branch(self._call, source, self._announced(), clone=True))

    def snapshot(self, source: VDI) -> VDI:
        """A disk as it is now, as VDI.snapshot makes it."""
        with self._call.pipeline.holds.hold(source, "snapshot", self._call.task):
            return self._made(branching.branch(self._call, source, self._announced(), clone=False))

    def copy(self, source: VDI, sr: SR) -> VDI:
        """A disk of its own with another's content, as VDI.copy makes it."""
        with self._call.pipeline.holds.hold(source, "copy", self._call.task):
            return self._made(copying.copy_to_new(self._call, source, sr, self._announced()))

    def _announced(self) -> str:
        uuid = str(uuids.uuid4())
        self._uuids.append(uuid)
        self._note("vdis", ",".join(self._uuids))
        return uuid

    def _made(self, vdi: VDI) -> VDI:
        self._undo.callback(self._call.invoke, "VDI.destroy", vdi.ref)
        return vdi


@contextmanager
def last_use(call: Call, vm: VM, disk: VDI) -> Iterator[None]:
    """Inside, a disk is used for the last time and then destroyed: a crash once no VM refers to it destroys it too."""
    facts = {"kind": "disks", "vdis": disk.uuid}
    with call.machine.intents.declared(f"vm-{vm.uuid}", facts):
        yield


@contextmanager
def replacing(call: Call, vm: VM, successors: Mapping[str, str]) -> Iterator[None]:
    """Inside, a VM's records come to name other disks in the place of these, by reference, which are destroyed then: a
    crash in between does that too."""
    uuids = [(call.db.get(VDI, old).uuid, call.db.get(VDI, new).uuid) for old, new in successors.items()]
    facts = {
        "kind": "disks",
        "vdis": ",".join(old for old, _ in uuids),
        "successors": ",".join(new for _, new in uuids),
    }
    with call.machine.intents.declared(f"replaced-{vm.uuid}", facts):
        yield


@contextmanager
def new_disks(call: Call, name: str) -> Iterator[NewDisks]:
    """Make disks inside and the records that refer to them last; `name` tells this making from others."""
    with call.machine.intents.declared(f"vm-{name}", {"kind": "disks"}) as note, ExitStack() as undo:
        yield NewDisks(call, undo, note)
        call.pipeline.durability.block()
        undo.pop_all()
