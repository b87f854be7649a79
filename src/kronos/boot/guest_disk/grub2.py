"""GRUB 2's grub.cfg, carried out as far as it chooses and describes Linux kernels; all else does nothing.

Menu entries are carried out after the whole configuration, with the variables that it left, as GRUB does. What GRUB
would write back (the next entry only, the entry to remember) is neither written nor heeded: a disk is only read, and
an entry meant for one boot would boot for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from kronos.boot.guest_disk import bls, grub_script
from kronos.boot.guest_disk.grub_script import Command, Condition, Statement, Word, plain
from kronos.boot.guest_disk.menu import (
    LONGEST_ARGUMENTS,
    LONGEST_PATH,
    MOST_ENTRIES,
    Entry,
    Menu,
    Reading,
    environment,
    joined,
    whole,
)
from kronos.boot.guest_disk.unreadable import BootUnreadable

_MOST_STEPS = 200_000
_MOST_VARIABLES = 1000
_MOST_FILES = 16
_LONGEST_WORD = 8192
_KERNELS = ("linux", "linux16", "linuxefi", "linux_xen")
_RAMDISKS = ("initrd", "initrd16", "initrdefi")
_HYPERVISORS = ("multiboot", "multiboot2", "xen_hypervisor")
_MODULES = ("module", "module2", "xen_module", "xen_linux", "xen_initrd")
_ONCE = ("next_entry", "prev_saved_entry")
_WITH_VALUE = ("--class", "--users", "--hotkey", "--id", "$menuentry_id_option")


class Surroundings(Protocol):
    """What a configuration can learn of the disks that it is on."""

    def read(self, name: str) -> str | None:
        """The text of `(device)/path`; None if it cannot be read."""

    def find(self, kind: str, value: str) -> str | None:
        """The device with that uuid, label or file; None if there is none."""

    def entries(self, device: str) -> dict[str, str]:
        """The Boot Loader Specification's files on the device, by name."""


@dataclass
class _Item:
    """A menu entry or submenu that is not carried out yet."""

    title: str
    identity: str
    block: list[Statement]
    submenu: bool = False


@dataclass
class _Scope:
    """A level of the menu while it is read; entries that blscfg brings are finished ones."""

    items: list[_Item | Entry] = field(default_factory=list)


