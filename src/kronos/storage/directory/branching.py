"""Snapshots and clones: a disk's file becomes the parent of two new, empty ones.

No file is renamed or copied. The volume's head moves to one new overlay, the new volume gets the other, and what was
the head changes no more.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from kronos.datamodel.errors import Failure
from kronos.storage.base import Volume
from kronos.storage.directory.access import Directory, is_layer, layer_name
from kronos.storage.directory.catalogue import LONGEST_CHAIN
from kronos.storage.directory.recovery import HeldIntent
from kronos.storage.directory.sidecar import Intent, Sidecar
from kronos.storage.faults import Fault
from kronos.storage.images import image
from kronos.storage.images.image import in_use

# The hypervisor says so before it tries anything; after every other error the guest may have moved.
_REFUSED = "VM_LACKS_FEATURE"


def branch(directory: Directory, uuid: str, new_uuid: str, *, clone: bool) -> Volume:
    """Snapshot or clone a disk that nobody writes to."""
    with directory.locked():
        directory.check_new(new_uuid)
        directory.check_not_switching(uuid)
        sidecar = directory.required(uuid)
        layers = directory.checked_chain(sidecar.head)
        directory.check_not_written(uuid, layers, "clone" if clone else "snapshot")
        if image.shows_only_its_backing(directory.root / sidecar.head):
            # Clones of a template that is never written share its parent, instead of adding a layer each.
            other, size = layer_name("qcow2"), layers[sidecar.head].virtual_size
            new = _offspring(sidecar, new_uuid, other, clone)
            with directory.recovery.operation(Intent(files=(other,), volume=new_uuid)):
                _make(directory, other, size, layers[sidecar.head].backing)
                directory.recovery.write(new)
            return directory.present(new)
        intent, size = _plan(directory, sidecar, new_uuid)
        new = _offspring(sidecar, new_uuid, intent.files[1], clone)
        with directory.recovery.operation(intent):
            for name in intent.files:
                _make(directory, name, size, sidecar.head)
            directory.recovery.write(new)
            directory.recovery.write(replace(sidecar, head=intent.head))
        return directory.present(new)


def revert(directory: Directory, uuid: str, source_uuid: str) -> Volume:
    """Let a disk that nobody uses go on from what another volume holds. A crash leaves the old content or the new."""
    with directory.locked():
        for each in (uuid, source_uuid):
            directory.check_not_switching(each)
        sidecar, source = directory.required(uuid), directory.required(source_uuid)
        old, layers = directory.checked_chain(sidecar.head), directory.checked_chain(source.head)
        if in_use(directory.root / sidecar.head, for_writing=False):
            raise Failure("VDI_IN_USE", uuid, "revert")
        directory.check_not_written(source_uuid, layers, "revert")
        size, backing = layers[source.head].virtual_size, layers[source.head].backing
        made = [layer_name("qcow2")]
        if not image.shows_only_its_backing(directory.root / source.head):
            # It was written to since it was taken: both go on from that.
            if len(layers) >= LONGEST_CHAIN:
                raise Fault.CHAIN_TOO_LONG.failure(f"{len(layers)} layers")
            made.append(layer_name("qcow2"))
            backing = source.head
        unused = [name for name in old if name == sidecar.head or is_layer(name)]
        held = directory.recovery.declare(Intent(files=(*made, *unused)))
        try:
            for name in made:
                _make(directory, name, size, backing)
            for name in made[1:]:
                directory.recovery.write(replace(source, head=name))
            directory.recovery.write(replace(sidecar, head=made[0]))
        finally:
            directory.recovery.conclude(held)
        return directory.present(directory.required(uuid))


class LiveBranch:
    """A snapshot or clone of a disk that a guest writes to. See base.PendingSnapshot."""

    def __init__(self, directory: Directory, uuid: str, new_uuid: str, *, clone: bool) -> None:
        self._directory = directory
        self._uuid = uuid
        self._new_uuid = new_uuid
        self._clone = clone
        self._announced = False
        self._volume: Volume | None = None

    @property
    def volume(self) -> Volume:
        assert self._volume is not None, "the snapshot is not complete"
        return self._volume

    def __enter__(self) -> LiveBranch:
        directory = self._directory
        with directory.locked():
            directory.check_new(self._new_uuid)
            directory.check_not_switching(self._uuid)
            sidecar = directory.required(self._uuid)
            self._intent, size = _plan(directory, sidecar, self._new_uuid)
            self._held: HeldIntent = directory.recovery.declare(self._intent)
            try:
                for name in self._intent.files:
                    _make(directory, name, size, sidecar.head)
            except BaseException:
                directory.recovery.conclude(self._held)
                raise
            directory.switching.add(self._uuid)
        return self

    def announce(self) -> Path:
        with self._directory.locked():
            self._held.rewrite(replace(self._intent, switching=True))
            self._announced = True
            return self._directory.root / self._intent.head

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.switching.discard(self._uuid)
        try:
            with self._directory.locked():
                if error is None and self._announced:
                    self._complete()
                    return
                refused = isinstance(error, Failure) and error.code == _REFUSED
                if refused or not self._announced:
                    self._held.intent = self._intent
                self._directory.recovery.conclude(self._held)
        finally:
            self._held.release()

    def _complete(self) -> None:
        recovery = self._directory.recovery
        try:
            sidecar = self._directory.required(self._uuid)
            new = _offspring(sidecar, self._new_uuid, self._intent.files[1], self._clone)
            recovery.write(new)
            recovery.write(replace(sidecar, head=self._intent.head))
            recovery.retire(self._held)
        except BaseException:
            recovery.conclude(self._held)
            raise
        self._volume = self._directory.present(new)


def _plan(directory: Directory, sidecar: Sidecar, new_uuid: str) -> tuple[Intent, int]:
    """What a snapshot will do, and the size of its overlays. Raises SR_BACKEND_FAILURE_109, 46."""
    layers = directory.checked_chain(sidecar.head)
    if len(layers) >= LONGEST_CHAIN:
        raise Fault.CHAIN_TOO_LONG.failure(f"{len(layers)} layers")
    active, other = layer_name("qcow2"), layer_name("qcow2")
    intent = Intent(
        files=(active, other), volume=new_uuid, switched=sidecar.uuid, previous=sidecar.head, head=active
    )
    return intent, layers[sidecar.head].virtual_size


def _make(directory: Directory, name: str, size: int, backing: str) -> None:
    directory.files.make(name, lambda file: image.write_empty(file, "qcow2", size, backing))


def _offspring(source: Sidecar, uuid: str, head: str, clone: bool) -> Sidecar:
    """What a snapshot or clone takes over from its source."""
    new = Sidecar(
        uuid,
        head,
        location=uuid,
        name_label=source.name_label,
        name_description=source.name_description,
        type=source.type,
    )
    if clone:
        return new
    return replace(new, is_a_snapshot=True, snapshot_of=source.uuid, snapshot_time=time.time())
