"""Copies of disk images by qemu-img."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_COPY = """
from pathlib import Path
from kronos.system.conversion import convert
convert(Path("a"), "raw", Path("b"), "raw", target_is_zero=True, progress=print)
"""


def test_a_copy_ends_with_the_daemon_that_is_killed(tmp_path: Path) -> None:
    copier, pid = tmp_path / "qemu-img", tmp_path / "pid"
    copier.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60\n")
    copier.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, "-c", _COPY], env=environment) as daemon:
        while not pid.exists():
            assert daemon.poll() is None
            time.sleep(0.01)
        daemon.kill()
    there, deadline = Path("/proc", pid.read_text().strip(), "cmdline"), time.monotonic() + 5
    while there.exists() and there.read_bytes():  # a zombie's is empty
        assert time.monotonic() < deadline
        time.sleep(0.01)
