"""Every change to an SR's directory, as single steps: what lies between two of them is where a crash can fall."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from kronos.storage.directory.sidecar import LARGEST
from kronos.storage.images import image
from kronos.storage.images.qcow2 import BadImage
from kronos.system.files import sync_directory, write_whole

UNFINISHED = ".new"  # how write_whole's temporary names end


class Files:
    """The files of one SR. Images are for root alone; libvirt hands one to its QEMU when it opens it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # Changes.

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file, durably."""
        write_whole(self.root / name, content, 0o600)

    def make(self, name: str, fill: Callable[[BinaryIO], None]) -> None:
        """Make a file that must not exist yet. Its content is durable; its name is with the next `write`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.root / name, flags, 0o600), "w+b") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)
        sync_directory(self.root)

    def remove(self, name: str) -> None:
        """Remove a file, durably. One that is gone already is no error."""
        (self.root / name).unlink(missing_ok=True)
        sync_directory(self.root)

    def grow(self, name: str, virtual_size: int) -> None:
        image.grow(self.root / name, virtual_size)

    # Reading.

    def read(self, name: str) -> bytes:
        """A small file. Raises OSError; what is no regular file is not there."""
        try:
            with image.opened(self.root / name) as file:
                return file.read(LARGEST + 1)
        except BadImage as bad:
            raise FileNotFoundError(f"{name}: {bad}") from bad

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.root / name)

    def allocated(self, name: str) -> int:
        """Bytes that the file takes up."""
        try:
            return (self.root / name).lstat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def hold(self, name: str) -> int | None:
        """Lock a file until the descriptor that is returned is closed. None: someone else does."""
        descriptor = os.open(self.root / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
