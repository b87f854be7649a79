"""A directory of people in memory, for tests of who comes in."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from kronos.auth.base import SUSPENSIONS, Directory, DirectoryFailed, NotKnown, WrongCredentials
from kronos.datamodel.errors import Failure
from kronos.db.records import Role, Session
from kronos.dispatch.call import Origin

REMOTE = Origin(address="192.0.2.1")


class People(Directory):
    """Names with passwords, groups with members; each is its own identifier, with `id-` before it."""

    type = "People"

    def __init__(self, service: str = "", configuration: Mapping[str, str] | None = None) -> None:
        self.service = service
        self.configuration = dict(configuration or {})
        self.passwords: dict[str, str] = {}
        self.members: dict[str, set[str]] = {}
        self.suspended: dict[str, str] = {}
        self.failing = ""
        self.asked: list[str] = []
        self.gate: threading.Event | None = None

    def opened(self, auth_type: str, service: str, configuration: Mapping[str, str]) -> People:
        """What a machine's `open_directory` does with it."""
        self.service, self.configuration = service, dict(configuration)
        return self

    def _asked(self, what: str) -> None:
        self.asked.append(what)
        if self.gate is not None:
            self.gate.wait(10)
        if self.failing:
            raise DirectoryFailed("the cable is cut", self.failing)

    def probe(self) -> None:
        self._asked("probe")

    def authenticate(self, untrusted_user: str, untrusted_password: str) -> str:
        self._asked(f"authenticate {untrusted_user}")
        if self.passwords.get(untrusted_user) != untrusted_password:
            raise WrongCredentials("no")
        return f"id-{untrusted_user}"

    def identifier(self, untrusted_name: str) -> str:
        self._asked(f"identifier {untrusted_name}")
        if untrusted_name in self.passwords or untrusted_name in self.members:
            return f"id-{untrusted_name}"
        raise NotKnown(untrusted_name)

    def information(self, untrusted_identifier: str) -> dict[str, str]:
        self._asked(f"information {untrusted_identifier}")
        name = untrusted_identifier.removeprefix("id-")
        if name in self.members:
            return {"subject-name": name, "subject-is-group": "true"}
        if name not in self.passwords:
            raise NotKnown(name)
        said = {"subject-name": name, "subject-is-group": "false"} | dict.fromkeys(SUSPENSIONS, "false")
        return said | ({self.suspended[name]: "true"} if name in self.suspended else {})

    def groups(self, untrusted_identifier: str) -> tuple[str, ...]:
        self._asked(f"groups {untrusted_identifier}")
        name = untrusted_identifier.removeprefix("id-")
        return tuple(f"id-{group}" for group, members in self.members.items() if name in members)


def role(xapi: Any, name: str) -> str:
    return xapi.db.by_name(Role, name)[0].ref


def subject(xapi: Any, name: str, *roles: str) -> str:
    identifier = xapi("auth.get_subject_identifier", name)
    ref = xapi("subject.create", {"subject_identifier": identifier, "other_config": {}})
    for each in roles:
        xapi("subject.add_to_roles", ref, role(xapi, each))
    return ref


def login(xapi: Any, user: str, password: str) -> Session:
    return xapi.db.get(Session, xapi.raw("session.login_with_password", user, password, origin=REMOTE))


def kept_out(xapi: Any, user: str, password: str) -> list[str]:
    with pytest.raises(Failure) as caught:
        login(xapi, user, password)
    return caught.value.description


def is_over(xapi: Any, session: Session) -> bool:
    return xapi.db.find(Session, session.ref) is None
