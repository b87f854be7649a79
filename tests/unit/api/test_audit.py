"""The audit log: what a line says of a call, and what it never does."""

from __future__ import annotations

import re

import pytest

from harness.people import People
from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model
from kronos.db.records import KINDS, Role, Session, Subject
from kronos.dispatch import gate, roles
from kronos.dispatch.audit import changes_something
from kronos.dispatch.call import Origin

LOCAL, REMOTE = Origin(local=True), Origin(address="192.0.2.1")
LINE = re.compile(r"\[\d{8}T\d\d:\d\d:\d\d\.\d{3}Z\|audit\|\|0 \|([^|]*)\|audit\] (\(.*\))\n")


class Lines:
    def __init__(self) -> None:
        self.written: list[str] = []

    def append(self, line: bytes) -> None:
        self.written.append(line.decode())

    def said(self) -> list[str]:
        """What each line says, without its stamp and its session."""
        found = []
        for line in self.written:
            match = LINE.fullmatch(line)
            assert match, line
            found.append(re.sub(r"'trackid=[0-9a-f]{32}'", "'trackid'", match[2]))
        self.written.clear()
        return found


@pytest.fixture
def lines(xapi):
    lines = xapi.pipeline.audit.sink = Lines()
    return lines


@pytest.fixture
def made(xapi):
    """Makes a row as the system does, unseen by the log."""
    return lambda cls, **fields: xapi.db.create(KINDS[cls], **fields)


def as_role(xapi, role: str) -> str:
    """A session of somebody with a role."""
    return xapi.pipeline.sessions.begin(
        user="someone",
        host=xapi.host.ref,
        origin=Origin(local=True),
        originator="",
        superuser=False,
        permissions=roles.permissions_of(role),
        sid="u1000",
    ).ref


def refused(xapi, name: str, *args: object, origin: Origin = LOCAL) -> None:
    with pytest.raises(Failure):
        xapi.raw(name, *args, origin=origin)


def test_a_call_that_changes_something_has_a_line_and_one_that_looks_has_none(xapi, lines, made):
    root = xapi.session
    vm = made("VM", name_label="web")
    xapi.raw("VM.get_record", root, vm.ref)
    xapi.raw("VM.get_all_records", root)
    assert lines.said() == []
    xapi.raw("VM.set_name_description", root, vm.ref, "hidden from here")
    assert lines.said() == [
        "('trackid' 'LOCAL_SUPERUSER' 'root' 'ALLOWED' 'OK' 'API' 'VM.set_name_description'"
        f" (('self' 'web' '{vm.uuid}' '{vm.ref}')))"
    ]


def test_how_it_failed_is_said(xapi, lines, made):
    vm = made("VM", name_label="web", other_config={"k": "v"})
    refused(xapi, "VM.add_to_other_config", xapi.session, vm.ref, "k", "secret value")
    (said,) = lines.said()
    assert f"'ALLOWED' 'ERROR:MAP_DUPLICATE_KEY(VM, other_config, {vm.ref}, k)'" in said
    assert "('key' 'k' '' '')" in said
    assert "secret value" not in said


def test_what_is_denied_is_said_of_looks_too(xapi, lines, made):
    vm = made("VM", name_label="web")
    operator = as_role(xapi, "vm-operator")
    refused(xapi, "VM.destroy", operator, vm.ref)
    refused(xapi, "secret.get_all", operator)
    destroyed, looked = lines.said()
    assert destroyed == (
        f"('trackid' 'u1000' 'someone' 'DENIED' '' 'API' 'VM.destroy' (('self' 'web' '{vm.uuid}' '{vm.ref}')))"
    )
    assert "'DENIED' '' 'API' 'secret.get_all' ()" in looked


def test_what_the_handler_denies_is_denied_too(xapi, lines):
    roots = xapi.raw("task.create", xapi.session, "root's own", "")
    reader = as_role(xapi, "read-only")
    lines.said()
    refused(xapi, "task.cancel", reader, roots)
    (said,) = lines.said()
    assert "'someone' 'DENIED' 'ERROR:RBAC_PERMISSION_DENIED(task.destroy/any, " in said


def test_what_is_destroyed_has_its_name(xapi, lines, made):
    secret = made("secret", value="hush")
    xapi.raw("secret.destroy", xapi.session, secret.ref)
    assert lines.said()[0].endswith(f"'secret.destroy' (('self' '' '{secret.uuid}' '{secret.ref}')))")


def test_no_secret_of_any_call_is_in_a_line(xapi, lines):
    root = xapi.session
    ref = xapi.raw("secret.create", root, {"value": "hush hush", "other_config": {"a": "hush hush"}})
    xapi.raw("secret.set_value", root, ref, "hush hush")
    xapi.raw("session.set_other_config", root, root, {"a": "hush hush"})
    refused(xapi, "session.change_password", root, "hush hush", "hush hush hush")
    people = People()
    xapi.pipeline.machine.open_directory = people.opened
    config = {"bind-password": "hush hush"}
    xapi.raw("pool.enable_external_auth", root, xapi.raw("pool.get_all", root)[0], config, "there", "LDAP")
    text = "".join(lines.written)
    assert "hush" not in text
    assert "('service_name' 'there' '' '') ('auth_type' 'LDAP' '' '')" in text
    for row in xapi.db.all(Session):
        assert row.ref not in text


