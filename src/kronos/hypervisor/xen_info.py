"""What Xen says of itself."""

from __future__ import annotations

from kronos.system.commands import run


def said() -> dict[str, str]:
    """The lines of `xl info` by their names. Raises CommandFailed."""
    return parsed(run(["xl", "info"], timeout=20))


def parsed(text: str) -> dict[str, str]:
    """The same of a text that `xl info` has printed."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
