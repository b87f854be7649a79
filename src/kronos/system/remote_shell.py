"""Remote shell: the host's own sshd, and how long a console may stay idle."""

from __future__ import annotations

from pathlib import Path

from kronos.system.commands import run
from kronos.system.outside import Outside

_UNITS = ("ssh.socket", "ssh.service", "sshd.service")
_FOLDERS = ("lib/systemd/system", "usr/lib/systemd/system")
_PROFILE = Path("etc/profile.d/xapi-console-timeout.sh")


class NoRemoteShell(Exception):
    """The host has no sshd."""


class RemoteShell:
    """The hands for logins on the host itself. What changes something raises NotTheService, CommandFailed."""

    def __init__(self, outside: Outside, root: Path = Path("/")) -> None:
        self.outside = outside
        self.root = root

    def _units(self) -> list[str]:
        """The units that answer on port 22. Debian calls the service ssh, Fedora sshd; a socket may start it.

        Other names of theirs are links, which go when they are disabled.
        """
        found = [unit for unit in _UNITS if any(self._is_own(folder, unit) for folder in _FOLDERS)]
        if not found:
            raise NoRemoteShell("This host has no ssh service: install openssh-server")
        return found

    def _is_own(self, folder: str, unit: str) -> bool:
        path = self.root / folder / unit
        return path.is_file() and not path.is_symlink()

    def is_open(self) -> bool:
        """Whether one of the units runs. Raises NoRemoteShell; CommandFailed for a host without systemd."""
        shown = run(["systemctl", "show", "--property=ActiveState", "--value", *self._units()])
        return "active" in shown.split()

    def open(self) -> None:
        """Let people in, now and after each boot. Raises NoRemoteShell."""
        units = self._units()
        service = [unit for unit in units if unit.endswith(".service")] or units
        self.outside.change(["systemctl", "enable", "--now", *service[:1]])

    def close(self) -> None:
        """Let nobody in any more; who is in stays. Raises NoRemoteShell."""
        self.outside.change(["systemctl", "disable", "--now", *self._units()])

    def set_idle_timeout(self, seconds: int) -> None:
        """End the shells that log in from now on after so many seconds without a key; 0 is never."""
        path = self.root / _PROFILE
        if seconds:
            self.outside.write(
                path, f"# Written by xapi (host.set_console_idle_timeout).\nexport TMOUT={seconds}\n"
            )
        else:
            self.outside.remove(path)
