"""Child processes that are measured: pinned to a core, asked by lines of JSON, ended with the block that began them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

SERVER_CORE: Final = 0
CLIENT_CORE: Final = 1
ROOT: Final = Path(__file__).resolve().parents[1]


def pin(core: int) -> None:
    """Keep this process on one core, where there is more than one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def rss(pid: int) -> int:
    """Bytes that a process has in memory."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Child:
    """`python -m MODULE OPTIONS`, which writes a line of JSON once it is ready and one for each line it is sent."""

    def __init__(self, module: str, **options: object) -> None:
        self.module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self.ready: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.ready = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Have the child do something; what it says of it. Raises RuntimeError where it failed."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"command": command} | arguments) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.module}: {answer['error']}")
        return answer

    def end(self) -> None:
        """Let it end by itself: its input is closed. Kill it where it does not."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def say(answer: dict[str, Any]) -> None:
    """A child's line to its parent."""
    print(json.dumps(answer), flush=True)


def listen(commands: dict[str, Callable[..., Any]], ended: Callable[[], None]) -> None:
    """A child's side: serve the parent's lines on a thread of their own; `ended` once the parent wants no more."""

    def serve() -> None:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                say(commands[asked.pop("command")](**asked) or {})
            except Exception as error:  # noqa: BLE001  # the parent is to hear of it
                say({"error": f"{type(error).__name__}: {error}"})
        ended()

    threading.Thread(target=serve, name="parent", daemon=True).start()


def ender(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> Callable[[], None]:
    """What `listen` is to call so that a coroutine which waits for `ended` goes on."""

    def end() -> None:
        loop.call_soon_threadsafe(ended.set)

    return end
