from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kronos.auth.pam import authenticate
from kronos.datamodel.errors import Failure

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
