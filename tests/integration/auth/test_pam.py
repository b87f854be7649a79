from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kronos.auth.base import SUSPENSIONS, DirectoryFailed, NotKnown
from kronos.auth.pam import PAM, authenticate, set_password
from kronos.datamodel.errors import Failure
from kronos.rules.admission import is_suspended
from kronos.system.commands import run
from kronos.system.outside import NoOutside

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a user and a PAM service"),
]

PACKAGING = Path(__file__).resolve().parents[3] / "packaging" / "pam.d"
PASSWORD = "correct horse é"


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The service file that is shipped for this distribution, under a name of the test's own."""
    fedora = not Path("/etc/pam.d/common-auth").exists()
    path = Path(f"/etc/pam.d/kronos-test-{os.getpid()}")
    path.write_text((PACKAGING / ("xapi.fedora" if fedora else "xapi")).read_text())
    yield path.name
    path.unlink()


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    name = f"krt{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", name], check=True)
    try:
        subprocess.run(["chpasswd"], input=f"{name}:{PASSWORD}\n", text=True, check=True)
        yield name
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


def refused(user: str, password: str, service: str) -> list[str]:
    with pytest.raises(Failure) as caught:
        authenticate(user, password, service)
    return caught.value.description


def test_the_right_password_is_accepted(user: str, service: str) -> None:
    authenticate(user, PASSWORD, service)


def test_a_wrong_password_is_refused(user: str, service: str) -> None:
    assert refused(user, "wrong", service) == [
        "SESSION_AUTHENTICATION_FAILED",
        user,
        "Authentication failure",
    ]


def test_a_name_that_does_not_exist_is_refused(service: str) -> None:
    assert refused("krt-nobody", PASSWORD, service)[0] == "SESSION_AUTHENTICATION_FAILED"


def test_an_expired_account_is_refused_with_the_right_password(user: str, service: str) -> None:
    subprocess.run(["usermod", "--expiredate", "2020-01-01", user], check=True)
    try:
        assert refused(user, PASSWORD, service)[0] == "SESSION_AUTHENTICATION_FAILED"
    finally:
        subprocess.run(["usermod", "--expiredate", "", user], check=True)
    authenticate(user, PASSWORD, service)


def test_an_account_without_a_password_is_not_open_to_the_network(user: str, service: str) -> None:
    subprocess.run(["passwd", "--delete", user], check=True, capture_output=True)
    try:
        assert refused(user, "", service)[0] == "SESSION_AUTHENTICATION_FAILED"
    finally:
        subprocess.run(["chpasswd"], input=f"{user}:{PASSWORD}\n", text=True, check=True)


class Hands(NoOutside):
    """What the service asks of systemd, done here."""

    def change(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 60.0) -> str:
        return run(argv, stdin=stdin, timeout=timeout)


def test_a_password_is_changed_without_the_old_one(user: str, service: str) -> None:
    set_password(Hands(), user, "an0ther password")
    try:
        authenticate(user, "an0ther password", service)
        assert refused(user, PASSWORD, service)[0] == "SESSION_AUTHENTICATION_FAILED"
        for wrong in ("", "two\nlines", "a\0b"):
            with pytest.raises(Failure) as caught:
                set_password(Hands(), user, wrong)
            assert caught.value.code == "CHANGE_PASSWORD_REJECTED"
        authenticate(user, "an0ther password", service)
    finally:
        set_password(Hands(), user, PASSWORD)


@pytest.fixture
def directory(service: str) -> PAM:
    return PAM("anything", {"pam-service": service})


def test_users_and_groups_are_those_of_the_machine(directory: PAM, user: str) -> None:
    directory.probe()
    account = pwd.getpwnam(user)
    assert directory.identifier(user) == directory.authenticate(user, PASSWORD) == f"u{account.pw_uid}"
    assert directory.identifier("adm") == f"g{grp.getgrnam('adm').gr_gid}"
    subprocess.run(["usermod", "--append", "--groups", "adm", user], check=True)
    assert set(directory.groups(f"u{account.pw_uid}")) == {
        f"g{account.pw_gid}",
        directory.identifier("adm"),
    }
    said = directory.information(f"u{account.pw_uid}")
    assert (said["subject-name"], said["subject-is-group"]) == (user, "false")
    assert not is_suspended(said)
    assert directory.information(directory.identifier("adm"))["subject-is-group"] == "true"


@pytest.mark.parametrize(
    "wrong", ["", "u", "x0", "u-1", "u0x", "g999999999", "u999999999", "root", "u0\n", "../shadow"]
)
def test_what_is_no_identifier_is_nobody(directory: PAM, wrong: str) -> None:
    with pytest.raises(NotKnown):
        directory.information(wrong)


@pytest.mark.parametrize(
    "wrong", ["", "nobody-of-that-name", "0", "root:x", "a\nb", "-g", "/etc/passwd", "x" * 300]
)
def test_what_is_no_name_is_nobodys(directory: PAM, wrong: str) -> None:
    with pytest.raises(NotKnown):
        directory.identifier(wrong)


@pytest.mark.parametrize(
    ("change", "undo", "key"),
    [
        (["usermod", "--lock"], ["usermod", "--unlock"], "subject-account-locked"),
        (
            ["usermod", "--expiredate", "2020-01-01"],
            ["usermod", "--expiredate", ""],
            "subject-account-expired",
        ),
        (["chage", "--lastday", "0"], ["chage", "--lastday", "2024-01-01"], "subject-password-expired"),
    ],
    ids=["locked", "expired", "password"],
)
def test_what_the_shadow_file_says_suspends(
    directory: PAM, user: str, change: list[str], undo: list[str], key: str
) -> None:
    identifier = directory.identifier(user)
    subprocess.run([*change, user], check=True)
    try:
        said = directory.information(identifier)
        assert [name for name in SUSPENSIONS if said[name] != "false"] == [key]
    finally:
        subprocess.run([*undo, user], check=True)
    assert not is_suspended(directory.information(identifier))


def test_an_account_without_a_local_password_is_not_locked_by_that(directory: PAM) -> None:
    # Another module of PAM may have one: Kerberos', say.
    name = f"krn{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", name], check=True)
    try:
        assert not is_suspended(directory.information(directory.identifier(name)))
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


def test_a_misspelt_setting_is_refused(service: str) -> None:
    for wrong in ({"pam_service": service}, {"pam-service": "../x"}, {"pam-service": ""}):
        with pytest.raises(DirectoryFailed):
            PAM("anything", wrong)
