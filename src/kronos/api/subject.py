"""subject: the directory's users and groups that may come in, and the roles that they have here."""

from __future__ import annotations

from typing import Any

from kronos.api import auth_hook
from kronos.api.auth import asked
from kronos.datamodel.errors import Failure
from kronos.db.records import Role, Subject
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.rules import admission


@message("subject.create")
def create(call: Call, args: dict[str, Any]) -> str:
    """Let a user or group of the directory in, with no role yet: what is known of it is asked of the directory.

    Raises SUBJECT_ALREADY_EXISTS, SUBJECT_CANNOT_BE_RESOLVED, AUTH_IS_DISABLED, AUTH_SERVICE_ERROR [text].
    """
    identifier = str(args.get("subject_identifier", ""))
    _assert_new(call, identifier)
    said = asked(call, lambda directory: directory.information(identifier))
    with call.db.transaction():
        _assert_new(call, identifier)
        row = call.db.create(Subject, subject_identifier=identifier, other_config=said, roles=())
    auth_hook.tell(call, "after-subject-add")
    return row.ref


def _assert_new(call: Call, identifier: str) -> None:
    if any(row.subject_identifier == identifier for row in call.db.all(Subject)):
        raise Failure("SUBJECT_ALREADY_EXISTS")


@message("subject.destroy")
def destroy(call: Call, self: str) -> None:
    """Keep a user or group out from now on: every session that has rights from it ends."""
    row = call.db.get(Subject, self)
    call.db.delete(row)
    call.pipeline.admission.known.forget(row.subject_identifier)
    call.pipeline.sessions.end_of_subject(self)
    auth_hook.tell(call, "after-subject-remove")


@message("subject.add_to_roles")
def add_to_roles(call: Call, self: str, role: str) -> None:
    """Give a subject a role, or a single permission, from its next login on.

    Raises ROLE_NOT_FOUND, ROLE_ALREADY_EXISTS.
    """
    with call.db.transaction():
        row = call.db.get(Subject, self)
        if call.db.find(Role, role) is None:
            raise Failure("ROLE_NOT_FOUND")
        if role in row.roles:
            raise Failure("ROLE_ALREADY_EXISTS")
        call.db.write(row, {"roles": (*row.roles, role)})
    auth_hook.tell(call, "after-roles-update")


@message("subject.remove_from_roles")
def remove_from_roles(call: Call, self: str, role: str) -> None:
    """Take a role away, from the subject's next login on. Raises ROLE_NOT_FOUND where it does not have it."""
    with call.db.transaction():
        row = call.db.get(Subject, self)
        if role not in row.roles:
            raise Failure("ROLE_NOT_FOUND")
        call.db.write(row, {"roles": tuple(ref for ref in row.roles if ref != role)})
    auth_hook.tell(call, "after-roles-update")


@message("subject.get_permissions_name_label")
def get_permissions_name_label(call: Call, self: str) -> tuple[str, ...]:
    """Every permission that a subject's roles give it."""
    row = call.db.get(Subject, self)
    return roles.granted_permissions(admission.roles_of(call.db, [row]))
