"""The serial lines of Xen's guests: pseudo-terminals of this host, offered as unix sockets, with a log.

xenconsoled keeps what a guest prints while nobody reads (a megabyte, then the oldest goes), so a guest never waits, and
nothing is lost while the daemon restarts. One thread serves all guests.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import termios
import threading
import tty
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LOG_LIMIT = 1 << 20
"""Bytes of a log; when it has grown past them its older half goes."""

BACKLOG = 256 << 10
"""Bytes that one slow reader may be behind before it is let go."""

CLIENTS = 16
_CHUNK = 65536


class Line:
    """One guest's serial line."""

    def __init__(self, listener: socket.socket, path: Path, log_path: Path, *, fresh: bool) -> None:
        self.listener = listener
        self.path = path
        self.log = log_path.open("wb" if fresh else "ab", buffering=0)
        self.log_path = log_path
        self.terminal: int | None = None
        self.clients: dict[socket.socket, bytearray] = {}
        self.typed = bytearray()


class Terminals:
    """All serial lines of a host."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._selector = selectors.DefaultSelector()
        self._jobs: list[Callable[[], None]] = []
        self._guard = threading.Lock()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, lambda mask: self._run_jobs())
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="serial-lines", daemon=True)
        self._thread.start()

    # --- from any thread ---------------------------------------------------------------------------------------------

    def attach(self, uuid: str, terminal: str, path: Path, log_path: Path, *, fresh: bool = False) -> None:
        """Serve a guest's terminal at `path` and write what it prints to `log_path`, which begins anew if `fresh`.

        A guest that rebooted has another terminal: its readers stay. Raises OSError.
        """
        descriptor = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            tty.setraw(descriptor, termios.TCSANOW)  # the default throws away what was printed before
        except BaseException:
            os.close(descriptor)
            raise
        self._do(lambda: self._attach(uuid, descriptor, path, log_path, fresh))

    def detach(self, uuid: str) -> None:
        """The guest has gone: write down its last words, and let its readers go."""
        self._do(lambda: self._detach(uuid))

    def close(self) -> None:
        """Let go of everything; guests run on."""
        self._do(self._end)
        self._thread.join(5)

    def _do(self, job: Callable[[], None]) -> None:
        """Run `job` in the thread that owns the lines, and wait until it is done. Raises what it raises."""
        done = threading.Event()
        trouble: list[BaseException] = []

        def run() -> None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                trouble.append(error)
            done.set()

        with self._guard:
            if self._closed:
                return
            self._jobs.append(run)
        with contextlib.suppress(BlockingIOError):
            os.write(self._woken, b"x")
        done.wait(10)
        if trouble:
            raise trouble[0]

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closed:
            for key, mask in self._selector.select():
                try:
                    key.data(mask)
                except Exception:
                    log.exception("a serial line failed")

    def _run_jobs(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        with self._guard:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()

    def _attach(self, uuid: str, descriptor: int, path: Path, log_path: Path, fresh: bool) -> None:
        try:
            line = self._lines.get(uuid)
            if line is not None and fresh:
                self._detach(uuid)
                line = None
            if line is None:
                line = self._listen(uuid, path, log_path, fresh)
        except BaseException:
            os.close(descriptor)
            raise
        self._hang_up(line)
        line.terminal = descriptor
        self._selector.register(
            descriptor, selectors.EVENT_READ, lambda mask: self._terminal_ready(line, mask)
        )

    def _listen(self, uuid: str, path: Path, log_path: Path, fresh: bool) -> Line:
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            listener.listen(CLIENTS)
            line = Line(listener, path, log_path, fresh=fresh)
        except BaseException:
            listener.close()
            raise
        self._selector.register(listener, selectors.EVENT_READ, lambda mask: self._accept(line))
        self._lines[uuid] = line
        return line

    def _detach(self, uuid: str) -> None:
        line = self._lines.pop(uuid, None)
        if line is None:
            return
        self._drain(line)
        self._hang_up(line)
        for client in list(line.clients):
            self._let_go(line, client)
        self._selector.unregister(line.listener)
        line.listener.close()
        line.log.close()
        line.path.unlink(missing_ok=True)

    def _end(self) -> None:
        self._closed = True
        for line in self._lines.values():
            self._hang_up(line)
            line.listener.close()
            for client in line.clients:
                client.close()
            line.log.close()
        self._lines.clear()

    # What the guest prints

    def _terminal_ready(self, line: Line, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._type(line)
        if mask & selectors.EVENT_READ:
            self._read(line)

    def _read(self, line: Line) -> bool:
        """Take one piece of what was printed; whether there was any."""
        if line.terminal is None:
            return False
        try:
            data = os.read(line.terminal, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                log.warning("%s: %s", line.path, error)
            data = b""
        if not data:
            self._hang_up(line)
            return False
        self._write_down(line, data)
        for client in list(line.clients):
            line.clients[client] += data
            self._send(line, client)
        return True

    def _drain(self, line: Line) -> None:
        for _ in range(256):  # 16 MiB; no guest prints for ever here
            if not self._read(line):
                return

    def _write_down(self, line: Line, data: bytes) -> None:
        line.log.write(data)
        if line.log.tell() > LOG_LIMIT:
            kept = line.log_path.read_bytes()[-LOG_LIMIT // 2 :]
            line.log.truncate(0)
            line.log.seek(0)
            line.log.write(kept)

    def _hang_up(self, line: Line) -> None:
        if line.terminal is not None:
            self._selector.unregister(line.terminal)
            os.close(line.terminal)
            line.terminal = None

    # What its readers type

    def _accept(self, line: Line) -> None:
        client, _ = line.listener.accept()
        if len(line.clients) >= CLIENTS:
            client.close()
            return
        client.setblocking(False)
        line.clients[client] = bytearray()
        self._selector.register(
            client, selectors.EVENT_READ, lambda mask: self._client_ready(line, client, mask)
        )

    def _client_ready(self, line: Line, client: socket.socket, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._send(line, client)
        if mask & selectors.EVENT_READ and client in line.clients:
            try:
                data = client.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._let_go(line, client)
                return
            # What is typed while the guest takes nothing is dropped, as on a real line.
            if len(line.typed) < _CHUNK:
                line.typed += data
            self._type(line)

    def _type(self, line: Line) -> None:
        if line.terminal is None:
            line.typed.clear()
            return
        if line.typed:
            with contextlib.suppress(BlockingIOError):
                try:
                    del line.typed[: os.write(line.terminal, line.typed)]
                except OSError as error:
                    if isinstance(error, BlockingIOError):
                        raise
                    line.typed.clear()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.typed else 0)
        self._selector.modify(line.terminal, events, lambda mask: self._terminal_ready(line, mask))

    def _send(self, line: Line, client: socket.socket) -> None:
        waiting = line.clients[client]
        try:
            del waiting[: client.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._let_go(line, client)
            return
        if len(waiting) > BACKLOG:
            self._let_go(line, client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        self._selector.modify(client, events, lambda mask: self._client_ready(line, client, mask))

    def _let_go(self, line: Line, client: socket.socket) -> None:
        if line.clients.pop(client, None) is not None:
            self._selector.unregister(client)
            client.close()
