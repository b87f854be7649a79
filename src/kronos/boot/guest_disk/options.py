"""VM.PV_bootloader_args: the options that pygrub took, of which those that mean something here are kept."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from kronos.boot.guest_disk import menu
from kronos.boot.guest_disk.unreadable import BootUnreadable, shown

_WITH_VALUE = {
    "--kernel": "kernel",
    "--ramdisk": "ramdisk",
    "--args": "args",
    "--entry": "entry",
    "--offset": "offset",
}
# pygrub's other options take a value too; without this list `--output-directory /x` would leave `/x` behind.
_IGNORED_WITH_VALUE = {
    "--output",
    "--output-format",
    "--output-directory",
    "--runas",
    "--format",
    "--default_args",
}
_LONGEST = 16384


@dataclass(frozen=True)
class Options:
    """What the VM's record asks for; empty where it says nothing."""

    kernel: str = ""
    ramdisk: str = ""
    args: str = ""
    entry: str = ""
    offset: int | None = None


def parse(text: str) -> Options:
    """`--kernel=PATH`, `--kernel PATH` and so on; the last of each counts. Raises BootUnreadable."""
    if len(text) > _LONGEST:
        raise BootUnreadable(f"PV_bootloader_args are longer than {_LONGEST} characters")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BootUnreadable(f"PV_bootloader_args cannot be understood: {error}") from error
    found: dict[str, str] = {}
    while words:
        option, equals, value = words.pop(0).partition("=")
        if option not in _WITH_VALUE and option not in _IGNORED_WITH_VALUE:
            continue
        if not equals:
            if not words:
                raise BootUnreadable(f"PV_bootloader_args: {option} has no value")
            value = words.pop(0)
        found[_WITH_VALUE.get(option, option)] = value
    return Options(
        kernel=_path(found.get("kernel", "")),
        ramdisk=_path(found.get("ramdisk", "")),
        args=menu.joined([found.get("args", "")]),
        entry=found.get("entry", ""),
        offset=_offset(found.get("offset", "")),
    )


def _path(text: str) -> str:
    return menu.located(text)[1] if text else ""


def _offset(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BootUnreadable(f"PV_bootloader_args: --offset is no number of bytes: {shown(text)}")
    return int(text)
