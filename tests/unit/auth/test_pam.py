from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from kronos.auth import pam
from kronos.datamodel.errors import Failure


class FakePam:
    """python-pam's object over a machine whose only user is alice, password s3cret."""

    made = 0
    calls: list[tuple[str, str, str, bool]] = []
    inside = 0
    together = 0
    gate: threading.Event | None = None
    lock = threading.Lock()

    def __init__(self) -> None:
        type(self).made += 1
        self.reason = "nothing yet"
        self.messages: list[str] = []
        self._busy = False

    def authenticate(self, username: str, password: str, service: str, *, resetcreds: bool) -> bool:
        assert not self._busy, "one PAM handle in two threads"
        self._busy = True
        cls = type(self)
        with cls.lock:
            cls.calls.append((username, password, service, resetcreds))
            cls.inside += 1
            cls.together = max(cls.together, cls.inside)
        if cls.gate is not None:
            cls.gate.wait(5)
        with cls.lock:
            cls.inside -= 1
        self._busy = False
        self.messages.append("Password: ")
        right = (username, password) == ("alice", "s3cret")
        self.reason = "Success" if right else "User not known to the underlying authentication module"
        return right


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakePam]]:
    FakePam.made, FakePam.inside, FakePam.together = 0, 0, 0
    FakePam.calls, FakePam.gate = [], None
    monkeypatch.setattr(pam, "_new_authenticator", FakePam)
    kept = [pam._idle.get() for _ in range(pam._AT_ONCE)]
    for _ in kept:
        pam._idle.put(None)
    pam._warn_if_missing.cache_clear()
    yield FakePam
    for _ in kept:
        pam._idle.get()
    for each in kept:
        pam._idle.put(each)


def test_the_right_password_is_accepted(fake: type[FakePam]) -> None:
    pam.authenticate("alice", "s3cret")

    assert fake.calls == [("alice", "s3cret", "xapi", False)]


@pytest.mark.parametrize("name", ["alice", "nobody-of-that-name"])
def test_a_wrong_password_and_an_unknown_name_are_told_the_same(name: str) -> None:
    with pytest.raises(Failure) as caught:
        pam.authenticate(name, "guess")

    assert caught.value.description == ["SESSION_AUTHENTICATION_FAILED", name, "Authentication failure"]


def test_the_log_has_the_reason_and_never_the_password(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Failure):
        pam.authenticate("bob", "guessed-password")

    assert "User not known" in caplog.text
    assert "guessed-password" not in caplog.text


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", "x"),
        ("alice", ""),
        ("alice\0", "x"),
        ("alice", "s3cret\0"),
        ("alice\nroot", "x"),
        ("\ud800", "x"),
        ("alice", "\ud800"),
        ("a" * 257, "x"),
        ("alice", "x" * 512),
        ("alice", "é" * 256),
    ],
)
def test_what_pam_could_misread_never_reaches_it(name: str, password: str, fake: type[FakePam]) -> None:
    with pytest.raises(Failure) as caught:
        pam.authenticate(name, password)

    assert caught.value.code == "SESSION_AUTHENTICATION_FAILED"
    assert fake.calls == []
    "".join(caught.value.params).encode()  # what is echoed can be sent


def test_the_longest_password_is_let_through(fake: type[FakePam]) -> None:
    with pytest.raises(Failure):
        pam.authenticate("alice", "x" * 511)

    assert len(fake.calls) == 1


def test_concurrent_logins_use_handles_of_their_own_and_no_more_than_eight(fake: type[FakePam]) -> None:
    fake.gate = threading.Event()
    threads = [threading.Thread(target=pam.authenticate, args=("alice", "s3cret")) for _ in range(20)]
    for thread in threads:
        thread.start()
    while fake.inside < 8:
        pass
    fake.gate.set()
    for thread in threads:
        thread.join()

    assert len(fake.calls) == 20
    assert fake.together == 8
    assert fake.made == 8


def test_nothing_of_a_login_is_kept_for_the_next(fake: type[FakePam]) -> None:
    pam.authenticate("alice", "s3cret")

    kept = pam._idle.get()
    pam._idle.put(kept)
    assert kept is not None
    assert kept.messages == []


def test_a_missing_service_file_is_explained_once(
    caplog: pytest.LogCaptureFixture, fake: type[FakePam]
) -> None:
    for _ in range(2):
        pam.authenticate("alice", "s3cret", service="kronos-no-such-service")

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "/etc/pam.d/kronos-no-such-service" in caplog.text
