"""IDLE: the whole daemon, its libvirtd and its default templates, when nobody asks it anything.

It runs in process and network namespaces of its own, which take everything that it started with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.process import ROOT, rss
from bench.report import Row
from bench.run import Run

PATIENCE = 120.0


def measure(run: Run) -> list[Row]:
    if os.geteuid() != 0:
        raise PermissionError("the daemon needs root")
    directory = run.directory / "idle"
    directory.mkdir()
    _end(_start(directory))  # what is made once, such as keys and the tiny guest, is not to count
    began = time.perf_counter()
    parent = _start(directory)
    try:
        ready = time.perf_counter() - began
        pid = _child(parent)
        time.sleep(3)  # work that the start left for later
        watched = 5 if run.quick else 30
        before, woken = _used(pid)
        time.sleep(watched)
        after, woken_after = _used(pid)
        return [
            Row("IDLE", "the daemon's memory (RSS)", rss(pid) / 1e6, "MB", limit=80),
            Row("IDLE", "processor time while nothing happens", (after - before) / watched * 100, "%", limit=0.1,
                note=f"{(woken_after - woken) / watched:.1f} wake-ups a second, {_threads(pid)} threads"),
            Row("IDLE", "from exec to the first door open", ready * 1e3, "ms"),
        ]  # fmt: skip
    finally:
        _end(parent)


def _start(directory: Path) -> subprocess.Popen[bytes]:
    socket = directory / "xapi"
    socket.unlink(missing_ok=True)
    settings = {
        "state": directory / "state",
        "run": directory / "run",
        "storage": directory / "storage",
        "socket": socket,
        "http_port": 8080,
        "https_port": 8443,
        "private_libvirt": "true",
        "internal_bridge": "krbench0",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, "-m", "kronos.daemon", *options],
            cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    until = time.monotonic() + PATIENCE
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError((directory / "log").read_text()[-2000:])
        time.sleep(0.005)
    return process


def _child(parent: subprocess.Popen[bytes]) -> int:
    return int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())


def _end(parent: subprocess.Popen[bytes]) -> None:
    """The namespaces' first process takes the others along, and is the last to be gone."""
    first = Path(f"/proc/{_child(parent)}")
    parent.kill()
    parent.wait()
    while first.exists():
        time.sleep(0.01)


def _used(pid: int) -> tuple[float, int]:
    """Seconds on a processor, and how often it had to be woken, all threads together."""
    seconds, woken = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                woken += int(line.split()[1])
    return seconds, woken


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
