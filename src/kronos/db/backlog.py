"""Changes of objects, and what a run of them comes to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kronos.db.encoding import encoder

_NOTHING: Mapping[str, Any] = {}
_encode = encoder(ascii_only=True)


class Change(NamedTuple):
    """One object's change: `kind` is create (with every field), write (with the changed fields) or delete."""

    kind: str
    cls: str
    ref: str
    fields: Mapping[str, Any] = _NOTHING


META = "meta"  # a Change of the journal's own: its fields are settings, not an object's


def encode(value: object) -> str:
    """JSON in ASCII; sets become arrays, keys become strings. Raises TypeError for what it cannot hold."""
    return _encode(value)


def decode(body: bytes | str) -> Any:
    """What `encode` wrote."""
    return json.loads(body)


class Outcome:
    """What the changes of one object come to: deleted, made anew with `fields`, or changed in `fields`."""

    __slots__ = ("cls", "deleted", "fields", "whole")

    def __init__(self, cls: str, fields: Mapping[str, Any], *, whole: bool, deleted: bool = False) -> None:
        self.cls = cls
        self.fields = dict(fields)
        self.whole = whole
        self.deleted = deleted


class Backlog:
    """The part of the journal that is not yet in the objects: the outcomes, by ref, of its changes.

    It reaches up to and including `ticket`; `size` is that of the changes' JSON, in bytes.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.meta: dict[str, str] = {}
        self.ticket = 0
        self.size = 0

    def __bool__(self) -> bool:
        return self.ticket > 0

    def add(self, ticket: int, size: int, changes: Iterable[Change]) -> None:
        """Take in one batch; tickets must grow."""
        self.ticket = ticket
        self.size += size
        for change in changes:
            if change.kind == META:
                self.meta.update(change.fields)
            elif change.kind == "delete":
                self.outcomes[change.ref] = Outcome(change.cls, {}, whole=True, deleted=True)
            elif change.kind == "create":
                self.outcomes[change.ref] = Outcome(change.cls, change.fields, whole=True)
            elif (known := self.outcomes.get(change.ref)) is None:
                self.outcomes[change.ref] = Outcome(change.cls, change.fields, whole=False)
            else:
                known.fields.update(change.fields)

    def follow(self, later: Backlog) -> None:
        """Take in everything that came after this."""
        if not later:
            return
        self.ticket = later.ticket
        self.size += later.size
        self.meta.update(later.meta)
        for ref, outcome in later.outcomes.items():
            known = self.outcomes.get(ref)
            if known is None or outcome.whole:
                self.outcomes[ref] = outcome
            else:
                known.fields.update(outcome.fields)

    def parts(self, objects: int) -> Iterator[dict[str, Outcome]]:
        """The outcomes, at most `objects` at a time."""
        refs = list(self.outcomes)
        for start in range(0, len(refs), objects):
            yield {ref: self.outcomes[ref] for ref in refs[start : start + objects]}
