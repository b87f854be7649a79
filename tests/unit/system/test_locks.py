from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kronos.system.locks import FileLock, LockHeld

HOLDER = """
import sys
from pathlib import Path
from kronos.system.locks import FileLock
FileLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_can_be_taken_again_after_its_release(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "xapi.lock")
    for _ in range(2):
        with lock:
            assert lock.path.read_text() == f"{os.getpid()}\n"
    lock.release()

    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600


def test_one_process_cannot_hold_a_lock_twice(tmp_path: Path) -> None:
    path = tmp_path / "xapi.lock"
    with FileLock(path) as lock:
        with pytest.raises(LockHeld):
            lock.acquire()
        with pytest.raises(LockHeld):
            FileLock(path).acquire()


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "xapi.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockHeld) as caught:
            FileLock(path).acquire()
        other.kill()
        other.wait()
    assert caught.value.holder == str(other.pid)

    with FileLock(path):
        pass
