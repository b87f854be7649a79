"""A directory server: questions to it, and passwords that it checks, under TLS whose certificate is verified."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kronos.auth.base import (
    INVALID_CERTIFICATES,
    LOOKUP_FAILED,
    NO_TRUSTED_CERTIFICATES,
    PERMISSION_DENIED,
    UNAVAILABLE,
    WRONG_SERVICE_CREDENTIALS,
    DirectoryFailed,
    WrongCredentials,
)
from kronos.system.logs import hidden

CONNECT: Final = 5.0
"""Seconds until a server that cannot be reached is given up."""
ANSWER: Final = 10
"""Seconds for one answer, or the next part of it."""
WHOLE: Final = 60.0
"""Seconds for all that is said on one connection: one who dribbles is not to keep us from anything for ever."""
PAGE: Final = 500
_SUCCESS, _NO_SUCH_OBJECT, _INAPPROPRIATE, _WRONG, _DENIED = 0, 32, 48, 49, 50
_NOT_THIS_PASSWORD: Final = frozenset({19, _INAPPROPRIATE, _WRONG, 53})
"""Results of a bind that say no to the user, not to us: constraint, inappropriate, invalid, unwilling."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a server has under one name; attributes by their name in small letters, as bytes."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]

    def text(self, name: str) -> str:
        """The first value of an attribute, or an empty string."""
        return next(iter(self.texts(name)), "")

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(value.decode("utf-8", "replace") for value in self.attributes.get(name.lower(), ()))

    def number(self, name: str) -> int | None:
        """An attribute as a whole number, None where it is none."""
        try:
            return int(self.text(name))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    ldaps: bool


