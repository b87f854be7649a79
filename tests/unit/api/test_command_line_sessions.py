"""The sessions that commands get: whose they are, and how long they last."""

from __future__ import annotations

import pytest

from kronos.commands.protocol import Login
from kronos.db.records import Session
from kronos.dispatch.call import Origin
from kronos.server.access import Access


@pytest.fixture
def opened(xapi):
    xapi.machine.authenticate = lambda user, password: None
    return Access(xapi.pipeline).open(Origin(address="192.0.2.1", user_agent="xe-cli/Unix/0.2"))


def test_a_session_of_its_own_is_the_originator_clis_and_ends_with_it(xapi, opened):
    with opened(Login("root", "secret")) as api:
        row = xapi.db.get(Session, api.session)
        assert (row.originator, row.auth_user_name) == ("cli", "root")
    assert xapi.db.find(Session, row.ref) is None


def test_a_session_that_it_names_outlives_it(xapi, opened):
    with opened(Login(session=xapi.session)) as api:
        assert api.session == xapi.session
    assert xapi.db.find(Session, xapi.session) is not None
