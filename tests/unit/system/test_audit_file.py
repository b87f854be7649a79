from __future__ import annotations

import logging
import os
import time

import pytest

from kronos.system import audit_file
from kronos.system.audit_file import AuditFile, stamped

DAY = 86_400.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit" / "audit.log"


def text(file: AuditFile, since: str = "") -> str:
    return b"".join(file.since(since)).decode()


def line(number: int, moment: float = 0.0) -> bytes:
    return stamped("VM.start", f"line {number}", moment or time.time())


def test_a_line_is_there_when_append_returns(path):
    file = AuditFile(path)
    file.append(stamped("VM.start", "(x)", 1_700_000_000.123))
    assert path.read_bytes() == b"[20231114T22:13:20.123Z|audit||0 |VM.start|audit] (x)\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_another_process_writes_on_where_the_last_ended(path):
    AuditFile(path).append(line(1))
    path.write_bytes(path.read_bytes() + b"half a li")  # of a machine that lost power
    AuditFile(path).append(line(2))
    lines = path.read_text().splitlines()
    assert [each[-6:] for each in lines] == ["line 1", "f a li", "line 2"]


def test_by_size_it_is_put_aside_and_the_oldest_goes(path):
    file = AuditFile(path, size=200, files=2)
    for number in range(20):
        file.append(line(number))
    assert sorted(each.name for each in path.parent.iterdir()) == ["audit.log", "audit.log.1", "audit.log.2"]
    kept = [int(each.rpartition(" ")[2]) for each in text(file).splitlines()]
    assert kept == list(range(kept[0], 20))


def test_by_age_it_is_too_across_restarts(path, monkeypatch):
    begun = time.time()
    AuditFile(path, age=7 * DAY).append(line(1, begun))
    monkeypatch.setattr(audit_file.time, "time", lambda: begun + 6 * DAY)
    again = AuditFile(path, age=7 * DAY)
    again.append(line(2, begun + 6 * DAY))
    monkeypatch.setattr(audit_file.time, "time", lambda: begun + 7 * DAY + 1)
    again.append(line(3, begun + 7 * DAY))
    assert path.read_text().count("\n") == 1
    assert path.with_name("audit.log.1").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("since", "first"),
    [
        ("", 0),
        ("20231114", 0),
        ("20231114T22:13:21", 1),
        ("20231114T22:13:21.000", 1),
        ("20231114T22:13:21.001", 2),
        ("20231114T22:14", 5),
        ("20240101", 5),
    ],
)
def test_since_a_moment(path, since, first):
    file = AuditFile(path, size=120, files=9)
    for number in range(5):
        file.append(line(number, 1_700_000_000.0 + number))
    shown = [int(each.rpartition(" ")[2]) for each in text(file, since).splitlines()]
    assert shown == list(range(first, 5))


def test_long_files_are_given_whole(path, monkeypatch):
    monkeypatch.setattr(audit_file, "_CHUNK", 50)
    file = AuditFile(path)
    for number in range(100):
        file.append(line(number))
    assert text(file) == path.read_text()
    assert text(file, "2000") == path.read_text()


def test_a_full_disk_loses_lines_says_so_once_and_is_over_when_it_is(path, monkeypatch, caplog):
    file = AuditFile(path)
    file.append(line(1))
    write = os.write

    def full(descriptor, data):
        written = write(descriptor, data[:10])  # what was left of the disk
        assert written == 10
        return written

    monkeypatch.setattr(audit_file.os, "write", full)
    with caplog.at_level(logging.WARNING):
        for number in range(2, 6):
            file.append(line(number))
    assert len(caplog.records) == 1
    assert file.lost == 4
    monkeypatch.setattr(audit_file.os, "write", write)
    file.append(line(6))
    endings = [each.partition("] ")[2] for each in path.read_text().splitlines()]
    assert endings == ["line 1", "4 lines were lost: the disk was full or failed", "line 6"]
    assert file.lost == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_disk_that_is_really_full(tmp_path, caplog):
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        file = AuditFile(small / "audit.log", files=0)
        for number in range(3000):
            file.append(line(number))
        assert file.lost > 0
        assert len([each for each in caplog.records if "cannot be written" in each.message]) == 1
        assert all(each.startswith("[") for each in text(file).splitlines())
        (small / "audit.log").write_bytes(b"")
        file.append(line(3000))
        assert "lines were lost" in text(file)
    finally:
        file.close()
        subprocess.run(["umount", small], check=True)


def test_a_directory_that_cannot_be_made_stops_nobody(tmp_path, caplog):
    (tmp_path / "audit").write_text("a file")
    file = AuditFile(tmp_path / "audit" / "audit.log")
    file.append(line(1))
    file.append(line(2))
    assert file.lost == 2
    assert len(caplog.records) == 1
