"""What a command needs from outside: XenAPI as a session sees it, and the terminal of whoever typed the command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

NULL = "OpaqueRef:NULL"


@dataclass(frozen=True)
class Login:
    """Who types: a user and a password, or a session that is open already.

    `local` asks for a session that works in emergency mode too (session.slave_local_login_with_password).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    session: str | None = field(default=None, repr=False)
    local: bool = False


class API(Protocol):
    """XenAPI with the session implied: `api("VM.start", vm, False, False)`.

    Values are plain Python: int, float, bool, str (also for enums, references and `YYYYMMDDTHH:MM:SSZ` dates),
    lists or tuples, dicts. Raises Failure.
    """

    @property
    def session(self) -> str:
        """The session's reference, for the addresses of transfers."""

    def __call__(self, method: str, *args: object) -> Any:
        """Call `method` and return its value."""

    def task(self, method: str, *args: object, progress: Callable[[float], None] | None = None) -> Any:
        """Call `method` as a task that others can see and cancel; `progress` gets 0.0 to 1.0 meanwhile."""

    def using(self, session: str) -> API:
        """The same API under another session, such as the one of VDI.open_database."""

    def remote(self, address: str, username: str, password: str) -> AbstractContextManager[API]:
        """XenAPI of another pool, for as long as the context lasts."""


OpenSession = Callable[[Login], AbstractContextManager[API]]


class Terminal(Protocol):
    """The other end of a command: prints, reads files that the user named, and moves bulk data."""

    def print(self, text: str) -> None:
        """Show `text` and a line break on standard output."""

    def print_all(self, texts: Iterable[str]) -> None:
        """Print many texts together."""

    def print_error(self, text: str) -> None:
        """Show `text` as it is on standard error."""

    def show_failure(self, code: str, params: Sequence[str]) -> None:
        """Show an error that has no sentence."""

    def load_file(self, path: str) -> bytes | None:
        """The content of a file of the user's machine, or None if it cannot be read."""

    def prompt(self) -> str:
        """A line that the user types."""

    def http_get(self, path: str, url: str, waiting: Callable[[], None] | None = None) -> bool:
        """Let the client save `url` as `path` ('' is standard output); `waiting` is called every second."""

    def http_put(self, path: str, url: str, waiting: Callable[[], None] | None = None) -> bool:
        """Let the client send the file `path` to `url`."""

    def connect(self, url: str) -> bool:
        """Let the client join its terminal to the serial console at `url` until the user leaves."""

    def alive(self) -> bool:
        """False once the client has gone."""
