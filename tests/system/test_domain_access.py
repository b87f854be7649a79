"""Users of an Active Directory domain and their roles, as an administrator sets them up with `xe`."""

from __future__ import annotations

import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import XenAPI

from harness.access import Xe, as_user, denied, is_over, login, refused
from harness.client import Client
from harness.daemon import Daemon, wait_until
from harness.domain import ADMINISTRATOR, DOMAIN, PASSWORD, SambaDomain
from harness.guests import vm_record
from kronos.datamodel.errors import Failure

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/usr/sbin/samba").exists(), reason="there is no samba-ad-dc"),
]

READER = "reader"
"""The account that the pool asks as: a user like any other, who may look."""
ALICE = "KRONOS\\alice"
LOOKS = 1
"""Seconds until a session is due to be looked at again."""
NEVER = str(0x7FFFFFFFFFFFFFFF)


@pytest.fixture(scope="module")
def daemon(new_daemon: Callable[..., Daemon]) -> Daemon:
    return new_daemon(start=False, session_revalidation=LOOKS)


@pytest.fixture(scope="module")
def domain(daemon: Daemon) -> Iterator[SambaDomain]:
    """A domain whose controller the daemon's host finds by its name. alice is in operators, bob in nothing."""
    made = SambaDomain(daemon.host)
    try:
        for user in (READER, "alice", "bob", *CLOSED):
            made.add_user(user)
        made.add_group("operators", "alice", *CLOSED)
        hosts = daemon.host.directory / "etc" / "hosts"
        hosts.write_text(f"{hosts.read_text()}{daemon.host.address} {DOMAIN}\n")
        daemon.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def xe(daemon: Daemon, domain: SambaDomain) -> Xe:
    """`xe` as root, over the network."""
    return as_user(daemon, "root")


@pytest.fixture
def root(daemon: Daemon, domain: SambaDomain) -> Iterator[Client]:
    client = daemon.client()
    yield client
    client.close()


def enable(xe: Xe, user: str = READER, password: str = PASSWORD) -> None:
    """As an administrator does, and as clients do that name the domain twice."""
    words = ["auth-type=AD", f"service-name={DOMAIN}", f"config:domain={DOMAIN}"]
    assert xe("pool-enable-external-auth", *words, f"config:user={user}", f"config:pass={password}") == ""


def failure(xe: Xe, *words: str) -> str:
    """What `xe` complains of."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        xe(*words)
    return f"{caught.value.stdout}{caught.value.stderr}"


@pytest.fixture(scope="module")
def trusted(xe: Xe, domain: SambaDomain) -> None:
    """The pool believes what has signed the controller's certificate."""
    xe("pool-install-trusted-certificate", f"filename={domain.ca}", "ca=true", "purpose=ldaps")


@pytest.fixture(scope="module")
def enabled(xe: Xe, trusted: None) -> None:
    """External authentication by the domain is on."""
    enable(xe)


@pytest.fixture(scope="module")
def operators(xe: Xe, enabled: None) -> str:
    """The subject of a group whose members may start and stop VMs. Its uuid."""
    uuid = xe("subject-add", "subject-name=operators").strip()
    xe("subject-role-add", "role-name=vm-operator", f"uuid={uuid}")
    return uuid


def all_refused(daemon: Daemon, logins: list[tuple[str, str]]) -> list[list[str]]:
    """What is answered to logins that fail; at once, for each is answered late."""
    with ThreadPoolExecutor(len(logins)) as pool:
        return list(pool.map(lambda each: refused(daemon, *each), logins))


def is_here(session: XenAPI.Session, root: Client) -> bool:
    """Whether a session is still there after it was looked at again."""
    row = session.handle
    before = root("session.get_validation_time", row)
    # In whole seconds: a look that came in the same one does not show.
    wait_until(lambda: root("session.get_validation_time", row) != before, 30, "it was not looked at")
    return not is_over(session)


# --- turned on -----------------------------------------------------------------------------------------------


def test_a_controller_that_nobody_vouches_for_is_told_no_password(root: Client, domain: SambaDomain) -> None:
    config = {"user": READER, "pass": PASSWORD}
    with pytest.raises(Failure) as caught:
        root("pool.enable_external_auth", root("pool.get_all")[0], config, DOMAIN, "AD")
    code, host, text = caught.value.description
    assert (code, host) == ("POOL_AUTH_ENABLE_FAILED_INVALID_TRUSTED_CERTS", root("host.get_all")[0])
    assert "certificate verify failed" in text


