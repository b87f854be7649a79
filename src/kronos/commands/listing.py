"""The commands that every class has: <class>-list and -param-list, -get, -set, -add, -remove, -clear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from kronos.commands import facts, fields, filters
from kronos.commands.errors import CommandError
from kronos.commands.facts import ClassFacts, CommandFacts, Field
from kronos.commands.grammar import STANDARD
from kronos.commands.invocation import Handler, Invocation
from kronos.commands.records import Records, Row
from kronos.datamodel.errors import Failure

_WORDS_OF_ADD = STANDARD | {"uuid", "param-name", "param-key"}


def generated() -> dict[str, CommandFacts]:
    """Every generated command with its parameters."""
    return {name: entry for cls in facts.classes() for name, entry in _of_class(cls).items()}


def find(name: str) -> CommandFacts | None:
    """The generated command of this name; only its own class is looked at."""
    found = _split(name)
    return _of_class(found[0]).get(name) if found else None


def handler(name: str) -> Handler | None:
    """What does the command `name`, or None if no class has such a command."""
    found = _split(name)
    if found is None or find(name) is None:
        return None
    cls, act = facts.classes()[found[0]], _VERBS[found[1]]
    return lambda invocation: act(invocation, cls)


def _split(name: str) -> tuple[str, str] | None:
    """The class and the verb in a command's name."""
    for verb in _VERBS:
        cls = name.removesuffix(f"-{verb}")
        if cls != name and cls in facts.classes():
            return cls, verb
    return None


@cache
def _of_class(name: str) -> dict[str, CommandFacts]:
    return {entry.name: entry for entry in _commands(facts.classes()[name])}


def _commands(cls: ClassFacts) -> Iterator[CommandFacts]:
    visible = [field for field in cls.fields.values() if not field.hidden]
    settable = [field.name for field in visible if field.setting] + [
        f"{field.name}:"
        for field in visible
        if field.kind == "map" and (field.addable or field.set_in_map or field.set_map)
    ]
    contains = [f"{field.name}:contains" for field in visible if field.kind == "set"]
    shown = ("params", "database:", *(field.name for field in visible), *contains)
    common = frozenset({"standard"}) if cls.name in ("vm", "network", "sr") else frozenset[str]()
    yield CommandFacts(f"{cls.name}-list", (), shown, common)
    yield CommandFacts(f"{cls.name}-param-list", ("uuid",), ("database:",), frozenset())
    yield CommandFacts(
        f"{cls.name}-param-get", ("uuid", "param-name"), ("param-key", "database:"), frozenset()
    )
    if settable:
        yield CommandFacts(f"{cls.name}-param-set", ("uuid",), tuple(settable), frozenset())
    if any(field.addable for field in visible):
        yield CommandFacts(f"{cls.name}-param-add", ("uuid", "param-name"), ("param-key",), frozenset())
        yield CommandFacts(f"{cls.name}-param-remove", ("uuid", "param-name", "param-key"), (), frozenset())
    if any(field.setting or field.kind for field in visible):
        yield CommandFacts(f"{cls.name}-param-clear", ("uuid", "param-name"), (), frozenset())


def _list(invocation: Invocation, cls: ClassFacts) -> None:
    arguments = invocation.arguments
    wanted = [*cls.filters, *arguments.filters("params", "database")]
    with _database(invocation) as records:
        if arguments.flag("all"):
            rows = records.rows(cls.api_class)
        else:
            rows = filters.select(records, cls, wanted)
        names = filters.names(arguments.get("params"), cls.shown, "params" in arguments)
        shown = [field for field in fields.chosen(cls.fields, names) if not field.hidden]
        prefetch(records, rows, shown)
        invocation.printer.records([fields.table(row, shown, cheap=True) for row in rows])


def prefetch(records: Records, rows: Sequence[Row], shown: Sequence[Field]) -> None:
    """Fetch a class in one call where the fields to show lead to many of its objects."""
    for field in shown:
        if field.via and not field.expensive:
            found = (row[field.path[0]] for row in rows)
            records.expect(field.via[0], (ref for value in found for ref in _references(value)))


