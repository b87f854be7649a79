"""Files written whole: after a crash a reader finds the old content or the new, never half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `content` in one step, durable when this returns.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def tidy(directory: Path) -> None:
    """Remove what `write_whole` leaves in a directory when its process is killed. Only where nobody else writes now."""
    for path in directory.glob(".*.new"):
        if path.stem.rpartition(".")[2].isdecimal():
            path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (a rename or unlink survives a power cut only after this)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
