"""Local users: a name and a password checked by PAM, as on the machine's own console."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from kronos.datamodel.errors import Failure
from kronos.system.logs import hidden

log = logging.getLogger(__name__)

# Where Linux-PAM looks for a service's file before it turns to `other`, which on many distributions denies
# everyone.
_SERVICE_DIRECTORIES = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"))
_LONGEST_NAME = 256  # bytes; LOGIN_NAME_MAX
_LONGEST_PASSWORD = 511  # bytes; PAM_MAX_RESP_SIZE less its NUL: modules cut or refuse what is longer
# PAM makes a wrong password wait two seconds. Guesses from the network must not hold every worker thread
# meanwhile, nor keep an honest login waiting behind one of them.
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


@cache
def _warn_if_missing(service: str) -> None:
    if not any((directory / service).exists() for directory in _SERVICE_DIRECTORIES):
        log.error(
            "there is no /etc/pam.d/%s, so that PAM applies /etc/pam.d/other to logins; install the file that"
            " comes with this package",
            service,
        )
