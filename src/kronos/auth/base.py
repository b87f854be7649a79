"""What a kind of external authentication is: where users and groups are looked up, and passwords checked.

A subject of XenAPI is a user or a group of a directory. The directory names it by an identifier that stays when the
name changes; the pool keeps that, never a password.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

NAME: Final = "subject-name"
"""The one key that every subject's information has."""
SUSPENSIONS: Final = (
    "subject-account-disabled",
    "subject-account-expired",
    "subject-account-locked",
    "subject-password-expired",
)
"""Keys of a user's information. One that is missing, or is not `false`, keeps the user out."""


class WrongCredentials(Exception):
    """There is no such user, or that is not the password: which of the two is for the log alone."""


class NotKnown(Exception):
    """The directory has no such user or group."""


class DirectoryFailed(Exception):
    """The directory did not answer, or refused. `kind` ends XenAPI's code: `AUTH_ENABLE_FAILED` + `_UNAVAILABLE`."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


LOOKUP_FAILED: Final = "_DOMAIN_LOOKUP_FAILED"
PERMISSION_DENIED: Final = "_PERMISSION_DENIED"
WRONG_SERVICE_CREDENTIALS: Final = "_WRONG_CREDENTIALS"
UNAVAILABLE: Final = "_UNAVAILABLE"
NO_TRUSTED_CERTIFICATES: Final = "_NO_TRUSTED_CERTS"
INVALID_CERTIFICATES: Final = "_INVALID_TRUSTED_CERTS"


class Directory(ABC):
    """One directory, as it is configured. Every method blocks and may be called from any thread."""

    type: ClassVar[str]
    """XenAPI's `auth_type`."""
    secrets: ClassVar[frozenset[str]] = frozenset()
    """Configuration that is kept as a secret of the pool, and named by its uuid in what clients may read."""
    context: Callable[[], ssl.SSLContext] = staticmethod(ssl.create_default_context)
    """TLS settings for a connection to its servers: whose certificates are believed. The host's, unless it is told."""

    @abstractmethod
    def __init__(self, service: str, configuration: Mapping[str, str]) -> None:
        """`service` says which directory, in the type's own way. Raises DirectoryFailed for what it cannot be."""

    @abstractmethod
    def probe(self) -> None:
        """Return when the directory can be used. Raises DirectoryFailed."""

    @abstractmethod
    def authenticate(self, untrusted_user: str, untrusted_password: str) -> str:
        """The identifier of the user whose password this is. Raises WrongCredentials, DirectoryFailed."""

    @abstractmethod
    def identifier(self, untrusted_name: str) -> str:
        """The identifier of a user or group. Raises NotKnown, DirectoryFailed."""

    @abstractmethod
    def information(self, untrusted_identifier: str) -> dict[str, str]:
        """What the directory says of a user or group: `subject-name`, `subject-is-group` and others, and for a user
        SUSPENSIONS. Raises NotKnown, DirectoryFailed."""

    @abstractmethod
    def groups(self, untrusted_identifier: str) -> tuple[str, ...]:
        """The identifiers of the groups that a user or group is in, directly or through others.

        Raises NotKnown, DirectoryFailed.
        """
