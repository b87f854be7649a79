"""A guest that writes all the time and says what it has written: the witness of what becomes of its disks.

Each disk gets numbered records of 512 bytes, one after the other, each flushed before its number is printed on the
guest's console. Whatever is done with the disks meanwhile: every number that was printed must be found there.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

RECORD = 512
OLD = 4 << 20
"""Where the old data begins, which nobody writes to; it goes to the end of the disk."""

# Typed into a shell, line by line. A record that cannot be written is tried again until it can.
_WRITER = [
    'rec() { printf "%-511s\\n" "$1 record $2" | dd of=/dev/$1 bs=512 seek=$2 conv=notrunc,fsync 2>/dev/null; }',
    'try() { until rec $1 $2; do echo "@fail $1 $2"; sleep 1; done; echo "@done $1 $2"; }',
    "recs() { n=$2; while n=$((n+1)); do try $1 $n; done; }",
]


class Recorder:
    """root's shell of a tiny guest on the serial line behind a unix socket (or whatever `connect` gives)."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connection = connect()
        self._seen = ""
        self._changed = threading.Condition()
        self._last: dict[str, int] = {}
        self._failed: dict[str, set[int]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def on_socket(cls, path: Path, timeout: float = 20) -> Recorder:
        """On a socket that may only come to be."""
        return cls(lambda: _connected(path, timeout))

    def log_in(self, timeout: float = 120) -> Recorder:
        deadline = time.monotonic() + timeout
        while not self._await(r"login: $", 1):
            assert time.monotonic() < deadline, f"the console says {self._seen[-500:]!r}"
            self._type("")
        self._type("root")
        assert self._await(r"# $", timeout), self._seen[-500:]
        for line in _WRITER:
            self.ask(line)
        return self

    def ask(self, command: str, timeout: float = 60) -> str:
        """What a command prints, the records that are written meanwhile aside."""
        begin, end = secrets.token_hex(4), secrets.token_hex(4)
        # The echo of what is typed does not hold the marks in one piece.
        self._type(f"echo {begin[:4]}''{begin[4:]}; {command}; echo {end[:4]}''{end[4:]}")
        assert self._await(end, timeout), self._seen[-500:]
        with self._changed:
            answer, _, self._seen = self._seen.partition(begin)[2].partition(end)
        lines = answer.replace("\r", "").splitlines()
        return "\n".join(line for line in lines if line and not line.startswith("@"))

    def go_on_from(self, before: Recorder) -> None:
        """The guest is another run of the one that wrote so far."""
        self._last = dict(before._last)
        before.close()

    def reconnect(self, path: Path) -> None:
        """The same guest, whose line is another one now: it was suspended and resumed."""
        self.close()
        self._reader.join(10)
        self._connection = _connected(path, 20)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def record(self, *disks: str) -> None:
        """Begin to write to these disks of the guest (vda)."""
        for disk in disks:
            self.ask(f"{{ recs {disk} {self._last.get(disk, 0)} & }}")
        for disk in disks:
            self.advance(disk)

    def advance(self, disk: str, records: int = 3, timeout: float = 60) -> int:
        """Wait until the guest has written this many more, and say how far it is."""
        with self._changed:
            wanted = self._last.get(disk, 0) + records
            done = self._changed.wait_for(lambda: self._last.get(disk, 0) >= wanted, timeout)
            assert done, f"{disk} is at {self._last.get(disk)}; the console says {self._seen[-500:]!r}"
            return self._last[disk]

    def last(self, disk: str) -> int:
        with self._changed:
            return self._last.get(disk, 0)

    def failed(self, disk: str) -> set[int]:
        """The records that could not be written at the first try."""
        with self._changed:
            return set(self._failed.get(disk, ()))

    def stop(self) -> None:
        """Have the guest write no more."""
        self.ask("kill $(jobs -p); wait 2>/dev/null")

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _type(self, text: str) -> None:
        self._connection.sendall(text.encode() + b"\n")

    def _await(self, pattern: str, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: re.search(pattern, self._seen) is not None, timeout)

    def _read(self) -> None:
        rest = ""
        while True:
            try:
                data = self._connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self._changed:
                text = data.decode(errors="replace")
                # A shell asks the terminal where its cursor is, among other things.
                self._seen = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self._seen + text)
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    if match := re.search(r"@(done|fail) (\w+) (\d+)", line):
                        if match[1] == "done":
                            self._last[match[2]] = int(match[3])
                        else:
                            self._failed.setdefault(match[2], set()).add(int(match[3]))
                self._changed.notify_all()


def _connected(path: Path, timeout: float) -> socket.socket:
    until = time.monotonic() + timeout
    while True:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(os.fspath(path))
            return line
        except OSError:
            line.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def prepare(image: Path, form: str = "qcow2", size: int = 8 << 20) -> str:
    """Make a disk with old data, and return what tells whether that is still there."""
    old = secrets.token_bytes(size - OLD)
    raw = image.with_name(f"{image.name}.part")
    with raw.open("wb") as file:
        file.truncate(OLD)
        file.seek(OLD)
        file.write(old)
    subprocess.run(["qemu-img", "convert", "-O", form, raw, image], check=True, timeout=60)
    raw.unlink()
    return hashlib.md5(old).hexdigest()


def check(
    image: Path, disk: str, last: int, old: str = "", form: str = "qcow2", *, live: bool = False
) -> None:
    """Every record up to this one is there, and so is the old data; the image, unless a QEMU still has it, has no fault
    of its own."""
    raw = image.with_name(f"{image.name}.{secrets.token_hex(4)}.raw")
    subprocess.run(["qemu-img", "convert", "-U", "-f", form, "-O", "raw", image, raw], check=True, timeout=60)
    if form == "qcow2" and not live:
        subprocess.run(["qemu-img", "check", "-q", image], check=True, timeout=60)
    content = raw.read_bytes()
    raw.unlink()
    assert last > 0, "the guest wrote nothing"
    wrong = [n for n in range(1, last + 1) if content[n * RECORD : (n + 1) * RECORD] != record(disk, n)]
    assert not wrong, f"{len(wrong)} of {last} records are not what the guest wrote: {wrong[:20]}"
    if old:
        size = len(content) if len(content) < 2 * OLD else 2 * OLD
        assert hashlib.md5(content[OLD:size]).hexdigest() == old


def record(disk: str, number: int) -> bytes:
    return f"{disk} record {number}".ljust(RECORD - 1).encode() + b"\n"
