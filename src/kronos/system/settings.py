"""Settings: where things are and which doors are open, from TOML files and the command line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

CONFIGURATION: Final = Path("/etc/xapi.toml")
"""A host's settings; the files of /etc/xapi.toml.d come on top of it."""


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
    session_revalidation: int = 1800  # seconds after which a directory's user is looked at again
    internal_bridge: str = "xenapi"
    default_storage: bool = True
    local_disks: tuple[str, ...] = ()  # whole disks that the first start makes the default SR of
    management_interface: str = (
        "none"  # the NIC that xapi-network puts into a bridge; auto: the default route's
    )
    system_vm_mode: str = "pv"  # how system VMs boot on Xen: pv, or hvm
    rate_limit: bool = False  # count who calls how much, and hold to their limits those that have one
    message_script: str = ""  # an executable that gets every new message as an XML document
    log_level: str = "info"
    # What clients are told that this host is; the true name is always among what they are told.
    product_brand: str = "XCP-ng"
    product_version: str = "8.3.0"
    platform_name: str = "XCP"
    platform_version: str = "3.4.0"

    @property
    def database(self) -> Path:
        return self.state / "state.db"


_NUMBERS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]{0,63}")
_FORMS = {
    "product_brand": _NAME,
    "platform_name": _NAME,
    "product_version": _NUMBERS,
    "platform_version": _NUMBERS,
}
_SHAPES = {_NUMBERS: "two to four numbers with dots between", _NAME: "a name"}
_CHOICES = {"system_vm_mode": ("pv", "hvm")}
_LEAST = {"session_revalidation": 1}


def read(path: Path | None, overrides: dict[str, Any], *, may_be_missing: bool = False) -> Settings:
    """The settings of a file and of `<file>.d/*.toml`, in order of names, with the command line's on top.

    Without a path: the defaults. Later files win, setting by setting. `may_be_missing` is for the file alone.

    Raises SettingsWrong, which names the file that is wrong.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        drop_ins = sorted(path.with_name(f"{path.name}.d").glob("*.toml"))
        first = [] if may_be_missing and not path.exists() else [path]
        for each in (*first, *drop_ins):
            try:
                given = tomllib.loads(each.read_text())
            except (OSError, ValueError) as error:
                raise SettingsWrong(f"{each}: {error}") from error
            settings |= _checked(given, str(each))
    return replace(Settings(), **(settings | _checked(overrides, "command line")))


def is_list(name: str) -> bool:
    """Whether a setting is a list; the command line separates its values by commas."""
    return isinstance(getattr(Settings(), name.replace("-", "_"), None), tuple)


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
        elif wanted is tuple:
            checked[key] = _devices(value, f"{where}: {name}")
        elif isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
            checked[key] = value
        else:
            raise SettingsWrong(f"{where}: {name} is to be {wanted.__name__}")
        form = _FORMS.get(key)
        if form is not None and not form.fullmatch(checked[key]):
            raise SettingsWrong(f"{where}: {name} is to be {_SHAPES[form]}, not {value!r}")
        if key in _CHOICES and checked[key] not in _CHOICES[key]:
            raise SettingsWrong(f"{where}: {name} is to be {' or '.join(_CHOICES[key])}")
        if key in _LEAST and checked[key] < _LEAST[key]:
            raise SettingsWrong(f"{where}: {name} is to be {_LEAST[key]} or more")
    return checked


def _devices(untrusted: object, what: str) -> tuple[str, ...]:
    """A list of device paths. A comma separates them in device_config, so none may have one."""
    if not isinstance(untrusted, list | tuple):
        raise SettingsWrong(f"{what} is to be a list of devices")
    for each in untrusted:
        plain = isinstance(each, str) and each.startswith("/dev/") and each.isprintable()
        if not plain or "," in each or ".." in each.split("/"):
            raise SettingsWrong(f"{what}: {each!r} is not the path of a device")
    return tuple(untrusted)
