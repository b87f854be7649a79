"""What can go wrong in a command before or after XenAPI's own failures, and the words for those failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kronos.commands import facts


class CommandError(Exception):
    """The command cannot be done as typed; the text is for the user."""


class UsageError(Exception):
    """The command line itself is wrong: shown with a hint at `xe help`."""


class ValueRefused(Exception):
    """A value that does not parse."""


class Leave(Exception):
    """End the command with `status`; all that is to be said has been said."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class SomeFailed(Exception):
    """An operation on several objects failed on these: (uuid, what happened)."""

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        super().__init__(failures)
        self.failures = tuple(failures)


def describe(code: str, params: Sequence[str], named: Callable[[str], str]) -> tuple[str, list[str]] | None:
    """The sentence for a XenAPI error and its parameters as `name: value` lines; None for a code without one.

    `named` turns a reference into something a person recognises.
    """
    sentence = facts.sentences().get(code)
    names = facts.error_parameters().get(code)
    if sentence is None and names is None:
        return None
    declared = list(names or ())
    if code == "VMS_FAILED_TO_COOPERATE":
        declared = ["VM"] * len(params)
    values = [named(value) for value in params]
    lines = [f"{name}: {value}" for name, value in zip(declared, values, strict=False)]
    lines += [f"<extra>: {value}" for value in values[len(declared) :]]
    lines += [f"{name}: <unknown>" for name in declared[len(values) :]]
    return sentence or f"The server refused: {code}", lines
