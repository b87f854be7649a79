"""Obstacle: what keeps some operations of an object from starting now, and what a caller of one is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from kronos.datamodel.errors import Failure
from kronos.datamodel.model import model


class Obstacle(NamedTuple):
    """Operations that may not start, and the error that each of them is answered with."""

    operations: Collection[str]
    failure: Callable[[str], Failure]


def bar(operations: Collection[str], code: str, *params: str) -> Obstacle:
    """An obstacle with the same error for each operation."""
    return Obstacle(operations, lambda _: Failure(code, *params))


def enumerated(enum: str) -> tuple[str, ...]:
    """The values of a XenAPI enum, in its order."""
    # The type of an enum is an EnumType.
    values: tuple[str, ...] = model().type(f"enum {enum}").values  # type: ignore[attr-defined]
    return values


def in_progress(
    cls: str,
    ref: str,
    current: Iterable[tuple[str, str]],
    operations: Collection[str],
    *,
    always_braced: bool = False,
) -> Obstacle:
    """Operations that must wait for those of `current`, (task, operation) each.

    The reference names a single one as it is and several in braces; for VIFs and VUSBs it always puts braces.
    """
    tasks, names = zip(*current, strict=True)
    if always_braced:
        shown = [f"{{{'; '.join(each)}}}" for each in (names, tasks)]
    elif len(tasks) == 1:
        shown = [names[0], tasks[0]]
    else:
        shown = [f"{{{','.join(each)}}}" for each in (names, tasks)]
    return bar(operations, "OTHER_OPERATION_IN_PROGRESS", cls, ref, *shown)


def blockers(refusal: Failure) -> frozenset[str]:
    """The tasks that an OTHER_OPERATION_IN_PROGRESS [class, reference, operations, tasks] names."""
    return frozenset(re.split("[,;] ?", refusal.description[-1].strip("{}")))


def first(current: Mapping[str, str], *, besides: Collection[str] = ()) -> tuple[str, str] | None:
    """The first (task, operation) of a current_operations map that is not one of `besides`."""
    return next(((task, name) for task, name in current.items() if name not in besides), None)
