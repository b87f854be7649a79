"""SR type `file`: a directory that the host can see already."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kronos.storage.directory.access import LOCK
from kronos.storage.directory.driver import MARKER, DirectoryDriver
from kronos.storage.directory.files import UNFINISHED
from kronos.storage.faults import Fault, as_failures


class FileDriver(DirectoryDriver):
    """Disks as qcow2 files in a directory of the host."""

    type = "file"
    label = "Directory"
    description = "Disks as qcow2 files in a directory of the host"
    configuration = {"location": "Directory of the host (required)"}

    def __init__(self, sr_uuid: str, *, location: str = "") -> None:
        """Raises SR_BACKEND_FAILURE_94 (no location), 1 (not an absolute path)."""
        if not location:
            raise Fault.LOCATION_MISSING.failure()
        if not location.startswith("/") or not location.isprintable() or ".." in Path(location).parts:
            raise Fault.INVALID_ARGUMENT.failure(f"location {location!r} is not an absolute path")
        super().__init__(sr_uuid, Path(location))

    def discard(self) -> None:
        """Without its marker it is no SR yet, or none any more: it cannot be attached, and what is in it of ours would
        keep every other SR out of the directory."""
        with as_failures():
            if self.directory.files.exists(MARKER):
                super().discard()
                return
            left = {entry.name for entry in os.scandir(self.root)} if self.root.is_dir() else set()
            ours = {name for name in left if name == LOCK or _is_half_a_marker(name)}
            if left - ours - {"lost+found"}:
                return  # somebody's directory, in which no SR would have been made
            for name in ours:
                self.directory.files.remove(name)
            with suppress(OSError):  # it may be a mount point
                self.root.rmdir()


def _is_half_a_marker(name: str) -> bool:
    return name.startswith(f".{MARKER}.") and name.endswith(UNFINISHED)
