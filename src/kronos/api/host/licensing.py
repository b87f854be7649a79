"""host and pool: licences. There is one edition, free, with every feature in it."""

from __future__ import annotations

import base64
import binascii

from kronos.datamodel.errors import Failure
from kronos.db.records import Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

FREE = "free"


@message("host.apply_edition")
def apply_edition(call: Call, host: str, edition: str, force: bool) -> None:
    """Take an edition: the free one, which the host has. Raises INVALID_EDITION [edition]."""
    row = call.db.get(Host, host)
    if edition not in ("", *row.editions):
        raise Failure("INVALID_EDITION", edition)
    row.edition = edition or FREE


@message("host.license_add")
def license_add(call: Call, host: str, contents: str) -> None:
    """Raises LICENSE_PROCESSING_ERROR: no file gives more than the free edition has, and none is read."""
    call.db.get(Host, host)
    try:
        base64.b64decode(contents, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Failure("LICENSE_PROCESSING_ERROR") from error
    raise Failure("LICENSE_PROCESSING_ERROR")


@message("host.license_remove")
def license_remove(call: Call, host: str) -> None:
    """Be free of licences, as the host is."""
    call.db.get(Host, host).edition = FREE


@message("host.set_license_params")
def set_license_params(call: Call, self: str, value: dict[str, str]) -> None:
    """Record what a licence says of a host, and in the pool what every host's allows."""
    row = call.db.get(Host, self)
    with call.db.transaction():
        row.license_params = value
        hosts = [host.license_params for host in call.db.all(Host)]
        names = {name for params in hosts for name in params if name.startswith("restrict_")}
        call.db.all(Pool)[0].restrictions = {
            name: "true" if any(params.get(name) == "true" for params in hosts) else "false"
            for name in sorted(names)
        }


@message("pool.apply_edition")
def pool_apply_edition(call: Call, self: str, edition: str) -> None:
    """Have every host take an edition, or none of them. Raises INVALID_EDITION."""
    call.db.get(Pool, self)
    with call.db.transaction():
        for host in call.db.all(Host):
            apply_edition(call, host.ref, edition, False)


@message("pool.get_license_state")
def get_license_state(call: Call, self: str) -> dict[str, str]:
    """The least edition of the pool's hosts, and when it ends."""
    call.db.get(Pool, self)
    return {"edition": FREE, "expiry": "never"}
