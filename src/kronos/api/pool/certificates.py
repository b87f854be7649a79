"""pool: the authorities that it believes, and what they have revoked."""

from __future__ import annotations

import logging
import ssl
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock

from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Certificate, Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.system.trust import AUTHORITIES, PINNED, REVOCATIONS, ROOTS, Trust

log = logging.getLogger(__name__)

_INTENT = "certificate"
_changing = Lock()


def trust(machine: Machine) -> Trust:
    """The pool's certificates on this host."""
    return Trust(machine.state / "certificates")


def context_for(db: Database, machine: Machine, purpose: str) -> ssl.SSLContext:
    """TLS settings for a client of servers of one kind: what is trusted for other purposes alone is not believed.

    Raises OSError.
    """
    others = {f"{row.uuid}.pem" for row in db.all(Certificate) if row.purpose and purpose not in row.purpose}
    return trust(machine).client_context(others)


# --- authorities by name -------------------------------------------------------------------------------------


@message("pool.install_ca_certificate")
def install_ca_certificate(call: Call, name: str, cert: str) -> None:
    """Believe an authority, whose certificate gets a file name.

    Raises CERTIFICATE_NAME_INVALID, CERTIFICATE_ALREADY_EXISTS, CA_CERTIFICATE_….
    """
    from kronos.rules import certificates

    found = certificates.valid_certificate(cert, "CA_CERTIFICATE", datetime.now(UTC))
    with _changing:
        with _recorded(call, AUTHORITIES, name, cert), call.db.transaction():
            for row in _authorities(call, name):
                call.db.delete(row)
            call.db.create(Certificate, name=name, type="ca", **certificates.fields_of(found))
        _show(call)


@message("pool.certificate_install")
def certificate_install(call: Call, name: str, cert: str) -> None:
    """The old name of install_ca_certificate."""
    install_ca_certificate(call, name, cert)


@message("pool.uninstall_ca_certificate")
def uninstall_ca_certificate(call: Call, name: str, force: bool) -> None:
    """Believe an authority no more; `force` makes light of a file that is missing.

    Raises CERTIFICATE_NAME_INVALID, CERTIFICATE_DOES_NOT_EXIST; INVALID_VALUE for one that is not recorded.
    """
    with _changing:
        _remove(call.machine, AUTHORITIES, name, force=force)
        rows = _authorities(call, name)
        if not rows:
            raise Failure("INVALID_VALUE", "certificate:name", name)
        for row in rows:
            call.db.delete(row)
        _show(call)


def _show(call: Call) -> None:
    """Have the doors ask clients for what these authorities have signed, where they ask for any."""
    if call.machine.doors is not None and call.db.all(Pool)[0].client_certificate_auth_enabled:
        call.machine.doors.reload_certificates()


@message("pool.certificate_uninstall")
def certificate_uninstall(call: Call, name: str) -> None:
    """The old name of uninstall_ca_certificate."""
    uninstall_ca_certificate(call, name, False)


@message("pool.certificate_list")
def certificate_list(call: Call) -> tuple[str, ...]:
    """The names of the authorities that are believed."""
    return tuple(row.name for row in call.db.all(Certificate) if row.type == "ca" and row.name)


def _authorities(call: Call, name: str) -> list[Certificate]:
    return [row for row in call.db.all(Certificate) if row.type == "ca" and row.name == name]


# --- lists of revocations ------------------------------------------------------------------------------------


@message("pool.crl_install")
def crl_install(call: Call, name: str, cert: str) -> None:
    """Keep a list of what an authority has revoked. Raises CRL_NAME_INVALID, CRL_ALREADY_EXISTS, CRL_CORRUPT."""
    from kronos.rules import certificates

    certificates.require_file_name(name, "CRL")
    certificates.require_revocations(cert, name)
    with _changing:
        _add(call.machine, REVOCATIONS, name, cert)


@message("pool.crl_uninstall")
def crl_uninstall(call: Call, name: str) -> None:
    """Forget a list. Raises CRL_NAME_INVALID, CRL_DOES_NOT_EXIST."""
    with _changing:
        _remove(call.machine, REVOCATIONS, name)


@message("pool.crl_list")
def crl_list(call: Call) -> tuple[str, ...]:
    """The names of the lists."""
    return trust(call.machine).names(REVOCATIONS)


# --- trusted certificates ------------------------------------------------------------------------------------


@message("pool.install_trusted_certificate")
def install_trusted_certificate(call: Call, self: str, ca: bool, cert: str, purpose: tuple[str, ...]) -> None:
    """Believe an authority, or one server's own certificate, for some purposes or, an authority, for all.

    Raises TRUSTED_CERTIFICATE_…, CERTIFICATE_LACKS_PURPOSE, TRUSTED_CERTIFICATE_ALREADY_EXISTS [fingerprint].
    """
    from kronos.rules import certificates

    call.db.get(Pool, self)
    found = certificates.valid_certificate(cert, "TRUSTED_CERTIFICATE", datetime.now(UTC))
    if not ca and not purpose:
        raise Failure("CERTIFICATE_LACKS_PURPOSE")
    kind, fields = ("ca" if ca else "pinned"), certificates.fields_of(found)
    with _changing:
        for row in call.db.all(Certificate):
            same = row.type == kind and not row.name
            if (
                same
                and row.fingerprint_sha256 == fields["fingerprint_sha256"]
                and _meet(row.purpose, purpose)
            ):
                raise Failure("TRUSTED_CERTIFICATE_ALREADY_EXISTS", row.fingerprint_sha256)
        uuid = str(uuids.uuid4())
        with _recorded(call, ROOTS if ca else PINNED, f"{uuid}.pem", cert):
            call.db.create(Certificate, uuid=uuid, type=kind, purpose=purpose, **fields)


