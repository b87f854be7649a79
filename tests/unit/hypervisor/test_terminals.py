"""Serial lines of Xen's guests, on pseudo-terminals whose other end is the test."""

from __future__ import annotations

import os
import pty
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kronos.hypervisor import terminals as module
from kronos.hypervisor.terminals import Terminals


class Guest:
    """What xenconsoled holds: the master of a terminal."""

    def __init__(self) -> None:
        self.master, self._slave = pty.openpty()
        self.terminal = os.ttyname(self._slave)

    def prints(self, text: bytes) -> None:
        os.write(self.master, text)

    def reads(self) -> bytes:
        return os.read(self.master, 100)

    def ends(self) -> None:
        os.close(self._slave)
        os.close(self.master)


class Place:
    """Where one guest's line is offered."""

    def __init__(self, terminals: Terminals, directory: Path) -> None:
        self.terminals = terminals
        self.path, self.log = directory / "serial", directory / "serial.log"

    def attach(self, guest: Guest, *, fresh: bool = False) -> None:
        self.terminals.attach("vm", guest.terminal, self.path, self.log, fresh=fresh)

    def reader(self) -> socket.socket:
        """Somebody who has been let in: who is not is told nothing of what is printed meanwhile."""
        there = self.terminals._lines["vm"].clients
        before = len(there)
        client = self.caller()
        until(lambda: len(there) > before)
        return client

    def caller(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(os.fspath(self.path))
        return client

    def logged(self, text: bytes) -> None:
        until(lambda: self.log.read_bytes() == text)


def until(reached: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    terminals = Terminals()
    yield Place(terminals, tmp_path)
    terminals.close()


@pytest.fixture
def guest(place: Place) -> Guest:
    made = Guest()
    place.attach(made)
    return made


def test_what_a_guest_prints_is_logged_as_it_is(place: Place, guest: Guest) -> None:
    guest.prints(b"one\r\ntwo\x00\xff\n")
    place.logged(b"one\r\ntwo\x00\xff\n")


def test_every_reader_sees_what_is_printed(place: Place, guest: Guest) -> None:
    readers = [place.reader(), place.reader()]
    guest.prints(b"hello")
    assert [reader.recv(100) for reader in readers] == [b"hello", b"hello"]


def test_what_a_reader_types_reaches_the_guest(place: Place, guest: Guest) -> None:
    place.caller().sendall(b"root\n")
    assert guest.reads() == b"root\n"


def test_what_was_printed_before_anyone_listened_is_there(place: Place) -> None:
    guest = Guest()
    guest.prints(b"early")
    place.attach(guest)
    place.logged(b"early")


def test_a_guest_that_reboots_keeps_its_readers_and_its_log(place: Place, guest: Guest) -> None:
    reader = place.reader()
    guest.prints(b"first")
    assert reader.recv(100) == b"first"
    guest.ends()
    again = Guest()
    place.attach(again)
    again.prints(b" second")
    assert reader.recv(100) == b" second"
    place.logged(b"first second")


def test_a_fresh_start_begins_a_new_log(place: Place, guest: Guest) -> None:
    guest.prints(b"old")
    place.logged(b"old")
    again = Guest()
    place.attach(again, fresh=True)
    again.prints(b"new")
    place.logged(b"new")


def test_readers_are_let_go_when_the_guest_has_gone_and_its_last_words_are_kept(
    place: Place, guest: Guest
) -> None:
    reader = place.reader()
    guest.prints(b"farewell")
    place.terminals.detach("vm")
    assert reader.recv(100) == b"farewell"
    assert reader.recv(100) == b""
    assert place.log.read_bytes() == b"farewell"
    assert not place.path.exists()


def test_a_reader_that_reads_nothing_is_let_go_and_holds_up_nobody(
    place: Place, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKLOG", 1 << 14)
    _deaf = place.reader()
    printed = 0
    while printed < 1 << 21:
        printed += os.write(guest.master, bytes(4096))
    until(lambda: not place.terminals._lines["vm"].clients)


def test_a_log_is_bounded_and_keeps_the_end(
    place: Place, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_LIMIT", 1000)
    for number in range(200):
        guest.prints(b"line %03d\n" % number)
    until(lambda: place.log.read_bytes().endswith(b"line 199\n"))
    assert len(place.log.read_bytes()) <= 1000 + 100


def test_more_readers_than_there_is_room_for_are_turned_away(place: Place, guest: Guest) -> None:
    readers = [place.reader() for _ in range(module.CLIENTS)]
    extra = place.caller()
    assert extra.recv(1) == b""
    guest.prints(b"x")
    assert all(reader.recv(1) == b"x" for reader in readers)


def test_only_the_host_may_open_the_line(place: Place, guest: Guest) -> None:
    assert place.path.stat().st_mode & 0o777 == 0o600


def test_a_terminal_that_is_not_there_is_refused(place: Place) -> None:
    with pytest.raises(OSError, match="pts"):
        place.terminals.attach("vm", "/dev/pts/999999", place.path, place.log)
    assert not place.path.exists()
