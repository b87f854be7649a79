"""Picking objects by their fields: `name=value`, `map:key=value`, `set:contains=value`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kronos.commands import fields
from kronos.commands.errors import CommandError
from kronos.commands.facts import ClassFacts, Field
from kronos.commands.records import Records, Row
from kronos.datamodel.errors import Failure

Test = Callable[[Row], bool]


def resolve(known: Mapping[str, Field], name: str) -> tuple[Field, str | None]:
    """The field that `name` speaks of, and the key within it.

    `other-config:folder` names a key, and so does `other-config-folder`, as older scripts have it.

    Raises CommandError.
    """
    if name in known:
        return known[name], None
    if ":" in name:
        stem, _, key = name.partition(":")
        if stem not in known:
            raise CommandError(f"Unknown field '{name}'")
        if not known[stem].kind:
            raise CommandError(f"Field '{stem}' is not a set or map")
        return known[stem], key
    for kind in ("map", "set"):
        fitting = [f for f in known.values() if f.kind == kind and name.startswith(f"{f.name}-")]
        if fitting:
            field = max(fitting, key=lambda candidate: len(candidate.name))
            return field, name[len(field.name) + 1 :]
    raise CommandError(f"Unknown field '{name}'")


def test(known: Mapping[str, Field], name: str, value: str) -> Test:
    """Whether an object fits `name=value`. Raises CommandError."""
    field, key = resolve(known, name)
    fold: Callable[[str], str] = str.lower if field.case_insensitive else str
    if key is None:
        return lambda row: fold(fields.text(row, field)) == fold(value)
    if field.kind == "map":
        return lambda row: fields.pairs(row, field).get(key) == value
    if key != "contains":
        raise CommandError("Invalid syntax for set filtering (should be set-param:contains=key)")
    return lambda row: fold(value) in map(fold, fields.members(row, field))


def apply(known: Mapping[str, Field], rows: Iterable[Row], wanted: Iterable[tuple[str, str]]) -> list[Row]:
    """The rows that fit every filter. Raises CommandError for a name that is no field."""
    found = list(rows)
    for name, value in wanted:
        if not found:
            break
        fits = test(known, name, value)
        found = [row for row in found if fits(row)]
    return found


def select(records: Records, cls: ClassFacts, wanted: Sequence[tuple[str, str]]) -> list[Row]:
    """The objects of a class that fit every filter; by uuid or name without a look at the others."""
    return apply(cls.fields, _candidates(records, cls, dict(wanted)), wanted)


def _candidates(records: Records, cls: ClassFacts, wanted: Mapping[str, str]) -> list[Row]:
    if "uuid" in wanted:
        try:
            row = records.by_uuid(cls.api_class, wanted["uuid"])
            row.load()
        except Failure as failure:
            if failure.code not in ("UUID_INVALID", "HANDLE_INVALID"):
                raise
            return []
        return [row]
    if "name-label" in wanted and cls.fields.get("name-label"):
        found = records.by_name(cls.api_class, wanted["name-label"])
        for row in found:
            row.load()
        return found
    return records.rows(cls.api_class)


def names(params: str, shown: Sequence[str], given: bool) -> Sequence[str]:
    """The names of the fields to show: those of `params=`, or the class's usual ones; none means all."""
    if not given:
        return shown
    return () if params == "all" else params.split(",")
