"""From the words of a command line to its exit status: the one entrance to all commands."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module

from kronos.commands import call, errors, facts, grammar, help, listing, naming
from kronos.commands.errors import CommandError, Leave, SomeFailed, UsageError, ValueRefused
from kronos.commands.facts import CommandFacts
from kronos.commands.grammar import Arguments
from kronos.commands.invocation import Handler, Invocation, handler
from kronos.commands.output import Printer
from kronos.commands.protocol import Login, OpenSession, Terminal
from kronos.commands.records import Records
from kronos.datamodel.errors import Failure

# The modules whose functions declare commands.
_NOUNS = (
    "access",
    "archives",
    "console",
    "diagnostics",
    "disks",
    "events",
    "hosts",
    "install",
    "lifecycle",
    "migration",
    "networks",
    "pools",
    "recovery",
    "snapshots",
    "storage",
)
_HINT = "For usage run: 'xe help'\n"


def run(
    words: Sequence[str], terminal: Terminal, open_session: OpenSession, session: str | None = None
) -> int:
    """Do the command of these words and return its exit status.

    The words hold the login too, as `username=` and `password=`, unless there is a `session` already.
    """
    arguments = Arguments()
    try:
        name, arguments = grammar.parse(words)
        minimal = arguments.flag("minimal")
        printer = Printer(terminal, minimal)
        if name == "help":
            help.show(arguments, minimal, printer)
            printer.finish()
            return 0
        return _perform(_known(name), arguments, terminal, printer, open_session, session)
    except Leave as leave:
        return leave.status
    except (UsageError, CommandError, ValueRefused, SomeFailed, Failure) as error:
        _tell(terminal, error)
        if "trace" in arguments:
            terminal.print_error(traceback.format_exc())
    return 1


def _tell(terminal: Terminal, error: Exception) -> None:
    match error:
        case UsageError():
            terminal.print_error(f"{error}\n{_HINT}")
        case SomeFailed():
            for uuid, text in error.failures:
                terminal.print(f"operation failed on {uuid}: {text}")
        case Failure():
            # Reached only before or after the session: _perform names the objects of other failures.
            _show_failure(terminal, error, None)
        case _:
            terminal.print_error(f"Error: {error}\n")


def _perform(
    command: CommandFacts,
    arguments: Arguments,
    terminal: Terminal,
    printer: Printer,
    open_session: OpenSession,
    session: str | None,
) -> int:
    act = function(command.name)
    if act is None:
        raise CommandError(f"xe {command.name} is not there yet.")
    for name in command.required:
        arguments[name]
    login, rest = _split_login(arguments)
    login = replace(login, session=session, local="local_session" in command.flags)
    with open_session(login) as api:
        records = Records(api)
        invocation = Invocation(command, rest, api, printer, terminal, records)
        try:
            act(invocation)
        except Failure as failure:
            _show_failure(terminal, failure, records)
            if "trace" in arguments:
                terminal.print_error(traceback.format_exc())
            return 1
    printer.finish()
    return 0


def function(name: str) -> Handler | None:
    """What does the command `name`."""
    return call.handler(name) or _handlers(name) or listing.handler(name)


def _handlers(name: str) -> Handler | None:
    _load()
    return handler(name)


@cache
def _load() -> None:
    for noun in _NOUNS:
        import_module(f"kronos.commands.{noun}")


def _known(name: str) -> CommandFacts:
    found = facts.commands().get(name) or listing.find(name)
    if found is None:
        raise UsageError(f"Unknown command: {name}")
    return found


def _split_login(arguments: Arguments) -> tuple[Login, Arguments]:
    """The login, and what the command itself may see: it has no use for the password, and a log none at all.

    The client writes its login last, so that parameters of the same names before it are the command's own.
    """
    pairs = list(arguments.pairs)
    found = {}
    for name in ("password", "username"):
        if pairs and pairs[-1][0] == name:
            found[name] = pairs.pop()[1]
    return Login(found.get("username", ""), found.get("password", "")), Arguments(tuple(pairs))


def _show_failure(terminal: Terminal, failure: Failure, records: Records | None) -> None:
    if failure.code == "SESSION_AUTHENTICATION_FAILED":
        user = failure.params[0] if failure.params else ""
        text = "Authentication failed" if user else "Username/password must be specified"
        terminal.print_error(f"{text}\n{_HINT}")
        return
    named = naming.namer(records) if records else str
    described = errors.describe(failure.code, failure.params, named)
    if described is None:
        terminal.show_failure(failure.code, [named(value) for value in failure.params])
        return
    sentence, lines = described
    terminal.print_error("".join(f"{line}\n" for line in (sentence, *lines)))
