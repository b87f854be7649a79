"""Running a command of the machine: the one place where a process is started and its output read."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


class CommandFailed(Exception):
    """A command ended with a non-zero status, could not be started, or ran past its limit."""

    def __init__(self, argv: Sequence[str], status: int | None, stderr: str, stdout: str = "") -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr.strip()
        self.stdout = stdout
        what = "timed out" if status is None else f"exited with {status}"
        super().__init__(f"{argv[0]} {what}: {self.stderr}")


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
) -> str:
    """Run `argv` without a shell and return its standard output as text.

    `timeout` is in seconds. Secrets go in `stdin`, never in `argv`, which every user of the host can read. It has the
    `inherited` descriptors open, too.

    Raises CommandFailed.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=dict(env) if env is not None else None,
            pass_fds=inherited,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise CommandFailed(argv, None, f"still running after {timeout} s") from expired
    except OSError as error:
        raise CommandFailed(argv, 127, str(error)) from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr, done.stdout)
    return done.stdout