def test_a_certificate_for_another_purpose_does_not_vouch(xe: Xe, domain: SambaDomain) -> None:
    uuid = xe("pool-install-trusted-certificate", f"filename={domain.ca}", "ca=true", "purpose=licensing")
    words = [f"service-name={DOMAIN}", f"config:user={READER}", f"config:pass={PASSWORD}"]
    assert "certificate verify failed" in failure(xe, "pool-enable-external-auth", "auth-type=AD", *words)
    del uuid


@pytest.mark.parametrize(
    ("user", "password", "more", "code"),
    [
        (READER, "wrong", {}, "POOL_AUTH_ENABLE_FAILED_WRONG_CREDENTIALS"),
        ("nobody", PASSWORD, {}, "POOL_AUTH_ENABLE_FAILED_WRONG_CREDENTIALS"),
        (READER, PASSWORD, {"base": "DC=nowhere"}, "POOL_AUTH_ENABLE_FAILED_DOMAIN_LOOKUP_FAILED"),
        (READER, PASSWORD, {"server": f"ldaps://{DOMAIN}:1"}, "POOL_AUTH_ENABLE_FAILED_UNAVAILABLE"),
        (READER, PASSWORD, {"domain": "other.test"}, "POOL_AUTH_ENABLE_FAILED_DOMAIN_LOOKUP_FAILED"),
        (READER, PASSWORD, {"ldaps": "false"}, "POOL_AUTH_ENABLE_FAILED"),
    ],
    ids=["password", "user", "base", "server", "domain", "plain"],
)
def test_what_is_configured_wrong_is_said_and_nothing_is_kept(
    root: Client, trusted: None, user: str, password: str, more: dict[str, str], code: str
) -> None:
    config = {"user": user, "pass": password} | more
    host = root("host.get_all")[0]
    with pytest.raises(Failure) as caught:
        root("pool.enable_external_auth", root("pool.get_all")[0], config, DOMAIN, "AD")
    assert caught.value.description[:2] == [code, host]
    assert PASSWORD not in str(caught.value.description)
    assert root("host.get_external_auth_type", host) == ""
    assert root("host.get_external_auth_configuration", host) == {}
    assert root("secret.get_all") == []


def test_it_is_on_and_shows_no_password(root: Client, xe: Xe, enabled: None) -> None:
    host = xe("host-list", "--minimal").strip()

    def shown(name: str) -> str:
        return xe("host-param-get", f"uuid={host}", f"param-name=external-auth-{name}").strip()

    assert (shown("type"), shown("service-name")) == ("AD", DOMAIN)
    (secret,) = root("secret.get_all_records").values()
    assert secret["value"] == PASSWORD
    configuration = dict(each.split(": ") for each in shown("configuration").split("; "))
    assert configuration == {"domain": DOMAIN, "user": READER, "pass_secret": secret["uuid"]}
    words = ("auth-type=AD", f"service-name={DOMAIN}")
    assert "is on in this pool already" in failure(xe, "pool-enable-external-auth", *words)


# --- coming in -----------------------------------------------------------------------------------------------


def test_a_member_of_a_group_comes_in_with_its_role(daemon: Daemon, root: Client, operators: str) -> None:
    vm = root("VM.create", vm_record(daemon.state, "the operators'"))
    session = login(daemon, ALICE, PASSWORD)
    try:
        ours = session.xenapi.session.get_record(session.handle)
        assert ours["auth_user_name"] == ALICE
        assert ours["auth_user_sid"] == session.xenapi.auth.get_subject_identifier("alice")
        assert ours["is_local_superuser"] is False
        assert ours["subject"] == session.xenapi.subject.get_by_uuid(operators)
        session.xenapi.VM.start(vm, True, False)
        session.xenapi.VM.hard_shutdown(vm)
        assert denied(session, "VM.destroy", vm) == "vm.destroy"
        secret = root("secret.get_all")[0]
        assert denied(session, "secret.get_value", secret) == "secret.get_value"
        assert denied(session, "pool.disable_external_auth", root("pool.get_all")[0], {}) == (
            "pool.disable_external_auth"
        )
    finally:
        session.logout()
        root("VM.destroy", vm)


@pytest.mark.parametrize("name", [ALICE, "alice", f"{DOMAIN}\\ALICE", f"alice@{DOMAIN}"])
def test_xe_takes_every_form_of_the_name(daemon: Daemon, xe: Xe, operators: str, name: str) -> None:
    assert as_user(daemon, name, PASSWORD)("host-list", "--minimal") == xe("host-list", "--minimal")


def test_the_directory_is_asked_by_way_of_the_pool(root: Client, enabled: None) -> None:
    alice = root("auth.get_subject_identifier", ALICE)
    group = root("auth.get_subject_identifier", "operators")
    assert group in root("auth.get_group_membership", alice)
    said = root("auth.get_subject_information_from_identifier", alice)
    assert (said["subject-name"], said["subject-is-group"]) == (ALICE, "false")
    for name in ("nobody", "*", "alice)(cn=*", "OTHER\\alice"):
        with pytest.raises(Failure) as caught:
            root("auth.get_subject_identifier", name)
        assert caught.value.description == ["SUBJECT_CANNOT_BE_RESOLVED"]


