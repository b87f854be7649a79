"""One check: what it is called, what it found, and how it is kept from holding up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from kronos.hypervisor.checkup.surroundings import Surroundings

T = TypeVar("T")

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


def within(limit: float, function: Callable[[], T]) -> T:
    """What a function gives or raises. Raises TimeoutError after `limit` seconds; it is left behind then."""
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:  # noqa: BLE001  # raised again by result()
            outcome.set_exception(error)

    # A thread, since what hangs may be a read of the kernel's or a library's call, which nothing ends.
    threading.Thread(target=call, daemon=True).start()
    return outcome.result(limit)


def carried_out(check: Check, surroundings: Surroundings) -> Result:
    """Do a check. One that raises, or runs out of time, is a warning: what it looks at may be well all the same."""
    try:
        outcome = within(check.limit, lambda: check.look(surroundings))
    except TimeoutError:
        text = f"This could not be checked within {check.limit:g} s."
        outcome = warning(text, "Try again. If it stays so, look at the journal for what does not answer.")
    except Exception as error:  # noqa: BLE001  # a defect in one check is not to hide what others find
        text = f"This could not be checked: {type(error).__name__}: {error}"
        outcome = warning(text, "Please report this as a defect of xapi --check.")
    return Result(check.name, outcome.verdict, outcome.text, outcome.remedy)
