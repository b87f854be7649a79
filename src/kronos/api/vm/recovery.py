"""VM recovery: whether a VM could be brought back here, and why one that is here already cannot.

What can be recovered are the VMs of another pool's database, in a session of VDI.open_database. In any other session
a VM is one of this pool, which finds nothing newer to recover than what it has.
"""

from __future__ import annotations

from kronos.datamodel.errors import Failure
from kronos.db.records import VM, Session
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import recovery


@message("VM.assert_can_be_recovered")
def assert_can_be_recovered(call: Call, self: str, session_to: str) -> None:
    """Raises VM_REQUIRES_SR [vm, sr], SESSION_INVALID."""
    assert_storage(call, call.db.get(VM, self), session_to)


@message("VM.get_SRs_required_for_recovery")
def get_SRs_required_for_recovery(call: Call, self: str, session_to: str) -> tuple[str, ...]:
    """The SRs that have to be plugged in before the VM can be recovered. Raises SESSION_INVALID."""
    vm = call.db.get(VM, self)
    call.pipeline.sessions.require(session_to)
    return tuple(sr.ref for sr in recovery.missing_srs(call.db, vm, call.db))


@message("VM.recover")
def recover(call: Call, self: str, session_to: str, force: bool) -> None:
    """Raises VM_REQUIRES_SR [vm, sr], VM_TO_IMPORT_IS_NOT_NEWER_VERSION [vm, existing, wanted], SESSION_INVALID."""
    vm = call.db.get(VM, self)
    assert_session_allows(call, session_to)
    assert_storage(call, vm, session_to)
    refuse(vm)


def assert_storage(call: Call, vm: VM, session_to: str) -> None:
    """Raises VM_REQUIRES_SR [vm, sr] for the first SR that is missing, SESSION_INVALID."""
    call.pipeline.sessions.require(session_to)
    for sr in recovery.missing_srs(call.db, vm, call.db):
        raise Failure("VM_REQUIRES_SR", vm.ref, sr.ref)


def assert_session_allows(call: Call, session_to: str) -> Session:
    """The session that recovers. Everybody may call that, so its role is looked at here.

    Raises SESSION_INVALID, RBAC_PERMISSION_DENIED.
    """
    session = call.pipeline.sessions.require(session_to)
    roles.require(session, "vdi.open_database")
    return session


def refuse(vm: VM) -> None:
    """Raises VM_TO_IMPORT_IS_NOT_NEWER_VERSION: what is to be recovered is what is here."""
    version = str(vm.version)
    raise Failure("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", vm.ref, version, version)
