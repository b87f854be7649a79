"""Timekeeping: the host's time zone, its clock, and the service that sets it from others."""

from __future__ import annotations

from pathlib import Path

from kronos.system.commands import run
from kronos.system.outside import Outside

_ZONES = "/zoneinfo/"
_NO_ZONES = {"Factory", "localtime", "posixrules"}
_CHRONY_FILES = (Path("etc/chrony/chrony.conf"), Path("etc/chrony.conf"))
_TIMESYNCD_FILE = Path("etc/systemd/timesyncd.conf.d/xapi.conf")
_CHRONY_UNITS = ("chrony.service", "chronyd.service")
_UNITS = Path("lib/systemd/system")


class NoTimeService(Exception):
    """The host has neither chrony nor systemd-timesyncd."""


class Timekeeping:
    """The hands for the clock of the host whose files are below `root`.

    What changes something raises NotTheService, CommandFailed, NoTimeService.
    """

    def __init__(self, outside: Outside, root: Path = Path("/")) -> None:
        self.outside = outside
        self.root = root

    def timezone(self) -> str:
        """The host's time zone, UTC where none is set."""
        try:
            target = str((self.root / "etc/localtime").readlink())
        except OSError:
            return "UTC"
        zone = target.partition(_ZONES)[2]
        return "UTC" if zone in ("", "Etc/UTC") else zone

    def timezones(self) -> tuple[str, ...]:
        """Every time zone that the host knows."""
        import zoneinfo  # for who asks

        return tuple(sorted(zoneinfo.available_timezones() - _NO_ZONES))

    def set_timezone(self, zone: str) -> None:
        self.outside.change(["timedatectl", "set-timezone", zone])

    def set_clock(self, moment: str) -> None:
        """Set the clock, to `moment` as "YYYY-MM-DD HH:MM:SS" UTC."""
        self.outside.change(["timedatectl", "set-time", f"{moment} UTC"])

    def synchronised(self) -> bool:
        """Whether the clock follows another one now. Raises CommandFailed."""
        return run(["timedatectl", "show", "--property=NTPSynchronized", "--value"]).strip() == "yes"

    # --- the service ------------------------------------------------------------------------------------------

    def chrony_file(self) -> Path | None:
        """chrony's configuration, where the host has it."""
        return next((self.root / path for path in _CHRONY_FILES if (self.root / path).is_file()), None)

    @property
    def timesyncd_file(self) -> Path:
        return self.root / _TIMESYNCD_FILE

    def _has_unit(self, name: str) -> bool:
        return any((self.root / base / _UNITS / name).exists() for base in ("", "usr"))

    def service(self) -> str:
        """The unit of the time service. Raises NoTimeService."""
        if self.chrony_file() is not None:
            return next((unit for unit in _CHRONY_UNITS if self._has_unit(unit)), _CHRONY_UNITS[0])
        if self._has_unit("systemd-timesyncd.service"):
            return "systemd-timesyncd.service"
        raise NoTimeService("This host has no time service: install chrony or systemd-timesyncd")

    def configure(self, chrony: str | None, timesyncd: str) -> None:
        """Write the service's configuration: `chrony`'s whole file where it has chrony, else timesyncd's drop-in."""
        file = self.chrony_file()
        if file is not None and chrony is not None:
            self.outside.write(file, chrony)
        elif timesyncd:
            self.outside.write(self.timesyncd_file, timesyncd)
        else:
            self.outside.remove(self.timesyncd_file)

    def follow(self, on: bool) -> None:
        """Start the service anew, now and at each boot, or stop it."""
        unit = self.service()
        if on:
            self.outside.change(["systemctl", "enable", unit])
            self.outside.change(["systemctl", "restart", unit])
        else:
            self.outside.change(["systemctl", "disable", "--now", unit])

    def running(self) -> bool:
        """Whether the service runs. Raises CommandFailed for a host without systemd."""
        shown = run(["systemctl", "show", "--property=ActiveState", "--value", self.service()])
        return shown.strip() == "active"

    def sources(self) -> tuple[str, bool]:
        """What the service says of its servers, and whether that is chrony's list. Raises CommandFailed."""
        if self.chrony_file() is not None:
            return run(["chronyc", "-c", "sources"]), True
        return run(["timedatectl", "show-timesync", "--all"]), False
