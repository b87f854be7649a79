"""The words of a command line, and the values in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kronos.commands.errors import CommandError, UsageError, ValueRefused

# Parameters of every command: they say how to talk to the server, and select nothing.
STANDARD = frozenset(
    {
        "server",
        "password",
        "port",
        "username",
        "minimal",
        "force",
        "multiple",
        "all",
        "message-priority",
        "trace",
    }
)
_SWITCHES = {"-u": "username", "-pw": "password", "-s": "server", "-h": "server", "-p": "port"}
_TRUE = {"true", "t", "yes", "y", "1"}
_FALSE = {"false", "f", "no", "n", "0"}
_UNITS = {"": 0, "b": 0, "bytes": 0} | {
    f"{letter}{ending}": power * 10
    for power, letter in enumerate("kmgt", start=1)
    for ending in ("", "b", "ib")
}
# Bounded, and of ASCII alone: Python refuses to read a number of thousands of digits, and reads those of every script.
_SIZE = re.compile(r"[ \t]*([0-9]{1,30})[ \t]*([A-Za-z]*)[ \t]*")
_INTEGER = re.compile(r"[ \t]*[-+]?[0-9]{1,30}[ \t]*")


def parse(words: Sequence[str]) -> tuple[str, Arguments]:
    """The command's name and its arguments.

    Raises UsageError.
    """
    if not words or "=" in words[0]:
        raise UsageError("Syntax error")
    return words[0], Arguments(tuple(_pairs(words[1:])))


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            yield word[2:], "true"
        elif word.startswith("-"):
            if word not in _SWITCHES:
                raise UsageError(f"Syntax error: Unknown switch: {word}")
            value = next(rest, None)
            if value is None:
                raise UsageError(f"Syntax error: Switch {word} requires a parameter")
            yield _SWITCHES[word], value
        else:
            name, _, value = word.partition("=")
            yield name, value


@dataclass(frozen=True)
class Arguments:
    """The `name=value` pairs of a command in the order typed; a name may come twice, and the first one counts."""

    pairs: tuple[tuple[str, str], ...] = ()

    def __contains__(self, name: object) -> bool:
        return any(key == name for key, _ in self.pairs)

    def __getitem__(self, name: str) -> str:
        """The value of a parameter that the command cannot do without. Raises UsageError."""
        for key, value in self.pairs:
            if key == name:
                return value
        raise UsageError(f"Required parameter not found: {name}")

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.pairs if key == name), default)

    def every(self, name: str) -> list[str]:
        """Every value of a parameter that may be repeated."""
        return [value for key, value in self.pairs if key == name]

    def flag(self, name: str, default: bool = False) -> bool:
        return to_bool(name, self[name]) if name in self else default

    def number(self, name: str, default: int = 0) -> int:
        return to_int(name, self[name]) if name in self else default

    def real(self, name: str, default: float = 0.0) -> float:
        return to_float(name, self[name]) if name in self else default

    def size(self, name: str) -> int:
        """A size in bytes, from a number with or without a unit."""
        return to_bytes(name, self[name])

    def items(self, name: str) -> list[str]:
        """A value split at its commas."""
        return words(self.get(name))

    def mapping(self, name: str) -> dict[str, str]:
        """The pairs `name:key=value`, or `name-key=value` as older scripts have it."""
        size = len(name) + 1
        found: dict[str, str] = {}
        for key, value in self.pairs:
            if len(key) > size and key.startswith((f"{name}:", f"{name}-")):
                found.setdefault(key[size:], value)
        return found

    def without(self, *names: str) -> Arguments:
        return Arguments(tuple(pair for pair in self.pairs if pair[0] not in names))

    def with_pair(self, name: str, value: str) -> Arguments:
        return Arguments(((name, value), *self.pairs))

    def filters(self, *ignored: str) -> list[tuple[str, str]]:
        """The pairs that select objects: all but the standard ones and those the command itself takes."""
        return [
            (key, value)
            for key, value in self.pairs
            if key.partition(":")[0] not in STANDARD and key.partition(":")[0] not in ignored
        ]


def words(text: str) -> list[str]:
    """The parts between commas; nothing at all for ''."""
    return text.split(",") if text else []


def to_bool(name: str, text: str) -> bool:
    """Raises ValueRefused."""
    small = text.lower()
    if small in _TRUE or small in _FALSE:
        return small in _TRUE
    raise ValueRefused(
        f"Failed to parse parameter '{name}': expecting a boolean (true or false), got '{text}'"
    )


def to_int(name: str, text: str) -> int:
    """Raises ValueRefused."""
    if not _INTEGER.fullmatch(text) or abs(int(text)) >= 2**63:
        raise ValueRefused(f"Failed to parse parameter '{name}': expecting an integer, got '{text}'")
    return int(text)


def to_float(name: str, text: str) -> float:
    """Raises ValueRefused."""
    try:
        return float(text)
    except ValueError:
        raise ValueRefused(f"Failed to parse parameter '{name}': expecting a number, got '{text}'") from None


def to_bytes(name: str, text: str) -> int:
    """A size in bytes: `1073741824`, `1024MiB`, `1g`; all units are binary. Raises ValueRefused."""
    found = _SIZE.fullmatch(text)
    if found and found[2].lower() in _UNITS:
        size = int(found[1]) << _UNITS[found[2].lower()]
        if size < 2**63:
            return size
    raise ValueRefused(
        f"Failed to parse field '{name}': expecting an integer (possibly with suffix KiB, MiB, GiB, TiB), got '{text}'"
    )


def one_of(name: str, text: str, allowed: Sequence[str]) -> str:
    """The allowed value that `text` means: any case, '-' for '_'. Raises CommandError."""
    plain = text.replace("-", "_").lower()
    for value in allowed:
        if value.replace("-", "_").lower() == plain:
            return value
    raise CommandError(f"Unknown {name} '{text}': expecting one of {', '.join(allowed)}")
