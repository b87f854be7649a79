"""What can go wrong: a host that refuses, and one that does not answer."""

from __future__ import annotations


class Failure(Exception):
    """A host refused a call or failed in it: `code` is XenAPI's (VM_BAD_POWER_STATE), `params` say of what."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = params

    def __str__(self) -> str:
        return f"{self.code}: {', '.join(self.params)}" if self.params else self.code


class NoAnswer(Exception):
    """A connection ended within a call: whether that was carried out is not known."""


class Malformed(Exception):
    """What came back is no answer of XenAPI's; most often something else listens at that address."""
