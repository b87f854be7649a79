"""Programs of the administrator's: what lies in a folder of root's, and runs as part of a call.

A folder or a file that somebody else than root could have written is not run: whoever may drop a plugin is root.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kronos.system.outside import NOTHING, Outside

PATIENCE = 2 * 3600.0
"""Seconds that a program gets: some of them update a host."""
MODULES = Path(__file__).with_name("plugin_modules")
"""What plugins in Python may import."""
MOST = 16 << 20
"""Bytes that a program may answer."""


class NotFound(Exception):
    """The folder has no program of that name."""


class NotTrusted(Exception):
    """The program could have been put there by somebody else than root; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. `status` is its exit status, negative for the signal that it died of."""

    status: int
    output: str
    errors: str

    @property
    def ending(self) -> str:
        """The words for an end that is no success; empty for one that is."""
        if self.status == 0:
            return ""
        return "non-zero exit" if self.status > 0 else f"signal: {signal.Signals(-self.status).name}"


def find(folder: Path, untrusted_name: str) -> Path:
    """The program of that name in a folder. Raises NotFound, NotTrusted."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise NotFound(untrusted_name) from error
    if untrusted_name not in names:  # a name of the listing has no slash and is neither . nor ..
        raise NotFound(untrusted_name)
    path = folder / untrusted_name
    try:
        status = path.stat()
    except OSError as error:
        raise NotFound(untrusted_name) from error
    if not stat.S_ISREG(status.st_mode):
        raise NotFound(untrusted_name)
    for each, found in ((folder, folder.stat()), (path, status)):
        if found.st_uid not in (0, os.geteuid()):
            raise NotTrusted(f"{each} does not belong to root")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotTrusted(f"{each} may be written by others than root")
    if not status.st_mode & stat.S_IXUSR:
        raise NotTrusted(f"{path} is not executable")
    return path


def run(
    outside: Outside,
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = PATIENCE,
    environment: Mapping[str, str] = NOTHING,
    on_start: Callable[[Callable[[], None]], None] = lambda stop: None,
) -> Outcome:
    """Run a program beyond the service's limits, with root's rights, and wait for its end.

    `on_start` gets a function that ends it early. Past `timeout` it is ended, with status -9.

    Raises OSError where it cannot be started.
    """
    unit = f"xapi-program-{uuid.uuid4()}.service"
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            outside.command(argv, unit, environment),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )

        def stop() -> None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except OSError:
                pass  # it has just ended
            outside.stop(unit)  # after who asks for it: a unit that begins later would run on

        on_start(stop)
        try:
            process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            stop()
            process.wait()
        return Outcome(process.returncode, _text(output), _text(errors))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MOST).decode(errors="replace")
