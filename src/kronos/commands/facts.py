"""The facts that xe is made of: commands, classes, fields, and the words for errors; read once, when first needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kronos.datamodel.model import model

_FOLDER = Path(__file__).parent / "facts"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a class as xe knows it.

    `path` leads from the record to the value, through the classes of `via`; a computed field has no path.
    `setting` is the type of `name=value` in param-set, or the allowed values joined by '|'; '' is read-only.
    """

    name: str
    path: tuple[str, ...] = ()
    via: tuple[str, ...] = ()
    kind: str = ""
    setting: str = ""
    setter: str = ""
    adder: str = ""
    addable: bool = False
    whole: bool = False
    set_in_map: str = ""
    set_map: str = ""
    clear: str = ""
    keys: tuple[str, ...] = ()
    labels: str = ""
    join: str = "; "
    unit: str = ""
    unset: str = "<not in database>"
    values_only: bool = False
    hidden: bool = False
    expensive: bool = False
    deprecated: bool = False
    case_insensitive: bool = False

    @property
    def marker(self) -> str:
        """What follows the name in a listing: value, set or map, read-only or not."""
        letter = {"": " ", "set": "S", "map": "M"}[self.kind]
        writable = self.addable if self.kind else bool(self.setting)
        return f" ({letter}R{'W' if writable else 'O'}){' [DEPRECATED]' if self.deprecated else ''}"


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """A class with generated commands: its name in xe, XenAPI's class, and what a list shows."""

    name: str
    api_class: str
    record: str
    shown: tuple[str, ...]
    filters: tuple[tuple[str, str], ...]

    @property
    def fields(self) -> dict[str, Field]:
        return record_fields(self.record)


@dataclass(frozen=True, slots=True)
class CommandFacts:
    """A command's parameters, and how it picks objects and logs in."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    flags: frozenset[str]


@cache
def commands() -> dict[str, CommandFacts]:
    """The commands that are not generated from a class."""
    out = {}
    for entry in _read("commands.json"):
        flags = frozenset(key for key, value in entry.items() if value is True)
        out[entry["name"]] = CommandFacts(
            entry["name"], tuple(entry["required"]), tuple(entry["optional"]), flags
        )
    return out


@cache
def classes() -> dict[str, ClassFacts]:
    """The classes with generated commands, by their names in xe."""
    return {
        entry["name"]: ClassFacts(
            entry["name"],
            entry["class"],
            entry["record"],
            tuple(entry["shown"]),
            tuple((key, value) for key, value in entry["filters"]),
        )
        for entry in _read("classes.json")
    }


@cache
def record_fields(record: str) -> dict[str, Field]:
    """The fields of one record, in the order of a listing."""
    return {entry["name"]: _field(entry) for entry in _read(f"records/{record}.json")}


def error_parameters() -> dict[str, list[str]]:
    """The names of the parameters of each XenAPI error."""
    return model().errors


@cache
def sentences() -> dict[str, str]:
    """What a XenAPI error means, for a person at a terminal."""
    found: dict[str, str] = _read("sentences.json")
    return found


@cache
def descriptions() -> dict[str, str]:
    """What each command does, for `xe help`."""
    found: dict[str, str] = _read("descriptions.json")
    return found


def _read(name: str) -> Any:
    return json.loads((_FOLDER / name).read_text(encoding="utf-8"))


def _field(entry: dict[str, Any]) -> Field:
    path = tuple(entry["path"].split(".")) if "path" in entry else ()
    return Field(
        name=entry["name"],
        path=path,
        via=tuple(entry.get("via", ())),
        kind=entry.get("kind", ""),
        setting=entry.get("set", ""),
        setter=entry.get("setter") or (path[0] if path else ""),
        adder=entry.get("adder") or (path[0] if path else ""),
        addable=entry.get("add", False),
        whole=entry.get("whole", False),
        set_in_map=entry.get("set_in_map", ""),
        set_map=entry.get("set_map", ""),
        clear=entry.get("clear", ""),
        keys=tuple(entry.get("keys", ())),
        labels=entry.get("labels", ""),
        join=entry.get("join", "; "),
        unit=entry.get("unit", ""),
        unset=entry.get("unset", "<not in database>"),
        values_only=entry.get("take") == "values",
        hidden=entry.get("hidden", False),
        expensive=entry.get("expensive", False),
        deprecated=entry.get("deprecated", False),
        case_insensitive=entry.get("case_insensitive", False),
    )
