"""LDAP: users and groups of a directory as OpenLDAP and 389 keep them (RFC 2307, RFC 2307bis, inetOrgPerson).

Configuration: `base`, the name below which to look; `bind-dn` and `bind-password`, the account that may look (nobody in
particular where they are missing); `ca-file`, certificates to trust instead of the host's and the pool's; `tls-verify`,
`user-name`, `group-name`, `identifier`: how entries are named.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from kronos.auth.base import (
    LOOKUP_FAILED,
    NAME,
    Directory,
    DirectoryFailed,
    NotKnown,
    WrongCredentials,
)
from kronos.auth.ldap_server import Entry, LdapServer, address_of, any_of, escaped

_ATTRIBUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_GROUPS: Final = ("groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup", "group")
_DEEPEST: Final = 16
"""How far groups in groups are followed."""
_MOST_GROUPS: Final = 10_000
_AT_ONCE: Final = 50
"""Names in one question."""
_DAY: Final = 86_400
_SAID: Final = (
    "objectClass",
    "displayName",
    "cn",
    "gecos",
    "mail",
    "uidNumber",
    "gidNumber",
    "pwdAccountLockedTime",
    "pwdReset",
    "nsAccountLock",
    "shadowExpire",
    "shadowLastChange",
    "shadowMax",
)


class LDAP(Directory):
    """A subject's identifier is its `entryUUID`, which stays when it is renamed or moved, and is never given again."""

    type = "LDAP"
    secrets = frozenset({"bind-password"})
    keys: ClassVar[frozenset[str]] = frozenset(
        {"base", "bind-dn", "bind-password", "ca-file", "tls-verify", "user-name", "group-name", "identifier"}
    )

    def __init__(self, service: str, configuration: Mapping[str, str]) -> None:
        assert_known(self, configuration)
        self._configure(service, configuration)

    def _configure(self, service: str, configuration: Mapping[str, str]) -> None:
        self.configuration = configuration
        self.base = configuration.get("base", "")
        if not self.base:
            raise DirectoryFailed(
                "config:base, the name below which users and groups are, is missing", LOOKUP_FAILED
            )
        self.user_name = self._attribute("user-name", "uid")
        self.group_name = self._attribute("group-name", "cn")
        self.key = self._attribute("identifier", "entryUUID")
        self.server = LdapServer(
            address_of(service, ldaps=False),
            configuration.get("bind-dn", ""),
            configuration.get("bind-password", ""),
            ca_file=configuration.get("ca-file", ""),
            verify=self._flag("tls-verify", True),
            context=lambda: self.context(),
        )

    def _attribute(self, key: str, default: str) -> str:
        found = self.configuration.get(key, default)
        if not _ATTRIBUTE.fullmatch(found):
            raise DirectoryFailed(f"config:{key} is not the name of an attribute")
        return found

    def _flag(self, key: str, default: bool) -> bool:
        found = self.configuration.get(key, str(default)).lower()
        if found not in ("true", "false"):
            raise DirectoryFailed(f"config:{key} is true or false")
        return found == "true"

    def probe(self) -> None:
        self.server.search(self.base, "(objectClass=*)", [self.key], alone=True)

    # --- questions -------------------------------------------------------------------------------------------

    def authenticate(self, untrusted_user: str, untrusted_password: str) -> str:
        try:
            entry = self._user(untrusted_user)
        except NotKnown:
            raise WrongCredentials("there is no such user") from None
        self.server.check(entry.dn, untrusted_password)
        return self._identifier(entry)

    def identifier(self, untrusted_name: str) -> str:
        try:
            return self._identifier(self._user(untrusted_name))
        except NotKnown:
            return self._identifier(_only(self._search(self._group_filter(untrusted_name)), untrusted_name))

    def information(self, untrusted_identifier: str) -> dict[str, str]:
        entry = self._entry(untrusted_identifier)
        said = {NAME: self._name(entry), "subject-dn": entry.dn}
        if self._is_group(entry):
            return said | {"subject-is-group": "true"}
        shown = entry.text("displayName") or entry.text("gecos") or entry.text("cn")
        said |= {
            "subject-gecos": entry.text("gecos") or shown,
            "subject-displayname": shown or self._name(entry),
            "subject-is-group": "false",
        }
        return said | {key: str(value).lower() for key, value in self._suspensions(entry).items()}

    def groups(self, untrusted_identifier: str) -> tuple[str, ...]:
        entry = self._entry(untrusted_identifier)
        found: dict[str, str] = {}
        wanted = [_in_groups(entry.dn)]
        if not self._is_group(entry):
            wanted.append(f"(memberUid={escaped(self._name(entry))})")
            if (number := entry.number("gidNumber")) is not None:
                wanted.append(f"(&(objectClass=posixGroup)(gidNumber={number}))")
        for _ in range(_DEEPEST):
            new = [each for some in _some_at_a_time(wanted) for each in self._search(any_of(some))]
            names = [each.dn for each in new if each.dn.lower() not in found and each.dn != entry.dn]
            found |= {each.dn.lower(): self._identifier(each) for each in new if each.dn != entry.dn}
            if not names:
                break
            if len(found) > _MOST_GROUPS:
                raise DirectoryFailed(f"{entry.dn} is in more than {_MOST_GROUPS} groups")
            wanted = [_in_groups(name) for name in names]
        return tuple(found.values())

    # --- entries ---------------------------------------------------------------------------------------------

    def _search(self, filter_: str) -> list[Entry]:
        attributes = (self.key, self.user_name, self.group_name, *_SAID)
        return self.server.search(self.base, filter_, attributes)

    def _user(self, untrusted_name: str) -> Entry:
        # That it is no group is looked at here: to a server that does not know one of the classes, "not of these"
        # means nobody.
        found = self._search(self._user_filter(untrusted_name))
        return _only([each for each in found if not self._is_group(each)], untrusted_name)

    def _entry(self, untrusted_identifier: str) -> Entry:
        if not untrusted_identifier or len(untrusted_identifier) > 256:
            raise NotKnown(untrusted_identifier[:64])
        return _only(self._search(self._identifier_filter(untrusted_identifier)), untrusted_identifier)

    def _identifier_filter(self, untrusted_identifier: str) -> str:
        return f"({self.key}={escaped(untrusted_identifier)})"

    def _user_filter(self, untrusted_name: str) -> str:
        return f"({self.user_name}={given(untrusted_name)})"

    def _group_filter(self, untrusted_name: str) -> str:
        return f"(&({self.group_name}={given(untrusted_name)}){_GROUP_FILTER})"

    def _identifier(self, entry: Entry) -> str:
        found = entry.text(self.key)
        if not found:
            raise DirectoryFailed(f"{entry.dn} has no {self.key}")
        return found

    def _is_group(self, entry: Entry) -> bool:
        return any(name.lower() in _GROUPS for name in entry.texts("objectClass"))

    def _name(self, entry: Entry) -> str:
        return entry.text(self.group_name if self._is_group(entry) else self.user_name) or entry.dn

    def _suspensions(self, entry: Entry) -> dict[str, bool]:
        today = int(time.time()) // _DAY
        expires, changed, most = (
            entry.number(name) for name in ("shadowExpire", "shadowLastChange", "shadowMax")
        )
        old = changed is not None and most is not None and 0 < most < 99_999 and today > changed + most
        return {
            "subject-account-disabled": entry.text("nsAccountLock").lower() == "true",
            "subject-account-expired": expires is not None and 0 <= expires <= today,
            "subject-account-locked": entry.text("pwdAccountLockedTime") != "",
            "subject-password-expired": entry.text("pwdReset").lower() == "true" or old,
        }