class _Interpreter:
    def __init__(self, surroundings: Surroundings, device: str, directory: str) -> None:
        self.surroundings = surroundings
        self.variables = {
            "root": device,
            "prefix": f"({device}){directory}",
            "grub_platform": "pc",
            "grub_cpu": "i386",
            "feature_menuentry_id": "y",
            "menuentry_id_option": "--id",
        }
        self.steps = 0
        self.files = 0
        self.items = 0
        self.finished: list[Entry] = []

    def run(self, statements: list[Statement], scope: _Scope) -> bool:
        """Carry them out; the result is the last one's."""
        result = True
        for statement in statements:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise BootUnreadable(f"the boot loader's configuration takes more than {_MOST_STEPS} steps")
            if isinstance(statement, Condition):
                result = self._choose(statement, scope)
            else:
                result = self._command(statement, scope)
        return result

    def _choose(self, condition: Condition, scope: _Scope) -> bool:
        for asked, done in condition.branches:
            if not asked or self.run(asked, scope):
                return self.run(done, scope)
        return True

    def _command(self, command: Command, scope: _Scope) -> bool:
        words = [text for word in command.words for text in self.expand(word)]
        if not words:
            return self.run(command.block, scope) if command.block else True
        negated = words[0] == "!"
        name, *rest = words[1:] if negated and len(words) > 1 else words
        if name in ("menuentry", "submenu"):
            self._item(name, rest, command.block, scope)
            return True
        if name == "function":
            return True
        if name == "blscfg":
            return self._blscfg(scope)
        if name in ("source", "configfile", ".") and rest:
            return self._source(rest[0], scope)
        return self._simple(name, rest) != negated

    def _simple(self, name: str, words: list[str]) -> bool:
        if name == "set" or (name == "export" and "=" in "".join(words[:1])):
            for word in words:
                self._set(*word.partition("=")[::2])
            return True
        if name == "unset":
            for word in words:
                self.variables.pop(word, None)
            return True
        if name == "load_env":
            return self._load_env(words)
        if name == "search":
            return self._search(words)
        if name in ("[", "test"):
            return _Test(words[:-1] if name == "[" and words[-1:] == ["]"] else words, self._text).result()
        return name in ("true", "insmod", "export", "echo", "terminal_output", "terminal_input", "save_env")

    def expand(self, word: Word) -> list[str]:
        """The word with its variables' values; a value outside quotes may become several words, or none."""
        words, quoted = [""], False
        for part in word:
            quoted = quoted or part.quoted
            text = self.variables.get(part.text, "") if part.variable else part.text
            if part.variable and not part.quoted:
                pieces = text.split()
                if text[:1].isspace():
                    words.append("")
                words[-1] += pieces[0] if pieces else ""
                words += pieces[1:]
                if pieces and text[-1:].isspace():
                    words.append("")
            else:
                words[-1] += text
            if len(words[-1]) > _LONGEST_WORD:
                raise BootUnreadable(
                    f"the boot loader's configuration has a word longer than {_LONGEST_WORD}"
                )
        return [text for text in words if text or (quoted and len(words) == 1)]

    def _set(self, name: str, value: str) -> None:
        if len(self.variables) >= _MOST_VARIABLES and name not in self.variables:
            raise BootUnreadable(f"the boot loader's configuration has more than {_MOST_VARIABLES} variables")
        self.variables[name[:64]] = value[:LONGEST_ARGUMENTS]

    def _text(self, name: str) -> str | None:
        """A file of the guest, on the current root unless the name says where. Counted: reading is work."""
        self.files += 1
        if self.files > _MOST_FILES or len(name) > LONGEST_PATH:
            return None
        return self.surroundings.read(
            name if name.startswith("(") else f"({self.variables.get('root', '')}){name}"
        )

    def _load_env(self, words: list[str]) -> bool:
        name = f"{self.variables.get('prefix', '')}/grubenv"
        if words[:1] in (["-f"], ["--file"]) and len(words) > 1:
            name = words[1]
        untrusted_text = self._text(name)
        for key, value in environment(untrusted_text or "").items():
            if key not in _ONCE:
                self._set(key, value)
        return untrusted_text is not None

    def _search(self, words: list[str]) -> bool:
        kind, variable, values = "uuid", "root", list[str]()
        for word in words:
            option, _, value = word.partition("=")
            if option in ("--fs-uuid", "-u"):
                kind = "uuid"
            elif option in ("--label", "-l", "--fs-label"):
                kind = "label"
            elif option in ("--file", "-f"):
                kind = "file"
            elif option == "--set" and value:
                variable = value
            elif not option.startswith("-"):
                values.append(word)
        if len(values) > 1 and "--set" in words:  # `--set root --label X`, the older form
            variable = values.pop(0)
        device = self.surroundings.find(kind, values[-1]) if values else None
        if device is not None:
            self._set(variable, device)
        return device is not None

    def _source(self, name: str, scope: _Scope) -> bool:
        untrusted_text = self._text(name)
        if untrusted_text is None:
            return False
        return self.run(grub_script.parse(untrusted_text), scope)

    def _item(self, command: str, words: list[str], block: list[Statement], scope: _Scope) -> None:
        self.items += 1
        if self.items > MOST_ENTRIES:
            raise BootUnreadable(f"the boot loader's configuration has more than {MOST_ENTRIES} entries")
        title, identity = "", ""
        words = list(words)
        while words:
            word = words.pop(0)
            if word in _WITH_VALUE:
                value = words.pop(0) if words else ""
                identity = value if word == "--id" else identity
            elif word.startswith("--id="):
                identity = word.removeprefix("--id=")
            elif not word.startswith("--") and not title:
                title = word
        scope.items.append(_Item(title[:LONGEST_PATH], identity[:LONGEST_PATH], block, command == "submenu"))

    def _blscfg(self, scope: _Scope) -> bool:
        device = self.variables.get("root", "")
        found = bls.parse(self.surroundings.entries(device), self.variables, by_name=True).entries
        scope.items += [
            Entry(entry.title, entry.identity, entry.kernel, entry.ramdisks, entry.arguments, device)
            for entry in found
        ]
        return bool(found)

    def menu(self, scope: _Scope) -> Menu:
        """Carry out all entries, depth first, and find the default one."""
        wanted = self.variables.get("default", "")
        default = self._level(scope, wanted, 0)
        return Menu(self.finished, default)

    def _level(self, scope: _Scope, wanted: str, depth: int) -> Entry | None:
        """Finish a level's entries; the one that `wanted` (`2`, `title`, `id`, `1>id`) names is returned."""
        if depth > 8:
            raise BootUnreadable("the boot loader's menus are nested more than 8 deep")
        part, _, below = wanted.partition(">")
        position, default = self._position(scope, part, wanted), None
        for number, item in enumerate(scope.items):
            if isinstance(item, Entry):
                self.finished.append(item)
                found: Entry | None = item
            elif item.submenu:
                variables, inner = dict(self.variables), _Scope()
                self.run(item.block, inner)
                found = self._level(inner, below.strip() if number == position else "", depth + 1)
                self.variables = variables
            else:
                found = self._finish(item)
            if number == position:
                default = found
        return default

    def _position(self, scope: _Scope, part: str, wanted: str) -> int:
        """A title may itself hold a `>`. What names nothing is the first entry, as in GRUB."""
        for number, item in enumerate(scope.items):
            names = (item.title, item.identity)
            if (wanted and wanted in names) or (part and part.strip() in names):
                return number
        return whole(part.strip()) or 0

    def _finish(self, item: _Item) -> Entry | None:
        variables = dict(self.variables)
        boot = _Boot(self)
        boot.run(item.block)
        device = self.variables.get("root", "")
        self.variables = variables
        if not boot.kernel:
            return None
        entry = Entry(
            item.title,
            item.identity,
            boot.kernel[0],
            tuple(boot.ramdisks[:16]),
            joined(boot.kernel[1:]),
            device,
        )
        self.finished.append(entry)
        return entry


