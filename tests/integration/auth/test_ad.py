"""The AD kind of external authentication, against Samba's own controller of a domain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.domain import ADMINISTRATOR, DOMAIN, PASSWORD, SambaDomain
from kronos.auth.ad import AD
from kronos.auth.base import DirectoryFailed, NotKnown, WrongCredentials
from kronos.rules.admission import is_suspended

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the controller has a host of its own"),
    pytest.mark.skipif(not Path("/usr/sbin/samba").exists(), reason="there is no samba-ad-dc"),
]


@pytest.fixture(scope="module")
def domain() -> Iterator[SambaDomain]:
    """alice is in operators, which are in administrators of virtual machines; dave is nobody's."""
    made = SambaDomain()
    try:
        for user in ("alice", "dave", "mallory"):
            made.user("create", user, PASSWORD, f"--given-name={user.title()}", "--surname=Test")
        for group in ("operators", "virtual"):
            made.group("add", group)
        made.group("addmembers", "operators", "alice")
        made.group("addmembers", "virtual", "operators")
        yield made
    finally:
        made.close()


def opened(domain: SambaDomain, /, **changed: str) -> AD:
    configuration = {
        "user": "Administrator",
        "pass": ADMINISTRATOR,
        "server": domain.server,
        "ca-file": str(domain.ca),
    }
    return AD(DOMAIN, configuration | {key.replace("_", "-"): value for key, value in changed.items()})


@pytest.fixture
def ad(domain: SambaDomain) -> AD:
    return opened(domain)


@pytest.mark.parametrize("name", ["alice", "ALICE", "KRONOS\\alice", f"{DOMAIN}\\alice", f"alice@{DOMAIN}"])
def test_a_user_by_every_form_of_the_name(ad: AD, name: str) -> None:
    ad.probe()
    identifier = ad.authenticate(name, PASSWORD)
    assert identifier.startswith("S-1-5-21-")
    assert identifier == ad.identifier("alice")


@pytest.mark.parametrize(
    "name", ["OTHER\\alice", "AD\\alice", "alice@other.test", "*", "a*", "alice)(cn=*", "DC1$", ""]
)
def test_who_is_not_meant_is_not_found(ad: AD, name: str) -> None:
    with pytest.raises(NotKnown):
        ad.identifier(name)
    with pytest.raises(WrongCredentials):
        ad.authenticate(name, PASSWORD)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_refused(ad: AD, password: str) -> None:
    with pytest.raises(WrongCredentials):
        ad.authenticate("dave", password)


def test_groups_in_groups_and_the_primary_one(ad: AD) -> None:
    found = set(ad.groups(ad.identifier("alice")))
    assert {ad.identifier(name) for name in ("operators", "virtual", "Domain Users")} <= found
    assert ad.identifier("Domain Admins") not in found
    assert ad.groups(ad.identifier("operators")) == (ad.identifier("virtual"),)


def test_what_is_said(ad: AD) -> None:
    said = ad.information(ad.identifier("alice"))
    assert said["subject-name"] == "KRONOS\\alice"
    assert said["subject-displayname"] == "Alice Test"
    assert said["subject-upn"] == f"alice@{DOMAIN}"
    assert said["subject-is-group"] == "false"
    assert not is_suspended(said)
    said = ad.information(ad.identifier("operators"))
    assert (said["subject-name"], said["subject-is-group"]) == ("KRONOS\\operators", "true")


def test_a_disabled_account_is_suspended(domain: SambaDomain, ad: AD) -> None:
    domain.user("disable", "mallory")
    with pytest.raises(WrongCredentials):
        ad.authenticate("mallory", PASSWORD)
    assert ad.information(ad.identifier("mallory"))["subject-account-disabled"] == "true"
    domain.user("enable", "mallory")
    assert not is_suspended(ad.information(ad.identifier("mallory")))


def test_an_expired_account_is_suspended(domain: SambaDomain, ad: AD) -> None:
    domain.user("setexpiry", "mallory", "--days=0")
    assert ad.information(ad.identifier("mallory"))["subject-account-expired"] == "true"
    domain.user("setexpiry", "mallory", "--noexpiry")
    assert not is_suspended(ad.information(ad.identifier("mallory")))


def test_who_must_change_the_password_is_suspended(domain: SambaDomain, ad: AD) -> None:
    domain.user("setpassword", "mallory", f"--newpassword={PASSWORD} again", "--must-change-at-next-login")
    assert ad.information(ad.identifier("mallory"))["subject-password-expired"] == "true"


def test_who_may_not_be_judged_is_kept_out(domain: SambaDomain) -> None:
    """As in domains that hide the state of accounts from other users."""
    for user in ("reader", "hidden"):
        domain.add_user(user)
    domain.hide_state("hidden", "reader")
    ad = opened(domain, user="reader", **{"pass": PASSWORD})
    assert ad.authenticate("hidden", PASSWORD) == ad.identifier("hidden")
    assert is_suspended(ad.information(ad.identifier("hidden")))
    assert not is_suspended(ad.information(ad.identifier("alice")))


def test_who_is_deleted_is_not_known(domain: SambaDomain, ad: AD) -> None:
    domain.user("create", "erin", PASSWORD)
    identifier = ad.identifier("erin")
    domain.user("delete", "erin")
    with pytest.raises(NotKnown):
        ad.information(identifier)


def test_what_clients_say_for_hosts_that_join_is_understood(domain: SambaDomain) -> None:
    opened(domain, domain=DOMAIN.upper(), ldaps="true").probe()
    for wrong in ({"domain": "other.test"}, {"ldaps": "false"}, {"ou": "Hosts"}):
        with pytest.raises(DirectoryFailed):
            opened(domain, **wrong)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [({"pass": "wrong"}, "_WRONG_CREDENTIALS"), ({"ca_file": "/etc/hostname"}, "_INVALID_TRUSTED_CERTS")],
    ids=["password", "certificates"],
)
def test_what_is_configured_wrong_is_said(domain: SambaDomain, changed: dict[str, str], kind: str) -> None:
    with pytest.raises(DirectoryFailed) as caught:
        opened(domain, **changed).probe()
    assert caught.value.kind == kind
