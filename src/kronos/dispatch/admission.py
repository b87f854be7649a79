"""Admission of the directory's users: their password, their account, their groups, and the subjects that these are."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from kronos.auth.base import NAME, Directory, DirectoryFailed, NotKnown, WrongCredentials
from kronos.datamodel.errors import Failure
from kronos.db.database import Database
from kronos.db.records import Host, Pool, Secret, Subject
from kronos.dispatch import roles
from kronos.dispatch.gate import Gate
from kronos.dispatch.machine import Machine
from kronos.rules import admission

log = logging.getLogger(__name__)

SECRET: Final = "_secret"
"""Ends the key under which the uuid of a secret stands in a host's `external_auth_configuration`."""
_AT_A_TIME: Final = 8
DENIED: Final = "Authentication failure"
"""All that a stranger hears: neither which names exist nor which accounts are closed."""


@dataclass(frozen=True, slots=True)
class Person:
    """What the directory says of a user."""

    identifier: str
    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A user who may come in."""

    person: Person
    subjects: tuple[str, ...]
    """References of the subjects that the rights come from; the user's own is the first where there is one."""
    permissions: tuple[str, ...]


class Lost(Exception):
    """A user may no longer be here; the text says why."""


class Admission:
    """The pool's directory, as its host's record configures it. Every method but `enabled` blocks."""

    def __init__(self, db: Database, machine: Machine) -> None:
        self.db = db
        self.machine = machine
        self.serial = threading.Lock()
        """Held while external authentication is enabled or disabled."""
        self.known = Remembered(db)
        self._guard = threading.Lock()
        self._open: tuple[object, Directory] | None = None

    @property
    def enabled(self) -> bool:
        """Whether external authentication is on."""
        return bool(self._host().external_auth_type)

    def _host(self) -> Host:
        return self.db.get(Host, self.machine.host_ref)

    def directory(self) -> Directory:
        """The directory of now. Raises AUTH_IS_DISABLED, AUTH_UNKNOWN_TYPE, DirectoryFailed."""
        host = self._host()
        if not host.external_auth_type:
            raise Failure("AUTH_IS_DISABLED")
        configuration = self._with_secrets(host.external_auth_configuration)
        wanted = (host.external_auth_type, host.external_auth_service_name, tuple(configuration.items()))
        with self._guard:
            if self._open is None or self._open[0] != wanted:
                self._open = (wanted, self.machine.open_directory(wanted[0], wanted[1], configuration))
            return self._open[1]

    def _with_secrets(self, configuration: Mapping[str, str]) -> dict[str, str]:
        """Raises DirectoryFailed where somebody has destroyed one."""
        found = {}
        for key, value in configuration.items():
            if key.endswith(SECRET):
                ref = self.db.tables["secret"].by_uuid(value)
                secret = self.db.find(Secret, ref) if ref is not None else None
                if secret is None:
                    raise DirectoryFailed(f"the secret of config:{key.removesuffix(SECRET)} is gone")
                found[key.removesuffix(SECRET)] = secret.value
            else:
                found[key] = value
        return found

    def gate(self, executor: Executor) -> Gate:
        """Where passwords wait for their turn, as many at a time as the pool says."""

        def limit(field: str) -> int:
            pool = next(iter(self.db.all(Pool)), None)
            return _AT_A_TIME if pool is None else int(getattr(pool, field))

        return Gate(executor, lambda: limit("local_auth_max_threads"), lambda: limit("ext_auth_max_threads"))

    # --- coming in -------------------------------------------------------------------------------------------

    def admit(self, untrusted_user: str, untrusted_password: str) -> Admitted:
        """A user by name and password.

        Raises SESSION_AUTHENTICATION_FAILED [user, text] for a wrong name or password,
        SESSION_AUTHORIZATION_FAILED [user, text] for a known user who may not come in, and RBAC_PERMISSION_DENIED
        for one whose subjects have no role.
        """
        person = self.known.find(untrusted_user, untrusted_password)
        if person is None:
            begun = self.known.forgotten
            person = self._recognise(untrusted_user, untrusted_password)
            self.known.keep(untrusted_user, untrusted_password, person, begun)
        subjects = admission.subjects_of(self.db, person.identifier, person.groups)
        if not subjects:
            log.warning("%r (%s) has no access rights in this pool", untrusted_user, person.identifier)
            text = f"{person.name} (identifier {person.identifier}) has no access rights in this pool"
            raise Failure("SESSION_AUTHORIZATION_FAILED", untrusted_user, text)
        permissions = roles.granted(admission.roles_of(self.db, subjects))
        if not permissions:
            text = f"{person.name} (identifier {person.identifier}) has no roles in this pool"
            raise Failure("RBAC_PERMISSION_DENIED", "session.login_with_password", text)
        return Admitted(person, tuple(subject.ref for subject in subjects), permissions)

    def _recognise(self, untrusted_user: str, untrusted_password: str) -> Person:
        try:
            directory = self.directory()
            identifier = directory.authenticate(untrusted_user, untrusted_password)
        except WrongCredentials as refused:
            log.warning("login of %.64r refused: %s", untrusted_user, refused)
            raise Failure("SESSION_AUTHENTICATION_FAILED", _shown(untrusted_user), DENIED) from None
        except DirectoryFailed as failed:
            log.error(
                "the directory failed at a login: %s", failed
            )  # the way there is not a stranger's business
            text = "The external authentication service does not answer"
            raise Failure("SESSION_AUTHORIZATION_FAILED", _shown(untrusted_user), text) from None
        try:
            return self._open_account(directory, identifier)
        except (Lost, DirectoryFailed) as lost:
            log.warning("login of %r refused: %s", untrusted_user, lost)
            raise Failure("SESSION_AUTHORIZATION_FAILED", untrusted_user, str(lost)) from None

    def _open_account(self, directory: Directory, identifier: str) -> Person:
        """Raises Lost, DirectoryFailed."""
        try:
            said = directory.information(identifier)
            if admission.is_suspended(said):
                raise Lost(f"{said.get(NAME, identifier)} ({identifier}): {admission.why_suspended(said)}")
            return Person(identifier, said[NAME], directory.groups(identifier))
        except NotKnown:
            raise Lost(f"the directory no longer has {identifier}") from None

    # --- staying ---------------------------------------------------------------------------------------------

    def check(self, identifier: str, subjects: frozenset[str]) -> tuple[str, ...]:
        """Whether a user who came in by these subjects may stay; the subjects of now.

        Raises Lost where the account is closed or gone, or where a subject that rights came from is no longer the
        user's, and DirectoryFailed where nobody can say.
        """
        person = self._open_account(self.directory(), identifier)
        now = tuple(each.ref for each in admission.subjects_of(self.db, identifier, person.groups))
        if not now:
            raise Lost(f"{identifier} has no access rights in this pool any more")
        if subjects - set(now):
            raise Lost(f"{identifier} has lost a membership that rights came from")
        return now

    def renew_subjects(self) -> None:
        """Write down what the directory now says of each subject. What cannot be asked stays as it is."""
        directory = self.directory()
        for subject in self.db.all(Subject):
            try:
                said = directory.information(subject.subject_identifier)
            except (NotKnown, DirectoryFailed) as error:
                log.debug("subject %s: %s", subject.subject_identifier, error)
                continue
            self.db.write(subject, {"other_config": said})