def test_who_is_no_subject_is_kept_out_and_who_exists_is_not_learnt_from_that(
    daemon: Daemon, operators: str
) -> None:
    guesses = [
        (ALICE, "wrong"),
        (f"alice@{DOMAIN}", PASSWORD + "\N{SOFT HYPHEN}"),  # what some take for the same
        ("alice", "\N{SOFT HYPHEN}"),  # and for none, with which everybody comes in as nobody
        ("Alice", "\ue000"),  # what is for private use
        ("nobody", PASSWORD),
        ("*", PASSWORD),
        ("KRONOS\\bob", PASSWORD),
    ]
    *unknown, bob = all_refused(daemon, guesses)
    for guess, answer in zip(guesses, unknown, strict=False):
        assert answer == ["SESSION_AUTHENTICATION_FAILED", guess[0], "Authentication failure"]
    assert bob[:2] == ["SESSION_AUTHORIZATION_FAILED", "KRONOS\\bob"]
    assert "no access rights" in bob[2]


# --- staying -------------------------------------------------------------------------------------------------


def test_who_is_as_before_stays(daemon: Daemon, root: Client, operators: str) -> None:
    session = login(daemon, ALICE, PASSWORD)
    assert is_here(session, root)
    session.logout()


CLOSED = {
    "carol": ("userAccountControl", "514", "512"),  # disabled
    "dan": ("accountExpires", "1", NEVER),
    "erin": ("pwdLastSet", "0", "-1"),  # who must choose a password
}


def test_an_account_that_is_closed_ends_its_sessions(
    daemon: Daemon, domain: SambaDomain, operators: str
) -> None:
    sessions = [login(daemon, user, PASSWORD) for user in CLOSED]
    try:
        for user, (attribute, closed, _) in CLOSED.items():
            domain.change(user, attribute, closed)
        wait_until(lambda: all(map(is_over, sessions)), 30, "a session goes on")
        for answer in all_refused(daemon, [(user, PASSWORD) for user in CLOSED]):
            assert answer[0] == "SESSION_AUTHENTICATION_FAILED"
    finally:
        for user, (attribute, _, opened) in CLOSED.items():
            domain.change(user, attribute, opened)
    for user in CLOSED:
        login(daemon, user, PASSWORD).logout()


def test_who_leaves_the_group_loses_what_it_gave(
    daemon: Daemon, domain: SambaDomain, xe: Xe, operators: str
) -> None:
    uuid = xe("subject-add", "subject-name=KRONOS\\carol").strip()
    xe("subject-role-add", "role-name=read-only", f"uuid={uuid}")
    session = login(daemon, "carol", PASSWORD)
    domain.remove_from_group("operators", "carol")
    wait_until(lambda: is_over(session), 30, "the session goes on")
    session = login(daemon, "carol", PASSWORD)
    assert denied(session, "VM.start", "OpaqueRef:NULL", True, False) == "vm.start"
    # The subject itself is removed: she is out at once.
    xe("subject-remove", f"subject-uuid={uuid}")
    assert is_over(session)


# --- the controller is away ----------------------------------------------------------------------------------


@pytest.fixture(params=["gone", "silent"])
def away(request: pytest.FixtureRequest, domain: SambaDomain) -> Iterator[None]:
    """Nobody answers for the domain."""
    if request.param == "gone":
        domain.stop()
    else:
        domain.hold()
    yield
    if request.param == "gone":
        domain.start()
    else:
        domain.go_on()


@pytest.fixture
def forgetful(root: Client) -> Iterator[None]:
    """No login is remembered."""
    pool = root("pool.get_all")[0]
    root("pool.set_ext_auth_cache_enabled", pool, False)
    yield
    root("pool.set_ext_auth_cache_enabled", pool, True)


@pytest.fixture
def alice(daemon: Daemon, operators: str) -> Iterator[XenAPI.Session]:
    session = login(daemon, ALICE, PASSWORD)
    yield session
    session.logout()


def test_without_a_controller_root_comes_in_and_nobody_else(
    daemon: Daemon, root: Client, alice: XenAPI.Session, forgetful: None, away: None
) -> None:
    before = len(daemon.log.read_text())
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(refused, daemon, ALICE, PASSWORD)
        with pytest.raises(Failure) as caught:
            root("auth.get_subject_identifier", "bob")
        assert caught.value.code == "AUTH_SERVICE_ERROR"
        assert PASSWORD not in str(caught.value.description)
        login(daemon, "root").logout()
    text = "The external authentication service does not answer"
    assert attempt.result() == ["SESSION_AUTHORIZATION_FAILED", ALICE, text]
    # Who was here stays: the directory is not a switch that throws everybody out.
    wait_until(lambda: "cannot say whether" in daemon.log.read_text()[before:], 60, "she was not looked at")
    assert not is_over(alice)


