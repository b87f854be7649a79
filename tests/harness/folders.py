"""Folders for as long as a test runs, which the next run clears away where a run was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def passing(kind: str, below: Path = Path("/tmp")) -> Iterator[Path]:
    """A new folder of a kind, which everybody may read; what dead processes left of that kind goes first.

    A locked file beside it says that its process lives: the kernel drops the lock, however that process dies. Not the
    folder itself: piuparts ends whoever has anything open where it works, which may be this folder.
    """
    for left in below.glob(f"{kind}-*"):
        descriptor = _locked(left)
        if descriptor is not None:
            _remove(left, descriptor)
    directory, descriptor = _new(kind, below)
    try:
        yield directory
    finally:
        _remove(directory, descriptor)


def _remove(directory: Path, descriptor: int) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _lock_of(directory).unlink(missing_ok=True)
    os.close(descriptor)


def _lock_of(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.lock")


def _new(kind: str, below: Path) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=below))
        descriptor = _locked(directory)
        if descriptor is not None:
            if directory.exists():
                directory.chmod(0o755)
                return directory, descriptor
            _remove(directory, descriptor)
        # Before it was locked, another run has taken it for one that was left.


def _locked(directory: Path) -> int | None:
    try:
        descriptor = os.open(_lock_of(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
