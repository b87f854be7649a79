"""A short run of each fuzz target: a parser that is broken is found in seconds, a subtle fault by `python -m fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.targets import TARGETS

RUNS = 5000
TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_read_or_refused(name: str, tmp_path: Path) -> None:
    fuzzed = subprocess.run(
        [sys.executable, "-m", "fuzz", name, f"-runs={RUNS}", f"-artifact_prefix={tmp_path}/"],
        cwd=TESTS,
        env={"PYTHONPATH": str(TESTS), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert fuzzed.returncode == 0, fuzzed.stdout[-2000:] + fuzzed.stderr[-4000:]
    assert f"Done {RUNS} runs" in fuzzed.stderr
