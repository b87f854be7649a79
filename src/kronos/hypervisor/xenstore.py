"""A client of xenstored: the small tree of paths in which Xen's domains and their host leave word for each other.

One connection serves all callers. Watches are told in one thread of their own, which may make calls, and they outlive
the connection: after a loss it is opened again, every watch is set again, and fires, as each does when it is set.

What xenstored refuses is raised as the OSError of that number (FileNotFoundError for a path that is not there), a lost
connection as ConnectionError, silence as TimeoutError. Paths below a guest's own hold what the guest wrote.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

log = logging.getLogger(__name__)

PLACES = tuple(
    Path(place)
    for place in (
        "/run/xenstored/socket",
        "/var/run/xenstored/socket",
        "/dev/xen/xenbus",
        "/proc/xen/xenbus",
    )
)
PAYLOAD = 4096
"""Bytes after the header that a message may have, either way."""
PATIENCE = 30.0
"""Seconds that an answer may take."""
RETURN = 10.0
"""Seconds for which a call waits for a connection that is lost."""
FIRST_RETRY, LAST_RETRY = 0.05, 5.0
ATTEMPTS = 32
"""How often a transaction is tried before somebody else's writes are a reason to give up."""

DIRECTORY, READ, GET_PERMS, WATCH, UNWATCH = 1, 2, 3, 4, 5
TRANSACTION_START, TRANSACTION_END = 6, 7
GET_DOMAIN_PATH, WRITE, MKDIR, RM, SET_PERMS, WATCH_EVENT, ERROR = 10, 11, 12, 13, 14, 15, 16
DIRECTORY_PART = 22

_HEADER = struct.Struct("=IIII")  # type, request, transaction, length: in the machine's order
_HARMLESS = frozenset({DIRECTORY, READ, GET_PERMS, GET_DOMAIN_PATH, DIRECTORY_PART})

T = TypeVar("T")
Callback = Callable[[str], None]


class _Reply(NamedTuple):
    kind: int
    payload: bytes


class _Waiting:
    """A request on its way; `reply` stays None where the connection was lost."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: _Reply | None = None


class _Connection:
    """An open descriptor; `sending` is held by who writes to it, and by who closes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.sending = threading.Lock()
        self.ended = False

    def send(self, kind: int, number: int, transaction: int, payload: bytes) -> None:
        """Send one message whole. Raises ConnectionResetError."""
        message = memoryview(_HEADER.pack(kind, number, transaction, len(payload)) + payload)
        try:
            with self.sending:
                if self.ended:
                    raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
                while message:
                    message = message[os.write(self.descriptor, message) :]
        except OSError as error:  # its number says nothing of the path
            raise ConnectionResetError(errno.ECONNRESET, f"xenstore: {error}") from error

    def close(self) -> None:
        with self.sending:
            self.ended = True
            os.close(self.descriptor)


class _Watch(NamedTuple):
    path: str
    callback: Callback


