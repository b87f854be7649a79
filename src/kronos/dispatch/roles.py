"""Roles: may this session make this call, with these map keys?"""

from __future__ import annotations

import hashlib
import uuid as uuids
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, Final

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import Message, model, roles_from
from kronos.db.database import Database
from kronos.db.records import Role, Session

DESCRIPTIONS: Final = {
    "pool-admin": "Everything, the control domain, subjects, roles and external authentication included",
    "pool-operator": "Hosts and everything that a pool shares: storage, networks, updates, availability",
    "vm-power-admin": "VMs and templates, where they start, their memory and their snapshots",
    "vm-admin": "VMs and templates",
    "vm-operator": "Uses VMs and their consoles, and starts and stops them",
    "client-cert": "What a client that shows a certificate may do",
    "read-only": "Logs in and looks",
}
_PERMISSION: Final = "A basic permission"
_MOST_SETS: Final = 1024


@cache
def permissions() -> dict[str, frozenset[str]]:
    """Every permission with the roles that have it: messages, single map keys, HTTP actions and the extra ones."""
    found: dict[str, frozenset[str]] = dict(model().permissions)
    for message in model().messages.values():
        found[message.permission] = message.roles
        for key, roles in message.key_roles:
            found[f"{message.permission}/key:{key.lower()}"] = roles
    for name, action in model().http_actions.items():
        found[f"http/{name}"] = roles_from(action["role"], model().roles)
        if isinstance(action["sub"], dict):
            for sub, role in action["sub"].items():
                found[f"http/{name}/{sub}"] = roles_from(role, model().roles)
    return found


def needed(message: Message, arguments: Sequence[Any], present: dict[str, str] | None) -> list[str]:
    """The permissions that a call needs, each of them.

    A protected key of a map replaces the message's own permission; set_<map> needs its own and that of every
    protected key which it would add, change or remove. `present` is the map as it is now, for set_<map>.
    """
    if message.key_roles and len(arguments) > 1:
        listed = _listed(message, str(arguments[1]))
        return [listed or message.permission]
    if message.name.startswith("set_") and present is not None:
        return [message.permission, *_of_changed_keys(message, present, arguments[1])]
    return [message.permission]


def _listed(message: Message, key: str) -> str:
    for pattern, _ in message.key_roles:
        if key == pattern or (pattern.endswith("*") and key.startswith(pattern[:-1])):
            return f"{message.permission}/key:{pattern.lower()}"
    return ""


def _of_changed_keys(message: Message, present: dict[str, str], wanted: dict[str, str]) -> list[str]:
    messages = model().messages
    adding = messages.get(f"{message.cls}.add_to_{message.field}")
    removing = messages.get(f"{message.cls}.remove_from_{message.field}")
    if adding is None or removing is None or not adding.key_roles:
        return []
    found = [_listed(adding, key) for key, value in wanted.items() if present.get(key) != value]
    found += [_listed(removing, key) for key in present if key not in wanted]
    return [permission for permission in found if permission]


def check(
    session: Session, message: Message, arguments: Sequence[Any], present: dict[str, str] | None
) -> None:
    """Raises RBAC_PERMISSION_DENIED [permission, text]. Root, the local socket and the pool may do everything."""
    if session.is_local_superuser:
        return
    for permission in needed(message, arguments, present):
        require(session, permission)


def require(session: Session, permission: str) -> None:
    """Raises RBAC_PERMISSION_DENIED unless the session has this one permission."""
    if session.is_local_superuser or permission in _as_set(session.rbac_permissions):
        return
    allowed = permissions().get(permission, frozenset())
    named = ", ".join(role for role in model().roles if role in allowed) or "none"
    text = f"No permission in user session. (Roles with this permission: {named})"
    raise Failure("RBAC_PERMISSION_DENIED", permission, text)


# By identity: to hash two thousand names costs as much as to look for one of them. A tuple in it is kept alive by it.
_sets: dict[int, tuple[tuple[str, ...], frozenset[str]]] = {}


def _as_set(granted: tuple[str, ...]) -> frozenset[str]:
    found = _sets.get(id(granted))
    if found is not None and found[0] is granted:
        return found[1]
    if len(_sets) >= _MOST_SETS:
        _sets.clear()
    made = frozenset(granted)
    _sets[id(granted)] = (granted, made)
    return made


def permissions_of(role: str) -> tuple[str, ...]:
    """Every permission of a role, by name."""
    return tuple(sorted(name for name, roles in permissions().items() if role in roles))


@lru_cache(_MOST_SETS)
def granted(roles: frozenset[str]) -> tuple[str, ...]:
    """What a session of somebody with these roles and single permissions may do; their own names are among it."""
    return tuple(sorted(roles.union(*(permissions_of(role) for role in roles))))


def granted_permissions(roles: frozenset[str]) -> tuple[str, ...]:
    """The permissions alone, without the names of the roles that give them."""
    return tuple(name for name in granted(roles) if name not in model().roles)


def seed(db: Database) -> None:
    """Make the role records: the roles, and every permission as a role without subroles. They are never stored.

    What no role may do is none of them: nobody but root and the pool itself is ever to have it.
    """
    refs = {}
    for written, name in _written():
        uuid = _uuid(written)
        refs[name] = db.seed(
            Role,
            f"OpaqueRef:{uuid}",
            uuid=uuid,
            name_label=name,
            name_description=_PERMISSION,
            is_internal=True,
        ).ref
    for name in model().roles:
        uuid = _uuid(name)
        subroles = tuple(refs[permission] for permission in permissions_of(name))
        db.seed(
            Role,
            f"OpaqueRef:{uuid}",
            uuid=uuid,
            name_label=name,
            name_description=DESCRIPTIONS[name],
            subroles=subroles,
            is_internal=name == "client-cert",
        )


def _written() -> Iterator[tuple[str, str]]:
    """Each permission that a role has, as it is written where its uuid comes from, and by name: in small letters."""
    spellings = {message.permission: message.full_name for message in model().messages.values()}
    keys = {
        f"{message.permission}/key:{key.lower()}": f"{message.full_name}/key:{key}"
        for message in model().messages.values()
        for key, _ in message.key_roles
    }
    for name, roles in permissions().items():
        if roles:
            yield spellings.get(name) or keys.get(name) or name, name


def table() -> str:
    """The permissions and who has them, in the form of the reference's rbac_static.csv."""
    lines = [f",PERMISSION/ROLE,{''.join(f'{role},' for role in model().roles)}"]
    for name, roles in sorted(permissions().items()):
        lines.append(f",{name},{''.join('X,' if role in roles else ',' for role in model().roles)}")
    return "\n".join(lines) + "\n"


def _uuid(name: str) -> str:
    return str(uuids.UUID(bytes=hashlib.md5(name.encode(), usedforsecurity=False).digest()))
