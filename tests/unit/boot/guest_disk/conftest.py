"""A guest's disk in memory."""

import os
from collections.abc import Callable

import pytest

from kronos.boot.guest_disk.disk import Device, NotThere


class DiskInMemory:
    """Files by device and path; the devices are those that have files."""

    def __init__(self, files: dict[str, dict[str, str]], devices: list[Device] | None = None) -> None:
        self.files = files
        self.known = devices or [Device(name, "ext*") for name in files]

    def devices(self) -> list[Device]:
        return self.known

    def names(self, device: str, directory: str) -> list[str]:
        top = directory.rstrip("/") + "/"
        inside = [path[len(top) :] for path in self.files.get(device, {}) if path.startswith(top)]
        return list(
            dict.fromkeys(name.split("/")[0] + "/" if "/" in name else name for name in inside if name)
        )

    def text(self, device: str, path: str) -> str | None:
        return self.files.get(device, {}).get(path)

    def copy(self, device: str, path: str, output: int, limit: int) -> None:
        content = self.files.get(device, {}).get(path)
        if content is None:
            raise NotThere(f"file `{path}' not found")
        os.write(output, content.encode())


@pytest.fixture
def disk_of() -> Callable[..., DiskInMemory]:
    """`disk_of({"loop0,msdos1": {"/boot/vmlinuz-1": "…"}})`"""
    return DiskInMemory