def _references(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _param_list(invocation: Invocation, cls: ClassFacts) -> None:
    with _database(invocation) as records:
        row = _loaded(invocation, records, cls)
        invocation.printer.record(
            fields.table(row, [field for field in cls.fields.values() if not field.hidden])
        )


def _param_get(invocation: Invocation, cls: ClassFacts) -> None:
    arguments = invocation.arguments
    with _database(invocation) as records:
        row = records.by_uuid(cls.api_class, arguments["uuid"])
        field = _named(cls, arguments["param-name"])
        key = arguments.get("param-key")
        if "param-key" in arguments and field.kind == "map":
            found = fields.pairs(row, field)
            if key not in found:
                raise CommandError(f"Key {key} not found in map")
            invocation.printer.line(found[key])
        else:
            invocation.printer.line(fields.text(row, field))


def _param_set(invocation: Invocation, cls: ClassFacts) -> None:
    row = _loaded(invocation, invocation.records, cls)
    maps: dict[str, dict[str, str]] = {}
    for name, value in invocation.arguments.pairs:
        if name == "uuid" or name in STANDARD:
            continue
        field, key = filters.resolve(cls.fields, name)
        if key is None:
            fields.set_value(row, field, value)
        elif field.kind == "map":
            maps.setdefault(field.name, {})[key] = value
        else:
            raise CommandError("Cannot param-set on set fields")
    for name, new in maps.items():
        fields.set_pairs(row, cls.fields[name], new)


def _param_add(invocation: Invocation, cls: ClassFacts) -> None:
    arguments = invocation.arguments
    row = _loaded(invocation, invocation.records, cls)
    field = _named(cls, arguments["param-name"])
    if not field.kind:
        raise CommandError("Can only add to parameters of type Set or Map")
    if not field.addable:
        raise CommandError("Parameter is read-only")
    if field.kind == "map":
        fields.add_pairs(row, field, {k: v for k, v in arguments.pairs if k not in _WORDS_OF_ADD})
    elif "param-key" in arguments:
        fields.add_member(row, field, arguments["param-key"])
    else:
        raise CommandError(
            "When adding a key to a set, use the syntax: *-param-add param-name=<name> param-key=<key>"
        )


def _param_remove(invocation: Invocation, cls: ClassFacts) -> None:
    arguments = invocation.arguments
    row = _loaded(invocation, invocation.records, cls)
    field, key = _named(cls, arguments["param-name"]), arguments["param-key"]
    if not field.kind:
        raise CommandError("Can only remove from parameters of type Set or Map")
    if not field.addable:
        raise CommandError("Cannot remove parameters from read-only map")
    if field.kind == "map" and key not in fields.pairs(row, field):
        raise CommandError(f"Key {key} is not in map")
    if field.kind == "set" and key not in fields.members(row, field):
        raise CommandError(f"Key {key} is not in the set")
    fields.remove_member(row, field, key)


def _param_clear(invocation: Invocation, cls: ClassFacts) -> None:
    row = _loaded(invocation, invocation.records, cls)
    fields.clear(row, _named(cls, invocation.arguments["param-name"]))


def _loaded(invocation: Invocation, records: Records, cls: ClassFacts) -> Row:
    row = records.by_uuid(cls.api_class, invocation.arguments["uuid"])
    row.load()
    return row


def _named(cls: ClassFacts, name: str) -> Field:
    field = cls.fields.get(name)
    if field is None:
        raise Failure("Missing parameter", name)
    return field


@contextmanager
def _database(invocation: Invocation) -> Iterator[Records]:
    """The records of this pool, or of another database where `database:vdi-uuid=` or `database:filename=` says so."""
    where = invocation.arguments.mapping("database")
    if "vdi-uuid" in where and "filename" in where:
        raise CommandError("A database can be a VDI or a file, but not both.")
    api = invocation.api
    if "vdi-uuid" in where:
        session = api("VDI.open_database", api("VDI.get_by_uuid", where["vdi-uuid"]))
    elif "filename" in where:
        session = api("session.create_from_db_file", where["filename"])
    else:
        yield invocation.records
        return
    other = api.using(session)
    try:
        yield Records(other)
    finally:
        other("session.logout")


_VERBS = {
    "param-list": _param_list,
    "param-get": _param_get,
    "param-set": _param_set,
    "param-add": _param_add,
    "param-remove": _param_remove,
    "param-clear": _param_clear,
    "list": _list,
}
