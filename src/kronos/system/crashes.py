"""Crash dumps of the host's own kernel, where distributions' kdump leaves them: a directory each in /var/crash."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

PLACE = Path("/var/crash")
_DUMPS = ("vmcore*", "dump.*")
PATIENCE = 120.0
"""Seconds that a server may take for a step of an upload."""


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump by the name of its directory; when it was made (seconds since the epoch), and its bytes."""

    name: str
    made: float
    size: int


class UploadFailed(Exception):
    """A server that could not be reached, or did not take the dump."""


def dumps(place: Path = PLACE) -> list[Dump]:
    """Every dump that there is, the oldest first."""
    found = []
    with suppress(OSError):
        for path in place.iterdir():
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
            if any(file.match(pattern) for file in files for pattern in _DUMPS):
                found.append(
                    Dump(path.name, path.stat().st_mtime, sum(file.stat().st_size for file in files))
                )
    return sorted(found, key=lambda dump: (dump.made, dump.name))


def remove(name: str, place: Path = PLACE) -> None:
    """Remove a dump; one that is gone already is no failure. Raises OSError."""
    with suppress(FileNotFoundError):
        shutil.rmtree(_inside(name, place))


def upload(name: str, url: str, place: Path = PLACE) -> None:
    """PUT a dump to an HTTP address as a compressed tar archive. Raises UploadFailed, FileNotFoundError."""
    import tarfile  # these two for this alone
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    path, target = _inside(name, place), urlsplit(url)
    if target.scheme not in ("http", "https") or not target.hostname:
        raise UploadFailed(f"{url} is no HTTP address")
    if not path.is_dir():
        raise FileNotFoundError(name)
    made = HTTPSConnection if target.scheme == "https" else HTTPConnection
    connection = made(target.hostname, target.port, timeout=PATIENCE)
    try:
        with TemporaryFile(dir=place) as archive:
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                tar.add(path, name)
            size = archive.tell()
            archive.seek(0)
            where = f"{target.path or '/'}{'?' + target.query if target.query else ''}"
            headers = {"Content-Length": str(size), "Content-Type": "application/gzip"}
            connection.request("PUT", where, archive, headers)
            answer = connection.getresponse()
            answer.read()
    except (OSError, HTTPException) as error:
        raise UploadFailed(f"{target.hostname}: {error}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise UploadFailed(f"{target.hostname} answered {answer.status} {answer.reason}")


def _inside(name: str, place: Path) -> Path:
    assert name and "/" not in name and name not in (".", ".."), name
    return place / name