class Remembered:
    """Who came in lately, so that a client that logs in for each call does not ask the directory each time.

    Kept as the pool's `ext_auth_cache_*` say: of the password a salted, slow digest, in this process alone. What is
    remembered is the directory's word; subjects and roles are looked up at each login.
    """

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self.db = db
        self.clock = clock
        self.forgotten = 0
        """How often somebody was forgotten: what the directory said before that is not to be kept after it."""
        self._kept: OrderedDict[str, tuple[bytes, bytes, float, Person]] = OrderedDict()
        self._guard = threading.Lock()

    def find(self, untrusted_user: str, untrusted_password: str) -> Person | None:
        if not self._pool().ext_auth_cache_enabled:
            return None
        with self._guard:
            found = self._kept.get(untrusted_user)
        if found is None or found[2] < self.clock():
            return None
        salt, digest, _, person = found
        return person if hmac.compare_digest(_digest(untrusted_password, salt), digest) else None

    def keep(self, user: str, password: str, person: Person, begun: int) -> None:
        """Remember a user, unless any was forgotten since the directory was asked; `begun` is `forgotten` then."""
        pool = self._pool()
        if not pool.ext_auth_cache_enabled or pool.ext_auth_cache_size < 1:
            return
        salt = os.urandom(16)
        entry = (salt, _digest(password, salt), self.clock() + pool.ext_auth_cache_expiry, person)
        with self._guard:
            if self.forgotten != begun:
                return
            self._kept[user] = entry
            self._kept.move_to_end(user)
            while len(self._kept) > pool.ext_auth_cache_size:
                self._kept.popitem(last=False)

    def forget(self, identifier: str) -> None:
        """Ask the directory again when this user comes next."""
        with self._guard:
            self.forgotten += 1
            for user in [name for name, kept in self._kept.items() if kept[3].identifier == identifier]:
                del self._kept[user]

    def clear(self) -> None:
        with self._guard:
            self.forgotten += 1
            self._kept.clear()

    def _pool(self) -> Pool:
        return self.db.all(Pool)[0]


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=1 << 12, r=8, p=1)


def _shown(untrusted_user: str) -> str:
    return "".join(letter for letter in untrusted_user[:256] if letter.isprintable())
