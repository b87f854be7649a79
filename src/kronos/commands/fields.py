"""A field of an object as xe shows it, and what `param-set` and its kin do to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kronos.commands import computed, grammar, labels
from kronos.commands.errors import CommandError, ValueRefused
from kronos.commands.facts import Field
from kronos.commands.protocol import NULL
from kronos.commands.records import Records, Row
from kronos.datamodel.errors import Failure

EXPENSIVE = "<expensive field>"
_DANGLING = "<invalid reference>"
_NOWHERE = "<not in database>"
_UNKNOWN = "<unknown>"
# One thing that a server cannot tell does not spoil the rest of a listing.
_NOT_THERE = ("NOT_IMPLEMENTED", "MESSAGE_REMOVED", "MESSAGE_METHOD_UNKNOWN")


def raw(row: Row, field: Field) -> Any:
    """The value itself, references on the way followed; None where one leads nowhere."""
    if not field.path:
        return computed.value(row, field)
    found = row[field.path[0]]
    for api_class, step in zip(field.via, field.path[1:], strict=True):
        found = _follow(row.records, api_class, found, step)
    if field.values_only:
        found = list(found.values())
    return found


def _follow(records: Records, api_class: str, found: Any, step: str) -> Any:
    if isinstance(found, str):
        return records.value_or(api_class, found, step, None)
    if isinstance(found, dict):
        return {key: _shown_ref(records, api_class, ref, step) for key, ref in found.items()}
    if found is None:
        return None
    return [_shown_ref(records, api_class, ref, step) for ref in found]


def _shown_ref(records: Records, api_class: str, ref: str, step: str) -> Any:
    return records.value_or(api_class, ref, step, _NOWHERE)


def text(row: Row, field: Field) -> str:
    """The field as a listing shows it."""
    try:
        found = raw(row, field)
    except Failure as failure:
        if failure.code == "HANDLE_INVALID":
            return _DANGLING
        if failure.code in _NOT_THERE and not field.path:
            return _UNKNOWN
        raise
    if found is None:
        return field.unset
    return plain(found, field.join, field.labels) + field.unit


def plain(value: Any, join: str = "; ", spelling: str = "") -> str:
    """A value as text: `true`, `1.000`, `a; b`, `k: v; k2: v2`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return join.join(
            f"{labels.shown(spelling, plain(key))}: {plain(item)}" for key, item in value.items()
        )
    if isinstance(value, list | tuple | set | frozenset):
        return join.join(labels.shown(spelling, plain(item)) for item in value)
    return labels.shown(spelling, str(value))


def members(row: Row, field: Field) -> list[str]:
    """The members of a set, as shown."""
    found = raw(row, field)
    return [] if found is None else [labels.shown(field.labels, plain(item)) for item in found]


def pairs(row: Row, field: Field) -> dict[str, str]:
    """The pairs of a map, as shown."""
    found = raw(row, field)
    if found is None:
        return {}
    return {labels.shown(field.labels, plain(key)): plain(item) for key, item in found.items()}


def cell(row: Row, field: Field, cheap: bool = False) -> tuple[str, str]:
    """Name, marker and value for a record block; `cheap` spares the calls for expensive fields."""
    value = EXPENSIVE if cheap and field.expensive else text(row, field)
    return field.name + field.marker, value


def table(row: Row, fields: Iterable[Field], cheap: bool = False) -> list[tuple[str, str]]:
    return [cell(row, field, cheap) for field in fields]


def chosen(fields: dict[str, Field], names: Sequence[str]) -> list[Field]:
    """The fields of these names in the record's own order; all of them when there are no names."""
    return [field for field in fields.values() if field.name in names] if names else list(fields.values())


def set_value(row: Row, field: Field, value: str) -> None:
    """`param-set name=value`."""
    if not field.setting:
        if field.kind:
            raise CommandError(f"Field '{field.name}' is a map or set. use the 'name:key=value' syntax.")
        raise CommandError(f"Field '{field.name}' is read-only.")
    _call(row, f"set_{field.setter}", _parsed(row.records, field, value))


