"""The thin protocol between `xe` and the server: the arguments come in, what to print and to fetch goes out.

The client posts its arguments to /cli. Both sides then send a magic text with a version, and the server sends messages,
each with its length in front: print this, send me that file, fetch this address, exit with that status. All numbers
are 32 bits, little-endian. Nothing here goes through the event loop: a connection has a worker thread of its own.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from kronos.commands import engine
from kronos.commands.protocol import OpenSession
from kronos.rules.redaction import without_passwords

_MAGIC = b"XenSource thin CLI protocol"
_MAJOR, _MINOR = 0, 2
_COMMAND, _RESPONSE, _BLOB = 9, 10, 11
_PRINT, _LOAD, _PROMPT, _EXIT = 0, 1, 3, 4
_OK, _FAILED, _CHUNK, _END, _WAIT = 5, 6, 7, 8, 18
_HTTP_GET, _HTTP_PUT, _ERROR, _PRINT_ERROR, _HTTP_CONNECT = 12, 13, 14, 16, 17

# The longest request that is read, the longest message and the largest file that a client may send.
MAX_BODY = 200 * 1024
_MAX_MESSAGE = 64 * 1024
_MAX_UPLOAD = 32 * 1024 * 1024
_READ = 64 * 1024
_HANDSHAKE_SECONDS = 30.0
# Names of parameters that may hold a secret; what follows their '=' stays out of the log.
_SECRET = re.compile(r"(?i)(.*(password|secret|token|url).*|old|new|value|args.*|.*:.*pass(wd|phrase)?)")

log = logging.getLogger(__name__)


class Connection(Protocol):
    """The part of a blocking stream that the protocol needs; see BlockingStream."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def readable(self, seconds: float, /) -> bool: ...


class ProtocolError(Exception):
    """The client sent something that the protocol does not know."""


def serve(connection: Connection, body: bytes, open_session: OpenSession) -> None:
    """Speak the protocol on a connection whose request has been read: `body` holds the arguments.

    The arguments are separated by line breaks, or by NUL bytes where one of them holds a line break. The first may be
    `session_id=…`; otherwise the last two are the login. Returns once the command has ended or the client has gone;
    the caller closes the connection.
    """
    terminal = ThinTerminal(connection)
    try:
        terminal.handshake()
        try:
            session, words = parse_body(body)
        except ProtocolError as error:
            terminal.print_error(f"Error: {error}\n")
            terminal.exit(1)
            return
        log.info("xe %s", " ".join(censored(words)))
        status = _run(words, terminal, open_session, session)
        terminal.exit(status)
    except (OSError, ProtocolError) as error:
        log.info("xe: the client has gone: %s", error)


def _run(words: Sequence[str], terminal: ThinTerminal, open_session: OpenSession, session: str | None) -> int:
    try:
        return engine.run(words, terminal, open_session, session)
    except (OSError, ProtocolError):
        raise
    except Exception:
        log.exception("xe %s failed", words[0] if words else "")
        terminal.print_error("The server met an error of its own; its log has the details.\n")
        return 1


def parse_body(body: bytes) -> tuple[str | None, list[str]]:
    """The session, if the client names one, and the words of the command line. Raises ProtocolError."""
    if len(body) > MAX_BODY:
        raise ProtocolError("the command line is too long")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("the command line is not UTF-8") from error
    if "\0" in text:
        words = text.split("\0")
    else:
        words = [line.removesuffix("\r") for line in text.split("\n")]
    if words and words[0].startswith("session_id="):
        return words[0].partition("=")[2], words[1:]
    return None, words


def censored(words: Sequence[str]) -> list[str]:
    """The command line for the log: nothing that may be a secret."""
    out = []
    for word in words:
        name, equals, _ = word.partition("=")
        out.append(f"{name}=(omitted)" if equals and _SECRET.fullmatch(name) else without_passwords(word))
    return out


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<i", len(data)) + data


def _message(tag: int, rest: bytes) -> bytes:
    return struct.pack("<iii", 8 + len(rest), _COMMAND, tag) + rest


