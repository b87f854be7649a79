"""Outside: the host's own operating system, beyond the limits of the daemon's service.

The service may not write to /etc, nor touch the clock or the kernel's log. What a message asks of those is asked of
systemd, which runs the command as a unit of its own. Only the daemon that is the system's service has such hands.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kronos.system.commands import CommandFailed, run
from kronos.system.power import NotTheService, is_the_service

log = logging.getLogger(__name__)

Environment = Mapping[str, str]
NOTHING: Environment = {}
PATIENCE = 60.0
"""Seconds that a command gets."""


class Outside(Protocol):
    """What can be done to the host's operating system."""

    def command(self, argv: Sequence[str], unit: str = "", environment: Environment = NOTHING) -> list[str]:
        """The command that has `argv` run without the service's limits, with its input, output and exit status.

        `unit` names it for `stop`; `environment` comes on top of what such a command has anyway.
        """

    def stop(self, unit: str) -> None:
        """End what runs under that name, and all that it started; nothing happens where nothing does."""

    def require(self) -> None:
        """Raises NotTheService where the host is not this daemon's to change."""

    def change(self, argv: Sequence[str], *, stdin: str = "", timeout: float = PATIENCE) -> str:
        """Run a command that changes the host; its output. Raises NotTheService, CommandFailed."""

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        """Replace a file of the host, in one step; its folder is made. Raises NotTheService, CommandFailed."""

    def remove(self, path: Path) -> None:
        """Remove a file of the host; one that is not there is no error. Raises NotTheService, CommandFailed."""


class NoOutside:
    """For daemons from a checkout, demonstrations and tests: the machine is somebody's, and stays as it is."""

    def command(self, argv: Sequence[str], unit: str = "", environment: Environment = NOTHING) -> list[str]:
        given = [f"{name}={value}" for name, value in environment.items()]
        return ["env", *given, *argv] if given else list(argv)

    def stop(self, unit: str) -> None:
        """There are no units: whoever started the process ends it."""

    def require(self) -> None:
        raise NotTheService

    def change(self, argv: Sequence[str], *, stdin: str = "", timeout: float = PATIENCE) -> str:
        raise NotTheService

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        raise NotTheService

    def remove(self, path: Path) -> None:
        raise NotTheService


# The name is made new, moved over the old one, and both are on disk when it ends.
_WRITE = (
    'set -e; umask 077; mkdir -p -m 755 "${1%/*}"; cat >"$1.new"; chmod "$2" "$1.new"; '
    'sync "$1.new"; mv "$1.new" "$1"'
)


class SystemdOutside:
    """systemd's: each command is a transient unit, with the daemon's pipes for its input and output."""

    def command(self, argv: Sequence[str], unit: str = "", environment: Environment = NOTHING) -> list[str]:
        # Its own description would be the arguments, for everybody who reads the log, and a plugin's have a session.
        named = [f"--description=xapi: {Path(argv[0]).name}", *self._ended_by_stop(unit)]
        named += [f"--setenv={name}={value}" for name, value in environment.items()]
        plain = [each.replace("$", "$$") for each in argv]  # systemd puts variables in otherwise
        return ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", *named, "--", *plain]

    @staticmethod
    def _ended_by_stop(unit: str) -> list[str]:
        return [f"--unit={unit}", "--property=KillSignal=SIGKILL"] if unit else []

    def stop(self, unit: str) -> None:
        try:
            run(["systemctl", "stop", unit])
        except CommandFailed as failed:  # it has just ended
            log.debug("%s", failed)

    def require(self) -> None:
        """It may."""

    def change(self, argv: Sequence[str], *, stdin: str = "", timeout: float = PATIENCE) -> str:
        log.info("on the host: %s", " ".join(argv[:4]))
        return run(self.command(argv), stdin=stdin, timeout=timeout)

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        log.info("on the host: %s is written", path)
        argv = ["sh", "-c", _WRITE, "write", str(path), f"{mode:o}"]
        run(self.command(argv), stdin=content, timeout=PATIENCE)

    def remove(self, path: Path) -> None:
        self.change(["rm", "-f", "--", str(path)])


def of_this_process() -> Outside:
    """The hands that this process may use."""
    return SystemdOutside() if is_the_service() else NoOutside()
