"""pool_patch, host_patch and pool_update: XenServer's own hotfixes, which no host of ours can take.

A stock host is kept up to date from its distribution's repositories (Repository, host.apply_updates).
Records of hotfixes come with a database of a XenServer pool alone: they can be read, and removed.
"""

from __future__ import annotations

from typing import Final

from kronos.datamodel.errors import Failure
from kronos.db.record import Record
from kronos.db.records import VDI, Host, Host_patch, Pool_patch, Pool_update
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

WHY: Final = (
    "Hosts are updated from their distribution's repositories; XenServer's hotfixes do not apply to them"
)


def _delete(call: Call, *rows: Record) -> None:
    with call.db.transaction():
        for row in rows:
            call.db.delete(row)


# --- pool_patch, host_patch ------------------------------------------------------------------------------------------


def _patch(call: Call, ref: str, host: str = "") -> Pool_patch:
    row = call.db.get(Pool_patch, ref)
    if host:
        call.db.get(Host, host)
    return row


@message("pool_patch.precheck")
def precheck_patch(call: Call, self: str, host: str) -> str:
    """Raises PATCH_PRECHECK_FAILED_UNKNOWN_ERROR [patch, info]."""
    raise Failure("PATCH_PRECHECK_FAILED_UNKNOWN_ERROR", _patch(call, self, host).ref, WHY)


@message("pool_patch.apply")
def apply_patch(call: Call, self: str, host: str) -> str:
    """Raises PATCH_APPLY_FAILED [output]."""
    _patch(call, self, host)
    raise Failure("PATCH_APPLY_FAILED", WHY)


@message("pool_patch.pool_apply")
def apply_patch_everywhere(call: Call, self: str) -> None:
    """Raises PATCH_APPLY_FAILED [output]."""
    _patch(call, self)
    raise Failure("PATCH_APPLY_FAILED", WHY)


@message("pool_patch.clean")
def clean_patch(call: Call, self: str) -> None:
    """Remove a hotfix's file from this host: there is none."""
    _patch(call, self)


@message("pool_patch.clean_on_host")
def clean_patch_on_host(call: Call, self: str, host: str) -> None:
    """Remove a hotfix's file from one host: there is none."""
    _patch(call, self, host)


@message("pool_patch.pool_clean")
def clean_patch_everywhere(call: Call, self: str) -> None:
    """Remove a hotfix's files from all hosts: there are none."""
    _patch(call, self)


@message("pool_patch.destroy")
def destroy_patch(call: Call, self: str) -> None:
    """Forget a hotfix, and where it was applied. Raises PATCH_IS_APPLIED."""
    row = _patch(call, self)
    places = [call.db.get(Host_patch, ref) for ref in row.host_patches]
    if any(place.applied and call.db.find(Host, place.host) is not None for place in places):
        raise Failure("PATCH_IS_APPLIED")
    _delete(call, row, *places)


@message("host_patch.apply")
def apply_host_patch(call: Call, self: str) -> str:
    """Raises PATCH_APPLY_FAILED [output]."""
    call.db.get(Host_patch, self)
    raise Failure("PATCH_APPLY_FAILED", WHY)


@message("host_patch.destroy")
def destroy_host_patch(call: Call, self: str) -> None:
    """Forget where a hotfix was applied."""
    _delete(call, call.db.get(Host_patch, self))


# --- pool_update -----------------------------------------------------------------------------------------------------


@message("pool_update.introduce")
def introduce(call: Call, vdi: str) -> str:
    """Raises INVALID_UPDATE [info]."""
    call.db.get(VDI, vdi)
    raise Failure("INVALID_UPDATE", WHY)


@message("pool_update.precheck")
def precheck(call: Call, self: str, host: str) -> str:
    """Raises UPDATE_PRECHECK_FAILED_UNKNOWN_ERROR [update, info]."""
    call.db.get(Host, host)
    raise Failure("UPDATE_PRECHECK_FAILED_UNKNOWN_ERROR", call.db.get(Pool_update, self).ref, WHY)


@message("pool_update.apply")
def apply(call: Call, self: str, host: str) -> None:
    """Raises UPDATE_APPLY_FAILED [output]."""
    call.db.get(Pool_update, self)
    call.db.get(Host, host)
    raise Failure("UPDATE_APPLY_FAILED", WHY)


@message("pool_update.pool_apply")
def apply_everywhere(call: Call, self: str) -> None:
    """Raises UPDATE_APPLY_FAILED [output]."""
    call.db.get(Pool_update, self)
    raise Failure("UPDATE_APPLY_FAILED", WHY)


@message("pool_update.pool_clean")
def clean_everywhere(call: Call, self: str) -> None:
    """Remove an update's files from all hosts: there are none."""
    call.db.get(Pool_update, self)


@message("pool_update.attach")
def attach(call: Call, self: str, use_localhost_proxy: bool) -> str:
    """Raises INVALID_UPDATE [info]."""
    call.db.get(Pool_update, self)
    raise Failure("INVALID_UPDATE", WHY)


@message("pool_update.detach")
def detach(call: Call, self: str) -> None:
    """Let go of an update's disk: none is attached."""
    call.db.get(Pool_update, self)


@message("pool_update.destroy")
def destroy(call: Call, self: str) -> None:
    """Forget an update. Raises UPDATE_IS_APPLIED."""
    row = call.db.get(Pool_update, self)
    if any(call.db.find(Host, ref) is not None for ref in row.hosts):
        raise Failure("UPDATE_IS_APPLIED")
    _delete(call, row)


@message("pool_update.resync_host")
def resync_host(call: Call, host: str) -> None:
    """Write down which updates a host has: none of these."""
    row = call.db.get(Host, host)
    with call.db.transaction():
        for update in call.db.all(Pool_update):
            update.hosts = tuple(ref for ref in update.hosts if ref != row.ref)
