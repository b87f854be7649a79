"""Settings: where things are and which doors are open, from one TOML file and the command line."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


class SettingsWrong(Exception):
    """A configuration file that cannot be used; the text says why and where."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default, which suits a system-wide installation.

    A second daemon on a host needs `state`, `socket`, `storage`, `run`, `internal_bridge` and ports of its own. A port
    of 0 closes that door.
    """

    state: Path = Path("/var/lib/xcp")
    socket: Path = Path("/var/lib/xcp/xapi")
    storage: Path = Path("/var/opt/xapi/local")
    run: Path = Path("/run/xapi")
    listen: str = "0.0.0.0"  # noqa: S104  # a host is managed over its network
    address: str = ""  # what clients are told; found from the network where it is empty
    http_port: int = 80
    https_port: int = 443
    libvirt: str = ""  # a libvirt URI; found by itself where it is empty
    private_libvirt: bool = (
        False  # start a libvirtd of our own under `state`, for development and demonstration
    )
    pam_service: str = "xapi"
    any_pam_user: bool = False  # the old behaviour: every local user is a local superuser
    internal_bridge: str = "xenapi"
    default_storage: bool = True
    system_vm_mode: str = "pv"  # how system VMs boot on Xen: pv, or hvm
    log_level: str = "info"

    @property
    def database(self) -> Path:
        return self.state / "state.db"


_CHOICES = {"system_vm_mode": ("pv", "hvm")}


def read(path: Path | None, overrides: dict[str, Any]) -> Settings:
    """The settings of a file (none: the defaults), with the command line's on top.

    Raises SettingsWrong.
    """
    given: dict[str, Any] = {}
    if path is not None:
        try:
            given = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SettingsWrong(f"{path}: {error}") from error
    return replace(Settings(), **(_checked(given, str(path)) | _checked(overrides, "command line")))


def _checked(given: dict[str, Any], where: str) -> dict[str, Any]:
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in fields(Settings)}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        key = name.replace("-", "_")
        if key not in kinds:
            raise SettingsWrong(f"{where}: there is no setting {name}")
        wanted = kinds[key]
        if issubclass(wanted, Path) and isinstance(value, str | Path):
            checked[key] = Path(value)
        elif isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
            checked[key] = value
        else:
            raise SettingsWrong(f"{where}: {name} is to be {wanted.__name__}")
        if key in _CHOICES and checked[key] not in _CHOICES[key]:
            raise SettingsWrong(f"{where}: {name} is to be {' or '.join(_CHOICES[key])}")
    return checked
