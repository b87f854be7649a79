"""Blobs: bytes that clients keep with an object, a file each, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kronos.system.files import sync_directory


class BlobFiles:
    """The files of one host's blobs in `directory`, by uuid."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, uuid: str) -> Path:
        """Where a blob's bytes are; there is no file before the first were written."""
        assert "/" not in uuid and not uuid.startswith("."), uuid
        return self.directory / uuid

    def write(self, uuid: str, parts: Iterable[bytes | memoryview]) -> int:
        """Replace a blob's bytes, durably; returns how many. What `parts` raises leaves those that were there.

        Raises OSError.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = _new(self.directory)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                size = sum(file.write(part) for part in parts)
                os.fsync(file.fileno())
            temporary.replace(self.path(uuid))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(self.directory)
        return size

    def remove(self, uuid: str) -> None:
        """Remove a blob's bytes, if there are any."""
        self.path(uuid).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the bytes of all blobs. An upload under way, whose file is hidden until its end, is its caller's."""
        for path in self.directory.iterdir() if self.directory.exists() else ():
            if not path.name.startswith("."):
                path.unlink(missing_ok=True)

    def tidy(self, known: Iterable[str]) -> None:
        """Remove what belongs to no blob: a crash came between its record and its file."""
        if not self.directory.exists():
            return
        kept = set(known)
        for path in self.directory.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


def _new(directory: Path) -> tuple[int, Path]:
    """A file of our own, under a name that no blob has: two uploads to one blob are two files until the end."""
    while True:
        path = directory / f".{os.urandom(8).hex()}"
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), path
        except FileExistsError:
            continue
