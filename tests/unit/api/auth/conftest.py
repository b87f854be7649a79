"""A host with a directory of people."""

from __future__ import annotations

import pytest

from harness.people import People
from kronos.background.visitors import Visitors
from kronos.dispatch import gate


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(gate, "FAILED_LOGIN_DELAY", 0.0)


@pytest.fixture
def people(xapi):
    """alice is in staff; bob is in nothing."""
    people = People()
    people.passwords = {"alice": "a", "bob": "b"}
    people.members = {"staff": {"alice"}}
    xapi.machine.open_directory = people.opened
    return people


@pytest.fixture
def enabled(xapi, people):
    xapi("pool.enable_external_auth", xapi.pool.ref, {}, "somewhere", "LDAP")
    return people


@pytest.fixture
def visitors(xapi):
    return Visitors(xapi.pipeline)
