"""Which mail server the pool's settings name."""

from __future__ import annotations

import pytest

from kronos.rules import alerts


@pytest.mark.parametrize(
    ("mailhub", "found"),
    [
        ("mail.example.org", ("mail.example.org", 25)),
        ("mail.example.org:2525", ("mail.example.org", 2525)),
        ("[2001:db8::1]:2525", ("2001:db8::1", 2525)),
        ("2001:db8::1", ("2001:db8::1", 25)),
        ("mail:none", ("mail:none", 25)),
        ("mail:99999", ("mail", 25)),
        ("", ("localhost", 25)),
    ],
)
def test_the_hub_is_a_name_and_a_port(mailhub, found):
    hub = alerts.hub({"ssmtp-mailhub": mailhub})
    assert (hub.host, hub.port) == found


def test_encryption_is_from_the_first_byte_or_after_the_greeting():
    first = alerts.hub({"ssmtp-usetls": "YES"})
    after = alerts.hub({"ssmtp-usetls": "YES", "ssmtp-usestarttls": "YES"})
    assert (first.tls, first.starttls, first.port) == (True, False, 465)
    assert (after.tls, after.starttls, after.port) == (False, True, 25)


def test_nothing_is_mailed_without_a_destination():
    assert not alerts.is_mailed(1, {})
    assert alerts.is_mailed(3, {"mail-destination": "a"})
    assert not alerts.is_mailed(4, {"mail-destination": "a", "mail-min-priority": "x"})
