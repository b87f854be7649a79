"""A VM's serial console in the user's terminal: every key goes to the VM, but Ctrl-] ends the session."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty

from kronos.xe import transfer
from kronos.xe.wire import FAILED, OK, WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kronos.xe.wire import Connection, Obedience

_ESCAPE = b"\x1d"
_BLOCK = 1 << 16
_HEARTBEAT_MS = 300_000


def join(command: Obedience, url: str) -> None:
    """Connect standard input and output to the console at `url` until the user or the VM ends it."""
    try:
        connection, path = transfer.open_url(command, url)
        connection.sendall(f"CONNECT {path} HTTP/1.0\r\ncontent-length: 0\r\n\r\n".encode())
        status, _, start = transfer.read_head(connection)
    except (transfer.Broken, OSError) as error:
        sys.stderr.write(f"The console does not answer: {error}\n")
        command.connection.sendall(FAILED)
        return
    if status != 200:
        reason = "the console is not available" if status == 404 else "the console was refused"
        sys.stderr.write(f"Server replied with HTTP {status}: {reason}\n")
        command.connection.sendall(FAILED)
        return
    _talk(command, connection, start)
    command.connection.sendall(OK)


def _talk(command: Obedience, connection: Connection, start: bytes) -> None:
    """Raw mode for as long as the talk lasts, the user's settings again whatever happens."""
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    saved = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None
    try:
        if saved is not None:
            tty.setraw(keyboard, termios.TCSANOW)
        _write(screen, start)
        _copy(command, connection, keyboard, screen)
    finally:
        if saved is not None:
            termios.tcsetattr(keyboard, termios.TCSANOW, saved)
            _write(screen, b"\r\n")


def _copy(command: Obedience, connection: Connection, keyboard: int, screen: int) -> None:
    poll = select.poll()
    poll.register(keyboard, select.POLLIN)
    poll.register(connection.fileno(), select.POLLIN)
    while True:
        ready = poll.poll(_HEARTBEAT_MS)
        if not ready:
            command.connection.sendall(WAIT)
        for descriptor, _ in ready:
            if descriptor != keyboard:
                data = connection.recv(_BLOCK)
                if not data:
                    return
                _write(screen, data)
                continue
            keys, escape, _ = os.read(keyboard, _BLOCK).partition(_ESCAPE)
            if keys:
                connection.sendall(keys)
            if escape:
                return
            if not keys:
                # The end of a script's input: what the VM still says is shown until it closes.
                poll.unregister(keyboard)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