def set_pairs(row: Row, field: Field, new: dict[str, str]) -> None:
    """`param-set map:key=value …`: the pairs of one map together."""
    for key in new:
        _check_key(field, key)
    if field.set_in_map:
        for key, value in new.items():
            _call(row, field.set_in_map, key, value)
    elif field.set_map:
        _call(row, field.set_map, new)
    elif field.addable:
        known = pairs(row, field)
        for key, value in new.items():
            if key in known:
                remove_member(row, field, key)
            _add_pair(row, field, key, value)
    else:
        raise CommandError(f"Map field '{field.name}' is read-only.")


def add_pairs(row: Row, field: Field, new: dict[str, str]) -> None:
    """`param-add` on a map: refused by the server where a key exists."""
    if field.whole:
        _replace(row, field, new | pairs(row, field))
        return
    for key, value in new.items():
        _check_key(field, key)
        _add_pair(row, field, key, value)


def add_member(row: Row, field: Field, member: str) -> None:
    """`param-add` on a set."""
    if field.whole:
        known = members(row, field)
        _replace(row, field, known if member in known else [member, *known])
        return
    _call(row, f"add_{field.adder}", _element(row.records, field, member))


def remove_member(row: Row, field: Field, member: str) -> None:
    """`param-remove`: a member of a set, or a key of a map."""
    if field.whole and field.kind == "map":
        _replace(row, field, {key: value for key, value in pairs(row, field).items() if key != member})
    elif field.whole:
        _replace(row, field, [known for known in members(row, field) if known != member])
    elif field.kind == "map":
        _call(row, f"remove_from_{field.setter}", labels.meant(field.labels, member))
    else:
        _call(row, f"remove_{field.adder}", _element(row.records, field, member))


def clear(row: Row, field: Field) -> None:
    """`param-clear`: empties a set or map, and unsets a value."""
    if field.clear:
        _call(row, field.clear, {})
    elif field.set_map:
        _call(row, field.set_map, {})
    elif field.kind and field.addable:
        for member in pairs(row, field) if field.kind == "map" else members(row, field):
            remove_member(row, field, member)
    elif field.setting:
        try:
            set_value(row, field, "")
        except (CommandError, ValueRefused, Failure) as error:
            raise CommandError("Cannot clear this parameter") from error
    else:
        raise CommandError("Can only clear RW parameters")


def _check_key(field: Field, key: str) -> None:
    if field.keys and key not in field.keys:
        raise CommandError(f"Failed to add parameter '{key}': expecting {', '.join(field.keys)}")


def _add_pair(row: Row, field: Field, key: str, value: str) -> None:
    _call(row, f"add_to_{field.setter}", labels.meant(field.labels, key), value)


def _replace(row: Row, field: Field, value: dict[str, str] | list[str]) -> None:
    if field.setting and isinstance(value, list):
        _call(row, f"set_{field.setter}", _parsed(row.records, field, ",".join(value)))
    else:
        _call(row, f"set_{field.setter}", value)


def _call(row: Row, message: str, *arguments: object) -> None:
    row.records.api(f"{row.api_class}.{message}", row.ref, *arguments)


def _element(records: Records, field: Field, member: str) -> object:
    return _parsed(records, field, member, field.setting.removesuffix(" list")) if field.setting else member


def _parsed(records: Records, field: Field, value: str, kind: str | None = None) -> object:
    """The value of XenAPI that the user's text stands for. Raises ValueRefused, CommandError, UUID_INVALID."""
    kind = field.setting if kind is None else kind
    if kind.endswith("list"):
        of = kind.removesuffix("list").strip()
        return [_parsed(records, field, part.strip(), of) for part in grammar.words(value) if part.strip()]
    if kind.endswith(" ref"):
        return records.by_uuid(kind.removesuffix(" ref"), value).ref if value else NULL
    if "|" in kind:
        return grammar.one_of(field.name, value, kind.split("|"))
    match kind:
        case "int":
            return grammar.to_int(field.name, value)
        case "bool":
            return grammar.to_bool(field.name, value)
        case "float":
            return grammar.to_float(field.name, value)
        case "bytes":
            return grammar.to_bytes(field.name, value)
    return value
