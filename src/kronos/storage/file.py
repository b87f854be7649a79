"""SR type `file`: a directory that the host can see already."""

from __future__ import annotations

from pathlib import Path

from kronos.storage.directory.driver import DirectoryDriver
from kronos.storage.faults import Fault


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
