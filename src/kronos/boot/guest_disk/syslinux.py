"""SYSLINUX, EXTLINUX and ISOLINUX: one syntax, whose paths are relative to the configuration's directory."""

from __future__ import annotations

from kronos.boot.guest_disk.menu import LONGEST_PATH, MOST_ENTRIES, Entry, Menu, Reading, joined, lines

_MOST_FILES = 16
_MODULES = (".c32", ".com", ".cbt", ".bin", ".bss", ".img", ".0")


class _Draft:
    def __init__(self, label: str) -> None:
        self.label = label
        self.title = label
        self.kernel = ""
        self.append: list[str] | None = None
        self.ramdisks: list[str] = []


class _Parser:
    def __init__(self, read: Reading, directory: str) -> None:
        self.read = read
        self.directory = directory
        self.drafts: list[_Draft] = []
        self.default = ""
        self.marked = ""  # by `menu default`, which is stronger
        self.append: list[str] = []
        self.files = 0

    def parse(self, untrusted_text: str) -> None:
        self.files += 1
        for untrusted_line in lines(untrusted_text):
            words = untrusted_line.split(None, 1)
            if words and not words[0].startswith("#"):
                self._take(words[0].lower(), words[1].strip() if len(words) > 1 else "")

    def _take(self, command: str, value: str) -> None:
        words = value.split()
        draft = self.drafts[-1] if self.drafts else None
        if command == "label" and len(self.drafts) < MOST_ENTRIES:
            self.drafts.append(_Draft(value[:LONGEST_PATH]))
        elif words and (command == "default" or (command == "ontimeout" and not self.default)):
            self.default = words[0]
        elif command == "menu" and words and draft is not None:
            if words[0].lower() == "default":
                self.marked = draft.label
            elif words[0].lower() == "label":
                draft.title = value[5:].strip().replace("^", "")[:LONGEST_PATH]
        if command == "include" or (command == "menu" and words and words[0].lower() == "include"):
            self._include(words[1:] if command == "menu" else words)
        elif command == "append" and draft is None:
            self.append = words
        elif draft is not None:
            self._take_part(draft, command, words)

    def _take_part(self, draft: _Draft, command: str, words: list[str]) -> None:
        if command in ("kernel", "linux") and words:
            draft.kernel = words[0]
        elif command == "append":
            draft.append = [] if words == ["-"] else words
        elif command == "initrd" and words:
            draft.ramdisks = words[0].split(",")

    def _include(self, words: list[str]) -> None:
        if words and self.files < _MOST_FILES:
            untrusted_text = self.read(self._path(words[0]))
            if untrusted_text is not None:
                self.parse(untrusted_text)

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.directory}/{name}"

    def menu(self) -> Menu:
        menu = Menu()
        for draft in self.drafts:
            if not draft.kernel or draft.kernel.lower().endswith(_MODULES):
                continue
            append = self.append if draft.append is None else draft.append
            ramdisks = draft.ramdisks
            for word in append:
                if word.startswith("initrd="):
                    ramdisks = word.removeprefix("initrd=").split(",")
            arguments = joined([word for word in append if not word.startswith("initrd=")])
            paths = tuple(self._path(name) for name in ramdisks[:16] if name)
            entry = Entry(draft.title, draft.label, self._path(draft.kernel), paths, arguments)
            menu.entries.append(entry)
            if draft.label == (self.marked or self.default):
                menu.default = entry
        return menu


def parse(untrusted_text: str, read: Reading, directory: str) -> Menu:
    """The menu; `directory` is where the file is. Raises BootUnreadable."""
    parser = _Parser(read, directory)
    parser.parse(untrusted_text)
    return parser.menu()
