"""One user of the host's volume groups at a time, commands of a daemon that was killed among them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from kronos.storage.block import mounts
from kronos.storage.faults import Fault
from kronos.system import commands

PATIENCE: Final = 300.0
"""Seconds to wait for the turn."""
LONGEST: Final = 240.0
"""Seconds that one command may take."""
# LVM closes descriptors that it does not know, and with them the turn: a shell keeps it until LVM has ended.
_KEEPER: Final = ("sh", "-c", '"$@"; exit $?', "sh")

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints. Raises CommandFailed."""


@contextmanager
def turn() -> Iterator[Run]:
    """A way to run commands while nobody else does.

    The commands keep the turn themselves until they end: when the daemon is killed and started again, what it undoes
    is not still being done.

    Raises SR_BACKEND_FAILURE_16 where the turn does not come.
    """
    mounts.BASE.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(mounts.BASE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def run(argv: Sequence[str]) -> str:
        # In one language, since messages are told to whoever asked and looked for words.
        env = {**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
        return commands.run([*_KEEPER, *argv], timeout=LONGEST, env=env, inherited=(descriptor,))

    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Fault.SR_IN_USE.failure("other storage is still being set up") from None
                time.sleep(0.05)
        yield run
    finally:
        os.close(descriptor)
