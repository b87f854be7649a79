"""The parent that adopts and reaps what daemons leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kronos.system import subreaper


def started(*command: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    argv = [sys.executable, subreaper.__file__, *options, "--", *command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_its_status_is_the_commands(command: str, status: int) -> None:
    process = started("sh", "-c", command)

    process.communicate(timeout=60)
    assert process.returncode == status


def test_it_stays_until_the_last_orphan_has_ended(tmp_path: Path) -> None:
    orphan = f"while [ ! -e {tmp_path}/end ]; do sleep 0.01; done"
    process = started("sh", "-c", f"({orphan}) >/dev/null 2>&1 & exit 3")

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    (tmp_path / "end").touch()

    assert process.wait(60) == 3
    process.communicate()


def test_an_orphan_that_ends_leaves_no_zombie(tmp_path: Path) -> None:
    script = f"(sh -c 'echo $$ > {tmp_path}/pid' &) ; exec sleep 30"
    process = started("sh", "-c", script)
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        orphan = int((tmp_path / "pid").read_text())
        wait_for(lambda: not os.path.exists(f"/proc/{orphan}"))
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_goes_to_the_command(tmp_path: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'exit 42' {name}; touch {tmp_path}/ready; while :; do sleep 0.01; done"
    process = started("sh", "-c", script)
    wait_for((tmp_path / "ready").exists)

    process.send_signal(number)

    process.communicate(timeout=60)
    assert process.returncode == 42


def test_the_pid_file_names_the_command(tmp_path: Path) -> None:
    process = started("sh", "-c", "echo $$", options=("--pid-file", str(tmp_path / "pid")))

    said, _ = process.communicate(timeout=60)

    assert said == (tmp_path / "pid").read_text()


@pytest.mark.parametrize("arguments", [[], ["--"], ["sleep", "1"], ["--odd", "--", "true"]])
def test_without_a_command_it_says_how_it_is_used(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert subreaper.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_command_that_does_not_exist_is_told() -> None:
    process = started("/nonexistent/command")

    _, errors = process.communicate(timeout=60)

    assert process.returncode == 127
    assert "/nonexistent/command" in errors
