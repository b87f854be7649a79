"""A storage driver for an SR that is a directory: what `file`, and every type that mounts something, has in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

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
from kronos.storage.directory import presentation
from kronos.storage.directory.access import LOCK, Directory, is_layer, layer_name
from kronos.storage.directory.branching import LiveBranch, branch, revert
from kronos.storage.directory.catalogue import SIDECAR, Contents, chain
from kronos.storage.directory.sidecar import BadSidecar, Intent, Sidecar, encode_marker, read_marker
from kronos.storage.faults import Fault, as_failures
from kronos.storage.images import image, qcow2
from kronos.storage.images.image import format_of, in_use, is_plain
from kronos.storage.images.qcow2 import BadImage

MARKER = "sr.json"
_NOT_OURS = {"lost+found"}  # what a new file system holds


class DirectoryDriver(StorageDriver):
    """Volumes are image files in `root`. Subclasses say where that is and what makes it appear."""

    type: ClassVar[str]
    traits = frozenset({"THIN_PROVISIONING", "LARGE_VDI"})
    image_formats = ("qcow2", "raw")

    def __init__(self, sr_uuid: str, root: Path) -> None:
        super().__init__(sr_uuid)
        self.directory = Directory(sr_uuid, root)
        self.root = root

    # The SR.

    def create(self, size: int) -> None:
        """Make the directory, whose parent must exist, or take an empty one. `size` is not used."""
        with as_failures():
            with suppress(FileExistsError):
                self.root.mkdir(0o711)
            if any(entry.name not in _NOT_OURS for entry in os.scandir(self.root)):
                raise Fault.SR_EXISTS.failure(f"{self.root} is not empty")
            self.directory.files.write(MARKER, encode_marker(self.sr_uuid, self.type))

    def attach(self) -> None:
        with as_failures():
            if not self.root.is_dir():
                raise Fault.SR_UNAVAILABLE.failure(f"no directory {self.root}")
            self._check_marker()
            if not self.directory.open():
                return
            try:
                with self.directory.locked():
                    self.directory.recovery.settle()
            except BaseException:
                self.directory.close()
                raise

    def detach(self) -> None:
        self.directory.close()

    def destroy(self, began: Callable[[], None] = nothing) -> None:
        with self.directory.locked():
            self._check_empty()
            began()
            self.directory.files.remove(MARKER)
            self.directory.files.remove(LOCK)
            self.detach()
        with suppress(OSError):  # it may be a mount point, or hold files of somebody else
            self.root.rmdir()

    def probe(self) -> list[Candidate]:
        place = self._place()
        try:
            marker = read_marker(self.directory.files.read(MARKER))
        except (OSError, BadSidecar):
            free = self.root.is_dir() and all(entry.name in _NOT_OURS for entry in os.scandir(self.root))
            return [Candidate(place, True, "", self._space(0))] if free else []
        return [Candidate(place, True, marker, self._space(0))]

    def stat(self) -> Space:
        return self._space(sum(each.virtual_size for each in self.scan() if each.managed))

    def space_now(self) -> tuple[int, int] | None:
        space = self._space(0)
        return space.physical_size, space.physical_utilisation

    def scan(self) -> list[Volume]:
        with self.directory.locked():
            contents = self.directory.recovery.settle()
            pending = self.directory.recovery.pending_files(contents)
            return presentation.volumes(self.sr_uuid, self.directory.files, contents, pending)

    # Volumes.

    def volume(self, uuid: str) -> Volume:
        with self.directory.locked():
            with suppress(BadSidecar):
                if sidecar := self.directory.catalogue.sidecar(uuid):
                    return self.directory.present(sidecar)
            for each in self.scan():
                if each.uuid == uuid:
                    return each
            raise self._missing(uuid)

    def volume_attach(self, uuid: str, writable: bool) -> Attachment:
        with self.directory.locked():
            sidecar = self.directory.required(uuid)
            if writable and sidecar.read_only:
                raise Failure("VDI_READONLY", uuid)
            self.directory.checked_chain(sidecar.head)
            return Attachment(self.root / sidecar.head, format_of(sidecar.head), not writable)

    def volume_detach(self, uuid: str) -> None:
        with self.directory.locked(), suppress(BadSidecar):
            if self.directory.catalogue.sidecar(uuid) is None:
                self.directory.loose_name(uuid)

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
        """A qcow2 disk, or a raw one if sm_config has type=raw, as in XenServer. Takes no space until written."""
        size = whole_sectors(uuid, virtual_size, qcow2.MAXIMUM_SIZE)
        config = dict(sm_config or {})
        form = "raw" if config.get("type") == "raw" else "qcow2"
        with self.directory.locked():
            self.directory.check_new(uuid)
            head = layer_name(form)
            sidecar = Sidecar(
                uuid, head, uuid, name_label, name_description, type, sharable, read_only, sm_config=config
            )
            self._check_size_of(sidecar)
            with self.directory.recovery.operation(Intent(files=(head,), volume=uuid)):
                self.directory.files.make(head, lambda file: image.write_empty(file, form, size))
                self.directory.recovery.write(sidecar)
            return self.directory.present(sidecar)

    def volume_destroy(self, uuid: str) -> None:
        with self.directory.locked():
            self.directory.check_not_switching(uuid)
            try:
                sidecar = self.directory.catalogue.sidecar(uuid)
            except BadSidecar:  # which images were its own can't be told: they become volumes of their own
                self.directory.files.remove(uuid + SIDECAR)
                return
            head = sidecar.head if sidecar else self.directory.loose_name(uuid)
            if in_use(self.root / head, for_writing=False):
                raise Failure("VDI_IN_USE", uuid, "destroy")
            try:
                files = tuple(
                    name
                    for name in chain(head, self.directory.catalogue.image)
                    if name == head or is_layer(name)
                )
            except BadImage:
                files = (head,)
            held = self.directory.recovery.declare(Intent(files=files))
            try:
                self.directory.files.remove(uuid + SIDECAR)
            finally:
                self.directory.recovery.conclude(held)

    def volume_resize(self, uuid: str, virtual_size: int) -> Volume:
        size = whole_sectors(uuid, virtual_size, qcow2.MAXIMUM_SIZE)
        with self.directory.locked():
            self.directory.check_not_switching(uuid)
            sidecar = self.directory.required(uuid)
            layers = self.directory.checked_chain(sidecar.head)
            present = layers[sidecar.head].virtual_size
            if size < present:
                raise Fault.VDI_SIZE.failure(f"{size} is less than {present}")
            self.directory.check_not_written(uuid, layers, "resize")
            if size > present:
                self.directory.files.grow(sidecar.head, size)
            return self.directory.present(sidecar)

    def volume_snapshot(self, uuid: str, new_uuid: str, *, live: LiveSwitch | None = None) -> Volume:
        return self._branch(uuid, new_uuid, False, live)

    def volume_clone(self, uuid: str, new_uuid: str, *, live: LiveSwitch | None = None) -> Volume:
        return self._branch(uuid, new_uuid, True, live)

    def volume_revert(self, uuid: str, source: str) -> Volume:
        return revert(self.directory, uuid, source)

    def live_snapshot(self, uuid: str, new_uuid: str, *, clone: bool = False) -> LiveBranch:
        return LiveBranch(self.directory, uuid, new_uuid, clone=clone)

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
        changes = {
            "name_label": name_label,
            "name_description": name_description,
            "sharable": sharable,
            "read_only": read_only,
            "snapshot_of": snapshot_of,
            "sm_config": None if sm_config is None else presentation.without_derived(sm_config),
        }
        with self.directory.locked():
            sidecar = self.directory.required(uuid)
            # Callers name the sidecar's own fields.
            changed = replace(sidecar, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]
            self._check_size_of(changed)
            if changed != sidecar:
                self.directory.recovery.write(changed)
            return self.directory.present(changed)

    def volume_introduce(self, uuid: str, location: str) -> Volume:
        """`location` is a file name in the SR, or the location of a volume. The file gets a name of our own."""
        with self.directory.locked():
            contents = self.directory.catalogue.contents()
            for sidecar in contents.sidecars.values():
                if sidecar.location == location:
                    if sidecar.uuid != uuid:
                        raise Failure("LOCATION_NOT_UNIQUE", self.sr_uuid, location)
                    return self.directory.present(sidecar)
            if not is_plain(location) or not (location in contents.images or location in contents.bad_images):
                raise Failure("VDI_LOCATION_MISSING", self.sr_uuid, location)
            if location in contents.heads() or location in contents.parents():
                raise Failure("LOCATION_NOT_UNIQUE", self.sr_uuid, location)
            if Path(location).stem != uuid or uuid in contents.sidecars or uuid in contents.bad_sidecars:
                self.directory.check_new(uuid)
            return self.directory.present(self.directory.adopt(uuid, location))

    def _branch(self, uuid: str, new_uuid: str, clone: bool, live: LiveSwitch | None) -> Volume:
        if live is None:
            return branch(self.directory, uuid, new_uuid, clone=clone)
        with self.live_snapshot(uuid, new_uuid, clone=clone) as pending:
            live(uuid, pending.announce())
        return pending.volume

    def _check_empty(self) -> None:
        """Raises SR_NOT_EMPTY. With the lock held."""
        contents = self.directory.recovery.settle()
        if contents.sidecars or contents.bad_sidecars or contents.loose() or contents.intents:
            raise Failure("SR_NOT_EMPTY")

    def _place(self) -> Mapping[str, str]:
        """The device_config that leads here."""
        return {"location": str(self.root)}

    def _check_marker(self) -> None:
        """Raises SR_BACKEND_FAILURE_47 for a directory that is another SR's, or none."""
        try:
            owner = read_marker(self.directory.files.read(MARKER))
        except BadSidecar as bad:
            raise Fault.SR_UNAVAILABLE.failure(f"{MARKER}: {bad}") from bad
        except FileNotFoundError:
            # An empty directory may be where a file system is to be mounted: its disks are not gone.
            if not _holds_disks_alone(self.directory.catalogue.contents(), self.root):
                raise Fault.SR_UNAVAILABLE.failure(f"{self.root} is no SR") from None
            self.directory.files.write(MARKER, encode_marker(self.sr_uuid, self.type))
            return
        if owner != self.sr_uuid:
            raise Fault.SR_UNAVAILABLE.failure(f"{self.root} belongs to the SR {owner}")

    def _check_size_of(self, sidecar: Sidecar) -> None:
        try:
            sidecar.encode()
        except BadSidecar as bad:
            raise Fault.INVALID_ARGUMENT.failure(str(bad)) from bad

    def _space(self, virtual_allocation: int) -> Space:
        with as_failures():
            system = os.statvfs(self.root)
        used = (system.f_blocks - system.f_bfree) * system.f_frsize
        return Space(system.f_blocks * system.f_frsize, used, virtual_allocation)


def _holds_disks_alone(contents: Contents, root: Path) -> bool:
    known = {uuid + SIDECAR for uuid in contents.sidecars} | contents.images.keys() | _NOT_OURS | {LOCK}
    return bool(contents.images) and all(entry.name in known for entry in os.scandir(root))
