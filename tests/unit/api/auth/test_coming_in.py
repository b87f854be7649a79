"""Who of a directory's users comes in, and with which rights."""

from __future__ import annotations

import pytest

from harness.people import kept_out, login, role, subject
from kronos.datamodel.errors import Failure
from kronos.db.records import Pool, Secret


def test_a_users_rights_are_those_of_all_subjects_that_the_user_is(xapi, enabled):
    group = subject(xapi, "staff", "vm.pool_migrate")
    own = subject(xapi, "alice", "vm-operator")
    session = login(xapi, "alice", "a")
    assert (session.auth_user_sid, session.auth_user_name) == ("id-alice", "alice")
    assert session.subject == own != group
    assert {"vm-operator", "vm.start", "vm.pool_migrate"} <= set(session.rbac_permissions)
    assert "vm.destroy" not in session.rbac_permissions
    assert not session.is_local_superuser


def test_who_is_no_subject_or_has_no_role_is_kept_out(xapi, enabled):
    assert kept_out(xapi, "bob", "b")[:2] == ["SESSION_AUTHORIZATION_FAILED", "bob"]
    subject(xapi, "bob")
    assert kept_out(xapi, "bob", "b")[:2] == ["RBAC_PERMISSION_DENIED", "session.login_with_password"]


@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("nobody", "a"), ("", ""), ("alice", "")])
def test_a_wrong_name_and_a_wrong_password_are_refused_alike(xapi, enabled, user, password):
    subject(xapi, "alice", "pool-admin")
    expected = ["SESSION_AUTHENTICATION_FAILED", user, "Authentication failure"]
    assert kept_out(xapi, user, password) == expected


def test_a_stranger_does_not_hear_of_a_secret_that_is_gone(xapi, people):
    xapi("pool.enable_external_auth", xapi.pool.ref, {"bind-password": "hush"}, "somewhere", "LDAP")
    (secret,) = xapi.db.all(Secret)
    subject(xapi, "alice", "pool-admin")
    xapi("secret.destroy", secret.ref)
    code, user, text = kept_out(xapi, "alice", "a")
    assert (code, user) == ("SESSION_AUTHORIZATION_FAILED", "alice")
    assert secret.uuid not in text
    assert xapi.refused("auth.get_subject_identifier", "alice") == [
        "AUTH_SERVICE_ERROR",
        "the secret of config:bind-password is gone",
    ]
    xapi("pool.disable_external_auth", xapi.pool.ref)


def test_what_the_directory_said_before_it_was_turned_off_is_not_remembered(xapi, enabled, monkeypatch):
    subject(xapi, "alice", "read-only")
    recognise = xapi.pipeline.admission._recognise

    def slowly(user, password):
        person = recognise(user, password)
        xapi("pool.disable_external_auth", xapi.pool.ref)
        return person

    monkeypatch.setattr(xapi.pipeline.admission, "_recognise", slowly)
    assert kept_out(xapi, "alice", "a")[0] == "SESSION_AUTHORIZATION_FAILED"
    assert xapi.pipeline.admission.known.find("alice", "a") is None


def test_root_is_never_the_directorys(xapi, enabled):
    enabled.passwords["root"] = "directory"
    subject(xapi, "root", "pool-admin")
    xapi.machine.authenticate = lambda user, password: _only("local", user, password)
    before = len(enabled.asked)
    assert kept_out(xapi, "root", "directory")[0] == "SESSION_AUTHENTICATION_FAILED"
    assert login(xapi, "root", "local").is_local_superuser
    assert len(enabled.asked) == before


def _only(right: str, user: str, password: str) -> None:
    if password != right:
        raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")


@pytest.mark.parametrize(
    "reason",
    [
        "subject-account-disabled",
        "subject-account-expired",
        "subject-account-locked",
        "subject-password-expired",
    ],
)
def test_a_suspended_user_is_kept_out(xapi, enabled, reason):
    subject(xapi, "alice", "pool-admin")
    enabled.suspended["alice"] = reason
    assert kept_out(xapi, "alice", "a")[0] == "SESSION_AUTHORIZATION_FAILED"


def test_a_directory_that_is_down_lets_nobody_in(xapi, enabled):
    subject(xapi, "alice", "pool-admin")
    enabled.failing = "_UNAVAILABLE"
    code, _, text = kept_out(xapi, "alice", "a")
    assert code == "SESSION_AUTHORIZATION_FAILED"
    assert "cable" not in text


def test_who_came_in_lately_is_remembered_by_the_right_password_alone(xapi, enabled):
    ref = subject(xapi, "alice", "read-only")
    login(xapi, "alice", "a")
    enabled.failing = "_UNAVAILABLE"
    login(xapi, "alice", "a")
    assert kept_out(xapi, "alice", "b")[0] == "SESSION_AUTHORIZATION_FAILED"
    # What is remembered are no rights.
    xapi("subject.remove_from_roles", ref, role(xapi, "read-only"))
    assert kept_out(xapi, "alice", "a")[0] == "RBAC_PERMISSION_DENIED"
    xapi("subject.add_to_roles", ref, role(xapi, "read-only"))
    login(xapi, "alice", "a")
    xapi("pool.set_ext_auth_cache_enabled", xapi.pool.ref, False)
    assert kept_out(xapi, "alice", "a")[0] == "SESSION_AUTHORIZATION_FAILED"


def test_how_many_and_how_long_are_remembered(xapi, enabled):
    for name in ("alice", "bob"):
        subject(xapi, name, "read-only")
    xapi("pool.set_ext_auth_cache_size", xapi.pool.ref, 1)
    login(xapi, "alice", "a")
    login(xapi, "bob", "b")
    clock = xapi.pipeline.admission.known.clock()
    enabled.failing = "_UNAVAILABLE"
    assert kept_out(xapi, "alice", "a")[0] == "SESSION_AUTHORIZATION_FAILED"
    login(xapi, "bob", "b")
    xapi.pipeline.admission.known.clock = lambda: clock + 301
    assert kept_out(xapi, "bob", "b")[0] == "SESSION_AUTHORIZATION_FAILED"


@pytest.mark.parametrize(
    ("message", "value", "refused"),
    [
        ("pool.set_ext_auth_cache_size", -1, ["INVALID_VALUE", "size", "-1"]),
        ("pool.set_ext_auth_cache_expiry", 0, ["INVALID_VALUE", "expiry", "0"]),
        ("pool.set_local_auth_max_threads", 0, ["INVALID_VALUE", "value", "0"]),
        ("pool.set_ext_auth_max_threads", -3, ["INVALID_VALUE", "value", "-3"]),
    ],
)
def test_a_limit_has_sense(xapi, message, value, refused):
    assert xapi.refused(message, xapi.pool.ref, value) == refused
    xapi(message, xapi.pool.ref, 7)
    assert getattr(xapi.db.get(Pool, xapi.pool.ref), message.removeprefix("pool.set_")) == 7
