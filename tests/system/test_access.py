"""Users of PAM and their roles, as an administrator sets them up: the commands of XCP's own introduction to RBAC."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import XenAPI

from harness import directory
from harness.access import Xe, as_user, denied, is_over, login, refused
from harness.daemon import Daemon, wait_until
from harness.directory import Slapd
from harness.guests import vm_record
from harness.host import PASSWORD

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n")


@pytest.fixture(scope="module")
def daemon(new_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon on a host that has users and a group of its own."""
    daemon = new_daemon(start=False)
    daemon.host.add_group("operators", 7000)
    daemon.host.add_user("migrate-op", 7001)
    daemon.host.add_user("alice", 7002, "operators")
    daemon.host.add_user("stranger", 7003)
    daemon.host.add_user("watcher", 7004)
    return daemon.start()


@pytest.fixture(scope="module")
def xe(daemon: Daemon) -> Xe:
    """`xe` as root, over the network."""
    return as_user(daemon, "root")


@pytest.fixture(scope="module")
def enabled(xe: Xe) -> None:
    """External authentication by PAM is on."""
    assert xe("pool-enable-external-auth", "auth-type=PAM", "service-name=anything") == ""


@pytest.fixture(scope="module")
def migrate_op(xe: Xe, enabled: None) -> str:
    """The subject of the introduction: a vm-operator who can also migrate VMs. Its uuid."""
    printed = xe("subject-add", "subject-name=migrate-op")
    assert UUID.fullmatch(printed)
    uuid = printed.strip()
    assert xe("subject-role-add", "role-name=vm-operator", f"uuid={uuid}") == ""
    assert xe("subject-role-add", "role-name=vm.pool_migrate", f"uuid={uuid}") == ""
    return uuid


def test_only_root_logs_in_before_that(daemon: Daemon) -> None:
    assert refused(daemon, "alice")[0] == "SESSION_AUTHENTICATION_FAILED"
    login(daemon, "root").logout()


def test_the_subject_is_listed_with_its_roles(xe: Xe, migrate_op: str) -> None:
    assert xe("subject-list").strip().splitlines() == [
        f"uuid ( RO)                  : {migrate_op}",
        "    subject-identifier ( RO): u7001",
        "          other-config (MRO): "
        + "; ".join(
            f"{key}: {value}"
            for key, value in (
                ("subject-name", "migrate-op"),
                ("subject-uid", "u7001"),
                ("subject-gid", "g7001"),
                ("subject-gecos", "Migrate-Op of the tests"),
                ("subject-displayname", "Migrate-Op of the tests"),
                ("subject-is-group", "false"),
                ("subject-account-disabled", "false"),
                ("subject-account-expired", "false"),
                ("subject-account-locked", "false"),
                ("subject-password-expired", "false"),
            )
        ),
        "                 roles (SRO): vm-operator; vm.pool_migrate",
    ]


