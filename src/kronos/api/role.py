"""role: what each role may do. Roles and single permissions are rows of one class; a permission has no subroles."""

from __future__ import annotations

from kronos.db.records import Role
from kronos.dispatch.answer import RecordsAnswer
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message


def _permissions(call: Call, row: Role) -> list[Role]:
    """The permissions that a role consists of; a permission consists of itself."""
    return [call.db.get(Role, ref) for ref in row.subroles] or [row]


@message("role.get_permissions", inline=True)
def get_permissions(call: Call, self: str) -> tuple[str, ...]:
    return tuple(each.ref for each in _permissions(call, call.db.get(Role, self)))


@message("role.get_permissions_name_label", inline=True)
def get_permissions_name_label(call: Call, self: str) -> tuple[str, ...]:
    return tuple(each.name_label for each in _permissions(call, call.db.get(Role, self)))


@message("role.get_by_permission", inline=True)
def get_by_permission(call: Call, permission: str) -> tuple[str, ...]:
    """The roles that have a permission."""
    return tuple(row.ref for row in _roles(call) if permission in row.subroles)


@message("role.get_by_permission_name_label", inline=True)
def get_by_permission_name_label(call: Call, label: str) -> tuple[str, ...]:
    """The roles that have a permission of that name; none where there is no such permission."""
    found = {row.ref for row in call.db.by_name(Role, label)}
    return tuple(row.ref for row in _roles(call) if found.intersection(row.subroles))


def _roles(call: Call) -> list[Role]:
    return [row for row in call.db.all(Role) if row.subroles]


def _where(call: Call, expression: str) -> list[Role]:
    """The two questions that clients ask, in the words of the reference; of any other it gives everything, we what it
    asks for."""
    if expression == "subroles<>[]":
        return _roles(call)
    if expression == "subroles=[]":
        return [row for row in call.db.all(Role) if not row.subroles]
    return call.db.where(Role, expression)


@message("role.get_all_where", inline=True)
def get_all_where(call: Call, expr: str) -> tuple[str, ...]:
    """Raises INVALID_VALUE [expression, text]."""
    return tuple(row.ref for row in _where(call, expr))


@message("role.get_all_records_where", inline=True)
def get_all_records_where(call: Call, expr: str) -> RecordsAnswer:
    """Raises INVALID_VALUE [expression, text]."""
    return RecordsAnswer(lambda: _where(call, expr))
