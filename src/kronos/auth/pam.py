"""PAM: a name and a password checked as on the machine's own console, and the users and groups of its name service."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from kronos.auth import nss
from kronos.auth.base import NAME, Directory, DirectoryFailed, NotKnown, WrongCredentials
from kronos.datamodel.errors import Failure
from kronos.system.commands import CommandFailed
from kronos.system.logs import hidden
from kronos.system.outside import Outside
from kronos.system.power import NotTheService

log = logging.getLogger(__name__)

# Where Linux-PAM looks for a service's file before it turns to `other`, which on many distributions denies
# everyone.
_SERVICE_DIRECTORIES = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"))
_LONGEST_NAME = 256  # bytes; LOGIN_NAME_MAX
_LONGEST_PASSWORD = 511  # bytes; PAM_MAX_RESP_SIZE less its NUL: modules cut or refuse what is longer
# PAM makes a wrong password wait two seconds; who may be asked at a time is the gate's to say. This is how many of
# what is expensive to make are kept.
_AT_ONCE = 8


class _Authenticator(Protocol):
    reason: str | bytes | None
    messages: list[str]

    def authenticate(self, username: str, password: str, service: str, *, resetcreds: bool) -> bool: ...


# Linux-PAM is safe with threads when each uses a handle of its own; python-pam keeps the handle, the answer
# and the messages in the object. An object costs two runs of ldconfig to make, so that they are kept.
_idle: queue.LifoQueue[_Authenticator | None] = queue.LifoQueue()
for _ in range(_AT_ONCE):
    _idle.put(None)


def authenticate(untrusted_user: str, untrusted_password: str, service: str = "xapi") -> None:
    """Return if the user exists, the password is right and the account is open; takes seconds if not.

    The user name may be logged, the password never is. An empty password is refused even where PAM would take
    it, for this login is open to the network.

    Raises SESSION_AUTHENTICATION_FAILED.
    """
    fault = _fault(untrusted_user, untrusted_password)
    if fault:
        log.warning("login of %.64r refused: %s", untrusted_user, fault)
        raise Failure("SESSION_AUTHENTICATION_FAILED", _printable(untrusted_user), fault)
    _warn_if_missing(service)
    with hidden(untrusted_password), _authenticator() as authenticator:
        try:
            # Credentials, such as groups, would be set for this whole process.
            accepted = authenticator.authenticate(
                untrusted_user, untrusted_password, service, resetcreds=False
            )
            reason = authenticator.reason
        finally:
            authenticator.messages.clear()
        if not accepted:
            # The log says why; a stranger does not learn from it which names exist.
            log.warning("login of %r refused by PAM service %s: %s", untrusted_user, service, reason)
            raise Failure("SESSION_AUTHENTICATION_FAILED", untrusted_user, "Authentication failure")


def set_password(outside: Outside, user: str, untrusted_password: str) -> None:
    """Give a local user another password, as an administrator does: the old one is not asked for.

    The service itself may not write to /etc.

    Raises CHANGE_PASSWORD_REJECTED [text].
    """
    fault = _fault(user, untrusted_password)
    if fault or "\n" in untrusted_password:
        raise Failure("CHANGE_PASSWORD_REJECTED", fault or "The password has a line break")
    with hidden(untrusted_password):
        try:
            outside.change(["chpasswd"], stdin=f"{user}:{untrusted_password}\n")
        except (CommandFailed, NotTheService) as failed:
            log.warning("the password of %s stays as it is: %s", user, failed)
            raise Failure("CHANGE_PASSWORD_REJECTED", str(failed)) from failed
    log.info("%s has another password", user)


def _fault(untrusted_user: str, untrusted_password: str) -> str:
    """What keeps this from being asked of PAM at all, or an empty string."""
    try:
        name, password = untrusted_user.encode(), untrusted_password.encode()
    except UnicodeEncodeError:
        return "The name or password is not valid Unicode"
    if not name or not untrusted_user.isprintable() or len(name) > _LONGEST_NAME:
        return "The name is empty, too long or has control characters"
    if not password or b"\0" in password or len(password) > _LONGEST_PASSWORD:
        return "The password is empty, too long or has a NUL character"
    return ""


def _printable(untrusted_text: str) -> str:
    shown = "".join(letter for letter in untrusted_text[:_LONGEST_NAME] if letter.isprintable())
    return shown.encode("utf-8", "ignore").decode()


def _new_authenticator() -> _Authenticator:
    import pam  # when somebody logs in: loading it runs ldconfig twice, and takes memory

    made: _Authenticator = pam.PamAuthenticator()
    return made


@contextmanager
def _authenticator() -> Iterator[_Authenticator]:
    kept = _idle.get()
    try:
        if kept is None:
            kept = _new_authenticator()
        yield kept
    finally:
        _idle.put(kept)


class PAM(Directory):
    """Users and groups of the machine's name service, passwords checked by PAM.

    A user's identifier is `u<uid>`, a group's `g<gid>`, as the reference has them.
    """

    type = "PAM"

    def __init__(self, service: str, configuration: Mapping[str, str]) -> None:
        self.service = service
        self.pam_service = configuration.get("pam-service", "xapi")
        if unknown := sorted(configuration.keys() - {"pam-service"}):
            raise DirectoryFailed(f"PAM has no configuration of that name: {', '.join(unknown)}")
        if not self.pam_service.isprintable() or "/" in self.pam_service or not self.pam_service:
            raise DirectoryFailed("pam-service is the name of a file in /etc/pam.d")

    def probe(self) -> None:
        _warn_if_missing(self.pam_service)
        nss.groups_of("root")

    def authenticate(self, untrusted_user: str, untrusted_password: str) -> str:
        try:
            authenticate(untrusted_user, untrusted_password, self.pam_service)
        except Failure as failure:
            raise WrongCredentials(failure.description[-1]) from failure
        try:
            return f"u{nss.user_named(untrusted_user).uid}"
        except NotKnown:
            # PAM knows the password of somebody whom the name service has never heard of.
            raise WrongCredentials(f"the name service does not know {untrusted_user}") from None

    def identifier(self, untrusted_name: str) -> str:
        try:
            return f"u{nss.user_named(untrusted_name).uid}"
        except NotKnown:
            return f"g{nss.group_named(untrusted_name).gid}"

    def information(self, untrusted_identifier: str) -> dict[str, str]:
        if untrusted_identifier.startswith("g"):
            group = nss.group(_number(untrusted_identifier))
            number = f"g{group.gid}"
            return {
                NAME: group.name,
                "subject-uid": number,
                "subject-gid": number,
                "subject-is-group": "true",
            }
        user = nss.user(_number(untrusted_identifier))
        account = nss.account(user.name)
        said = {
            "subject-account-disabled": user.password == "" or user.password[0] in "*!",
            "subject-account-expired": account.expired,
            "subject-account-locked": account.locked,
            "subject-password-expired": account.password_expired,
        }
        return {
            NAME: user.name,
            "subject-uid": f"u{user.uid}",
            "subject-gid": f"g{user.gid}",
            "subject-gecos": user.gecos,
            "subject-displayname": user.gecos or user.name,
            "subject-is-group": "false",
        } | {key: str(value).lower() for key, value in said.items()}

    def groups(self, untrusted_identifier: str) -> tuple[str, ...]:
        number = _number(untrusted_identifier)
        if untrusted_identifier.startswith("g"):  # groups of Unix hold no groups
            return (f"g{nss.group(number).gid}",)
        return tuple(f"g{gid}" for gid in nss.groups_of(nss.user(number).name))


def _number(untrusted_identifier: str) -> str:
    number = untrusted_identifier[1:]
    if untrusted_identifier[:1] not in ("u", "g") or not (number.isascii() and number.isdigit()):
        raise NotKnown(untrusted_identifier[:64])
    return number


@cache
def _warn_if_missing(service: str) -> None:
    if not any((directory / service).exists() for directory in _SERVICE_DIRECTORIES):
        log.error(
            "there is no /etc/pam.d/%s, so that PAM applies /etc/pam.d/other to logins; install the file that"
            " comes with this package",
            service,
        )