# --- what does not get about ---------------------------------------------------------------------------------


def test_the_password_is_in_the_pools_database_alone(
    daemon: Daemon, root: Client, xe: Xe, operators: str, tmp_path: Path
) -> None:
    login(daemon, ALICE, PASSWORD).logout()
    holding = {file for file in _files(daemon.state) if PASSWORD.encode() in file.read_bytes()}
    assert {file.name.removesuffix("-wal") for file in holding} == {"state.db"}
    for file in holding:
        status = file.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600), file
    assert PASSWORD not in daemon.log.read_text(errors="replace")

    report = tmp_path / "report.tar"
    host = xe("host-list", "--minimal").strip()
    xe("host-get-system-status", f"uuid={host}", f"filename={report}", "output=tar")
    with tarfile.open(report) as archive:
        told = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        assert [name for name, file in told.items() if file and PASSWORD.encode() in file.read()] == []
    assert any(name.endswith("xapi-database/state.xml") for name in told)

    audit = tmp_path / "audit"
    xe("audit-log-get", f"filename={audit}")
    assert PASSWORD not in audit.read_text()
    assert "pool.enable_external_auth" in audit.read_text()

    for record in ("pool", "host", "subject", "task", "message"):
        assert PASSWORD not in str(root(f"{record}.get_all_records")), record
    assert PASSWORD not in str(root("event.from", ["*"], "", 0.0)["events"])


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below the state directory that are the daemon's own."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 << 20:
            yield path


# --- the daemon's own life -----------------------------------------------------------------------------------


def test_a_killed_daemon_is_still_in_the_domain(daemon: Daemon, domain: SambaDomain, operators: str) -> None:
    session = login(daemon, ALICE, PASSWORD)
    daemon.kill()
    daemon.start()
    assert is_over(session)
    login(daemon, ALICE, PASSWORD).logout()


def test_the_accounts_password_is_changed_where_secrets_are(
    daemon: Daemon, root: Client, operators: str, forgetful: None
) -> None:
    (secret,) = root("secret.get_all")
    root("secret.set_value", secret, "no longer")
    with pytest.raises(Failure) as caught:
        root("auth.get_subject_identifier", "bob")
    assert caught.value.code == "AUTH_SERVICE_ERROR"
    assert "the service account is refused" in caught.value.description[1]
    root("secret.set_value", secret, PASSWORD)
    login(daemon, ALICE, PASSWORD).logout()


def test_ldaps_is_on_and_stays_so(xe: Xe, enabled: None) -> None:
    assert xe("pool-external-auth-set-ldaps", "ldaps=true") == ""
    assert "under TLS alone" in failure(xe, "pool-external-auth-set-ldaps", "ldaps=false")


def test_turned_off_nobody_but_root_is_left(daemon: Daemon, root: Client, xe: Xe, operators: str) -> None:
    session = login(daemon, ALICE, PASSWORD)
    assert xe("pool-disable-external-auth") == ""
    assert is_over(session)
    assert refused(daemon, ALICE, PASSWORD)[0] == "SESSION_AUTHENTICATION_FAILED"
    login(daemon, "root").logout()
    assert root("secret.get_all") == []
    # Turned on again it knows its subjects.
    enable(xe)
    assert xe("subject-list", "--minimal") == f"{operators}\n"
    login(daemon, ALICE, PASSWORD).logout()


def test_an_account_is_not_needed_to_turn_it_off_and_may_be_given(
    root: Client, xe: Xe, enabled: None
) -> None:
    # Of a host that joined it would take the host's own account out of the domain: this one has none.
    account = ["config:user=Administrator", f"config:pass={ADMINISTRATOR}"]
    assert xe("pool-disable-external-auth", *account) == ""
    host = root("host.get_all")[0]
    assert root("host.get_external_auth_type", host) == ""
    assert root("host.get_external_auth_configuration", host) == {}


@pytest.fixture(autouse=True)
def _quiet(daemon: Daemon) -> Iterator[None]:
    yield
    log = daemon.log.read_text(errors="replace") if daemon.log.exists() else ""
    audit = daemon.state / "audit" / "audit.log"
    log += audit.read_text() if audit.exists() else ""
    assert PASSWORD not in log
    assert ADMINISTRATOR not in log
    assert "Traceback" not in log
