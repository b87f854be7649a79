"""The thin protocol as the client speaks it: messages from the server, each an order to this terminal."""

from __future__ import annotations

import _socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Connection(Protocol):
        """A plain or TLS socket."""

        def recv(self, size: int, /) -> bytes: ...
        def sendall(self, data: bytes, /) -> None: ...
        def fileno(self) -> int: ...
        def close(self) -> None: ...

    class Endpoint(Protocol):
        """Where the server is; `trusted` where it knows its callers without a password."""

        @property
        def trusted(self) -> bool: ...
        def connect(self) -> Connection: ...


MAGIC = b"XenSource thin CLI protocol"
_HELLO = MAGIC + bytes(4) + (2).to_bytes(4, "little")
_COMMAND, _RESPONSE, _BLOB = 9, 10, 11
_PRINT, _LOAD, _PROMPT, _EXIT = 0, 1, 3, 4
_HTTP_GET, _HTTP_PUT, _ERROR, _DEBUG, _PRINT_ERROR, _HTTP_CONNECT = 12, 13, 14, 15, 16, 17
_LONGEST = 1 << 28

OK, FAILED, WAIT = (
    b"\x08\0\0\0\x0a\0\0\0\x05\0\0\0",
    b"\x08\0\0\0\x0a\0\0\0\x06\0\0\0",
    b"\x08\0\0\0\x0a\0\0\0\x12\0\0\0",
)
_END = b"\x08\0\0\0\x0b\0\0\0\x08\0\0\0"


class NotAServer(Exception):
    """What answers is no xapi, or one of another version."""


class Gone(Exception):
    """The server closed the connection before the command ended."""


class Unanswered(Gone):
    """The server closed the connection, or had no time, before it began with the command."""


class Refused(Exception):
    """The server ordered something that the user did not allow, or that this machine cannot do."""


class UnixEndpoint:
    """The server on this host, through its socket in the file system."""

    trusted = True

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._first: _socket.socket | None = None

    def usable(self) -> bool:
        """Whether someone listens there and lets us in."""
        try:
            self._first = self._open()
        except OSError:
            return False
        return True

    def connect(self) -> Connection:
        first, self._first = self._first, None
        return first or self._open()

    def _open(self) -> _socket.socket:
        found = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        found.connect(self._path)
        return found


class Trace:
    """What --debug shows at once, and --debug-on-fail at the end of a command that failed."""

    __slots__ = ("_kept", "_now")

    def __init__(self, now: bool, on_fail: bool) -> None:
        self._now = now
        self._kept: list[str] | None = [] if on_fail else None

    def note(self, text: str) -> None:
        if self._now:
            sys.stderr.write(f"{text}\n")
        if self._kept is not None:
            self._kept.append(text)

    def finish(self, status: int) -> None:
        if status and self._kept:
            sys.stderr.write("\nDebug info:\n\n" + "\n".join(self._kept) + "\n")


