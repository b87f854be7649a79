"""Power: the machine is switched off or rebooted, and the daemon restarted or stopped, by the service manager.

Only the daemon that is the system's service has such hands: one that was started from a checkout shares its machine
with whoever works on it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol

from kronos.system.commands import run

log = logging.getLogger(__name__)

SERVICE = "xapi.service"
_CGROUP = Path("/proc/self/cgroup")


class NotTheService(Exception):
    """This daemon is not the system's service, and does nothing to the machine that it runs on."""

    def __init__(self) -> None:
        super().__init__(f"This daemon does not run as {SERVICE}: it leaves its machine and itself running")


class Power(Protocol):
    """What can be done to the machine and to the daemon. Each begins it and returns; guests are put away by
    xapi-domains.service before the machine goes down, and run on when the daemon does.

    Raises NotTheService, CommandFailed.
    """

    def power_off(self) -> None: ...
    def reboot(self) -> None: ...
    def restart_daemon(self) -> None: ...
    def stop_daemon(self) -> None: ...


class NoPower:
    """For daemons from a checkout, demonstrations and tests."""

    def power_off(self) -> None:
        raise NotTheService

    def reboot(self) -> None:
        raise NotTheService

    def restart_daemon(self) -> None:
        raise NotTheService

    def stop_daemon(self) -> None:
        raise NotTheService


class SystemdPower:
    """systemd's: it stops what has to be stopped, in its order. Nothing waits here, as this daemon is among it."""

    def power_off(self) -> None:
        _systemctl("poweroff")

    def reboot(self) -> None:
        _systemctl("reboot")

    def restart_daemon(self) -> None:
        _systemctl("restart", SERVICE)

    def stop_daemon(self) -> None:
        # With its socket, or the next client would start it again.
        _systemctl("stop", SERVICE, "xapi.socket")


def _systemctl(verb: str, *units: str) -> None:
    log.warning("systemctl %s", " ".join((verb, *units)))
    run(["systemctl", "--no-block", "--no-wall", verb, *units])


def of_this_process() -> Power:
    """The hands that this process may use."""
    return SystemdPower() if is_the_service() else NoPower()


def is_the_service(cgroup: Path = _CGROUP) -> bool:
    """Whether systemd runs this process as xapi.service. Inherited variables alone prove nothing: a runner of tests or
    a terminal may be a service too."""
    if "INVOCATION_ID" not in os.environ:
        return False
    try:
        groups = cgroup.read_text().split()
    except OSError:
        return False
    return any(group.endswith(f"/system.slice/{SERVICE}") for group in groups)