def test_a_session_that_is_an_argument_is_shown_by_its_hash(xapi, lines):
    root = xapi.session
    xapi.raw("session.add_to_other_config", root, root, "k", "v")
    (said,) = lines.said()
    assert "('self' 'root' '' 'trackid=" in said.replace("'trackid'", "'trackid='")
    assert root not in said


@pytest.mark.parametrize(
    "call",
    [
        (
            "session.add_to_other_config",
            "THE SESSION",
            "k",
            "again",
        ),  # MAP_DUPLICATE_KEY has the session in it
        ("VM.start", "THE SESSION", False, False),  # HANDLE_INVALID
        ("message.create", "THE SESSION", 3, "VM", "nobody", "text"),  # a name that is shown
    ],
)
def test_no_failure_and_no_name_shows_a_session_that_is_alive(xapi, lines, call):
    root = xapi.session
    xapi.raw("session.set_other_config", root, root, {"k": "v"})
    refused(xapi, call[0], root, *(root if each == "THE SESSION" else each for each in call[1:]))
    text = "".join(lines.written)
    assert call[0] in text and "trackid=" in text
    assert root not in text


def test_a_url_that_a_failure_names_has_lost_its_password(xapi, lines):
    pool = xapi.raw("pool.get_all", xapi.session)[0]
    refused(xapi, "pool.configure_repository_proxy", xapi.session, pool, "ftp://me:hush@there/", "me", "hush")
    (said,) = lines.said()
    assert "INVALID_REPOSITORY_PROXY_URL(ftp://me:REMOVED@there/)" in said


def test_fields_of_a_new_object_are_shown_by_name_alone(xapi, lines):
    root = xapi.session
    xapi.raw("VM_appliance.create", root, {"name_label": "it's \\ a\ntrap ('x')", "name_description": "d"})
    (said,) = lines.said()
    assert r"('name_label' 'it\'s \\ a trap (\'x\')' '' '')" in said


def test_an_asynchronous_call_is_said_when_it_has_ended(xapi, lines):
    root = xapi.session
    task = xapi.raw("Async.VM_appliance.create", root, {"name_label": "a"})
    while xapi.raw("task.get_status", root, task) == "pending":
        pass
    assert LINE.fullmatch(lines.written[0])[1] == "Async.VM_appliance.create"
    (said,) = lines.said()
    assert "'ALLOWED' 'OK' 'API' 'VM_appliance.create' (('name_label' 'a' '' '')" in said


def test_a_subjects_name_and_a_roles_are_shown(xapi, lines):
    root = xapi.session
    subject = xapi.db.create(
        Subject, subject_identifier="u1", other_config={"subject-name": "alice"}, roles=()
    )
    role = xapi.db.by_name(Role, "vm-operator")[0]
    lines.written.clear()
    xapi.pipeline.perform_internal("subject.add_to_roles", subject.ref, role.ref)
    (said,) = lines.said()
    assert f"(('self' 'alice' '{subject.uuid}' '{subject.ref}')" in said
    assert f"('role' 'vm-operator' '{role.uuid}' '{role.ref}'))" in said
    assert root not in said


def test_every_message_but_the_getters_and_a_few_is_audited():
    unsaid = {name for name, each in model().messages.items() if not changes_something(each)}
    assert {name for name in unsaid if ".get_" not in name} == {
        "session.logout",
        "session.local_logout",
        "event.next",
        "event.from",
        "host.tickle_heartbeat",
    }


def test_what_breaks_here_breaks_no_call(xapi, made, monkeypatch):
    vm = made("VM", name_label="web")
    monkeypatch.setattr(type(xapi.pipeline.audit), "_shown", lambda *_: 1 / 0)
    root = xapi.session
    xapi.raw("VM.set_name_label", root, vm.ref, "other")
    assert vm.name_label == "other"


def test_a_line_is_not_as_long_as_a_client_likes(xapi, lines, made, monkeypatch):
    monkeypatch.setattr(gate, "FAILED_LOGIN_DELAY", 0.0)
    vm = made("VM", name_label="v" * 100_000)
    xapi("VM.set_name_description", vm.ref, "")
    refused(xapi, "VM.add_to_other_config", xapi.session, "x" * 100_000, "k" * 100_000, "")
    refused(xapi, "session.login_with_password", "u" * 100_000, "p", "1", "o" * 100_000, origin=REMOTE)
    assert max(map(len, lines.written)) < 4000
    assert len(lines.said()) == 3
