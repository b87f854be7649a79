"""The QEMU that Xen uses for disks in files and for HVM guests: where it is, and which."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from kronos.system import commands
from kronos.system.commands import CommandFailed

PLACES = (
    "usr/libexec/xen-qemu-system-i386",
    "usr/lib/xen/bin/qemu-system-i386",
    "usr/lib/xen-*/bin/qemu-system-i386",
    "usr/libexec/xen/bin/qemu-system-i386",
    "usr/bin/qemu-system-i386",
    "usr/local/lib/xen/bin/qemu-system-i386",
)
"""Debian's, the tools' own, and Fedora's, which has one QEMU for all."""

LIMIT = 5.0
"""Seconds that it may take to tell its version."""


def path(root: Path = Path("/")) -> Path | None:
    """The file of the first that is there."""
    return next((found for place in PLACES for found in sorted(root.glob(place))), None)


def version(root: Path = Path("/"), run: Callable[..., str] = commands.run) -> str:
    """Its version, such as 7.2.19; empty where it is not there or does not tell."""
    emulator = path(root)
    if emulator is None:
        return ""
    try:
        said = run([str(emulator), "--version"], timeout=LIMIT)
    except CommandFailed:
        return ""
    found = re.search(r"version (\d+(?:\.\d+)*)", said)
    return found.group(1) if found else ""