class Tree:
    """The tree as calls of one transaction see it, or, in number 0, as it is."""

    def __init__(self, client: Client, number: int = 0) -> None:
        self._client = client
        self._number = number

    def read(self, path: str) -> str:
        """The value of a path; what is not UTF-8 is replaced. Raises FileNotFoundError."""
        return self._call(READ, path, _z(path)).decode(errors="replace")

    def find(self, path: str) -> str | None:
        """read, or None where there is nothing."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def write(self, path: str, value: str | bytes) -> None:
        """Set a value; the path and those above it are made."""
        self._call(WRITE, path, _z(path) + (value.encode() if isinstance(value, str) else value))

    def mkdir(self, path: str) -> None:
        """Make a path with an empty value, if it is not there."""
        self._call(MKDIR, path, _z(path))

    def remove(self, path: str) -> None:
        """Remove a path and all below it; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._call(RM, path, _z(path))

    def directory(self, path: str) -> list[str]:
        """The names right below a path, as many as there are. Raises FileNotFoundError."""
        try:
            return _names(self._call(DIRECTORY, path, _z(path)))
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
        return self._in_parts(path)

    def permissions(self, path: str) -> list[str]:
        """Who may do what, owner first, as in ['n0', 'r5']."""
        return _names(self._call(GET_PERMS, path, _z(path)))

    def set_permissions(self, path: str, permissions: Iterable[str]) -> None:
        """Say who may do what: each n, r, w or b with a domid, the owner first."""
        self._call(SET_PERMS, path, _z(path) + b"".join(map(_z, permissions)))

    def domain_path(self, domid: int) -> str:
        """The path below which a domain has its own."""
        return self._call(GET_DOMAIN_PATH, str(domid), _z(str(domid))).rstrip(b"\0").decode()

    def below(self, path: str, names: Iterable[str] = ("",), *, most: int = 1000) -> dict[str, str]:
        """Every value in the subtrees `names` of a path, by the path relative to it; of a guest that wrote more than
        `most`, so many. What vanishes meanwhile is left out."""
        found: dict[str, str] = {}
        left = list(names)
        seen = 0
        while left and seen < most:
            name = left.pop(0)
            seen += 1
            full = f"{path}/{name}".rstrip("/")
            with contextlib.suppress(FileNotFoundError, PermissionError):
                children = self.directory(full)
                left += [f"{name}/{child}".lstrip("/") for child in children[:most]]
                if name:
                    found[name] = self.read(full)
        return found

    def _in_parts(self, path: str) -> list[str]:
        """A directory that no message holds. It may change from one part to the next: then all is read again."""
        for _ in range(ATTEMPTS):
            held, generation = b"", None
            while True:
                part = self._call(DIRECTORY_PART, path, _z(path) + _z(str(len(held))))
                now, _, names = part.partition(b"\0")
                if generation is not None and now != generation:
                    break
                generation = now
                if names in (b"", b"\0"):
                    return _names(held)
                if names.endswith(b"\0\0"):
                    return _names(held + names[:-1])
                held += names
        raise OSError(errno.EAGAIN, "xenstore: the directory never stays as it is", path)

    def _call(self, kind: int, path: str, payload: bytes) -> bytes:
        return self._client.request(kind, payload, path, self._number)


