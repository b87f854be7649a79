"""QEMU's machine protocol (QMP): one JSON object a line over a unix socket, answers and events mixed.

A monitor has one client at a time: who connects second gets no greeting until the first leaves. So a connection
lasts as long as the operations that need it, and operations on one QEMU share it (`Monitors`).
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from kronos.datamodel.errors import Failure

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 16 << 20
"""Bytes. What QEMU says of a VM with a hundred disks in long chains is far less."""

_PIECE = 1 << 16
_MOST_EVENTS = 10_000
_LOST = "the monitor's connection was lost"

Event = Mapping[str, Any]


class Refusal(Failure):
    """QEMU refused a command; `kind` is its class of error (GenericError, DeviceNotFound, CommandNotFound)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__("INTERNAL_ERROR", f"QEMU: {text}")
        self.kind = kind


class _Answer:
    """What one command waits for."""

    def __init__(self) -> None:
        self._come = threading.Event()
        self._message: Mapping[str, Any] | None = None

    def settle(self, message: Mapping[str, Any] | None) -> None:
        self._message = message
        self._come.set()

    def wait(self, timeout: float, command: str) -> Any:
        if not self._come.wait(timeout):
            raise _failure(f"no answer to {command} in {timeout:g} s")
        if self._message is None:
            raise _failure(_LOST)
        if "return" in self._message:
            return self._message["return"]
        error = self._message.get("error")
        described = error if isinstance(error, dict) else {}
        raise Refusal(str(described.get("class", "")), str(described.get("desc", "no reason given")))


class Monitor:
    """A connection to the monitor at `path`. Any thread may use it.

    Raises INTERNAL_ERROR, also where no monitor is or another client has it for all of `timeout` seconds.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._guard = threading.Lock()
        self._number = 0
        self._answers: dict[int, _Answer] = {}
        self._listeners: list[queue.Queue[Event | None]] = []
        self._lost = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(os.fspath(path))
            self._lines = _Lines(self._socket)
            if "QMP" not in self._lines.next():
                raise _failure(f"{path} is no monitor")
            self._socket.settimeout(None)
        except TimeoutError as error:
            self._socket.close()
            raise _failure(f"the monitor {path} is busy") from error
        except (OSError, ValueError, RecursionError) as error:
            self._socket.close()
            raise _failure(f"no monitor at {path}: {error}") from error
        except BaseException:
            self._socket.close()
            raise
        self._reader = threading.Thread(target=self._read, name="qmp-reader", daemon=True)
        self._reader.start()
        try:
            self.execute("qmp_capabilities", timeout=timeout)
        except BaseException:
            self.close()
            raise

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 60.0
    ) -> Any:
        """Carry out a command and return what it answers, which is as untrusted as the QEMU that says it.

        Raises Refusal with QEMU's words; INTERNAL_ERROR when nothing came within `timeout` seconds.
        """
        answer = _Answer()
        with self._guard:
            if self._lost:
                raise _failure(_LOST)
            self._number += 1
            number = self._number
            self._answers[number] = answer
            message: dict[str, Any] = {"execute": command, "id": number}
            if arguments:
                message["arguments"] = arguments
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                del self._answers[number]
                raise _failure(_LOST) from error
        try:
            return answer.wait(timeout, command)
        finally:
            with self._guard:
                self._answers.pop(number, None)

    @contextmanager
    def events(self) -> Iterator[Events]:
        """What QEMU tells from now on."""
        heard: queue.Queue[Event | None] = queue.Queue(_MOST_EVENTS)
        with self._guard:
            if self._lost:
                raise _failure(_LOST)
            self._listeners.append(heard)
        try:
            yield Events(heard)
        finally:
            with self._guard:
                self._listeners.remove(heard)

    @property
    def lost(self) -> bool:
        """Whether the other end has gone."""
        return self._lost

    @property
    def process(self) -> int:
        """The process id of the QEMU at the other end."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], "little")

    def close(self) -> None:
        """Leave; the next client may come."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._socket.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        try:
            while True:
                self._take(self._lines.next())
        except (OSError, ValueError, RecursionError, Failure) as error:
            log.debug("A monitor's connection ended: %s", error)
        with self._guard:
            self._lost = True
            for answer in self._answers.values():
                answer.settle(None)
            for listener in self._listeners:
                with suppress(queue.Full):
                    listener.put_nowait(None)

    def _take(self, untrusted: Mapping[str, Any]) -> None:
        with self._guard:
            if "event" in untrusted:
                for listener in self._listeners:
                    try:
                        listener.put_nowait(untrusted)
                    except queue.Full:
                        raise _failure("too many events that nobody took") from None
                return
            number = untrusted.get("id")
            answer = self._answers.get(number) if isinstance(number, int) else None
        if answer is not None:
            answer.settle(untrusted)


class Events:
    """A queue of what one QEMU tells."""

    def __init__(self, heard: queue.Queue[Event | None]) -> None:
        self._heard = heard

    def next(self, timeout: float) -> Event | None:
        """The next one, None where none came within `timeout` seconds. Raises INTERNAL_ERROR when QEMU has gone."""
        try:
            event = self._heard.get(timeout=timeout)
        except queue.Empty:
            return None
        if event is None:
            raise _failure(_LOST)
        return event


class Monitors:
    """The monitors of many QEMUs by name: who uses the same one at the same time shares a connection."""

    def __init__(self, place: Callable[[str], Path]) -> None:
        self._place = place
        self._guard = threading.Lock()
        self._used: dict[str, _Shared] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[Monitor]:
        """The monitor of `name` for the length of a with block."""
        with self._guard:
            shared = self._used.setdefault(name, _Shared())
            shared.users += 1
        try:
            with shared.guard:
                if shared.monitor is not None and shared.monitor.lost:
                    shared.monitor.close()
                    shared.monitor = None
                if shared.monitor is None:
                    shared.monitor = Monitor(self._place(name))
                monitor = shared.monitor
            yield monitor
        finally:
            with self._guard:
                shared.users -= 1
                if not shared.users:
                    del self._used[name]
                    if shared.monitor is not None:
                        shared.monitor.close()


class _Shared:
    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.users = 0
        self.monitor: Monitor | None = None


class _Lines:
    """JSON objects off a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = bytearray()

    def next(self) -> Mapping[str, Any]:
        """Raises ValueError for what is no JSON object, ConnectionError at the end, INTERNAL_ERROR if too long."""
        looked = 0
        while (end := self._rest.find(b"\n", looked)) < 0:
            looked = len(self._rest)
            if looked > LONGEST_MESSAGE:
                raise _failure(f"a message of more than {LONGEST_MESSAGE} bytes")
            piece = self._connection.recv(_PIECE)
            if not piece:
                raise ConnectionError("end of the stream")
            self._rest += piece
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not an object")
        return message


def _failure(text: str) -> Failure:
    return Failure("INTERNAL_ERROR", f"QEMU: {text}")