def test_role_list_has_the_roles_and_not_the_permissions(xe: Xe) -> None:
    names = re.findall(r"name \( RO\): (.*)", xe("role-list"))
    assert sorted(names) == sorted(
        ["pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "read-only"]
    )


def test_the_vm_operator_may_migrate_and_no_more(daemon: Daemon, migrate_op: str) -> None:
    root = daemon.client()
    vm = root("VM.create", vm_record(daemon.state, "to be moved"))
    session = login(daemon, "migrate-op")
    try:
        ours = session.xenapi.session.get_record(session.handle)
        assert ours["auth_user_sid"] == "u7001"
        assert ours["auth_user_name"] == "migrate-op"
        assert ours["is_local_superuser"] is False
        assert ours["subject"] == session.xenapi.subject.get_by_uuid(migrate_op)
        assert {"vm-operator", "vm.pool_migrate", "vm.start"} <= set(ours["rbac_permissions"])
        session.xenapi.VM.start(vm, True, False)
        session.xenapi.VM.hard_shutdown(vm)
        with pytest.raises(XenAPI.Failure) as moved:  # it is halted: that it gets so far is the point
            session.xenapi.VM.pool_migrate(vm, session.xenapi.host.get_all()[0], {})
        assert moved.value.details[0] == "VM_BAD_POWER_STATE"
        assert denied(session, "VM.set_name_label", vm, "x") == "vm.set_name_label"
        assert denied(session, "VM.destroy", vm) == "vm.destroy"
        assert (
            denied(session, "subject.create", {"subject_identifier": "u0", "other_config": {}})
            == "subject.create"
        )
    finally:
        session.logout()
        root("VM.destroy", vm)
        root.close()


def test_a_user_comes_in_by_a_group(daemon: Daemon, xe: Xe, enabled: None) -> None:
    uuid = xe("subject-add", "subject-name=operators").strip()
    assert xe("subject-param-get", f"uuid={uuid}", "param-name=subject-identifier") == "g7000\n"
    xe("subject-role-add", "role-name=pool-operator", f"uuid={uuid}")
    session = login(daemon, "alice")
    assert session.xenapi.session.get_auth_user_sid(session.handle) == "u7002"
    assert session.xenapi.session.get_subject(session.handle) == session.xenapi.subject.get_by_uuid(uuid)
    assert set(session.xenapi.session.get_all_subject_identifiers()) >= {"u7002", "g7000"}
    # The group is removed: who came in by it is out.
    xe("subject-remove", f"subject-uuid={uuid}")
    assert is_over(session)


def test_who_is_no_subject_is_kept_out(daemon: Daemon, enabled: None) -> None:
    code, user, text = refused(daemon, "stranger")
    assert (code, user) == ("SESSION_AUTHORIZATION_FAILED", "stranger")
    assert "u7003" in text


def test_a_subject_without_a_role_is_kept_out(daemon: Daemon, xe: Xe, enabled: None) -> None:
    uuid = xe("subject-add", "subject-name=watcher").strip()
    assert refused(daemon, "watcher")[:2] == ["RBAC_PERMISSION_DENIED", "session.login_with_password"]
    xe("subject-role-add", "role-name=read-only", f"uuid={uuid}")
    login(daemon, "watcher").logout()


def test_a_locked_account_is_kept_out(daemon: Daemon, migrate_op: str) -> None:
    daemon.host.change("shadow", r"(?m)^(migrate-op:)\$", r"\1!$")
    try:
        # Whatever PAM thinks of it; and what was remembered of the last login does not help for longer than it may.
        client = daemon.client()
        client("pool.set_ext_auth_cache_enabled", client("pool.get_all")[0], False)
        assert refused(daemon, "migrate-op")[0] == "SESSION_AUTHENTICATION_FAILED"
    finally:
        daemon.host.change("shadow", r"(?m)^(migrate-op:)!", r"\1")
        client("pool.set_ext_auth_cache_enabled", client("pool.get_all")[0], True)
    login(daemon, "migrate-op").logout()


def test_wrong_passwords_and_unknown_names_are_alike(daemon: Daemon, migrate_op: str) -> None:
    found = {}
    for user in ("migrate-op", "nobody-of-that-name", "stranger", "root"):
        begun = time.monotonic()
        code, name, text = refused(daemon, user, "wrong")
        found[user] = (code, text)
        assert name == user
        assert time.monotonic() - begun >= 5.0
    assert set(found.values()) == {("SESSION_AUTHENTICATION_FAILED", "Authentication failure")}


def test_root_stays_for_disaster_recovery(daemon: Daemon, enabled: None) -> None:
    session = login(daemon, "root")
    assert session.xenapi.session.get_is_local_superuser(session.handle) is True
    session.logout()
    emergency = XenAPI.Session(f"http://{daemon.host.address}")
    emergency.slave_local_login_with_password("root", PASSWORD)
    assert emergency.xenapi.host.is_in_emergency_mode() is False
    emergency.logout()


def test_what_they_did_is_in_the_audit_log(daemon: Daemon, xe: Xe, migrate_op: str, tmp_path: Path) -> None:
    root = daemon.client()
    vm = root("VM.create", vm_record(daemon.state, "audited"))
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))
    session = login(daemon, "migrate-op")
    secret = session.handle
    session.xenapi.VM.start(vm, True, False)
    session.xenapi.VM.hard_shutdown(vm)
    denied(session, "VM.destroy", vm)
    session.logout()
    root("VM.destroy", vm)
    root.close()
    file = tmp_path / "audit"
    assert xe("audit-log-get", f"filename={file}", f"since={begun}").endswith("succeeded\n")
    lines = [line for line in file.read_text().splitlines() if "'migrate-op'" in line]
    told = [re.findall(r"'(ALLOWED|DENIED)' '([^']*)' '(?:API|HTTP)' '([^']*)'", line)[0] for line in lines]
    assert told == [
        ("ALLOWED", "OK", "session.create"),
        ("ALLOWED", "OK", "VM.start"),
        ("ALLOWED", "OK", "VM.hard_shutdown"),
        ("DENIED", "", "VM.destroy"),
        ("ALLOWED", "OK", "session.destroy"),
    ]
    assert all("'u7001'" in line and "trackid=" in line for line in lines)
    assert "('vm' 'audited'" in lines[1]
    everything = file.read_text()
    assert PASSWORD not in everything
    assert secret not in everything


