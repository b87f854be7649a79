"""Users and groups of the machine, wherever its name service switch finds them: files, LDAP, winbind, sssd.

Asked of `getent` and `id`, not of this process: a module for a directory that hangs, leaks or crashes is in a process
that ends after some seconds.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

from kronos.auth.base import UNAVAILABLE, DirectoryFailed, NotKnown
from kronos.system.commands import CommandFailed, run

_PATIENCE: Final = 20.0
"""Seconds for one question; a remote directory that is down answers its own clients in about ten."""
_NO_SUCH_KEY: Final = 2
_DAY: Final = 86_400
_ENTRY: Final = re.compile(r"[^:\0\n/]{1,256}")
"""What may be asked for: neither a path, which `getent` takes for no name, nor a line of its own."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    uid: int
    gid: int
    gecos: str
    password: str
    """`x` where another database has it."""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    gid: int


@dataclass(frozen=True, slots=True)
class Account:
    """Whether a local account may be used; `False` everywhere for one that has no line in the shadow file."""

    locked: bool = False
    expired: bool = False
    password_expired: bool = False


def user(untrusted_key: str) -> User:
    """A user by name, or by number in decimal. Raises NotKnown, DirectoryFailed."""
    fields = _entry("passwd", untrusted_key, 7)
    return User(fields[0], _number(fields[2]), _number(fields[3]), fields[4], fields[1])


def group(untrusted_key: str) -> Group:
    """A group by name, or by number in decimal. Raises NotKnown, DirectoryFailed."""
    fields = _entry("group", untrusted_key, 4)
    return Group(fields[0], _number(fields[2]))


def user_named(untrusted_name: str) -> User:
    """A user by name alone: `1000` is one who is called so, not the one with that number."""
    found = user(untrusted_name)
    if untrusted_name.isdigit() and found.name != untrusted_name:
        raise NotKnown(untrusted_name)
    return found


def group_named(untrusted_name: str) -> Group:
    """A group by name alone."""
    found = group(untrusted_name)
    if untrusted_name.isdigit() and found.name != untrusted_name:
        raise NotKnown(untrusted_name)
    return found


def groups_of(name: str) -> tuple[int, ...]:
    """The numbers of every group that a user is in, the user's own among them. Raises NotKnown, DirectoryFailed."""
    try:
        found = run(["id", "-G", "--", name], timeout=_PATIENCE)
    except CommandFailed as failure:
        if failure.status == 1:
            raise NotKnown(name) from failure
        raise DirectoryFailed(str(failure), UNAVAILABLE) from failure
    return tuple(_number(each) for each in found.split())


def account(name: str) -> Account:
    """What the shadow file says of a user, as PAM's own module judges it."""
    try:
        fields = _entry("shadow", name, 9)
    except NotKnown:
        return Account()
    password, changed, most, expires = fields[1], fields[2], fields[4], fields[7]
    today = int(time.time()) // _DAY
    return Account(
        # A `!` before a hash is a lock. Alone it says that there is no local password: another module has it.
        locked=password.startswith("!") and password.strip("!*") != "",
        expired=expires.isdigit() and today >= int(expires),
        password_expired=changed == "0"
        or (changed.isdigit() and most.isdigit() and int(most) < 99_999 and today > int(changed) + int(most)),
    )


def _entry(database: str, untrusted_key: str, fields: int) -> list[str]:
    if not _ENTRY.fullmatch(untrusted_key):
        raise NotKnown(untrusted_key[:64])
    try:
        found = run(["getent", database, "--", untrusted_key], timeout=_PATIENCE)
    except CommandFailed as failure:
        if failure.status == _NO_SUCH_KEY:
            raise NotKnown(untrusted_key) from failure
        raise DirectoryFailed(str(failure), UNAVAILABLE) from failure
    parts = found.partition("\n")[0].split(":")
    if len(parts) < fields:
        raise DirectoryFailed(f"getent {database} answers with {len(parts)} fields")
    return parts


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DirectoryFailed(f"{text!r} is not a number of a user or group") from None
