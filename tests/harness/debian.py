"""Debian's packages unpacked into a folder or an archive, one test run at a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kronos.system.locks import FileLock, LockHeld

SUITE = "bookworm"
_PATIENCE = 1500
"""Seconds for another run to make what this one waits for."""


def package_sources() -> list[str]:
    """This machine's own package sources: whoever runs the tests has said there where packages are."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))]
    places += sorted(Path("/etc/apt/sources.list.d").glob("*.list"))
    return [str(path) for path in places if path.is_file() and "debian" in path.read_text().lower()][:1]


def mmdebstrap(options: Sequence[str], target: Path, log: Path) -> None:
    """Raises RuntimeError with the end of what it said."""
    argv = ["mmdebstrap", "--mode=root", *options, SUITE, str(target), *package_sources()]
    with log.open("wb") as said:
        done = subprocess.run(argv, stdout=said, stderr=said, timeout=1200)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"mmdebstrap ended with {done.returncode}:\n{tail}")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock, however long another run makes one wait for it. Raises LockHeld."""
    lock, deadline = FileLock(path), time.monotonic() + _PATIENCE
    while True:
        try:
            lock.acquire()
            break
        except LockHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        yield
    finally:
        lock.release()
