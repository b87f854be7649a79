"""Records as events tell of them: a copy of some of a pool's classes, brought up to date batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kronos_client.messages import MESSAGES

_NAMES = {name.lower(): name for name in MESSAGES}


@dataclass(frozen=True, slots=True)
class Change:
    """A record came (`before` is None), changed, or went (`after` is None)."""

    cls: str
    ref: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class Records:
    """`records.VM` maps references to records; so does each class that is followed. What they are is in records.pyi."""

    def __init__(self, classes: Sequence[str]) -> None:
        for cls in classes:
            if cls not in MESSAGES:
                raise ValueError(f"XenAPI has no class {cls}")
        self._rows: dict[str, dict[str, Mapping[str, Any]]] = {cls: {} for cls in classes}

    def __getattr__(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        if name.startswith("_") or name not in self._rows:
            raise AttributeError(f"{name} is not followed")
        return MappingProxyType(self._rows[name])

    def named(self, cls: str, name_label: str) -> list[str]:
        """The references of those that bear a name; XenAPI's names are not unique."""
        return [ref for ref, row in self._rows[cls].items() if row.get("name_label") == name_label]

    def _apply(self, events: Sequence[Mapping[str, Any]], *, whole: bool) -> list[Change]:
        """Take a batch of events. `whole`: it tells of everything, so that what it does not name has gone.

        Who goes through the records of a class meanwhile, in another thread, goes on with those of before.
        """
        rows = {cls: dict(known) for cls, known in self._rows.items()}
        changes = _merge(rows, events, whole=whole)
        self._rows.update(rows)
        return changes


def _merge(
    known: dict[str, dict[str, Mapping[str, Any]]], events: Sequence[Mapping[str, Any]], *, whole: bool
) -> list[Change]:
    changes: list[Change] = []
    named: set[tuple[str, str]] = set()
    for event in events:
        cls, ref = _NAMES.get(event["class"].lower(), ""), event["ref"]
        if cls not in known:
            continue
        rows = known[cls]
        before = rows.get(ref)
        after = event.get("snapshot") if event["operation"] != "del" else None
        if after is None:
            rows.pop(ref, None)
        else:
            rows[ref] = after
            named.add((cls, ref))
        if before != after:
            changes.append(Change(cls, ref, before, after))
    if whole:
        for cls, rows in known.items():
            for ref in [ref for ref in rows if (cls, ref) not in named]:
                changes.append(Change(cls, ref, rows.pop(ref), None))
    return changes
