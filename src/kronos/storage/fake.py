"""SR type `fake`: disks in memory, with the same rules as real ones. For tests of what uses storage."""

from __future__ import annotations

import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.storage.base import (
    Attachment,
    Candidate,
    LiveSwitch,
    Space,
    StorageDriver,
    Volume,
    nothing,
    whole_sectors,
)
from kronos.storage.faults import Fault

_LONGEST_CHAIN = 30


@dataclass
class _Layer:
    """Blocks written at one level of a chain."""

    uuid: str
    size: int
    parent: _Layer | None = None
    blocks: dict[int, bytes] = field(default_factory=dict)

    def depth(self) -> int:
        return 1 + (self.parent.depth() if self.parent else 0)


@dataclass
class Place:
    """What outlives a driver: the shelf its disks lie on."""

    size: int
    volumes: dict[str, tuple[Volume, _Layer]] = field(default_factory=dict)


class FakeDriver(StorageDriver):
    """An SR in memory. Two drivers given the same `location` see the same SR."""

    label = "Fake"
    description = "Disks in memory, for tests"
    configuration = {"location": "Any name; SRs of one name are one"}
    traits = frozenset({"THIN_PROVISIONING", "LARGE_VDI"})
    image_formats = ("raw",)
    for_tests = True

    BLOCK = 512
    MAXIMUM_SIZE = 16 << 40
    places: dict[str, Place] = {}

    def __init__(self, sr_uuid: str, *, location: str = "") -> None:
        super().__init__(sr_uuid)
        self._location = location or sr_uuid
        self._mutex = threading.RLock()
        self._attached = False
        self.attachments: dict[str, bool] = {}
        """Volumes in use -> for writing?"""

    # The SR.

    def create(self, size: int) -> None:
        if self._location in self.places:
            raise Fault.SR_EXISTS.failure(self._location)
        self.places[self._location] = Place(size or 1 << 40)

    def destroy(self, began: Callable[[], None] = nothing) -> None:
        with self._locked() as place:
            if place.volumes:
                raise Failure("SR_NOT_EMPTY")
            began()
            del self.places[self._location]
            self._attached = False

    def attach(self) -> None:
        if self._location not in self.places:
            raise Fault.SR_UNAVAILABLE.failure(self._location)
        self._attached = True

    def detach(self) -> None:
        self._attached = False

    def probe(self) -> list[Candidate]:
        place = self.places.get(self._location)
        found = self.sr_uuid if place else ""
        return [Candidate({"location": self._location}, True, found, self._space(place) if place else None)]

    def stat(self) -> Space:
        with self._locked() as place:
            return self._space(place)

    def scan(self) -> list[Volume]:
        with self._locked() as place:
            shown = {uuid: self._present(volume, layer) for uuid, (volume, layer) in place.volumes.items()}
            for _, layer in place.volumes.values():
                while layer.parent:
                    layer = layer.parent
                    shown.setdefault(layer.uuid, _hidden(layer))
            return [shown[uuid] for uuid in sorted(shown)]

    # Volumes.

    def volume(self, uuid: str) -> Volume:
        for each in self.scan():
            if each.uuid == uuid:
                return each
        raise self._missing(uuid)

    def volume_attach(self, uuid: str, writable: bool) -> Attachment:
        with self._locked():
            volume, layer = self._required(uuid)
            if writable and volume.read_only:
                raise Failure("VDI_READONLY", uuid)
            self.attachments[uuid] = writable
            return Attachment(Path("/fake") / self.sr_uuid / f"{layer.uuid}.raw", "raw", not writable)

    def volume_detach(self, uuid: str) -> None:
        with self._locked():
            self._required(uuid)
            self.attachments.pop(uuid, None)

    def volume_create(
        self,
        uuid: str,
        virtual_size: int,
        *,
        name_label: str = "",
        name_description: str = "",
        type: str = "user",
        sharable: bool = False,
        read_only: bool = False,
        sm_config: Mapping[str, str] | None = None,
    ) -> Volume:
        size = whole_sectors(uuid, virtual_size, self.MAXIMUM_SIZE)
        with self._locked() as place:
            self._check_new(uuid)
            volume = Volume(
                uuid,
                uuid,
                size,
                0,
                "raw",
                name_label,
                name_description,
                type,
                sharable,
                read_only,
                sm_config=dict(sm_config or {}),
            )
            place.volumes[uuid] = (volume, _Layer(str(uuids.uuid4()), size))
            return self.volume(uuid)

    def volume_destroy(self, uuid: str) -> None:
        with self._locked() as place:
            self._required(uuid)
            if uuid in self.attachments:
                raise Failure("VDI_IN_USE", uuid, "destroy")
            del place.volumes[uuid]

    def volume_resize(self, uuid: str, virtual_size: int) -> Volume:
        size = whole_sectors(uuid, virtual_size, self.MAXIMUM_SIZE)
        with self._locked():
            _, layer = self._required(uuid)
            if size < layer.size:
                raise Fault.VDI_SIZE.failure(f"{size} is less than {layer.size}")
            if self.attachments.get(uuid):
                raise Failure("VDI_IN_USE", uuid, "resize")
            layer.size = size
            return self.volume(uuid)

    def volume_snapshot(self, uuid: str, new_uuid: str, *, live: LiveSwitch | None = None) -> Volume:
        return self._branch(uuid, new_uuid, False, live)

    def volume_clone(self, uuid: str, new_uuid: str, *, live: LiveSwitch | None = None) -> Volume:
        return self._branch(uuid, new_uuid, True, live)

    def volume_revert(self, uuid: str, source: str) -> Volume:
        with self._locked() as place:
            (volume, _), (kept, base) = self._required(uuid), self._required(source)
            if uuid in self.attachments or self.attachments.get(source):
                raise Failure("VDI_IN_USE", uuid if uuid in self.attachments else source, "revert")
            parent = base.parent
            if base.blocks:
                self._check_depth(source)
                place.volumes[source] = (kept, _Layer(str(uuids.uuid4()), base.size, base))
                parent = base
            place.volumes[uuid] = (volume, _Layer(str(uuids.uuid4()), base.size, parent))
            return self.volume(uuid)

    @contextmanager
    def live_snapshot(self, uuid: str, new_uuid: str, *, clone: bool = False) -> Iterator[_Pending]:
        with self._locked():
            self._required(uuid)
            self._check_new(new_uuid)
            self._check_depth(uuid)
        pending = _Pending(Path("/fake") / self.sr_uuid / f"{uuids.uuid4()}.raw")
        yield pending
        assert pending.announced, "nobody switched"
        pending.volume = self._complete(uuid, new_uuid, clone)

    def volume_update(
        self,
        uuid: str,
        *,
        name_label: str | None = None,
        name_description: str | None = None,
        sharable: bool | None = None,
        read_only: bool | None = None,
        snapshot_of: str | None = None,
        sm_config: Mapping[str, str] | None = None,
    ) -> Volume:
        with self._locked() as place:
            volume, layer = self._required(uuid)
            changed = replace(
                volume,
                name_label=volume.name_label if name_label is None else name_label,
                name_description=volume.name_description if name_description is None else name_description,
                sharable=volume.sharable if sharable is None else sharable,
                read_only=volume.read_only if read_only is None else read_only,
                snapshot_of=volume.snapshot_of if snapshot_of is None else snapshot_of,
                sm_config=volume.sm_config if sm_config is None else dict(sm_config),
            )
            place.volumes[uuid] = (changed, layer)
            return self.volume(uuid)

    def volume_introduce(self, uuid: str, location: str) -> Volume:
        """There are no files to take in: only what is here already can be introduced."""
        for each in self.scan():
            if each.location == location and each.managed:
                if each.uuid != uuid:
                    raise Failure("LOCATION_NOT_UNIQUE", self.sr_uuid, location)
                return each
        raise Failure("VDI_LOCATION_MISSING", self.sr_uuid, location)

    # A guest's view, for tests.

    def read(self, uuid: str, offset: int, length: int) -> bytes:
        """What a guest reads; whole blocks only."""
        _, layer = self._required(uuid)
        return b"".join(_block(layer, at) for at in range(offset, offset + length, self.BLOCK))

    def write(self, uuid: str, offset: int, content: bytes) -> None:
        """What a guest writes; whole blocks only."""
        _, layer = self._required(uuid)
        for at in range(0, len(content), self.BLOCK):
            layer.blocks[offset + at] = content[at : at + self.BLOCK]

    # Inside.

    @contextmanager
    def _locked(self) -> Iterator[Place]:
        with self._mutex:
            if not self._attached:
                raise Failure("SR_NOT_ATTACHED", self.sr_uuid)
            yield self.places[self._location]

    def _required(self, uuid: str) -> tuple[Volume, _Layer]:
        found = self.places[self._location].volumes.get(uuid)
        if found is None:
            if any(each.uuid == uuid for each in self.scan()):
                raise Failure("VDI_NOT_MANAGED", uuid)
            raise self._missing(uuid)
        return found

    def _check_new(self, uuid: str) -> None:
        if any(each.uuid == uuid for each in self.scan()):
            raise Fault.VDI_EXISTS.failure(uuid)

    def _check_depth(self, uuid: str) -> None:
        _, layer = self._required(uuid)
        if layer.depth() >= _LONGEST_CHAIN:
            raise Fault.CHAIN_TOO_LONG.failure(f"{layer.depth()} layers")

    def _branch(self, uuid: str, new_uuid: str, clone: bool, live: LiveSwitch | None) -> Volume:
        if live is None:
            with self._locked():
                return self._complete(uuid, new_uuid, clone)
        with self.live_snapshot(uuid, new_uuid, clone=clone) as pending:
            live(uuid, pending.announce())
        return pending.volume

    def _complete(self, uuid: str, new_uuid: str, clone: bool) -> Volume:
        with self._locked() as place:
            volume, base = self._required(uuid)
            self._check_new(new_uuid)
            new = Volume(
                new_uuid,
                new_uuid,
                base.size,
                0,
                "raw",
                volume.name_label,
                volume.name_description,
                volume.type,
                is_a_snapshot=not clone,
                snapshot_of="" if clone else uuid,
                snapshot_time=0.0 if clone else time.time(),
            )
            if base.blocks:
                self._check_depth(uuid)
                place.volumes[uuid] = (volume, _Layer(str(uuids.uuid4()), base.size, base))
            else:
                base = base.parent or _Layer("", 0)
            parent = base if base.uuid else None
            place.volumes[new_uuid] = (new, _Layer(str(uuids.uuid4()), new.virtual_size, parent))
            return self.volume(new_uuid)

    def _present(self, volume: Volume, layer: _Layer) -> Volume:
        return replace(
            volume,
            virtual_size=layer.size,
            physical_utilisation=len(layer.blocks) * self.BLOCK,
            parent=layer.parent.uuid if layer.parent else "",
        )

    def _space(self, place: Place) -> Space:
        layers: dict[str, _Layer] = {}
        for _, each in place.volumes.values():
            layer: _Layer | None = each
            while layer:
                layers[layer.uuid] = layer
                layer = layer.parent
        used = sum(len(layer.blocks) * self.BLOCK for layer in layers.values())
        return Space(place.size, used, sum(layer.size for _, layer in place.volumes.values()))


class _Pending:
    """See base.PendingSnapshot."""

    volume: Volume

    def __init__(self, overlay: Path) -> None:
        self._overlay = overlay
        self.announced = False

    def announce(self) -> Path:
        self.announced = True
        return self._overlay


def _block(layer: _Layer, at: int) -> bytes:
    seen: _Layer | None = layer
    while seen:
        if at in seen.blocks and at < seen.size:
            return seen.blocks[at]
        seen = seen.parent
    return bytes(FakeDriver.BLOCK)


def _hidden(layer: _Layer) -> Volume:
    return Volume(
        layer.uuid,
        layer.uuid,
        layer.size,
        len(layer.blocks) * FakeDriver.BLOCK,
        "raw",
        "base copy",
        read_only=True,
        managed=False,
        parent=layer.parent.uuid if layer.parent else "",
    )
