"""AD: users and groups of an Active Directory domain, Samba's or Microsoft's, through LDAP.

The host does not join the domain: it asks as a service account, `user` and `pass`, which is kept. That needs neither
winbind nor Kerberos, and nothing of the host's own accounts changes. `domain` and `ldaps` are what clients for hosts
that join may say: the domain once more, and TLS, without which nothing goes there.

The service name is the domain, whose controllers are found under its own name; `server` names one of them, and
`base` another place below which to look than the whole domain.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Final

from kronos.auth.base import LOOKUP_FAILED, NAME, DirectoryFailed, NotKnown
from kronos.auth.ldap import LDAP, assert_known, given
from kronos.auth.ldap_server import Entry, escaped

_NEVER: Final = 0x7FFFFFFFFFFFFFFF
_TO_1970: Final = 11_644_473_600
"""Seconds from 1601, where its times begin."""
_DISABLED, _LOCKED, _PASSWORD_EXPIRED = 0x2, 0x10, 0x800000
_IN_CHAIN: Final = "1.2.840.113556.1.4.1941"
_SAID: Final = (
    "objectClass",
    "objectSid",
    "sAMAccountName",
    "userPrincipalName",
    "displayName",
    "cn",
    "userAccountControl",
    "msDS-User-Account-Control-Computed",
    "accountExpires",
    "pwdLastSet",
)


class AD(LDAP):
    """A subject's identifier is its SID, `S-1-5-21-…`, which a domain never gives twice."""

    type = "AD"
    secrets = frozenset({"pass"})
    keys: ClassVar[frozenset[str]] = frozenset(
        {"user", "pass", "server", "base", "ca-file", "tls-verify", "domain", "ldaps"}
    )

    def __init__(self, service: str, configuration: Mapping[str, str]) -> None:
        assert_known(self, configuration)
        labels = service.split(".")
        if not all(label.replace("-", "").isalnum() for label in labels):
            raise DirectoryFailed(f"{service!r} is not the name of a domain", LOOKUP_FAILED)
        self.domain = service.lower()
        if configuration.get("domain", service).lower() != self.domain:
            raise DirectoryFailed("config:domain is not the service name", LOOKUP_FAILED)
        if configuration.get("ldaps", "true").lower() != "true":
            raise DirectoryFailed("config:ldaps: passwords go to the directory under TLS alone")
        user = configuration.get("user", "")
        if not user or not configuration.get("pass", ""):
            raise DirectoryFailed("config:user and config:pass, an account that may look, are missing")
        plain = not any(mark in user for mark in "@\\=")
        self._whole = ",".join(f"DC={label}" for label in labels)
        known = {
            "base": configuration.get("base", self._whole),
            "bind-dn": f"{user}@{service}" if plain else user,
            "bind-password": configuration["pass"],
        }
        known |= {key: configuration[key] for key in ("ca-file", "tls-verify") if key in configuration}
        self._configure(configuration.get("server", f"ldaps://{service}"), known)

    @cached_property
    def short(self) -> str:
        """The domain's old name, which is written before a backslash; often another than the first of its labels.

        Raises DirectoryFailed.
        """
        for root in self.server.search("", "(objectClass=*)", ["configurationNamingContext"], alone=True):
            if place := root.text("configurationNamingContext"):
                wanted = f"(&(objectClass=crossRef)(nCName={escaped(self._whole)})(nETBIOSName=*))"
                for each in self.server.search(place, wanted, ["nETBIOSName"]):
                    return each.text("nETBIOSName").upper()
        return self.domain.partition(".")[0].upper()

    def groups(self, untrusted_identifier: str) -> tuple[str, ...]:
        entry = self._entry(untrusted_identifier)
        if self._is_group(entry):
            found = self._search(f"(&(objectClass=group)(member:{_IN_CHAIN}:={escaped(entry.dn)}))")
            return tuple(self._identifier(each) for each in found)
        # The server's own sum of all groups, nested ones and the primary one among them.
        known = self.server.search(entry.dn, "(objectClass=*)", ["tokenGroups"], alone=True)
        return tuple(sid(value) for each in known for value in each.attributes.get("tokengroups", ()))

    def information(self, untrusted_identifier: str) -> dict[str, str]:
        said = super().information(untrusted_identifier)
        entry = self._entry(untrusted_identifier)
        said |= {NAME: f"{self.short}\\{self._name(entry)}", "subject-sid": self._identifier(entry)}
        if upn := entry.text("userPrincipalName"):
            said["subject-upn"] = upn
        return said

    def _search(self, filter_: str) -> list[Entry]:
        return self.server.search(self.base, filter_, _SAID)

    def _user_filter(self, untrusted_name: str) -> str:
        return f"(&(objectClass=user)(!(objectClass=computer)){self._named(untrusted_name)})"

    def _group_filter(self, untrusted_name: str) -> str:
        return f"(&(objectClass=group){self._named(untrusted_name)})"

    def _named(self, untrusted_name: str) -> str:
        """`name`, `DOMAIN\\name` or `name@domain`. Raises NotKnown for another domain, DirectoryFailed."""
        domain, backslash, name = untrusted_name.rpartition("\\")
        if backslash and domain.lower() != self.domain and domain.upper() != self.short:
            raise NotKnown(untrusted_name[:64])
        account, _, at = name.partition("@")
        principal = f"(userPrincipalName={given(name)})"
        if not at:
            return f"(sAMAccountName={given(name)})"
        return f"(|(sAMAccountName={given(account)}){principal})" if at.lower() == self.domain else principal

    def _identifier(self, entry: Entry) -> str:
        value = next(iter(entry.attributes.get("objectsid", ())), b"")
        if not value:
            raise DirectoryFailed(f"{entry.dn} has no objectSid")
        return sid(value)

    def _identifier_filter(self, untrusted_identifier: str) -> str:
        parts = untrusted_identifier.split("-")
        if parts[:2] != ["S", "1"] or not all(part.isascii() and part.isdigit() for part in parts[2:]):
            raise NotKnown(untrusted_identifier[:64])
        return f"(objectSid={untrusted_identifier})"

    def _name(self, entry: Entry) -> str:
        return entry.text("sAMAccountName") or entry.dn

    def _suspensions(self, entry: Entry) -> dict[str, bool]:
        flags = entry.number("userAccountControl")
        if flags is None:  # every user has it; an account that may not read it knows nothing of another
            return {}
        computed = entry.number("msDS-User-Account-Control-Computed") or 0
        expires = entry.number("accountExpires") or 0
        return {
            "subject-account-disabled": bool(flags & _DISABLED),
            "subject-account-expired": 0 < expires < _NEVER
            and expires / 10_000_000 - _TO_1970 <= time.time(),
            "subject-account-locked": bool(computed & _LOCKED),
            "subject-password-expired": bool(computed & _PASSWORD_EXPIRED) or entry.number("pwdLastSet") == 0,
        }


def sid(value: bytes) -> str:
    """A SID as people write it. Raises DirectoryFailed for what is none."""
    if len(value) < 8 or len(value) != 8 + 4 * value[1]:
        raise DirectoryFailed(f"{value[:32]!r} is not a SID")
    authority = int.from_bytes(value[2:8], "big")
    parts = (int.from_bytes(value[at : at + 4], "little") for at in range(8, len(value), 4))
    return "-".join(map(str, ("S", value[0], authority, *parts)))
