"""A parent for daemons: `python -m kronos.system.subreaper [--pid-file FILE] -- command…`.

Processes that daemonise (QEMU under libvirtd) become orphans on purpose, and whoever adopts them must reap
them: libvirt waits for a guest's process to vanish, and a zombie does not. Not every init is quick about it,
so this one adopts them itself. It forwards the signals that ask it to end to the command, and stays until
the last descendant has ended; its status is the command's.

It runs as a plain file too, and needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def become_subreaper() -> None:
    """Make this process the parent of every orphan among its descendants. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run(argv: Sequence[str], pid_file: Path | None = None) -> int:
    """Run `argv` until it and all that it left behind have ended; its exit status, or 128 + the signal it
    died of.

    `pid_file` receives the command's process id.
    """
    become_subreaper()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = os.posix_spawnp(argv[0], list(argv), os.environ, setsigmask=[], setsigdef=FORWARDED)
    if pid_file is not None:
        pid_file.write_text(f"{child}\n")
    gone = False

    def forward(number: int, frame: FrameType | None) -> None:
        # The process id may belong to a stranger once the command has been reaped.
        if not gone:
            os.kill(child, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    status = 0
    while True:
        try:
            pid, wait_status = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == child:
            gone = True
            code = os.waitstatus_to_exitcode(wait_status)
            status = code if code >= 0 else 128 - code


def main(arguments: Sequence[str]) -> int:
    options, separator, command = list(arguments), "--", list[str]()
    if separator in options:
        at = options.index(separator)
        options, command = options[:at], options[at + 1 :]
    pid_file = None
    if options[:1] == ["--pid-file"] and len(options) == 2:
        pid_file, options = Path(options[1]), []
    if options or not command:
        print("usage: subreaper [--pid-file FILE] -- command [argument…]", file=sys.stderr)
        return 2
    try:
        return run(command, pid_file)
    except OSError as error:
        print(f"subreaper: {command[0]}: {error}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