class _Boot:
    """The kernel and the ramdisks that an entry's block loads."""

    def __init__(self, interpreter: _Interpreter) -> None:
        self.interpreter = interpreter
        self.kernel: list[str] = []
        self.ramdisks: list[str] = []
        self.modules: list[list[str]] = []

    def run(self, block: list[Statement]) -> None:
        scope = _Scope()
        self._walk(block, scope)
        if self.modules:  # of a hypervisor: its first module is the kernel, the second the ramdisk
            self.kernel = self.modules[0]
            self.ramdisks = [words[0] for words in self.modules[1:2]]

    def _walk(self, block: list[Statement], scope: _Scope) -> None:
        for statement in block:
            if isinstance(statement, Condition):
                for asked, done in statement.branches:
                    if not asked or self.interpreter.run(asked, scope):
                        self._walk(done, scope)
                        break
            else:
                name = plain(statement.words[0]) if statement.words else ""
                if name in (*_KERNELS, *_RAMDISKS, *_HYPERVISORS, *_MODULES):
                    self._load(name, statement.words[1:])
                else:
                    self.interpreter.run([statement], scope)

    def _load(self, name: str, untrusted_words: list[Word]) -> None:
        words = [text for word in untrusted_words for text in self.interpreter.expand(word)]
        if name in _RAMDISKS:
            self.ramdisks = [word for word in words if not word.startswith("newc:")]
        elif name in _MODULES:
            while words and words[0].startswith("--"):
                words.pop(0)
            if words[1:2] == ["placeholder"]:  # what grub-mkconfig writes for a module's own name
                del words[1]
            if words:
                self.modules.append(words)
        elif name in _KERNELS and words:
            self.kernel = words


class _Test:
    """`[ … ]`: strings, numbers and files, with `!`, `-a`, `-o`; parentheses are not used by any grub-mkconfig."""

    def __init__(self, words: list[str], text: Reading) -> None:
        self.words = words[:256]
        self.text = text

    def result(self) -> bool:
        alternatives, current = [True], True
        words, first = list(self.words), True
        if not words:
            return False
        while words:
            if not first:
                joint = words.pop(0)
                if joint == "-o":
                    alternatives.append(True)
            first = False
            current = self._one(words)
            alternatives[-1] = alternatives[-1] and current
        return any(alternatives)

    def _one(self, words: list[str]) -> bool:
        negated = False
        while words[:1] == ["!"]:
            words.pop(0)
            negated = not negated
        if len(words) >= 3 and words[1] in _COMPARISONS:
            left, operator, right = words.pop(0), words.pop(0), words.pop(0)
            return _compare(left, operator, right) != negated
        if len(words) >= 2 and words[0] in ("-z", "-n", "-s", "-f", "-e", "-d"):
            operator, value = words.pop(0), words.pop(0)
            if operator in ("-z", "-n"):
                return ((value == "") == (operator == "-z")) != negated
            return bool(self.text(value)) != negated
        return bool(words.pop(0) if words else "") != negated


_COMPARISONS = ("=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge")


def _compare(left: str, operator: str, right: str) -> bool:
    if operator in ("=", "=="):
        return left == right
    if operator == "!=":
        return left != right
    first, second = whole(left) or 0, whole(right) or 0
    order = {"-eq": first == second, "-ne": first != second, "-lt": first < second}
    return {**order, "-le": first <= second, "-gt": first > second, "-ge": first >= second}[operator]


def parse(untrusted_text: str, surroundings: Surroundings, device: str, directory: str) -> Menu:
    """The menu of the configuration at `(device)directory/grub.cfg`. Raises BootUnreadable."""
    interpreter = _Interpreter(surroundings, device, directory)
    scope = _Scope()
    interpreter.run(grub_script.parse(untrusted_text), scope)
    return interpreter.menu(scope)
