"""Boot Loader Specification: a small file for each entry in /boot/loader/entries, as Fedora and systemd-boot use."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from kronos.boot.guest_disk.menu import Entry, Menu, joined, lines, version_key

_MOST_RAMDISKS = 16
_LARGEST_FILE = 65536
_ARCHITECTURES = ("", "x64")


def parse(
    untrusted_files: Mapping[str, str],
    variables: Mapping[str, str],
    *,
    untrusted_settings: str = "",
    by_name: bool = False,
) -> Menu:
    """The menu of the files `name.conf` and their text.

    `variables` come from grubenv and grub.cfg; `untrusted_settings` is systemd-boot's loader.conf. `by_name`: in GRUB's
    order, by file name alone. Raises BootUnreadable.
    """
    found = []
    for name, untrusted_text in untrusted_files.items():
        keys = _keys(untrusted_text)
        entry = _entry(name, keys, variables)
        if entry is not None:
            found.append((_order(entry.identity, {} if by_name else keys), entry))
    found.sort(key=lambda pair: pair[0][1], reverse=True)
    found.sort(key=lambda pair: pair[0][0])
    menu = Menu([entry for _, entry in found])
    pattern = _keys(untrusted_settings).get("default", [""])[0].removesuffix(".conf")
    saved = variables.get("saved_entry", "").removesuffix(".conf")
    for entry in menu.entries:
        if saved and saved in (entry.identity, entry.title):
            menu.default = entry
            break
        if pattern and menu.default is None and fnmatch.fnmatch(entry.identity, pattern[:256]):
            menu.default = entry
    return menu


def _keys(untrusted_text: str) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for untrusted_line in lines(untrusted_text[:_LARGEST_FILE]):
        name, _, value = untrusted_line.strip().replace("\t", " ").partition(" ")
        if value and not name.startswith("#"):
            keys.setdefault(name, []).append(value.strip())
    return keys


def _entry(name: str, keys: dict[str, list[str]], variables: Mapping[str, str]) -> Entry | None:
    """None for what is not a Linux kernel of this machine's kind."""
    identity = re.sub(
        r"\+[0-9]+(-[0-9]+)?$", "", name.removesuffix(".conf")
    )  # counted boots are part of the name
    kernel = keys.get("linux", [""])[0].split(" ")[0]
    if not kernel or keys.get("architecture", [""])[0].lower() not in _ARCHITECTURES:
        return None
    ramdisks = _expanded(" ".join(keys.get("initrd", [])), variables).split()
    arguments = joined(_expanded(" ".join(keys.get("options", [])), variables).split())
    return Entry(
        keys.get("title", [identity])[0], identity, kernel, tuple(ramdisks[:_MOST_RAMDISKS]), arguments
    )


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """Variables as GRUB's blscfg takes them; one that is not set is empty, and values are not expanded again."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], "")

    return re.sub(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))", value, text[:16384])


def _order(identity: str, keys: dict[str, list[str]]) -> tuple[Any, Any]:
    """(ascending, descending) parts: entries with a sort-key come first, by it and the machine; newest first."""
    sort_key = keys.get("sort-key", [""])[0]
    if not sort_key:
        return (1, "", ""), (version_key(identity), [])
    machine = keys.get("machine-id", [""])[0]
    return (0, sort_key, machine), (version_key(keys.get("version", [""])[0]), version_key(identity))
