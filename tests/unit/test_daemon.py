"""The command xapi, as a process: what it says where it cannot start, and of the host that it is on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def xapi(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys\nfrom kronos import daemon\n{before}\nsys.exit(daemon.main({list(arguments)!r}))"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_program_that_refuses_at_the_start_is_told_in_a_line(tmp_path: Path) -> None:
    refuses = """
from kronos.system.commands import CommandFailed
async def run(self): raise CommandFailed(["nft"], 1, "Operation not permitted")
daemon.Daemon.run = run
"""
    done = xapi("-o", f"state={tmp_path}", before=refuses)

    assert done.returncode == 1
    assert "xapi cannot start: nft exited with 1: Operation not permitted" in done.stderr
    assert "xapi --check" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_check_looks_at_the_real_host_and_says_so_by_its_status(tmp_path: Path) -> None:
    """Whatever that host lacks: no check fails itself, and the status says the same as the document."""
    options = ("-o", f"state={tmp_path}", "-o", f"storage={tmp_path}", "-o", "libvirt=test:///default")

    done = xapi("--check", "--json", *options)

    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["ready"] else 1)
    found = {check["name"]: check for check in said["checks"]}
    assert [check for check in said["checks"] if "could not be checked" in check["text"]] == []
    assert found["libvirt's answer"]["verdict"] == "ok"
    assert done.stderr == ""


def test_a_check_needs_settings_that_can_be_read() -> None:
    done = xapi("--check", "-o", "no_such_setting=1")

    assert done.returncode == 2
    assert "no_such_setting" in done.stderr


def test_the_service_manager_hears_that_the_loop_turns(tmp_path: Path) -> None:
    """As often as it asked for, and from a loop that runs: a daemon that hangs says nothing more."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(30)
        program = "import asyncio\nfrom kronos import daemon\nasyncio.run(daemon._watched())"
        asked = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "20000"}
        with subprocess.Popen([sys.executable, "-c", program], env=os.environ | asked) as process:
            said = [manager.recv(100) for _ in range(3)]
            process.kill()

    assert said == [b"WATCHDOG=1"] * 3


def test_nothing_is_to_be_taken_back_of_a_host_where_the_daemon_never_ran(tmp_path: Path) -> None:
    before = "from kronos.network import firewall\nfirewall.dismantle = lambda: None"

    done = xapi("--release", "-o", f"state={tmp_path}", before=before)

    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
