"""Doing what a line of CALLS says: one call of XenAPI, its arguments made from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from kronos.commands import fields, grammar, selectors
from kronos.commands.calls import CALLS
from kronos.commands.errors import Leave
from kronos.commands.invocation import Handler, Invocation
from kronos.commands.protocol import NULL
from kronos.commands.records import Row

_SELECTOR = re.compile(r"(VM|host|SR)([*1])([ct]*)")
_ARGUMENT = re.compile(
    r"(?P<type>[A-Za-z_]+)(?P<mark>\[\]|@)?=(?P<name>[^?|]+)(?P<optional>\?(?P<default>[^|]*))?"
)


class Argument(NamedTuple):
    """One argument of a line: where it goes, and what it is made from."""

    key: str
    text: str

    @property
    def selector(self) -> re.Match[str] | None:
        return _SELECTOR.fullmatch(self.text)


class Call(NamedTuple):
    """A line of CALLS, taken apart."""

    message: str
    arguments: tuple[Argument, ...]
    result: str
    forced: bool

    @property
    def api_class(self) -> str:
        return self.message.partition(".")[0]

    @property
    def parameters(self) -> list[str]:
        """The names that the command takes itself, so that they select nothing."""
        found = (_ARGUMENT.match(argument.text) for argument in self.arguments)
        return [match["name"].partition(",")[0] for match in found if match]


@cache
def parse(name: str) -> Call:
    line, _, result = CALLS[name].partition(" -> ")
    message, *words = line.split()
    arguments = []
    for word in words:
        key, colon, text = word.partition(":")
        keyed = bool(colon) and "=" not in key and not key.startswith("!")
        arguments.append(Argument(key if keyed else "", text if keyed else word))
    plain = tuple(argument for argument in arguments if argument.text != "forced")
    return Call(message, plain, result, len(plain) < len(arguments))


def handler(name: str) -> Handler | None:
    """What does the command `name`, or None if it is not one call."""
    return (lambda invocation: run(invocation, parse(name))) if name in CALLS else None


def run(invocation: Invocation, call: Call) -> None:
    if call.forced:
        invocation.needs_force()
    values = [None if arg.selector else value(invocation, arg.text) for arg in call.arguments]
    selector = next((arg.selector for arg in call.arguments if arg.selector), None)
    if selector is None:
        _perform(invocation, call, values, NULL)
        return

    def act(row: Row) -> None:
        _perform(invocation, call, values, row.ref)

    ignoring = call.parameters
    several = selector[2] == "*"
    if selector[1] == "VM":
        control, templates = "c" in selector[3], "t" in selector[3]
        selectors.for_vms(
            invocation, act, *ignoring, control_domains=control, templates=templates, several=several
        )
    elif selector[1] == "host":
        selectors.for_hosts(invocation, act, *ignoring, several=several)
    else:
        selectors.for_srs(invocation, act, *ignoring, several=several)


def _perform(invocation: Invocation, call: Call, values: list[Any], selected: str) -> None:
    filled = [
        selected if argument.selector else found
        for argument, found in zip(call.arguments, values, strict=True)
    ]
    if any(argument.key for argument in call.arguments):
        filled = [dict(zip((argument.key for argument in call.arguments), filled, strict=True))]
    _show(invocation, call, invocation.api(call.message, *filled))


def _show(invocation: Invocation, call: Call, result: Any) -> None:
    kind, _, api_class = call.result.partition(":")
    printer = invocation.printer
    match kind:
        case "uuid":
            invocation.print_uuid(api_class or call.api_class, result)
        case "uuids":
            printer.lines([invocation.api(f"{api_class}.get_uuid", ref) for ref in result])
        case "line":
            printer.line(fields.plain(result))
        case "rate":
            printer.line(f"{float(result):f}")
        case "lines":
            printer.lines([fields.plain(item) for item in result])
        case "message":
            printer.message(fields.plain(result))
        case "table":
            printer.record([(key, fields.plain(item)) for key, item in result.items()])


def value(invocation: Invocation, text: str) -> Any:
    """The value of one argument. Raises UsageError, ValueRefused, CommandError, UUID_INVALID."""
    if text == "pool":
        return invocation.pool().ref
    if text.startswith("!"):
        return NULL if text == "!null" else json.loads(text[1:])
    found = _ARGUMENT.match(text)
    if found is None:
        raise ValueError(f"not an argument: {text}")
    if found["type"] in _SPECIAL:
        return _SPECIAL[found["type"]](invocation, found["name"])
    name, optional = found["name"], found["optional"] is not None
    missing = name not in invocation.arguments
    if found["mark"] == "@" and missing:
        return invocation.this_host()
    if missing and optional:
        return _typed(invocation, found, text, found["default"])
    return _typed(invocation, found, text, invocation.arguments[name])


def _typed(invocation: Invocation, found: re.Match[str], text: str, given: str) -> Any:
    kind, name = found["type"], found["name"]
    if kind == "enum":
        return grammar.one_of(name, given, text.split("|")[1:])
    if kind in _TYPES:
        return _TYPES[kind](name, given or _EMPTY.get(kind, ""))
    if kind == "list":
        return grammar.words(given)
    if kind == "file":
        return client_file(invocation, given) if given else ""
    if found["mark"] == "[]":
        return [invocation.records.by_uuid(kind, uuid).ref for uuid in grammar.words(given)]
    return invocation.records.by_uuid(kind, given).ref if given else NULL


def client_file(invocation: Invocation, path: str) -> str:
    """The text of a file of the user's machine. Raises Leave where it cannot be read."""
    content = invocation.terminal.load_file(path)
    if content is None:
        invocation.terminal.print_error(f"Failed to read file {path}\n")
        raise Leave(1)
    return content.decode("utf-8", "surrogateescape")


def plugin_arguments(invocation: Invocation, name: str) -> dict[str, str]:
    """The pairs `args:key=value`; `args:key:file=path` takes the value from a file of the user's."""
    return {
        key.removesuffix(":file"): client_file(invocation, given) if key.endswith(":file") else given
        for key, given in invocation.arguments.mapping(name).items()
    }


def _whatever_case(invocation: Invocation, name: str) -> str:
    """A parameter whose name may be typed in any case, '' where it is missing."""
    for key, given in invocation.arguments.pairs:
        if key.lower() == name.lower():
            return given
    return ""


def _options(invocation: Invocation, names: str) -> dict[str, str]:
    """All other parameters as a map."""
    taken = {"url", *names.split(",")}
    return {k: v for k, v in invocation.arguments.filters() if k not in taken}


_EMPTY = {"int": "0", "float": "0", "bool": "false"}
_TYPES: dict[str, Callable[[str, str], Any]] = {
    "text": lambda _, given: given,
    "int": grammar.to_int,
    "bool": grammar.to_bool,
    "float": grammar.to_float,
    "bytes": grammar.to_bytes,
}
_SPECIAL: dict[str, Callable[[Invocation, str], Any]] = {
    "map": lambda invocation, name: invocation.arguments.mapping(name),
    "keys": lambda invocation, name: list(invocation.arguments.mapping(name)),
    "args": plugin_arguments,
    "any": _whatever_case,
    "base": lambda invocation, name: invocation.arguments[name].rpartition("/")[2],
    "options": _options,
}
