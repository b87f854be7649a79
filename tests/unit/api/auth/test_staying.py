"""Until when a directory's users stay, and what is told of them."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from harness.people import is_over, kept_out, login, subject
from kronos.datamodel.errors import Failure
from kronos.db.records import Subject
from kronos.system.audit_file import AuditFile
from kronos.system.outside import NoOutside


def test_a_user_who_is_as_before_stays(xapi, enabled, visitors):
    subject(xapi, "staff", "read-only")
    session = login(xapi, "alice", "a")
    xapi.db.write(session, {"validation_time": "19700101T00:00:00Z"})
    visitors.revalidate(session)
    assert not is_over(xapi, session)
    assert session.validation_time > "20200101T00:00:00Z"


def _leave(people):
    people.members["staff"].clear()


def _go(people):
    del people.passwords["alice"]


def _lock(people):
    people.suspended["alice"] = "subject-account-locked"


@pytest.mark.parametrize("happens", [_leave, _go, _lock])
def test_a_user_who_may_no_longer_be_here_is_out(xapi, enabled, visitors, happens):
    subject(xapi, "staff", "read-only")
    session = login(xapi, "alice", "a")
    happens(enabled)
    visitors.revalidate(session)
    assert is_over(xapi, session)
    assert kept_out(xapi, "alice", "a")[0] in (
        "SESSION_AUTHORIZATION_FAILED",
        "SESSION_AUTHENTICATION_FAILED",
    )


def test_who_loses_one_of_two_memberships_logs_in_again(xapi, enabled, visitors):
    subject(xapi, "staff", "pool-admin")
    subject(xapi, "alice", "read-only")
    session = login(xapi, "alice", "a")
    enabled.members["staff"].clear()
    visitors.revalidate(session)
    assert is_over(xapi, session)
    assert "pool-admin" not in login(xapi, "alice", "a").rbac_permissions


def test_while_the_directory_is_down_those_who_are_here_stay_for_a_day(xapi, enabled, visitors, monkeypatch):
    subject(xapi, "alice", "read-only")
    session = login(xapi, "alice", "a")
    enabled.failing = "_UNAVAILABLE"
    assert visitors.revalidate(session) is False
    assert not is_over(xapi, session)
    monkeypatch.setattr("kronos.background.visitors.PATIENCE", -1.0)
    visitors.revalidate(session)
    assert is_over(xapi, session)


def test_sessions_are_due_after_half_an_hour_and_not_all_at_once(xapi, enabled):
    subject(xapi, "alice", "read-only")
    moment = xapi.pipeline.sessions.clock()
    rows = [login(xapi, "alice", "a") for _ in range(20)]
    sessions = xapi.pipeline.sessions
    sessions.clock = lambda: moment + 1790
    assert sessions.due() == []
    sessions.clock = lambda: moment + 2100
    assert 0 < len(sessions.due()) < len(rows)
    sessions.clock = lambda: moment + 2410
    assert len(sessions.due()) == len(rows)


def test_or_as_soon_as_the_settings_say(xapi, enabled):
    subject(xapi, "alice", "read-only")
    sessions = xapi.pipeline.sessions
    moment = sessions.clock()
    sessions.clock = lambda: moment
    sessions.revalidation = 60.0
    row = login(xapi, "alice", "a")
    sessions.clock = lambda: moment + 59
    assert sessions.due() == []
    sessions.clock = lambda: moment + 80
    assert sessions.due() == [row]


def test_a_session_ends_with_any_subject_that_it_has_rights_from(xapi, enabled):
    group = subject(xapi, "staff", "pool-admin")
    subject(xapi, "alice", "read-only")
    subject(xapi, "bob", "read-only")
    alice, bob = login(xapi, "alice", "a"), login(xapi, "bob", "b")
    xapi("subject.destroy", group)
    assert is_over(xapi, alice)
    assert not is_over(xapi, bob)
    assert "pool-admin" not in login(xapi, "alice", "a").rbac_permissions


def test_a_subjects_sessions_are_listed_and_ended(xapi, enabled):
    subject(xapi, "staff", "read-only")
    subject(xapi, "bob", "pool-admin")
    alice, bob = login(xapi, "alice", "a"), login(xapi, "bob", "b")
    assert xapi("session.get_all_subject_identifiers") == ("id-alice", "id-bob", "id-staff")
    # Neither root's nor the caller's own.
    xapi.raw("session.logout_subject_identifier", bob.ref, "id-bob")
    assert not is_over(xapi, bob)
    xapi("session.logout_subject_identifier", "id-staff")
    assert is_over(xapi, alice)
    xapi("session.logout_subject_identifier", "id-bob")
    assert is_over(xapi, bob)
    assert xapi("session.get_all_subject_identifiers") == ()


def test_a_subject_that_goes_while_its_user_logs_in_lets_nobody_in(xapi, enabled, monkeypatch):
    ref = subject(xapi, "alice", "read-only")
    admit = xapi.pipeline.admission.admit

    def slowly(user, password):
        admitted = admit(user, password)
        xapi.db.delete(xapi.db.get(Subject, ref))
        return admitted

    monkeypatch.setattr(xapi.pipeline.admission, "admit", slowly)
    assert kept_out(xapi, "alice", "a")[0] == "SESSION_AUTHORIZATION_FAILED"
    assert xapi.pipeline.sessions.external() == []


def test_new_names_are_written_down(xapi, enabled, visitors):
    ref = subject(xapi, "alice", "read-only")
    xapi.db.write(xapi.db.get(Subject, ref), {"other_config": {"subject-name": "old"}})
    visitors.renew()
    assert xapi.db.get(Subject, ref).other_config["subject-name"] == "alice"


def test_failed_logins_are_told_of(xapi, enabled, visitors):
    for _ in range(3):
        kept_out(xapi, "<alice>", "x")
    kept_out(xapi, "bob", "x")
    visitors.report()
    (told,) = xapi("message.get_all_records").values()
    assert (told["name"], told["priority"], told["cls"]) == ("FAILED_LOGIN_ATTEMPTS", 3, "Host")
    assert told["body"].startswith("<body>\n<total>4</total>\n<known>\n<username>&lt;alice&gt;</username>\n")
    assert "<ip>192.0.2.1</ip>\n<number>3</number>" in told["body"]
    visitors.report()
    assert len(xapi("message.get_all_records")) == 1


def test_logins_are_audited_refused_ones_too(xapi, enabled, tmp_path):
    file = AuditFile(tmp_path / "audit.log")
    xapi.pipeline.audit.sink = file
    subject(xapi, "alice", "read-only")
    kept_out(xapi, "alice", "a secret guess")
    xapi.raw("session.logout", login(xapi, "alice", "a").ref)
    text = b"".join(file.since("")).decode()
    assert "('' '' 'alice' 'DENIED' 'ERROR:SESSION_AUTHENTICATION_FAILED' 'API'" in text
    assert "'id-alice' 'alice' 'ALLOWED' 'OK' 'API' 'session.create'" in text
    assert "'id-alice' 'alice' 'ALLOWED' 'OK' 'API' 'session.destroy'" in text
    assert "('self' 'alice' " in text
    assert "a secret guess" not in text


def test_a_call_that_waits_is_told_that_its_subject_went(xapi, enabled):
    ref = subject(xapi, "alice", "read-only")
    session = login(xapi, "alice", "a")
    answers: list[list[str]] = []

    def wait() -> None:
        try:
            xapi.raw("event.from", session.ref, ("vm_appliance",), token, 30.0)
        except Failure as failure:
            answers.append(failure.description)

    token = xapi.raw("event.from", session.ref, ("vm_appliance",), "", 0.0)["token"]
    waiting = threading.Thread(target=wait)
    waiting.start()
    xapi("subject.destroy", ref)
    waiting.join(20)
    assert answers == [["SESSION_INVALID", session.ref]]


def test_roots_password_is_roots_to_change(xapi, enabled):
    given: list[tuple[list[str], str]] = []

    class Hands(NoOutside):
        def change(self, argv, *, stdin="", timeout=60.0):
            given.append((argv, stdin))
            return ""

    assert xapi.refused("session.change_password", "", "another")[0] == "CHANGE_PASSWORD_REJECTED"
    xapi.machine.outside = Hands()
    xapi("session.change_password", "", "another")
    assert given == [(["chpasswd"], "root:another\n")]
    assert xapi.refused("session.change_password", "", "two\nlines")[0] == "CHANGE_PASSWORD_REJECTED"
    subject(xapi, "alice", "pool-admin")
    session = login(xapi, "alice", "a")
    with pytest.raises(Failure) as denied:
        xapi.raw("session.change_password", session.ref, "", "mine")
    assert denied.value.code == "RBAC_PERMISSION_DENIED"
    assert len(given) == 1


def test_a_directory_that_is_down_when_the_daemon_starts_is_told_of(xapi, enabled, visitors):
    visitors.assert_usable()
    assert xapi("message.get_all_records") == {}
    enabled.failing = "_UNAVAILABLE"
    visitors.assert_usable()
    (told,) = xapi("message.get_all_records").values()
    assert (told["name"], told["obj_uuid"]) == ("EXTAUTH_INIT_IN_HOST_FAILED", xapi.host.uuid)


def test_the_administrators_hook_hears_of_it(xapi, people, tmp_path):
    xapi.machine.root = tmp_path
    heard = tmp_path / "heard"
    hook = tmp_path / "etc/xapi.d/plugins/extauth-hook"
    hook.parent.mkdir(parents=True)
    hook.write_text(
        f"#!{sys.executable}\n"
        "import sys, xmlrpc.client\n"
        "(session, args), event = xmlrpc.client.loads(sys.argv[1])\n"
        f"open({str(heard)!r}, 'a').write(f\"{{event}} {{args['auth_type']}} {{args['service_name']}}\\n\")\n"
        "print(xmlrpc.client.dumps(({'Status': 'Success', 'Value': 'True'},), '', True))\n"
    )
    hook.chmod(0o755)

    def wait_for(event: str) -> None:
        deadline = time.monotonic() + 20
        while f"{event} LDAP there\n" not in (heard.read_text() if heard.exists() else ""):
            assert time.monotonic() < deadline, event
            time.sleep(0.01)

    xapi("pool.enable_external_auth", xapi.pool.ref, {}, "there", "LDAP")
    wait_for("after-extauth-enable")
    ref = subject(xapi, "alice", "read-only")
    wait_for("after-subject-add")
    wait_for("after-roles-update")
    xapi("subject.destroy", ref)
    wait_for("after-subject-remove")
    xapi("pool.disable_external_auth", xapi.pool.ref)
    wait_for("before-extauth-disable")


def test_a_hook_that_fails_stops_nothing(xapi, people, tmp_path):
    xapi.machine.root = tmp_path
    hook = tmp_path / "etc/xapi.d/plugins/extauth-hook"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    xapi("pool.enable_external_auth", xapi.pool.ref, {}, "there", "LDAP")
    assert xapi.host.external_auth_type == "LDAP"