def test_turned_off_nobody_but_root_is_left(daemon: Daemon, xe: Xe, migrate_op: str) -> None:
    session = login(daemon, "migrate-op")
    xe("pool-disable-external-auth")
    wait_until(lambda: is_over(session), 30, "the session goes on")
    assert refused(daemon, "migrate-op")[0] == "SESSION_AUTHENTICATION_FAILED"
    assert migrate_op in xe("subject-list", "--minimal")
    # Subjects are kept: turned on again they are who they were.
    xe("pool-enable-external-auth", "auth-type=PAM", "service-name=anything")
    login(daemon, "migrate-op").logout()


def test_a_storm_of_guesses_keeps_nobody_out(daemon: Daemon, migrate_op: str) -> None:
    answered: list[str] = []

    def guess(number: int) -> None:
        answered.append(refused(daemon, f"user{number % 10}", f"guess {number}")[0])

    storm = [threading.Thread(target=guess, args=(number,)) for number in range(30)]
    for each in storm:
        each.start()
    client = daemon.client()  # root, on the Unix socket
    login(daemon, "migrate-op").logout()
    login(daemon, "root").logout()
    for each in storm:
        each.join()
    assert answered == ["SESSION_AUTHENTICATION_FAILED"] * 30
    client.close()


def test_the_audit_log_has_what_a_killed_daemon_did(daemon: Daemon, enabled: None) -> None:
    client = daemon.client()
    pool = client("pool.get_all")[0]
    client("pool.set_name_description", pool, "before it is killed")
    daemon.kill()
    text = (daemon.state / "audit" / "audit.log").read_text()
    assert "'pool.set_name_description'" in text.splitlines()[-1]
    daemon.start()
    # External authentication is as it was; sessions are not.
    login(daemon, "root").logout()
    again = daemon.client()
    assert again("host.get_external_auth_type", again("host.get_all")[0]) == "PAM"


@pytest.fixture
def slapd(daemon: Daemon, tmp_path: Path) -> Iterator[Slapd]:
    """A directory that the host reaches under its name; carol of it is in admins."""
    server = Slapd(tmp_path, daemon.host.gateway)
    server.group("admins", server.person("carol"))
    hosts = daemon.host.directory / "etc" / "hosts"
    hosts.write_text(f"{hosts.read_text()}{daemon.host.gateway} {directory.NAME}\n")
    yield server
    server.close()


@pytest.mark.skipif(not Path("/usr/sbin/slapd").exists(), reason="there is no slapd")
def test_users_of_ldap_come_in_the_same_way(daemon: Daemon, xe: Xe, enabled: None, slapd: Slapd) -> None:
    xe("pool-disable-external-auth")
    words = [
        "auth-type=LDAP",
        f"service-name=ldaps://{directory.NAME}:{slapd.tls_port}",
        f"config:base={directory.SUFFIX}",
        f"config:bind-dn={directory.SERVICE_DN}",
        f"config:bind-password={directory.SERVICE_PASSWORD}",
        f"config:ca-file={slapd.ca}",
    ]
    xe("pool-enable-external-auth", *words)
    host = xe("host-list", "--minimal").strip()
    shown = xe("host-param-get", f"uuid={host}", "param-name=external-auth-configuration")
    assert directory.SERVICE_PASSWORD not in shown
    assert "bind-password_secret: " in shown
    # PAM's subjects are not this directory's.
    assert xe("subject-list", "--minimal") == "\n"
    uuid = xe("subject-add", "subject-name=admins").strip()
    xe("subject-role-add", "role-name=pool-admin", f"uuid={uuid}")
    session = login(daemon, "carol", directory.PASSWORD)
    assert session.xenapi.session.get_auth_user_name(session.handle) == "carol"
    assert as_user(daemon, "carol", directory.PASSWORD)("subject-list", "--minimal") == f"{uuid}\n"
    assert refused(daemon, "carol", "wrong")[0] == "SESSION_AUTHENTICATION_FAILED"
    assert refused(daemon, "alice")[0] == "SESSION_AUTHENTICATION_FAILED"
    xe("pool-disable-external-auth")
    assert is_over(session)
    assert directory.SERVICE_PASSWORD not in (daemon.state / "audit" / "audit.log").read_text()


@pytest.fixture(autouse=True)
def _quiet(daemon: Daemon) -> Iterator[None]:
    yield
    assert PASSWORD not in daemon.log.read_text(errors="replace")
