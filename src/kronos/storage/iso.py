"""SR type `iso`: a directory of ISO images, to put into CD drives. It is never written to."""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Callable
from pathlib import Path

from kronos.datamodel.errors import Failure
from kronos.storage.base import Attachment, Candidate, Space, StorageDriver, Volume, nothing
from kronos.storage.faults import Fault, as_failures

_SUFFIX = ".iso"


class IsoDriver(StorageDriver):
    """ISO images in a directory of the host. A VDI's name and location are the file's name."""

    label = "ISO library"
    description = "ISO images in a directory of the host"
    content_type = "iso"
    configuration = {
        "location": "Directory of the host (required)",
        "legacy_mode": "Accepted for XenServer's sake: the location always is a local directory",
    }
    image_formats = ("raw",)

    def __init__(self, sr_uuid: str, *, location: str = "", legacy_mode: str = "") -> None:
        """Raises SR_BACKEND_FAILURE_220 (no location), 226 (not an absolute path)."""
        super().__init__(sr_uuid)
        if not location:
            raise Fault.ISO_LOCATION_MISSING.failure()
        if not location.startswith("/") or not location.isprintable() or ".." in Path(location).parts:
            raise Fault.ISO_LOCAL_PATH.failure(repr(location))
        self._root = Path(location)
        self._attached = False

    def create(self, size: int) -> None:
        """The directory with the images exists already."""
        self._check_directory()

    def destroy(self, began: Callable[[], None] = nothing) -> None:
        """The images are not ours: the SR goes, they stay."""
        self._check_attached()
        began()
        self.detach()

    def attach(self) -> None:
        self._check_directory()
        self._attached = True

    def detach(self) -> None:
        self._attached = False

    def probe(self) -> list[Candidate]:
        return [Candidate({"location": str(self._root)}, True)] if self._root.is_dir() else []

    def stat(self) -> Space:
        taken = sum(each.virtual_size for each in self.scan())
        with as_failures():
            system = os.statvfs(self._root)
        used = (system.f_blocks - system.f_bfree) * system.f_frsize
        return Space(system.f_blocks * system.f_frsize, used, taken)

    def scan(self) -> list[Volume]:
        self._check_attached()
        with as_failures():
            found = [self._present(entry.name) for entry in os.scandir(self._root)]
        return sorted((each for each in found if each), key=lambda each: each.uuid)

    def volume(self, uuid: str) -> Volume:
        for each in self.scan():
            if each.uuid == uuid:
                return each
        raise self._missing(uuid)

    def volume_attach(self, uuid: str, writable: bool) -> Attachment:
        if writable:
            raise Failure("VDI_READONLY", uuid)
        path = self._resolved(self.volume(uuid).location)
        if path is None:
            raise self._missing(uuid)
        return Attachment(path, "raw", True)

    def volume_detach(self, uuid: str) -> None:
        self._check_attached()

    def volume_introduce(self, uuid: str, location: str) -> Volume:
        """Only the uuid that `scan` shows will do: there is no place to keep another."""
        self._check_attached()
        found = self._present(location)
        if found is None:
            raise Failure("VDI_LOCATION_MISSING", self.sr_uuid, location)
        if found.uuid != uuid:
            raise Failure("LOCATION_NOT_UNIQUE", self.sr_uuid, location)
        return found

    def _present(self, untrusted_name: str) -> Volume | None:
        path = self._resolved(untrusted_name)
        if path is None:
            return None
        info = path.stat()
        return Volume(
            uuid=str(uuids.uuid5(uuids.UUID(self.sr_uuid), untrusted_name)),
            location=untrusted_name,
            virtual_size=info.st_size,
            physical_utilisation=info.st_blocks * 512,
            format="raw",
            name_label=untrusted_name,
            read_only=True,
        )

    def _resolved(self, untrusted_name: str) -> Path | None:
        """The file of that name; a link counts only if it leads to a file within the directory."""
        if "/" in untrusted_name or not untrusted_name.isprintable() or untrusted_name[:1] in ("", "."):
            return None
        try:
            path = (self._root / untrusted_name).resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        inside = path.is_relative_to(self._root.resolve())
        named = untrusted_name.lower().endswith(_SUFFIX)
        return path if inside and named and path.is_file() else None

    def _check_directory(self) -> None:
        if not self._root.is_dir():
            raise Fault.ISO_LOCAL_PATH.failure(f"no directory {self._root}")

    def _check_attached(self) -> None:
        if not self._attached:
            raise Failure("SR_NOT_ATTACHED", self.sr_uuid)
