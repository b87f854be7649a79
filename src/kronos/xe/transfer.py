"""Bulk data over connections of their own: files of the user's to the server, and the server's to files."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
import time
from urllib.parse import urlsplit

from kronos.xe import remote
from kronos.xe.wire import FAILED, OK, WAIT, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kronos.xe.wire import Connection, Obedience

_STEP = 1 << 20
_HEARTBEAT = 300.0
_REDIRECTS = 5
_LONGEST_HEAD = 1 << 16
# Seconds that a server gets to answer before the data is sent: enough to be sent elsewhere first. A pipe cannot be
# read twice, so there the wait is longer.
_EARLY, _EARLY_FOR_PIPE = 0.2, 5.0


class Broken(Exception):
    """The transfer failed; the server knows why and says so."""


class Heart:
    """Tells the server from time to time that the client is still busy."""

    def __init__(self, command: Connection) -> None:
        self._command = command
        self._last = time.monotonic()

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= _HEARTBEAT:
            self._command.sendall(WAIT)
            self._last = now


def get(command: Obedience, path: str, url: str) -> None:
    """Save what the server sends as a new file, or on standard output where `path` is ''. Raises Refused."""
    if path:
        command.permit(path)
    try:
        connection, head, start = _opened(command, "GET", url)
        try:
            _save(command, connection, head, start, path)
        finally:
            connection.close()
    except (Broken, OSError) as error:
        _failed(command, error)
    else:
        command.connection.sendall(OK)


def put(command: Obedience, path: str, url: str) -> None:
    """Send a file to the server. Raises Refused."""
    command.permit(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        command.connection.sendall(FAILED)
        raise Refused(f"Operation failed. Error: {path}: {error.strerror}") from error
    try:
        _send(command, descriptor, url)
    except (Broken, OSError) as error:
        _failed(command, error)
    else:
        command.connection.sendall(OK)
    finally:
        os.close(descriptor)


def _failed(command: Obedience, error: Exception) -> None:
    command.trace.note(f"transfer failed: {error}")
    command.connection.sendall(FAILED)


def open_url(command: Obedience, url: str) -> tuple[Connection, str]:
    """A connection to the server of an address, and the path there; the command's own server for a path alone."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if not parts.hostname:
        return command.endpoint.connect(), path
    if parts.scheme == "http":
        return remote.TcpEndpoint(parts.hostname, parts.port or 80, tls=False).connect(), path
    return remote.TcpEndpoint(parts.hostname, parts.port or 443, tls=True).connect(), path


def _opened(command: Obedience, method: str, url: str) -> tuple[Connection, dict[str, str], bytes]:
    """Ask for an address, wherever it has moved to: connection, headers, and the first bytes of the body."""
    for _ in range(_REDIRECTS):
        connection, path = open_url(command, url)
        connection.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        status, head, start = read_head(connection)
        command.trace.note(f"{method} {path.partition('?')[0]}: {status}")
        if status == 200:
            return connection, head, start
        connection.close()
        url = head.get("location", "")
        if status != 302 or not url:
            raise Broken(f"the server said {status}")
    raise Broken("sent from server to server")


def read_head(connection: Connection) -> tuple[int, dict[str, str], bytes]:
    """The status and headers of an answer, and what came with them. Raises Broken."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(_LONGEST_HEAD)
        if not more or len(data) > _LONGEST_HEAD:
            raise Broken("no answer")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    if len(words) < 2 or not words[1].isdigit():
        raise Broken("not an answer of HTTP")
    headers = (line.partition(":") for line in lines)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in headers}, rest


def _save(command: Obedience, connection: Connection, head: dict[str, str], start: bytes, path: str) -> None:
    if not path:
        sys.stdout.flush()
        _receive(command, connection, head, start, 1)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        command.connection.sendall(FAILED)
        raise Refused(f"Operation failed. Error: {path}: {error.strerror}") from error
    try:
        _receive(command, connection, head, start, descriptor)
    except BaseException:
        # Half an archive is no archive, and would be in the way of the next try.
        os.unlink(path)  # noqa: PTH108  # as in options
        raise
    finally:
        os.close(descriptor)


def _receive(
    command: Obedience, connection: Connection, head: dict[str, str], start: bytes, descriptor: int
) -> None:
    heart = Heart(command.connection)
    expected = int(head["content-length"]) if head.get("content-length", "").isdigit() else None
    size = len(start)
    _write(descriptor, memoryview(start))
    buffer = bytearray(_STEP)
    view = memoryview(buffer)
    receive = getattr(connection, "recv_into")  # noqa: B009  (plain and TLS sockets both have it)
    while expected is None or size < expected:
        count = receive(buffer)
        if not count:
            break
        _write(descriptor, view[:count])
        size += count
        heart.beat()
    if expected is not None and size != expected:
        raise Broken(f"{size} bytes of {expected}")


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _send(command: Obedience, descriptor: int, url: str) -> None:
    status = os.fstat(descriptor)
    length = status.st_size if stat.S_ISREG(status.st_mode) else None
    for _ in range(_REDIRECTS):
        connection, path = open_url(command, url)
        try:
            url = _send_to(command, connection, path, descriptor, length)
        finally:
            connection.close()
        if not url:
            return
        if length is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
    raise Broken("sent from server to server")


def _send_to(
    command: Obedience, connection: Connection, path: str, descriptor: int, length: int | None
) -> str:
    """Send the file and see the server's answer; returns where else to send it, or ''."""
    size = "" if length is None else f"Content-Length: {length}\r\n"
    connection.sendall(f"PUT {path} HTTP/1.0\r\n{size}\r\n".encode())
    answered = _readable(connection, _EARLY_FOR_PIPE if length is None else _EARLY)
    elsewhere = _answer(command, connection) if answered else ""
    if elsewhere:
        return elsewhere
    try:
        answered = _pour(command, connection, descriptor, answered) or answered
    except OSError as error:
        if answered or error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise
    if length is None and isinstance(connection, socket.socket):
        connection.shutdown(socket.SHUT_WR)
    return "" if answered else _answer(command, connection)


def _pour(command: Obedience, connection: Connection, descriptor: int, answered: bool) -> bool:
    """Send the content; stop where the server answers meanwhile with anything but 200."""
    heart = Heart(command.connection)
    while data := os.read(descriptor, _STEP):
        connection.sendall(data)
        heart.beat()
        if not answered and _readable(connection, 0):
            _answer(command, connection)
            answered = True
    return answered


def _answer(command: Obedience, connection: Connection) -> str:
    """The address that the server sends us to, or '' for 200. Raises Broken for anything else."""
    status, head, _ = read_head(connection)
    command.trace.note(f"PUT: {status}")
    if status == 302 and head.get("location"):
        return head["location"]
    if status != 200:
        raise Broken(f"the server said {status}")
    return ""


def _readable(connection: Connection, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(seconds * 1000))
