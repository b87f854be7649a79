"""People who come in over the network, with the SDK and with `xe`, as a test sees them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import XenAPI

from harness.daemon import Daemon
from harness.host import PASSWORD

XE = Path(__file__).resolve().parents[2] / "src" / "kronos" / "xe" / "xe"
Xe = Callable[..., str]


def as_user(daemon: Daemon, user: str, password: str = PASSWORD) -> Xe:
    """`xe` as somebody: its output, or CalledProcessError."""

    def run(*words: str) -> str:
        argv = [str(XE), "-s", daemon.host.address, "-u", user, "-pw", password, *words]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=60,
            env={"HOME": str(daemon.directory), "PATH": os.defpath},
        )
        done.check_returncode()
        return done.stdout

    return run


def login(daemon: Daemon, user: str, password: str = PASSWORD) -> XenAPI.Session:
    session = XenAPI.Session(f"http://{daemon.host.address}")
    session.login_with_password(user, password, "2.21", "kronos tests")
    return session


def refused(daemon: Daemon, user: str, password: str = PASSWORD) -> list[str]:
    """What is answered to a login that fails."""
    with pytest.raises(XenAPI.Failure) as caught:
        login(daemon, user, password)
    return caught.value.details


def denied(session: XenAPI.Session, method: str, *args: object) -> str:
    """The permission that a call is denied for."""
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi_request(method, args)
    assert caught.value.details[0] == "RBAC_PERMISSION_DENIED", caught.value.details
    return caught.value.details[1]


def is_over(session: XenAPI.Session) -> bool:
    """Asked without what the SDK does by itself: to log in again."""
    answer = session.VM.get_all(session.handle)
    return answer.get("ErrorDescription") == ["SESSION_INVALID", session.handle]
