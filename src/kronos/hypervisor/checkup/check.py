"""One check: what it is called, what it found, and how it is kept from holding up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from kronos.hypervisor.checkup.surroundings import Surroundings

Verdict = Literal["ok", "warning", "missing"]
"""`missing` keeps guests from running, `warning` takes something away or may do so."""

LIMIT: Final = 2.0
"""Seconds that a check may take unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found; `remedy` is what the administrator can do, empty where all is well."""

    verdict: Verdict
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check by its name; `limit` in seconds."""

    name: str
    look: Callable[[Surroundings], Outcome]
    limit: float = LIMIT


@dataclass(frozen=True, slots=True)
class Result:
    """A check's name and its outcome."""

    name: str
    verdict: Verdict
    text: str
    remedy: str


def ok(text: str) -> Outcome:
    return Outcome("ok", text)


def warning(text: str, remedy: str) -> Outcome:
    return Outcome("warning", text, remedy)


def missing(text: str, remedy: str) -> Outcome:
    return Outcome("missing", text, remedy)


def carried_out(check: Check, surroundings: Surroundings) -> Result:
    """Do a check. One that raises, or runs out of time, is a warning: what it looks at may be well all the same."""
    found: list[Outcome] = []

    def look() -> None:
        try:
            found.append(check.look(surroundings))
        except Exception as error:  # noqa: BLE001  # a defect in one check is not to hide what others find
            text = f"This could not be checked: {type(error).__name__}: {error}"
            found.append(warning(text, "Please report this as a defect of xapi --check."))

    # A thread, since what hangs may be a read of the kernel's or a library's call. It is left behind then.
    worker = threading.Thread(target=look, name=f"check {check.name}", daemon=True)
    worker.start()
    worker.join(check.limit)
    late = warning(
        f"This could not be checked within {check.limit:g} s.",
        "Try again. If it stays so, look at the journal for what does not answer.",
    )
    outcome = found[0] if found else late
    return Result(check.name, outcome.verdict, outcome.text, outcome.remedy)
