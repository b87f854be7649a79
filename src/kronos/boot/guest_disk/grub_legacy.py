"""GRUB 0.97's menu.lst and grub.conf, as pv-grub, pygrub and the PV guests of the time read them."""

from __future__ import annotations

from kronos.boot.guest_disk.menu import LONGEST_PATH, MOST_ENTRIES, Entry, Menu, Reading, joined, lines, whole

_KERNEL_OPTIONS = ("--type=", "--no-mem-option")


class _Draft:
    """A title and what follows it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.device = ""
        self.kernel: list[str] = []
        self.modules: list[list[str]] = []
        self.ramdisk = ""

    def take(self, command: str, value: str) -> None:
        words = value.split()
        if command in ("root", "rootnoverify") and words:
            self.device = words[0].strip("()")
        elif command == "kernel":
            self.kernel = [word for word in words if not word.startswith(_KERNEL_OPTIONS)]
        elif command in ("module", "modulenounzip") and words:
            self.modules.append(words)
        elif command == "initrd" and words:
            self.ramdisk = words[0]

    def entry(self) -> Entry | None:
        """None if it boots no kernel. A hypervisor's modules are the kernel and its ramdisk."""
        kernel, ramdisk = self.kernel, self.ramdisk
        if self.modules:
            kernel = self.modules[0]
            ramdisk = self.modules[1][0] if len(self.modules) > 1 else ""
        if not kernel:
            return None
        ramdisks = (ramdisk,) if ramdisk else ()
        return Entry(self.title, "", kernel[0], ramdisks, joined(kernel[1:]), self.device)


def parse(untrusted_text: str, read: Reading, directory: str) -> Menu:
    """The menu; `directory` is where the file is. Raises BootUnreadable."""
    default, drafts = "0", list[_Draft]()
    for untrusted_line in lines(untrusted_text):
        command, value = _command(untrusted_line)
        if command == "title":
            if len(drafts) == MOST_ENTRIES:
                break
            drafts.append(_Draft(value[:LONGEST_PATH]))
        elif drafts:
            drafts[-1].take(command, value)
        elif command == "default":
            default = value
    number = _saved(read(f"{directory}/default")) if default == "saved" else whole(default)
    menu = Menu()
    for position, draft in enumerate(drafts):
        entry = draft.entry()
        if entry is not None:
            menu.entries.append(entry)
            if position == (number or 0):
                menu.default = entry
    return menu


def _command(line: str) -> tuple[str, str]:
    """`default=0`, `default 0` and `default = 0` are one; an `=` further on belongs to the arguments."""
    line = line.strip()
    end = next((at for at, character in enumerate(line) if character in " \t="), len(line))
    return line[:end].lower(), line[end:].strip(" \t").removeprefix("=").strip(" \t")


def _saved(untrusted_text: str | None) -> int | None:
    lines = (untrusted_text or "").split("\n", 1)
    return whole(lines[0].strip("\0 \t\r"))
