"""A change of the host's network that undoes itself: written down first, watched over by a second process, and final
only when the host has been reached over it.

Whatever ends it half-way (an error, kill -9, a power cut), the files go back to what they were: the second process
sees to it, or a unit at the next boot before the network is up.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from kronos.network.configuration import links
from kronos.network.configuration.base import Port, Refused, bytes_of, text_of
from kronos.network.configuration.links import Held
from kronos.system.commands import CommandFailed
from kronos.system.files import sync_directory, write_whole

log = logging.getLogger(__name__)

STATE: Final = Path("/var/lib/xapi-network")
MADE: Final = "made.json"
UNCONFIRMED: Final = "unconfirmed.json"
PATIENCE: Final = 30.0
"""Seconds in which the host is to be reached again."""


class Hands(Protocol):
    """One network tool's part, once the files are in place. All raise CommandFailed, OSError."""

    def join(self, port: Port, has: Held) -> None:
        """The bridge takes the place of the NIC, with what it `has`."""

    def leave(self, port: Port, has: Held) -> None:
        """The NIC takes the place of the bridge."""

    def renew(self, port: Port, has: Held) -> None:
        """The bridge, made if need be, takes its addresses from the files anew."""


class RolledBack(Exception):
    """The change was made and taken back; the text says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done: `step` of a tool's hands, and `back`, its way back. `has` is what is held now, and `expected`
    what is to be held then (the same, where it is None). `before` and `after` are files by path, None for one that is
    not there."""

    tool: str
    step: str
    back: str
    port: Port
    has: Held
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]
    expected: Held | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Change:
        said: dict[str, Any] = json.loads(text)
        expected = Held.from_json(said["expected"]) if said["expected"] is not None else None
        port, has = Port(**said["port"]), Held.from_json(said["has"])
        return cls(**{**said, "port": port, "has": has, "expected": expected})

    def reversed(self, has: Held) -> Change:
        """Back from a bridge that was made, with what the bridge has by now."""
        return Change(self.tool, "leave", "join", self.port, has, self.after, self.before)


def is_under_way() -> bool:
    """Whether a change of this host's network has begun and not ended."""
    return (STATE / UNCONFIRMED).exists()


class Transaction:
    """The folder in which changes are written down, and the way to make one; `patience` is in seconds."""

    def __init__(self, state: Path = STATE, *, patience: float = PATIENCE) -> None:
        self.state = state
        self.patience = patience

    def made(self) -> Change | None:
        """The bridge that this program has made, if there is one."""
        return self._read(MADE)

    def unconfirmed(self) -> Change | None:
        return self._read(UNCONFIRMED)

    def _read(self, name: str) -> Change | None:
        text = content(self.state / name)
        if text is None:
            return None
        try:
            return Change.from_json(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{self.state / name} cannot be read: {error!r}") from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One change at a time."""
        self.state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.state / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def settle(self, hands: Mapping[str, Hands], *, live: bool) -> Change | None:
        """Undo what was never confirmed, and return it. Only the files, where not `live`: the network is not up yet."""
        change = self.unconfirmed()
        if change is not None:
            self._take_back(change, hands[change.tool], live=live)
        return change

    def perform(self, change: Change, hands: Hands) -> None:
        """Make a change; it holds when this returns. The caller is `alone`.

        Raises RolledBack, and Refused where a file is not what it was planned from.
        """
        for path, text in change.before.items():
            if content(Path(path)) != text:
                raise Refused(f"{path} has been changed meanwhile")
        known = [each for each in change.has.gateways if links.answers(_holder(change), each)]
        if change.expected is not None:
            known = list(change.expected.gateways)
        write_whole(self.state / UNCONFIRMED, change.as_json().encode(), 0o600)
        with _guarded(lambda: self._take_back(change, hands, live=True)):
            try:
                _write(change.after)
                carried = change.has if change.expected is None else Held()
                getattr(hands, change.step)(change.port, carried)
                self._await(change, known)
            except BaseException as error:
                log.warning("the change is taken back: %s", error)
                self._take_back(change, hands, live=True)
                if isinstance(error, CommandFailed | OSError | Refused | Unreached):
                    raise RolledBack(str(error)) from error
                raise
            self._unlink(UNCONFIRMED)

    def _await(self, change: Change, answering: list[str]) -> None:
        device = change.port.device if change.step == "leave" else change.port.bridge
        until = time.monotonic() + self.patience
        while lack := links.missing(device, change.expected or change.has, answering):
            if time.monotonic() > until:
                raise Unreached(lack)
            time.sleep(0.2)

    def _take_back(self, change: Change, hands: Hands, *, live: bool) -> None:
        _write(change.before)
        if live:
            try:
                getattr(hands, change.back)(change.port, change.has)
            except (CommandFailed, OSError) as error:
                log.error("the network is not as it was: %s", error)
        self._unlink(UNCONFIRMED)

    def _unlink(self, name: str) -> None:
        (self.state / name).unlink(missing_ok=True)
        sync_directory(self.state)


class Unreached(Exception):
    """The host is not reached over the bridge; the text says what is missing."""


def _holder(change: Change) -> str:
    return (
        change.port.bridge
        if change.step == "leave" or links.is_bridge(change.port.bridge)
        else change.port.device
    )


def content(path: Path) -> str | None:
    """A file's text, None where there is none. Raises OSError."""
    try:
        return text_of(path.read_bytes())
    except FileNotFoundError:
        return None


def _write(files: Mapping[str, str | None]) -> None:
    """Files that are there keep their owner and rights; new ones are root's, and those with secrets alone root's."""
    for name, text in files.items():
        path = Path(name)
        if text is None:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_directory(path.parent)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        real = path.resolve()
        old = real.stat() if real.exists() else None
        secret = "NetworkManager" in name or path.name == MADE
        mode = old.st_mode & 0o7777 if old else 0o600 if secret else 0o644
        write_whole(real, bytes_of(text), mode)
        real.chmod(mode)
        if old:
            os.chown(real, old.st_uid, old.st_gid)


@contextlib.contextmanager
def _guarded(undo: Any) -> Iterator[None]:
    """A second process undoes it when this one is gone without having said that all is well."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _guard(ours, theirs, undo)
    os.close(ours)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # the terminal may be the connection that is being moved
    try:
        yield
    finally:
        os.write(theirs, b"k")
        os.close(theirs)
        os.waitpid(child, 0)


def _guard(ours: int, theirs: int, undo: Any) -> None:
    os.close(theirs)
    with contextlib.suppress(OSError):
        os.setsid()
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    status = 0
    try:
        if not os.read(ours, 1):
            undo()
    except BaseException:  # noqa: BLE001  # nothing is above it
        status = 1
    os._exit(status)