class Client(Tree):
    """A connection to xenstored; `places` are tried in turn, sockets and devices. Nothing is opened before it is used,
    so that one may be made on a host without Xen."""

    def __init__(self, places: Sequence[Path] = PLACES) -> None:
        super().__init__(self)
        self._places = places
        self._guard = threading.Condition()
        self._connection: _Connection | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count(1)
        self._watches: dict[str, _Watch] = {}
        # What fired and is not told yet: a path that fires again meanwhile is told once.
        self._fired: dict[tuple[str, str], None] = {}
        self._telling = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stop_reader, self._stop = os.pipe2(os.O_CLOEXEC)
        self._closed = False

    def watch(self, path: str, callback: Callback) -> Callable[[], None]:
        """Call `callback` with each path at or below `path` that changes, once at first, and again for `path` after a
        loss of the connection; the returned function ends that. Changes that follow each other are told once.

        Callbacks run one after the other in one thread. Special paths are @introduceDomain and @releaseDomain.
        """
        token = f"kronos-{next(self._numbers)}"
        with self._guard:
            self._watches[token] = _Watch(path, callback)
        try:
            self.request(WATCH, _z(path) + _z(token), path)
        except ConnectionError:
            pass  # it is set with all the others when the connection is back
        except OSError as error:
            if error.errno != errno.EEXIST:  # the connection came back meanwhile, and has set it
                self._watches.pop(token, None)
                raise
        return lambda: self._unwatch(token)

    def _unwatch(self, token: str) -> None:
        with self._guard:
            watch = self._watches.pop(token, None)
        if watch is not None and not self._closed:
            with contextlib.suppress(OSError):
                self.request(UNWATCH, _z(watch.path) + _z(token), watch.path)

    def atomically(self, work: Callable[[Tree], T]) -> T:
        """Do `work` in a transaction: all of its writes happen at once, or none where it raises. It is done again where
        somebody else wrote what it touched. Raises BlockingIOError when that goes on."""
        for _ in range(ATTEMPTS):
            number = int(self.request(TRANSACTION_START, b"\0").rstrip(b"\0"))
            try:
                result = work(Tree(self, number))
            except BaseException:
                with contextlib.suppress(OSError):
                    self.request(TRANSACTION_END, b"F\0", transaction=number)
                raise
            try:
                self.request(TRANSACTION_END, b"T\0", transaction=number)
            except BlockingIOError:
                continue
            return result
        raise BlockingIOError(errno.EAGAIN, "xenstore: the transaction never succeeds")

    def close(self) -> None:
        """End the connection; watches are told no more."""
        with self._guard:
            self._closed = True
            self._guard.notify_all()
        with self._telling:
            self._telling.notify_all()
        with contextlib.suppress(OSError):
            os.write(self._stop, b"x")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    # --- requests ------------------------------------------------------------------------------------------------

    def request(self, kind: int, payload: bytes, path: str = "", transaction: int = 0) -> bytes:
        """Send one message and wait for its answer: for those that the methods above leave out.

        What only reads is sent again after a loss; whether anything else was done then is not known.
        """
        if len(payload) > PAYLOAD:
            raise OSError(errno.E2BIG, "xenstore: longer than a message may be", path)
        again = kind in _HARMLESS and transaction == 0
        while True:
            try:
                return self._exchange(kind, payload, path, transaction)
            except ConnectionError:
                if not again or self._closed:
                    raise
                again = False

    def _exchange(self, kind: int, payload: bytes, path: str, transaction: int) -> bytes:
        waiting = _Waiting()
        with self._guard:
            connection = self._connected()
            number = next(self._numbers) & 0xFFFFFFFF
            self._waiting[number] = waiting
        try:
            connection.send(kind, number, transaction, payload)
            if not waiting.done.wait(PATIENCE):
                raise TimeoutError(errno.ETIMEDOUT, "xenstore: no answer", path)
        finally:
            self._waiting.pop(number, None)
        if waiting.reply is None:
            raise ConnectionResetError(errno.ECONNRESET, "xenstore: the connection was lost", path)
        if waiting.reply.kind == ERROR:
            name = waiting.reply.payload.rstrip(b"\0").decode(errors="replace")
            raise OSError(getattr(errno, name, errno.EIO), f"xenstore: {name}", path)
        return waiting.reply.payload

    def _connected(self) -> _Connection:
        """The connection, waited for; called with the guard held. Raises ConnectionError."""
        if self._closed:
            raise ConnectionAbortedError(errno.ECONNABORTED, "xenstore: closed")
        if not self._threads:
            self._threads = [
                threading.Thread(target=work, name=name, daemon=True)
                for work, name in ((self._keep, "xenstore"), (self._tell, "xenstore-watches"))
            ]
            for thread in self._threads:
                thread.start()
        if not self._guard.wait_for(lambda: self._connection is not None or self._closed, RETURN):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "xenstore: there is no connection")
        if self._connection is None:
            raise ConnectionAbortedError(errno.ECONNABORTED, "xenstore: closed")
        return self._connection

    # --- the connection ------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Open the connection, read until it ends, and again."""
        pause = FIRST_RETRY
        while not self._closed:
            descriptor = self._opened()
            if descriptor is None:
                self._stopped(pause)
                pause = min(2 * pause, LAST_RETRY)
                continue
            pause = FIRST_RETRY
            connection = _Connection(descriptor)
            with self._guard:
                self._connection = connection
                watches = dict(self._watches)
                self._guard.notify_all()
            try:
                self._set_again(connection, watches)
                self._read(descriptor)
            except OSError as error:
                log.log(logging.DEBUG if self._closed else logging.WARNING, "xenstore: %s", error)
            finally:
                self._lose(connection)

    def _stopped(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._stop_reader, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def _set_again(self, connection: _Connection, watches: dict[str, _Watch]) -> None:
        for token, watch in watches.items():
            # The answers have no one who waits for them. A second setting of a new one is refused, and harmless.
            connection.send(WATCH, 0, 0, _z(watch.path) + _z(token))

    def _lose(self, connection: _Connection) -> None:
        with self._guard:
            self._connection = None
            waiting, self._waiting = self._waiting, {}
        connection.close()
        for each in waiting.values():
            each.done.set()

    def _opened(self) -> int | None:
        for place in self._places:
            try:
                if stat.S_ISSOCK(place.stat().st_mode):
                    with socket.socket(socket.AF_UNIX) as end:
                        end.connect(os.fspath(place))
                        return end.detach()
                return os.open(place, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue
        return None

    def _read(self, descriptor: int) -> None:
        held = bytearray()
        poll = select.poll()  # select() knows no descriptor above 1023
        poll.register(descriptor, select.POLLIN)
        poll.register(self._stop_reader, select.POLLIN)
        while not self._closed:
            if self._stop_reader in dict(poll.poll()):
                return
            data = os.read(descriptor, 65536)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "xenstored has ended the connection")
            held += data
            while len(held) >= _HEADER.size:
                kind, number, _, length = _HEADER.unpack_from(held)
                if length > PAYLOAD:
                    raise ConnectionResetError(errno.EPROTO, f"a message of {length} bytes")
                if len(held) < _HEADER.size + length:
                    break
                payload = bytes(held[_HEADER.size : _HEADER.size + length])
                del held[: _HEADER.size + length]
                self._received(kind, number, payload)

    def _received(self, kind: int, number: int, payload: bytes) -> None:
        if kind == WATCH_EVENT:
            path, token = (payload.split(b"\0") + [b"", b""])[:2]
            with self._telling:
                self._fired[token.decode(errors="replace"), path.decode(errors="replace")] = None
                self._telling.notify()
            return
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.reply = _Reply(kind, payload)
            waiting.done.set()

    # --- watches -------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        while (fired := self._next_fired()) is not None:
            token, path = fired
            watch = self._watches.get(token)
            if watch is None:
                continue
            try:
                watch.callback(path)
            except Exception:  # one watcher's trouble must not cost the others
                log.exception("xenstore: the watch of %s", watch.path)

    def _next_fired(self) -> tuple[str, str] | None:
        with self._telling:
            self._telling.wait_for(lambda: self._fired or self._closed)
            if self._closed:
                return None
            fired = next(iter(self._fired))
            del self._fired[fired]
            return fired


@contextlib.contextmanager
def connected(places: Sequence[Path] = PLACES) -> Iterator[Client]:
    """A client for as long as the block runs."""
    client = Client(places)
    try:
        yield client
    finally:
        client.close()


def wait_for(client: Client, path: str, wanted: Callable[[str | None], bool], timeout: float) -> str | None:
    """The value of a path once it is as `wanted`, None for one that is not there. Raises TimeoutError."""
    changed = threading.Event()
    unwatch = client.watch(path, lambda _: changed.set())
    deadline = time.monotonic() + timeout
    try:
        while True:
            changed.clear()
            value = client.find(path)
            if wanted(value):
                return value
            if not changed.wait(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(errno.ETIMEDOUT, "xenstore: it did not come about", path)
    finally:
        unwatch()


def _z(text: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero in it")
    return text.encode() + b"\0"


def _names(payload: bytes) -> list[str]:
    return [name.decode(errors="replace") for name in payload.split(b"\0") if name]
