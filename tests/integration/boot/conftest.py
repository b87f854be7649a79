"""A guest under QEMU's emulation, driven as a person would: by its serial console and by QEMU's monitor."""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kronos.boot.tiny_guest import MEMORY, TinyGuest, tiny_guest

BOOT_LIMIT = 90.0  # seconds; a quiet machine needs four, a shared one many times that


class Machine:
    """One QEMU process with serial console, monitor and guest agent on sockets."""

    def __init__(self, directory: Path, arguments: list[str]) -> None:
        self._stack = ExitStack()
        self.directory = directory
        self.seen = b""
        names = ("serial", "qmp", "agent")
        self._listeners = {name: self._listen(directory / name) for name in names}
        argv = [
            "qemu-system-x86_64",
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-vga",
            "std",
        ]
        for name in names:
            argv += ["-chardev", f"socket,id={name},path={directory / name},reconnect=1"]
        argv += ["-serial", "chardev:serial", "-mon", "chardev=qmp,mode=control", "-device", "virtio-serial"]
        argv += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        self.started = time.monotonic()
        self.process = subprocess.Popen([*argv, *arguments])
        self._stack.callback(self._kill)
        self.serial, self._qmp, self.agent = (self._accept(self._listeners[name]) for name in names)
        self._qmp_lines = self._stack.enter_context(self._qmp.makefile("r", encoding="utf-8"))
        self._qmp_lines.readline()
        self.monitor("qmp_capabilities")

    def _listen(self, path: Path) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(BOOT_LIMIT)
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        connection = self._stack.enter_context(listener.accept()[0])
        connection.settimeout(BOOT_LIMIT)
        return connection

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self._stack.close()

    def expect(self, pattern: str, limit: float = BOOT_LIMIT) -> re.Match[bytes]:
        """Wait for `pattern` in what the serial console has said since the last match."""
        deadline = time.monotonic() + limit
        while not (match := re.search(pattern.encode(), self.seen)):
            readable, _, _ = select.select([self.serial], [], [], max(0, deadline - time.monotonic()))
            more = self.serial.recv(65536) if readable else b""
            if not more:
                raise AssertionError(f"{pattern!r} not seen in: {self.seen.decode(errors='replace')}")
            self.seen += more
        self.seen = self.seen[match.end() :]
        return match

    def log_in(self) -> None:
        self.expect(r"\w+ login: ")
        self.serial.sendall(b"root\n")
        self.expect(r"root@[^#]*# ")

    def shell(self, command: str) -> str:
        """What `command` prints, run by the shell that is logged in on the serial console."""
        # The shell puts the marks together, so that the echo of the command, which wraps, is not taken for them.
        self.serial.sendall(f"echo begin''mark; {command}; echo end''mark\n".encode())
        return self.expect(r"(?s)beginmark\r?\n(.*)endmark").group(1).decode().replace("\r", "")

    def until(self, command: str, pattern: str, limit: float = BOOT_LIMIT) -> str:
        """Run `command` again and again until what it prints holds `pattern`."""
        deadline = time.monotonic() + limit
        while not re.search(pattern, output := self.shell(command)):
            assert time.monotonic() < deadline, output
            time.sleep(0.3)
        return output

    def monitor(self, command: str, **arguments: Any) -> Any:
        """One QMP command's answer; events before it are passed over."""
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._qmp_lines.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def wait_for_event(self, name: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self._qmp_lines.readline())
            if message.get("event") == name:
                return message

    def tell_agent(self, command: str, **arguments: Any) -> None:
        self.agent.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def ask_agent(self, command: str, **arguments: Any) -> Any:
        """One guest agent command's answer, without its sentinel byte."""
        self.tell_agent(command, **arguments)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self.agent.recv(65536)
        return json.loads(answer.lstrip(b"\xff"))

    def redial_agent(self) -> None:
        """Hang up on the guest agent and let QEMU call again."""
        self.agent.close()
        self.agent = self._accept(self._listeners["agent"])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyGuest:
    # Kept from run to run: fetching a kernel package is no part of these tests.
    return tiny_guest(Path.home() / ".cache/kronos/tiny-guest", cache=Path.home() / ".cache/kronos")


@pytest.fixture
def boot(tiny: TinyGuest, tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Starts a machine with the tiny guest: extra QEMU arguments, kernel arguments."""
    with ExitStack() as stack:

        def start(*arguments: str, cmdline: str = "", memory: int = MEMORY) -> Machine:
            kernel = ["-kernel", str(tiny.kernel), "-initrd", str(tiny.ramdisk)]
            kernel += ["-append", f"{tiny.cmdline} {cmdline}", "-m", f"{memory >> 20}"]
            machine = Machine(tmp_path, [*kernel, *arguments])
            stack.callback(machine.close)
            return machine

        yield start
