"""The failures of this package: one of eliloader's own error codes, and its parameters."""

from __future__ import annotations


class InstallFailed(Exception):
    """An installation that cannot begin or go on; `code` is one of the four that eliloader has had since 2007."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(f"{code}: {'; '.join(params)}")
        self.code = code
        self.params = params

    @property
    def lines(self) -> str:
        """As the program prints it: the code, then a line for each parameter."""
        return "\n".join([self.code, *(" ".join(param.split()) for param in self.params)])
