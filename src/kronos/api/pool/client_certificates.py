"""pool: clients that show a certificate instead of a password."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kronos.api.pool.certificates import trust
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Pool
from kronos.dispatch.call import Call, Origin
from kronos.dispatch.machine import Machine
from kronos.dispatch.registry import message
from kronos.system.trust import AUTHORITIES

ROLE: Final = "client-cert"


def authorities(db: Database, machine: Machine) -> tuple[Path, ...]:
    """The files of those whose certificates let clients in; none where that is off."""
    kept = trust(machine)
    names = kept.names(AUTHORITIES) if db.all(Pool)[0].client_certificate_auth_enabled else ()
    return tuple(kept.path(AUTHORITIES, name) for name in names)


def lets_in(db: Database, origin: Origin) -> bool:
    """Whether a client came with a certificate for the name that the pool lets in."""
    if not origin.names:
        return False
    pool = db.all(Pool)[0]
    wanted = pool.client_certificate_auth_name.lower()
    return pool.client_certificate_auth_enabled and bool(wanted) and wanted in origin.names


@message("pool.enable_client_certificate_auth")
def enable_client_certificate_auth(call: Call, self: str, name: str) -> None:
    """Let clients in that show a certificate for this name which one of the pool's authorities (install_ca_certificate)
    has signed; they may do what the role client-cert may. Raises INVALID_VALUE for an empty name.
    """
    row = call.db.get(Pool, self)
    if not name:
        raise Failure("INVALID_VALUE", "name", name)
    _set(call, row, enabled=True, name=name)


@message("pool.disable_client_certificate_auth")
def disable_client_certificate_auth(call: Call, self: str) -> None:
    """Let nobody in by a certificate any more; who is in stays."""
    _set(call, call.db.get(Pool, self), enabled=False, name="")


def _set(call: Call, row: Pool, *, enabled: bool, name: str) -> None:
    before = {
        "client_certificate_auth_enabled": row.client_certificate_auth_enabled,
        "client_certificate_auth_name": row.client_certificate_auth_name,
    }
    call.db.write(row, {"client_certificate_auth_enabled": enabled, "client_certificate_auth_name": name})
    try:
        if call.machine.doors is not None:
            call.machine.doors.reload_certificates()
    except BaseException:
        call.db.write(row, before)
        raise
