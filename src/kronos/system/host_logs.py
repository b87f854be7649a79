"""Host logs: what the kernel, the hypervisor and this daemon have said, and where the host's log is sent to."""

from __future__ import annotations

import re
from pathlib import Path

from kronos.system.commands import CommandFailed, run
from kronos.system.outside import Outside

MOST = 4 << 20
"""Bytes of a log that one answer holds; the newest are given."""
_FORWARDING = Path("etc/rsyslog.d/xapi-remote.conf")
_RSYSLOG = ("usr/lib/systemd/system/rsyslog.service", "lib/systemd/system/rsyslog.service")
_DESTINATION = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:(?P<port>[0-9]{1,5}))?"
)


class NoLogService(Exception):
    """The host has nothing that could send its log to another one."""


class WrongDestination(ValueError):
    """Not a name or an address, with or without a port."""


class HostLogs:
    """The hands for the logs of the host whose files are below `root`."""

    def __init__(self, outside: Outside, root: Path = Path("/")) -> None:
        self.outside = outside
        self.root = root

    def own(self, lines: int = 10_000) -> str:
        """What the daemon's own log says, the newest lines. Raises CommandFailed without journald."""
        argv = ["journalctl", "--unit=xapi.service", "--no-pager", "--output=short-iso", f"--lines={lines}"]
        return newest(run(argv))

    def kernel(self) -> str:
        """The kernel's messages since the boot. Raises CommandFailed."""
        # The service may not read the kernel's own buffer; journald has what was in it.
        try:
            return newest(run(self.outside.command(["dmesg"])))
        except CommandFailed:
            return newest(run(["journalctl", "--dmesg", "--no-pager", "--output=short-monotonic"]))

    def clear_kernel(self) -> str:
        """The kernel's messages, which are forgotten with this. Raises NotTheService, CommandFailed."""
        return newest(self.outside.change(["dmesg", "--read-clear"]))

    def forward(self, untrusted_destination: str) -> None:
        """Send the host's whole log to another host by syslog's protocol (UDP, port 514 unless one is named), or, for
        "", to nobody.

        Raises WrongDestination, NoLogService, NotTheService, CommandFailed.
        """
        path = self.root / _FORWARDING
        if not untrusted_destination:
            if path.exists():
                self.outside.remove(path)
                self._restart()
            return
        target = forwarding(untrusted_destination)
        if not any((self.root / unit).exists() for unit in _RSYSLOG):
            raise NoLogService("This host has nothing that forwards its log: install rsyslog")
        before = path.read_text() if path.exists() else ""
        self.outside.write(path, target)
        try:
            self._restart()
        except BaseException:
            if before:
                self.outside.write(path, before)
            else:
                self.outside.remove(path)
            raise

    def _restart(self) -> None:
        self.outside.change(["systemctl", "restart", "rsyslog.service"])


def forwarding(untrusted_destination: str) -> str:
    """rsyslog's configuration for a destination. Raises WrongDestination."""
    found = _DESTINATION.fullmatch(untrusted_destination)
    if found is None or not 0 < int(found["port"] or 514) < 65536:
        raise WrongDestination(untrusted_destination)
    target = found["name"].strip("[]")
    return (
        "# Written by xapi (host.syslog_reconfigure).\n"
        f'*.* action(type="omfwd" target="{target}" port="{found["port"] or 514}" protocol="udp")\n'
    )


def newest(text: str) -> str:
    """The end of a text that is too long for one answer, from the beginning of a line."""
    if len(text) <= MOST:
        return text
    return text[-MOST:].partition("\n")[2]
