"""host: the certificates that it shows its clients, and the hosts of its pool.

What reads certificates is loaded when it is first needed: it is 4 MB of a daemon that may never do so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Certificate, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.system.files import write_whole

log = logging.getLogger(__name__)

CLIENTS, POOL = "host", "host_internal"
"""Types of Certificate."""
FILES = {CLIENTS: "xapi-ssl.pem", POOL: "xapi-pool-tls.pem"}
_replacing = Lock()


@message("host.get_server_certificate")
def get_server_certificate(call: Call, host: str) -> str:
    """The certificate that clients see, as PEM, without key and chain."""
    call.db.get(Host, host)
    return public_part(_path(call.machine, CLIENTS))


def public_part(path: Path) -> str:
    """The certificate in a file that may hold a key too. Raises CERTIFICATE_LIBRARY_CORRUPT."""
    from kronos.rules import certificates

    try:
        return certificates.first(path.read_text())
    except (OSError, ValueError) as error:
        log.error("%s cannot be read: %s", path, error)
        raise Failure("CERTIFICATE_LIBRARY_CORRUPT") from error


@message("host.install_server_certificate")
def install_server_certificate(
    call: Call, host: str, certificate: str, private_key: str, certificate_chain: str
) -> None:
    """Show clients this certificate from now on. Connections that are there go on.

    Raises HA_IS_ENABLED, SERVER_CERTIFICATE_….
    """
    from kronos.rules import certificates

    row = call.db.get(Host, host)
    if call.db.all(Pool)[0].ha_enabled:
        raise Failure("HA_IS_ENABLED")
    pem = certificates.server_pem(certificate, private_key, certificate_chain, datetime.now(UTC))
    _replace(call, row, CLIENTS, lambda: pem)


@message("host.reset_server_certificate")
def reset_server_certificate(call: Call, host: str) -> None:
    """Show clients a new certificate that the host makes for itself."""
    row = call.db.get(Host, host)
    _replace(call, row, CLIENTS, lambda: _own(row))


@message("host.emergency_reset_server_certificate")
def emergency_reset_server_certificate(call: Call) -> None:
    """The same, of the host that is asked."""
    _replace(call, call.host, CLIENTS, lambda: _own(call.host))


@message("host.refresh_server_certificate")
def refresh_server_certificate(call: Call, host: str) -> None:
    """Make the certificate anew that the hosts of the pool know this one by."""
    row = call.db.get(Host, host)
    _replace(call, row, POOL, lambda: _own(row))


def _own(host: Host) -> bytes:
    from kronos.rules import certificates

    return certificates.self_signed(host.hostname or "localhost", [host.address] if host.address else [])


def _path(machine: Machine, kind: str) -> Path:
    return machine.state / FILES[kind]


def _replace(call: Call, host: Host, kind: str, make: Callable[[], bytes]) -> None:
    """Write the file, show it, record it; the old file is put back where the doors will not have the new one."""
    path = _path(call.machine, kind)
    with _replacing:
        before = path.read_bytes() if path.exists() else None
        write_whole(path, make(), 0o600)
        try:
            if call.machine.doors is not None:
                call.machine.doors.reload_certificates()
        except BaseException:
            if before is not None:
                write_whole(path, before, 0o600)
                if call.machine.doors is not None:
                    call.machine.doors.reload_certificates()
            raise
        record(call.db, host, kind, path)


def record(db: Database, host: Host, kind: str, path: Path) -> None:
    """Have one row say what is in a file: the row goes and another comes when the certificate is another one."""
    from kronos.rules import certificates

    found: Any = certificates.certificate_of(public_part(path))
    fields = certificates.fields_of(found)
    with db.transaction():
        for row in of_host(db, host, kind):
            if row.fingerprint_sha256 == fields["fingerprint_sha256"]:
                return
            db.delete(row)
        db.create(Certificate, host=host.ref, type=kind, **fields)


def of_host(db: Database, host: Host, kind: str) -> list[Certificate]:
    """The rows of a kind; there is one, or none before the first start."""
    return [row for row in db.all(Certificate) if row.host == host.ref and row.type == kind]


def refresh(db: Database, machine: Machine, fingerprint: Callable[[Path], str]) -> None:
    """At a start: the files may have been exchanged by hand. `fingerprint` reads one without what is loaded for it."""
    host = db.get(Host, machine.host_ref)
    for kind in FILES:
        path = _path(machine, kind)
        known = [row.fingerprint_sha256 for row in of_host(db, host, kind)]
        if path.exists() and known != [fingerprint(path)]:
            record(db, host, kind, path)