def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return set(one) == set(other) or bool(set(one) & set(other))


@message("pool.uninstall_trusted_certificate")
def uninstall_trusted_certificate(call: Call, self: str, certificate: str) -> None:
    """Believe it no more. Raises NOT_TRUSTED_CERTIFICATE [ref] for one that was not installed so."""
    call.db.get(Pool, self)
    row = call.db.get(Certificate, certificate)
    kind = {"ca": ROOTS, "pinned": PINNED}.get(row.type)
    if kind is None or row.name:
        raise Failure("NOT_TRUSTED_CERTIFICATE", row.ref)
    with _changing:
        _remove(call.machine, kind, f"{row.uuid}.pem", force=True)
        call.db.delete(row)


# --- the same on one host, for the coordinator ---------------------------------------------------------------


@message("pool.certificate_sync")
def certificate_sync(call: Call) -> None:
    """Bring every host's files in line with what is recorded."""
    for host in call.db.all(Host):
        call.invoke("host.certificate_sync", host.ref)


@message("host.certificate_sync")
def host_certificate_sync(call: Call, host: str) -> None:
    """Remove the files that no record knows: an installation was cut off by a crash."""
    call.db.get(Host, host)
    with _changing:
        rows = call.db.all(Certificate)
        kept = trust(call.machine)
        kept.keep_only(AUTHORITIES, (row.name for row in rows if row.type == "ca"))
        kept.keep_only(ROOTS, (f"{row.uuid}.pem" for row in rows if row.type == "ca"))
        kept.keep_only(PINNED, (f"{row.uuid}.pem" for row in rows if row.type == "pinned"))


@message("host.install_ca_certificate")
def host_install_ca_certificate(call: Call, host: str, name: str, cert: str) -> None:
    """The file alone. Raises CERTIFICATE_NAME_INVALID, CERTIFICATE_ALREADY_EXISTS."""
    call.db.get(Host, host)
    with _changing:
        _add(call.machine, AUTHORITIES, name, cert)


@message("host.uninstall_ca_certificate")
def host_uninstall_ca_certificate(call: Call, host: str, name: str, force: bool) -> None:
    """The file alone. Raises CERTIFICATE_NAME_INVALID, CERTIFICATE_DOES_NOT_EXIST."""
    call.db.get(Host, host)
    with _changing:
        _remove(call.machine, AUTHORITIES, name, force=force)


@message("host.certificate_list")
def host_certificate_list(call: Call, host: str) -> tuple[str, ...]:
    """The files of authorities."""
    call.db.get(Host, host)
    return trust(call.machine).names(AUTHORITIES)


@message("host.crl_install")
def host_crl_install(call: Call, host: str, name: str, crl: str) -> None:
    """pool.crl_install on this host."""
    call.db.get(Host, host)
    crl_install(call, name, crl)


@message("host.crl_uninstall")
def host_crl_uninstall(call: Call, host: str, name: str) -> None:
    """pool.crl_uninstall on this host."""
    call.db.get(Host, host)
    crl_uninstall(call, name)


@message("host.crl_list")
def host_crl_list(call: Call, host: str) -> tuple[str, ...]:
    """pool.crl_list of this host."""
    call.db.get(Host, host)
    return crl_list(call)


# --- files ---------------------------------------------------------------------------------------------------


@contextmanager
def _recorded(call: Call, kind: str, name: str, pem: str) -> Iterator[None]:
    """A file that the block makes the record of: a crash leaves both or neither, as what no record tells of is believed
    all the same."""
    _check_new(call.machine, kind, name)
    facts = {"kind": _INTENT, "folder": kind, "name": name}
    with call.machine.intents.declared(f"{_INTENT}-{uuids.uuid4()}", facts):
        _add(call.machine, kind, name, pem)
        yield
        call.pipeline.durability.block()


def settle(db: Database, machine: Machine) -> None:
    """At a start: remove the certificates whose installation a crash cut short. Before anybody is asked for one."""
    for intent, facts in machine.intents.left().items():
        if facts.get("kind") != _INTENT:
            continue
        kind, name = facts["folder"], facts["name"]
        recorded = {row.name or f"{row.uuid}.pem" for row in db.all(Certificate)}
        if name not in recorded and name in trust(machine).names(kind):
            log.warning("The certificate %s was being installed when the daemon was killed", name)
            trust(machine).remove(kind, name)
        machine.intents.settle(intent)


def _check_new(machine: Machine, kind: str, name: str) -> None:
    from kronos.rules import certificates

    error = "CRL" if kind == REVOCATIONS else "CERTIFICATE"
    certificates.require_file_name(name, error)
    if trust(machine).path(kind, name).exists():
        raise Failure(f"{error}_ALREADY_EXISTS", name)


def _add(machine: Machine, kind: str, name: str, pem: str) -> None:
    _check_new(machine, kind, name)
    try:
        trust(machine).add(kind, name, pem)
    except OSError as broken:
        raise Failure("CERTIFICATE_LIBRARY_CORRUPT") from broken


def _remove(machine: Machine, kind: str, name: str, *, force: bool = False) -> None:
    from kronos.rules import certificates

    error = "CRL" if kind == REVOCATIONS else "CERTIFICATE"
    certificates.require_file_name(name, error)
    try:
        trust(machine).remove(kind, name)
    except FileNotFoundError as missing:
        if not force:
            raise Failure(f"{error}_DOES_NOT_EXIST", name) from missing
    except OSError as broken:
        raise Failure(f"{error}_CORRUPT", name) from broken
