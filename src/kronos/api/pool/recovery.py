"""pool and host: copies of what a host knows, and how it begins anew with one."""

from __future__ import annotations

import io
import json
import logging
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from kronos import __version__
from kronos.api.host.certificates import FILES
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import now
from kronos.db import dump, replacement
from kronos.db.dump import NotADump
from kronos.dispatch.appointments import Appointments
from kronos.dispatch.call import Call
from kronos.rules.restoration import Rows, fitted
from kronos.system.power import NotTheService

if TYPE_CHECKING:
    import tarfile

log = logging.getLogger(__name__)

MOST = 1 << 30
"""Bytes of a backup that are read."""
PAUSE = 1.0
"""Seconds from the answer to the restart, for the client to get it."""
_DATABASE = "database.xml"
_STEP = 256 << 10
_CERTIFICATES = "certificates"
_appointments = Appointments("restore", hands=1)


class Sink(Protocol):
    def sendall(self, data: bytes | bytearray | memoryview, /) -> None: ...


class Source(Protocol):
    def recv_into(self, buffer: memoryview, /) -> int: ...


# --- the database --------------------------------------------------------------------------------------------


def send_database(call: Call, sink: Sink) -> None:
    """The pool's database as XML."""
    for part in dump.written(call.db):
        sink.sendall(part)


def restore_database(call: Call, parts: Iterable[bytes], *, dry_run: bool) -> None:
    """Begin anew with a dump of a database; `dry_run` only looks whether that could be.

    Raises RESTORE_…, INTERNAL_ERROR for what is no dump.
    """
    rows = _fitting(call, parts)
    if not dry_run:
        _begin_anew(call, rows, {})


def _fitting(call: Call, parts: Iterable[bytes]) -> Rows:
    try:
        return fitted(dump.read(parts), call.db, call.host)
    except NotADump as error:
        raise Failure("INTERNAL_ERROR", f"not a dump of a database: {error}") from error


def _begin_anew(call: Call, rows: Rows, files: dict[str, bytes]) -> None:
    """Make all of it ready for the next start, and have that come soon."""
    call.pipeline.durability.block()
    replacement.prepare(call.machine.state, rows, files, call.db.generation)
    log.warning("a restored database is taken at the next start")
    _appointments.make(PAUSE, _restart, call)


def _restart(call: Call) -> None:
    try:
        call.machine.power.restart_daemon()
    except NotTheService as refused:
        log.warning("%s: the restored database waits for the next start", refused)


# --- a host --------------------------------------------------------------------------------------------------


def send_backup(call: Call, sink: Sink) -> None:
    """A tar file with the database, this host's certificates and local keys, and its settings."""
    import tarfile

    stream: Any = OutOf(sink)
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        _add(archive, "manifest.json", json.dumps(_manifest(call), indent=1).encode())
        with tempfile.TemporaryFile() as file:
            for part in dump.written(call.db):
                file.write(part)
            _add_file(archive, _DATABASE, file)
        for path in _own_files(call.machine.state):
            _add(archive, f"state/{path.relative_to(call.machine.state)}", path.read_bytes())
        for path in _settings(call.machine.root):
            _add(archive, str(path.relative_to(call.machine.root)), path.read_bytes())


def _manifest(call: Call) -> dict[str, Any]:
    return {"kronos": __version__, "host": call.host.uuid, "hostname": call.host.hostname, "made": now()}


def _own_files(state: Path) -> list[Path]:
    found = [state / name for name in (*FILES.values(), "local.json")]
    found += sorted((state / _CERTIFICATES).rglob("*.pem"))
    return [path for path in found if path.is_file()]


def _settings(root: Path) -> list[Path]:
    """They are for the administrator: the daemon may not write them, and a restored host may be another machine."""
    found = [root / "etc/xapi.toml", *sorted((root / "etc/xapi.toml.d").glob("*.toml"))]
    return [path for path in found if path.is_file()]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    _add_file(archive, name, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    import tarfile

    entry = tarfile.TarInfo(name)
    entry.mode = 0o600
    entry.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    archive.addfile(entry, file)


def restore_backup(call: Call, parts: Iterable[bytes]) -> None:
    """Begin anew with a host's backup: all of it is checked before anything changes.

    Raises RESTORE_SCRIPT_FAILED [reason], RESTORE_….
    """
    import tarfile

    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(part)
            if file.tell() > MOST:
                raise Failure("RESTORE_SCRIPT_FAILED", f"a backup of more than {MOST} bytes")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:*") as archive:
                rows, files = _checked(call, archive)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise Failure("RESTORE_SCRIPT_FAILED", f"not a backup: {error}") from error
    _begin_anew(call, rows, files)


def _checked(call: Call, archive: tarfile.TarFile) -> tuple[Rows, dict[str, bytes]]:
    rows: Rows | None = None
    files: dict[str, bytes] = {}
    for entry in archive:
        content = archive.extractfile(entry) if entry.isreg() else None
        if content is None:
            raise Failure("RESTORE_SCRIPT_FAILED", f"{entry.name[:200]} is no file")
        if entry.name == _DATABASE:
            rows = _fitting(call, iter(partial(content.read, _STEP), b""))
        elif entry.name.startswith("state/"):
            name = entry.name.removeprefix("state/")
            _require_known(name)
            files[name] = content.read(_STEP + 1)
            if len(files[name]) > _STEP:
                raise Failure("RESTORE_SCRIPT_FAILED", f"{name} is too large")
    if rows is None:
        raise Failure("RESTORE_SCRIPT_FAILED", "there is no database in it")
    _require_certificates(files)
    return rows, files


def _require_known(untrusted_name: str) -> None:
    """Raises RESTORE_SCRIPT_FAILED for a file that no backup has: it would be written into the daemon's folder."""
    parts = untrusted_name.split("/")
    known = untrusted_name in (*FILES.values(), "local.json")
    certificate = len(parts) == 3 and parts[0] == _CERTIFICATES and parts[2].endswith(".pem")
    if not (known or certificate) or any(part in ("", ".", "..") for part in parts):
        raise Failure("RESTORE_SCRIPT_FAILED", f"{untrusted_name[:200]} is not of a backup")


def _require_certificates(files: dict[str, bytes]) -> None:
    """Raises RESTORE_SCRIPT_FAILED for a key and certificate that no door could show."""
    for name in FILES.values():
        if name in files:
            with tempfile.NamedTemporaryFile() as file:
                file.write(files[name])
                file.flush()
                try:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file.name)
                except (ssl.SSLError, OSError) as error:
                    raise Failure("RESTORE_SCRIPT_FAILED", f"{name}: {error}") from error


class OutOf(io.RawIOBase):
    """A file that goes to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._sink.sendall(data)
        return len(data)


def body_of(source: Source, length: int | None) -> Iterator[bytes]:
    """A request's body, in parts. Raises OSError where it ends before its length."""
    buffer = memoryview(bytearray(_STEP))
    left = length
    while left is None or left:
        count = source.recv_into(buffer if left is None else buffer[:left])
        if not count:
            if left is None:
                return
            raise OSError("the client has gone before the end")
        if left is not None:
            left -= count
        yield bytes(buffer[:count])
