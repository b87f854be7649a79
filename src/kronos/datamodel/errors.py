"""The one exception that reaches a client: a XenAPI error code with its parameters."""

from __future__ import annotations


class Failure(Exception):
    """A XenAPI error: `code` from the published list, `params` as strings, in the published order.

    >>> str(Failure("HANDLE_INVALID", "VM", "OpaqueRef:NULL"))
    'HANDLE_INVALID(VM, OpaqueRef:NULL)'
    """

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = tuple(params)

    @property
    def description(self) -> list[str]:
        """ErrorDescription as it goes on the wire: the code, then its parameters."""
        return [self.code, *self.params]

    def __str__(self) -> str:
        return f"{self.code}({', '.join(self.params)})"