class Obedience:
    """One command's dialogue with the server."""

    def __init__(
        self, connection: Connection, endpoint: Endpoint, words: Sequence[str], trace: Trace
    ) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self.trace = trace
        self._words = words
        self._unread = b""
        self._at = 0

    def run(self) -> int:
        """Obey until the server says with which status to leave. Raises NotAServer, Gone, Refused, OSError."""
        out = sys.stdout.buffer
        while True:
            message = self._message()
            kind, tag = _number(message, 0), _number(message, 4)
            if kind != _COMMAND:
                raise NotAServer(f"Unexpected message from server: {kind}")
            if tag == _PRINT:
                out.write(_string(message, 8)[0] + b"\n")
            elif tag == _PRINT_ERROR:
                out.flush()
                sys.stderr.buffer.write(_string(message, 8)[0])
                sys.stderr.buffer.flush()
            elif tag == _EXIT:
                return _number(message, 8)
            else:
                out.flush()
                self._obey(tag, message)

    def _obey(self, tag: int, message: bytes) -> None:
        if tag == _ERROR:
            _show_error(message)
        elif tag == _DEBUG:
            self.trace.note(f"debug from server: {_text(message)}")
        elif tag == _LOAD:
            self._load(_text(message))
        elif tag == _PROMPT:
            self._prompt()
        elif tag in (_HTTP_GET, _HTTP_PUT):
            from kronos.xe import transfer

            path, after = _string(message, 8)
            url = _string(message, after)[0].decode()
            move = transfer.get if tag == _HTTP_GET else transfer.put
            move(self, path.decode("utf-8", "surrogateescape"), url)
        elif tag == _HTTP_CONNECT:
            from kronos.xe import terminal

            terminal.join(self, _text(message))
        else:
            raise NotAServer(f"Unexpected message from server: command {tag}")

    def permit(self, path: str) -> None:
        """Raises Refused unless the user named the file: a server has no business with any other."""
        import os.path

        named = [word.partition("=")[2].strip() for word in self._words if "=" in word]
        allowed = {os.path.abspath(name) for name in named}  # noqa: PTH100  # as in options
        if os.path.abspath(path) not in allowed:  # noqa: PTH100  # as in options
            raise Refused(
                f"The server asked for the file {path}, which was not named on the command line: not permitted."
            )

    def _load(self, path: str) -> None:
        self.permit(path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # as in options
                content = file.read()
        except OSError:
            self.connection.sendall(FAILED)
            return
        size = len(content).to_bytes(4, "little")
        self.connection.sendall(OK + b"\x0c\0\0\0\x0b\0\0\0\x07\0\0\0" + size + content + _END)

    def _prompt(self) -> None:
        line = sys.stdin.readline().rstrip("\n").encode("utf-8", "surrogateescape")
        size = len(line).to_bytes(4, "little")
        self.connection.sendall(b"\x0c\0\0\0\x0b\0\0\0\x07\0\0\0" + size + line + _END)

    def greet(self, request: bytes) -> None:
        """Send the command. The server says hello before it begins with it. Raises Unanswered, NotAServer, Gone."""
        try:
            self.connection.sendall(request)
            answer = self._read(len(MAGIC))
        except (Gone, ConnectionResetError, BrokenPipeError) as error:
            if self._unread:
                raise
            raise Unanswered from error
        if answer.startswith(b"HTTP/1.1 503"):
            raise Unanswered
        if answer != MAGIC:
            raise NotAServer(
                "Server internal error." if answer.startswith(b"HTTP") else "This is not a xapi server."
            )
        major = _number(self._read(8), 0)
        self.trace.note(f"Server has protocol version {major}. Client has 0.2")
        if major:
            raise NotAServer(f"Protocol version mismatch: the server has {major}, this client 0.")
        try:
            self.connection.sendall(_HELLO)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Gone from error

    def _message(self) -> bytes:
        length = _number(self._read(4), 0)
        if not 8 <= length <= _LONGEST:
            raise NotAServer(f"The server sent a message of {length} bytes.")
        message = self._read(length)
        self.trace.note(f"Read: {message[4:204]!r}")
        return message

    def _read(self, size: int) -> bytes:
        """Exactly `size` bytes; what was printed so far is shown before waiting for more."""
        while len(self._unread) - self._at < size:
            sys.stdout.flush()
            more = self.connection.recv(1 << 18)
            if not more:
                raise Gone
            self._unread = self._unread[self._at :] + more
            self._at = 0
        found = self._unread[self._at : self._at + size]
        self._at += size
        return found


def _number(message: bytes, at: int) -> int:
    return int.from_bytes(message[at : at + 4], "little", signed=True)


def _string(message: bytes, at: int) -> tuple[bytes, int]:
    """A string within a message, and where the next value starts."""
    end = at + 4 + _number(message, at)
    if end < at + 4 or end > len(message):
        raise NotAServer("The server sent a broken message.")
    return message[at + 4 : end], end


def _text(message: bytes) -> str:
    return _string(message, 8)[0].decode("utf-8", "surrogateescape")


def _show_error(message: bytes) -> None:
    code, at = _string(message, 8)
    count, at = _number(message, at), at + 4
    params = []
    for _ in range(count):
        value, at = _string(message, at)
        params.append(value)
    sys.stderr.buffer.write(b"Error code: %s\nError parameters: %s\n" % (code, b", ".join(params)))
    sys.stderr.buffer.flush()
