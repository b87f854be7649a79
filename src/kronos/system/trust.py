"""Trust: the folder of certificates of authorities, and of lists of revocations, that a pool was given.

A kind has a folder of its own. What is in them all is also in one bundle, from which a client's TLS settings are made.
"""

from __future__ import annotations

import ssl
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Final

from kronos.system.files import sync_directory, write_whole

AUTHORITIES: Final = "ca"
REVOCATIONS: Final = "crl"
ROOTS: Final = "root"
PINNED: Final = "pinned"
KINDS: Final = (AUTHORITIES, REVOCATIONS, ROOTS, PINNED)


class Trust:
    """The certificates below a folder, by kind and file name. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, name: str) -> Path:
        return self.folder / kind / name

    def names(self, kind: str) -> tuple[str, ...]:
        """The files of a kind."""
        try:
            found = sorted(path.name for path in (self.folder / kind).iterdir() if path.is_file())
        except FileNotFoundError:
            return ()
        return tuple(name for name in found if not name.startswith("."))

    def add(self, kind: str, name: str, pem: str) -> None:
        """Write a file, durable when this returns. Raises FileExistsError."""
        path = self.path(kind, name)
        if path.exists():
            raise FileExistsError(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        write_whole(path, pem.encode())

    def remove(self, kind: str, name: str) -> None:
        """Remove a file. Raises FileNotFoundError."""
        path = self.path(kind, name)
        path.unlink()
        sync_directory(path.parent)

    def keep_only(self, kind: str, names: Iterable[str]) -> tuple[str, ...]:
        """Remove the files of a kind that nobody knows: an installation was cut off by a crash. Returns their names."""
        known = set(names)
        gone = tuple(name for name in self.names(kind) if name not in known)
        for name in gone:
            self.remove(kind, name)
        return gone

    def client_context(self, without: Container[str] = ()) -> ssl.SSLContext:
        """TLS settings for a client of somebody else's server: the host's authorities and those of this folder are
        believed, but for the files `without`, and what they have revoked is not.

        Raises ssl.SSLError for a file that holds no certificate.
        """
        context = ssl.create_default_context()
        for kind in (AUTHORITIES, ROOTS, PINNED):
            for name in (each for each in self.names(kind) if each not in without):
                context.load_verify_locations(self.path(kind, name))
        revocations = self.names(REVOCATIONS)
        for name in revocations:
            context.load_verify_locations(self.path(REVOCATIONS, name))
        if revocations:
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        return context