class ThinTerminal:
    """The client's terminal, reached through the protocol."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unread = bytearray()

    def handshake(self) -> None:
        """Exchange versions. Raises ProtocolError, OSError."""
        hello = _MAGIC + struct.pack("<ii", _MAJOR, _MINOR)
        self._connection.sendall(hello)
        self._connection.settimeout(_HANDSHAKE_SECONDS)
        untrusted_hello = self._read(len(hello))
        self._connection.settimeout(None)
        if not untrusted_hello.startswith(_MAGIC):
            raise ProtocolError("not a client of the thin protocol")
        if struct.unpack_from("<i", untrusted_hello, len(_MAGIC))[0] != _MAJOR:
            raise ProtocolError("a client of another version")

    def print(self, text: str) -> None:
        self._send(_PRINT, _text(text))

    def print_all(self, texts: Iterable[str]) -> None:
        self._connection.sendall(b"".join(_message(_PRINT, _text(text)) for text in texts))

    def print_error(self, text: str) -> None:
        self._send(_PRINT_ERROR, _text(text))

    def show_failure(self, code: str, params: Sequence[str]) -> None:
        count = struct.pack("<i", len(params))
        self._send(_ERROR, _text(code) + count + b"".join(map(_text, params)))

    def exit(self, status: int) -> None:
        self._send(_EXIT, struct.pack("<i", status))

    def load_file(self, path: str) -> bytes | None:
        self._send(_LOAD, _text(path))
        return self._blob() if self._answer() else None

    def prompt(self) -> str:
        self._send(_PROMPT, b"")
        return self._blob().decode("utf-8", "replace")

    def http_get(self, path: str, url: str, waiting: Callable[[], None] | None = None) -> bool:
        self._send(_HTTP_GET, _text(path) + _text(url))
        return self._answer(waiting)

    def http_put(self, path: str, url: str, waiting: Callable[[], None] | None = None) -> bool:
        self._send(_HTTP_PUT, _text(path) + _text(url))
        return self._answer(waiting)

    def connect(self, url: str) -> bool:
        self._send(_HTTP_CONNECT, _text(url))
        return self._answer()

    def alive(self) -> bool:
        """Whether the client is still there: between messages it has nothing to say, so readable means closed."""
        return not self._connection.readable(0)

    def _answer(self, waiting: Callable[[], None] | None = None) -> bool:
        """Wait for OK or Failed; a client that is still busy says so now and then."""
        while True:
            while waiting is not None and not self._unread and not self._connection.readable(1.0):
                waiting()
            kind, tag, _ = self._message()
            if kind != _RESPONSE:
                raise ProtocolError(f"expected a response, got message {kind}")
            if tag in (_OK, _FAILED):
                return tag == _OK
            if tag != _WAIT:
                raise ProtocolError(f"unknown response {tag}")

    def _blob(self) -> bytes:
        """Data in chunks. Raises ProtocolError where it is more than a client may send."""
        parts: list[bytes] = []
        size = 0
        while True:
            kind, tag, untrusted_rest = self._message()
            if kind == _BLOB and tag == _END:
                return b"".join(parts)
            if kind != _BLOB or tag != _CHUNK or len(untrusted_rest) != 4:
                raise ProtocolError(f"expected data, got message {kind} {tag}")
            length = struct.unpack("<i", untrusted_rest)[0]
            size += length
            if length < 0 or size > _MAX_UPLOAD:
                raise ProtocolError("the file is too large")
            parts.append(self._read(length))

    def _message(self) -> tuple[int, int, bytes]:
        """One message: its kind, its tag, and the rest."""
        length = struct.unpack("<i", self._read(4))[0]
        if not 8 <= length <= _MAX_MESSAGE:
            raise ProtocolError(f"a message of {length} bytes")
        untrusted_message = self._read(length)
        kind, tag = struct.unpack_from("<ii", untrusted_message)
        return kind, tag, untrusted_message[8:]

    def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            part = self._connection.recv(_READ)
            if not part:
                raise ProtocolError("the connection ended within a message")
            self._unread += part
        found = bytes(self._unread[:size])
        del self._unread[:size]
        return found

    def _send(self, tag: int, rest: bytes) -> None:
        self._connection.sendall(_message(tag, rest))
