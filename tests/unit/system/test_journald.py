"""The journal gets entries with fields."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kronos.system import logs
from kronos.system.journald import MOST, Journal, encoded

log = logging.getLogger("kronos.test")
VM = "2f1d3e3c-52f3-4c5d-9d86-5e7a3b2f0c11"


class Journald:
    """A stand-in for journald: it reads entries as the protocol says."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        for descriptor in descriptors:
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        fields = {}
        while data:
            head, _, data = data.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if not equals:
                (size,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + size], data[9 + size :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journald(tmp_path: Path) -> Journald:
    return Journald(tmp_path / "socket")


@pytest.fixture
def logged(journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    """The journal of a daemon whose standard error is the journal's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "SOCKET", tmp_path / "socket")
    monkeypatch.setattr(logs, "Journal", lambda: Journal(tmp_path / "socket"))
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure("INFO", stream)
        yield journald
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    logs._secrets.clear()


def test_empty_fields_are_left_out_and_long_ones_cut() -> None:
    assert encoded({"A": "1", "B": "", "C": "2"}) == b"A=1\nC=2\n"
    assert len(encoded({"A": "x" * (MOST + 1)})) == MOST + 3


def test_an_entry_arrives_with_its_fields(journald: Journald, tmp_path: Path) -> None:
    sent = {"MESSAGE": "two\nlines", "PRIORITY": "6", "WORD": "ö="}
    Journal(tmp_path / "socket").send(sent)
    assert journald.entry() == sent


def test_an_entry_that_is_too_long_for_a_datagram_arrives_all_the_same(
    journald: Journald, tmp_path: Path
) -> None:
    sent = {"MESSAGE": "x" * MOST, "OTHER": "y" * MOST}
    journal = Journal(tmp_path / "socket")
    journal._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    journal.send(sent)
    assert journald.entry() == sent


def test_a_line_says_what_it_is_about(logged: Journald) -> None:
    with logs.about(task="OpaqueRef:t", session="OpaqueRef:s", method="VM.start", vm=VM):
        log.warning("slow")
    entry = logged.entry()
    assert (entry["MESSAGE"], entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == (
        "kronos.test: slow",
        "4",
        "xapi",
    )
    assert (entry["TASK"], entry["METHOD"], entry["VM"]) == ("OpaqueRef:t", "VM.start", VM)
    assert entry["SESSION"] == logs.track("OpaqueRef:s")
    assert "OpaqueRef:s" not in entry.values()


def test_a_vm_that_the_message_names_is_found(logged: Journald) -> None:
    log.info("VM %s is started with its host", VM)
    assert logged.entry()["VM"] == VM


def test_no_secret_and_no_line_of_a_clients_reaches_the_journal(logged: Journald) -> None:
    with logs.hidden("swordfish"):
        log.error("password swordfish\nPRIORITY=0")
    entry = logged.entry()
    assert entry["MESSAGE"] == "kronos.test: password ******\\nPRIORITY=0"
    assert entry["PRIORITY"] == "3"


def test_without_a_journal_lines_go_to_standard_error(logged: Journald, tmp_path: Path) -> None:
    (tmp_path / "socket").unlink()
    log.info("alone")
    assert (tmp_path / "stderr").read_text() == "<6>kronos.test: alone\n"