def address_of(service: str, *, ldaps: bool) -> Address:
    """`ldaps://host`, `ldap://host:port` (StartTLS), or `host` alone. Raises DirectoryFailed."""
    try:
        parts = urlsplit(service if "://" in service else f"{'ldaps' if ldaps else 'ldap'}://{service}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise DirectoryFailed(f"{service!r} is no address of a server: {error}", LOOKUP_FAILED) from None
    if parts.scheme not in ("ldap", "ldaps") or not host or parts.path.strip("/") or parts.query:
        raise DirectoryFailed(f"{service!r} is not ldap://host, ldaps://host or a host", LOOKUP_FAILED)
    secured = parts.scheme == "ldaps"
    return Address(host, port or (636 if secured else 389), secured)


class LdapServer:
    """One server, asked as a service account, or anonymously where `user` is empty.

    There is no way to it without TLS. `verify` off accepts any certificate. Referrals to others are not followed.
    `context` makes the TLS settings; with `ca_file`, what that has signed is believed instead.
    """

    def __init__(
        self,
        address: Address,
        user: str,
        password: str,
        *,
        ca_file: str = "",
        verify: bool = True,
        context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self.address = address
        self.user = user
        self._password = password
        self._ca_file = ca_file
        self._verify = verify
        self._make_context = context

    def search(
        self, base: str, filter_: str, attributes: Iterable[str], *, alone: bool = False
    ) -> list[Entry]:
        """What is below `base` and passes the filter; with `alone`, `base` itself. Raises DirectoryFailed."""
        with self._service() as connection, _translated():
            found = connection.extend.standard.paged_search(
                base,
                filter_,
                search_scope="BASE" if alone else "SUBTREE",
                attributes=list(attributes),
                paged_size=None if alone else PAGE,
                generator=False,
            )
            self._assert_success(connection.result, base)
            return [
                Entry(
                    each["dn"],
                    {name.lower(): tuple(values) for name, values in each["raw_attributes"].items()},
                )
                for each in found
                if each["type"] == "searchResEntry"
            ]

    def check(self, user: str, untrusted_password: str) -> None:
        """Return if this is the password of an entry. Raises WrongCredentials, DirectoryFailed."""
        if not user or not untrusted_password or "\0" in untrusted_password:
            # A bind with a name and no password is anonymous, and succeeds.
            raise WrongCredentials("the name or password is empty")
        try:
            untrusted_password.encode()
        except UnicodeEncodeError:
            raise WrongCredentials("the password is not valid Unicode") from None
        with self._connected(user, untrusted_password) as connection:
            code, text = _result(connection.result)
            if code in _NOT_THIS_PASSWORD:
                raise WrongCredentials(text)
            self._assert_success(connection.result, user)

    @contextmanager
    def _service(self) -> Iterator[Any]:
        with self._connected(self.user, self._password) as connection:
            code, text = _result(connection.result)
            if code in _NOT_THIS_PASSWORD:
                raise DirectoryFailed(f"the service account is refused: {text}", WRONG_SERVICE_CREDENTIALS)
            self._assert_success(connection.result, self.user)
            yield connection

    def _assert_success(self, result: Mapping[str, Any], about: str) -> None:
        code, text = _result(result)
        if code == _SUCCESS:
            return
        kind = {_NO_SUCH_OBJECT: LOOKUP_FAILED, _DENIED: PERMISSION_DENIED}.get(code, "")
        raise DirectoryFailed(f"{about}: {text}", kind)

    @contextmanager
    def _connected(self, user: str, password: str) -> Iterator[Any]:
        """A connection after a bind, whatever came of it."""
        ldap3 = _library()
        with _translated():
            context = self._context()
            tls = ldap3.Tls()
            # The library's own way names no server to the other side, and reads names in certificates by itself.
            tls.wrap_socket = lambda connection, **_: self._secure(connection, context)
            server = ldap3.Server(
                self.address.host,
                port=self.address.port,
                use_ssl=self.address.ldaps,
                tls=tls,
                get_info=ldap3.NONE,
                connect_timeout=CONNECT,
            )
            connection = ldap3.Connection(
                server,
                user=user or None,
                # As bytes: text the library changes first, so that one password passes for another.
                password=password.encode() or None,
                authentication=ldap3.SIMPLE if user else ldap3.ANONYMOUS,
                auto_referrals=False,
                read_only=True,
                raise_exceptions=False,
                receive_timeout=ANSWER,
            )
        deadline = threading.Timer(WHOLE, _cut, (connection,))
        deadline.daemon = True
        deadline.start()
        try:
            with hidden(password), _translated():
                connection.open(read_server_info=False)
                if not self.address.ldaps and not connection.start_tls(read_server_info=False):
                    raise DirectoryFailed(f"the server refuses StartTLS: {_result(connection.result)[1]}")
                connection.bind(read_server_info=False)
            yield connection
        finally:
            with _ignored():
                connection.unbind()
            deadline.cancel()

    def _context(self) -> ssl.SSLContext:
        if not self._ca_file:
            context = self._make_context()
        elif Path(self._ca_file).is_file():
            context = ssl.create_default_context(cafile=self._ca_file)
        else:
            raise DirectoryFailed(f"there is no {self._ca_file}", NO_TRUSTED_CERTIFICATES)
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _secure(self, connection: Any, context: ssl.SSLContext) -> None:
        host = self.address.host
        connection.socket = context.wrap_socket(
            connection.socket, server_hostname=host, do_handshake_on_connect=False
        )
        connection.socket.do_handshake()


def escaped(untrusted_value: str) -> str:
    """A value as a filter may hold it: it matches itself and nothing else."""
    return "".join(
        f"\\{byte:02x}" if byte < 0x20 or byte >= 0x7F or byte in b"*()\\" else chr(byte)
        for byte in untrusted_value.encode("utf-8", "replace")
    )


def any_of(filters: Iterable[str]) -> str:
    return f"(|{''.join(filters)})"


def _library() -> Any:
    try:
        import ldap3
    except ImportError as error:
        text = "python3-ldap3 is not installed: this kind of authentication needs it"
        raise DirectoryFailed(text, UNAVAILABLE) from error
    return ldap3


def _result(result: Mapping[str, Any] | None) -> tuple[int, str]:
    found = result or {}
    text = " ".join(str(found.get(key) or "") for key in ("description", "message")).strip()
    return int(found.get("result", -1)), text or "no answer"


def _cut(connection: Any) -> None:
    """End a connection while another thread waits on it, which then reads its end."""
    with _ignored():
        socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)


@contextmanager
def _translated() -> Iterator[None]:
    """The library's and the socket's errors as DirectoryFailed."""
    try:
        yield
    except DirectoryFailed:
        raise
    except Exception as error:  # the library raises what it likes: ssl's, socket's, its own
        text = str(error) or type(error).__name__
        certificate = "certificate" in text.lower()
        raise DirectoryFailed(text, INVALID_CERTIFICATES if certificate else UNAVAILABLE) from error


@contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001, S110  # a connection that is broken is closed anyhow
        pass
