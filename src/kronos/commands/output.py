"""What a command prints: records in blocks, lists, messages; or, with --minimal, values alone on one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kronos.commands.protocol import Terminal

Table = Sequence[tuple[str, str]]

_MARGIN = 4


def layout(table: Table) -> str:
    """A record as lines: the first name at the left edge, the others flush right before their colons."""
    width = _MARGIN + max((len(name) for name, _ in table), default=0)
    lines = [
        f"{name.rjust(width) if number else name.ljust(width)}: {value}"
        for number, (name, value) in enumerate(table)
    ]
    return "\n".join(lines) + "\n"


def escape(value: str) -> str:
    """A value as --minimal shows it, so that the commas between values stay clear."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


class Printer:
    """Collects or prints what the command has to say; `finish` writes what --minimal has collected."""

    def __init__(self, terminal: Terminal, minimal: bool) -> None:
        self._terminal = terminal
        self._minimal = minimal
        self._collected: list[str] = []

    def records(self, tables: Iterable[Table]) -> None:
        """Records, a block each; with --minimal the first value of each, if every record has one."""
        if not self._minimal:
            self._terminal.print_all(layout(table) + "\n" for table in tables)
            return
        whole = list(tables)
        if whole and all(whole):
            self._collected.append(",".join(escape(table[0][1]) for table in whole))

    def record(self, table: Table) -> None:
        self.records([table])

    def lines(self, values: Sequence[str]) -> None:
        """Values, a line each."""
        if self._minimal:
            self._collected.append(",".join(escape(value) for value in values))
        else:
            self._terminal.print_all(values)

    def line(self, value: str) -> None:
        self.lines([value])

    def message(self, text: str) -> None:
        """A remark for people; --minimal leaves it out."""
        if not self._minimal:
            self._terminal.print(text)

    def remark(self, text: str) -> None:
        """A remark on standard error; --minimal leaves it out."""
        if not self._minimal:
            self._terminal.print_error(text)

    def finish(self) -> None:
        # The last list comes first: scripts that pick a value out of vm-disk-list --minimal rely on it.
        if self._minimal:
            self._terminal.print(",".join(reversed(self._collected)))
