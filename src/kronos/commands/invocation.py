"""A command in flight, and the table of the functions that do the commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kronos.commands.errors import CommandError
from kronos.commands.facts import CommandFacts
from kronos.commands.grammar import Arguments
from kronos.commands.output import Printer
from kronos.commands.protocol import API, Terminal
from kronos.commands.records import Records, Row


@dataclass(frozen=True)
class Invocation:
    """Everything one command works with."""

    facts: CommandFacts
    arguments: Arguments
    api: API
    printer: Printer
    terminal: Terminal
    records: Records

    def find(self, api_class: str, parameter: str = "uuid") -> Row:
        """The object whose uuid is given in `parameter`. Raises UUID_INVALID."""
        return self.records.by_uuid(api_class, self.arguments[parameter])

    def ref(self, api_class: str, parameter: str = "uuid") -> str:
        return self.find(api_class, parameter).ref

    def pool(self) -> Row:
        """The pool named by `uuid=`, or the only one."""
        if "uuid" in self.arguments:
            return self.find("pool")
        return self.records.row("pool", self.api("pool.get_all")[0])

    def this_host(self) -> str:
        """The host that holds the session."""
        ref: str = self.api("session.get_this_host", self.api.session)
        return ref

    def default_sr(self) -> str | None:
        """The pool's default SR, or None where it is unset or gone."""
        pool = self.records.row("pool", self.api("pool.get_all")[0])
        sr: str = pool["default_SR"]
        return sr if self.records.value_or("SR", sr, "uuid", None) else None

    def print_uuid(self, api_class: str, ref: str) -> None:
        self.printer.line(self.api(f"{api_class}.get_uuid", ref))

    def needs_force(self, warning: str | None = None) -> None:
        """Raises CommandError unless the user typed --force."""
        if not self.arguments.flag("force"):
            raise CommandError(
                warning
                or "This operation is dangerous and may cause data loss. "
                "This operation must be forced (use --force)."
            )

    def confirmed(self) -> bool:
        """Whether the user types 'yes' when asked."""
        self.terminal.print("Type 'yes' to continue")
        answer = self.terminal.prompt()
        if answer.strip().lower() == "yes":
            return True
        self.terminal.print(f"Aborted (you typed: '{answer.strip()}')")
        return False


Handler = Callable[[Invocation], None]
_HANDLERS: dict[str, Handler] = {}


def command(*names: str) -> Callable[[Handler], Handler]:
    """Declare the function that does the commands of these names."""

    def declare(handler: Handler) -> Handler:
        for name in names:
            if name in _HANDLERS:
                raise ValueError(f"two functions for {name}")
            _HANDLERS[name] = handler
        return handler

    return declare


def handler(name: str) -> Handler | None:
    return _HANDLERS.get(name)


def handled() -> set[str]:
    """The names of the commands with a function of their own."""
    return set(_HANDLERS)
