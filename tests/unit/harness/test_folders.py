"""Folders of tests: gone with their run, or with the next one where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from harness.folders import passing

_RUN = """\
import sys, time
from pathlib import Path
from harness.folders import passing
with passing("krun", Path(sys.argv[1])) as directory:
    (directory / "built").touch()
    print(directory, flush=True)
    time.sleep(600)
"""


def _another(below: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", _RUN, str(below)]
    run = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    return run, Path(run.stdout.readline().strip())


def test_a_folder_goes_with_its_run(tmp_path: Path) -> None:
    with passing("krun", tmp_path) as directory:
        (directory / "built").touch()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_goes_with_the_next_and_what_lives_stays(tmp_path: Path) -> None:
    dead, left = _another(tmp_path)
    living, used = _another(tmp_path)
    try:
        assert (left / "built").exists(), "the second run has left the first one's folder alone"
        dead.send_signal(signal.SIGKILL)
        dead.wait(10)
        with passing("krun", tmp_path) as mine:
            assert {mine, used} == set(tmp_path.glob("krun-*"))
        assert (used / "built").exists()
    finally:
        for run in (dead, living):
            run.kill()
            run.communicate()