_GROUP_FILTER: Final = any_of(f"(objectClass={name})" for name in _GROUPS)


def assert_known(directory: LDAP, configuration: Mapping[str, str]) -> None:
    """Raises DirectoryFailed for configuration that the type does not have: a misspelt one is not to be believed in."""
    if unknown := sorted(configuration.keys() - directory.keys):
        raise DirectoryFailed(f"{directory.type} has no configuration of that name: {', '.join(unknown)}")


def _only(found: list[Entry], what: str) -> Entry:
    """The entry that was meant. Raises NotKnown for none, DirectoryFailed for more than one."""
    if not found:
        raise NotKnown(what)
    if len(found) > 1:
        raise DirectoryFailed(f"{len(found)} entries are {what}")
    return found[0]


def _in_groups(dn: str) -> str:
    return any_of((f"(member={escaped(dn)})", f"(uniqueMember={escaped(dn)})"))


def given(untrusted_name: str) -> str:
    """A name in a filter. Raises NotKnown for one that nobody has."""
    if not untrusted_name or len(untrusted_name) > 256 or not untrusted_name.isprintable():
        raise NotKnown(untrusted_name[:64])
    return escaped(untrusted_name)


def _some_at_a_time(filters: list[str]) -> Iterator[list[str]]:
    return (filters[start : start + _AT_ONCE] for start in range(0, len(filters), _AT_ONCE))
