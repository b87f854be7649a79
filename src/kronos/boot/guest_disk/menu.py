"""What a boot loader's configuration offers, whichever boot loader wrote it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kronos.boot.guest_disk.unreadable import BootUnreadable, shown

MOST_ENTRIES = 512
_MOST_LINES = 20_000
LONGEST_PATH = 1024
LONGEST_ARGUMENTS = 4000  # a kernel of x86 takes 2047; what is longer is no mistake of ours to hide

# Reads a file of the guest by its boot loader's name for it, `(device)/path` or `/path`; None if it cannot be read.
Reading = Callable[[str], str | None]


@dataclass(frozen=True)
class Entry:
    """One line of the menu: paths are as the boot loader would take them, and not yet looked up."""

    title: str
    identity: str
    kernel: str
    ramdisks: tuple[str, ...] = ()
    arguments: str = ""
    device: str = ""  # where the paths are, if the configuration says so: the boot loader's own name


@dataclass
class Menu:
    """The entries in their order, and which one boots if nobody chooses."""

    entries: list[Entry] = field(default_factory=list)
    default: Entry | None = None

    def chosen(self, wanted: str) -> Entry | None:
        """The entry by number, identity or title; the default if nothing is asked for. None if it is not there."""
        if not wanted:
            return self.default or (self.entries[0] if self.entries else None)
        for entry in self.entries:
            if wanted in (entry.identity, entry.title):
                return entry
        number = whole(wanted)
        return self.entries[number] if number is not None and number < len(self.entries) else None


def lines(untrusted_text: str) -> Iterator[str]:
    """The lines of a configuration, one at a time. Raises BootUnreadable if they are too many."""
    at = 0
    for _ in range(_MOST_LINES):
        if at >= len(untrusted_text):
            return
        newline = untrusted_text.find("\n", at)
        newline = len(untrusted_text) if newline < 0 else newline
        yield untrusted_text[at:newline]
        at = newline + 1
    raise BootUnreadable(f"the boot loader's configuration has more than {_MOST_LINES} lines")


def whole(untrusted_text: str) -> int | None:
    """A number of at most six digits, or None."""
    return int(untrusted_text) if re.fullmatch(r"[0-9]{1,6}", untrusted_text) else None


def located(untrusted_path: str) -> tuple[str, str]:
    """(device or nothing, absolute path) of `(device)/a/../b`; nothing climbs above the root. Raises BootUnreadable."""
    device, path = "", untrusted_path
    if path.startswith("(") and ")" in path:
        device, _, path = path[1:].partition(")")
    if not path or len(untrusted_path) > LONGEST_PATH or not path.isprintable():
        raise BootUnreadable(f"the boot loader names no usable file: {shown(untrusted_path)}")
    return device, "/" + posixpath.normpath("/" + path).lstrip("/")


def joined(words: list[str]) -> str:
    """Kernel arguments on one line. Raises BootUnreadable if they are too long or hold a control character."""
    text = " ".join(words).strip()
    if len(text.encode("utf-8", "replace")) > LONGEST_ARGUMENTS:
        raise BootUnreadable(f"the kernel's arguments are longer than {LONGEST_ARGUMENTS} bytes")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise BootUnreadable("the kernel's arguments hold a control character")
    return text


def environment(untrusted_text: str) -> dict[str, str]:
    """GRUB's environment block (`grubenv`) as names and values."""
    found: dict[str, str] = {}
    for line in untrusted_text[:65536].split("\n"):
        name, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) and len(found) < 256:
            found[name] = re.sub(r"\\(.)", r"\1", value)[:LONGEST_ARGUMENTS]
    return found


def version_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts 5.10 after 5.9, and a release candidate (`~`) before its release, as package managers do."""
    key = []
    for part in re.findall(r"[0-9]+|[A-Za-z]+|~", name[:LONGEST_PATH]):
        if part[0].isdigit():
            digits = part.lstrip("0")
            key.append((2, len(digits), digits))
        else:
            key.append((-1, 0, "") if part == "~" else (1, 0, part))
    return [*key, (0, 0, "")]
