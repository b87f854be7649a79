"""A jail around GRUB's reader of file systems: a process that sees one image and nothing else of the host.

A guest's file system is hostile input to a program in C. That program runs in bubblewrap: name spaces of its own for
users, mounts, processes, network, IPC and host name; no capability; a root of /usr, read-only, and the image; limits
on memory, CPU time and output; system calls that can read and little more (`agent`). The whole ends with a deadline
on the wall clock, and with its parent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from kronos.boot.guest_disk import agent, chain
from kronos.boot.guest_disk.unreadable import BootUnreadable, JailEnded, shown

_MIB = 1 << 20
_PYTHON = "/usr/bin/python3"  # the distribution's: it is what the jail sees
_READERS = ("grub-fstest", "grub2-fstest")  # Debian's name and Fedora's
_DEVICES = ("null", "zero", "urandom")
_ANSWER_BYTES = 65536
_ENDING = 2.0  # seconds; it takes milliseconds

# What it needs is 32 MiB for GRUB's cache of blocks and 4 for the rest.
READER_LIMITS = {
    "RLIMIT_AS": 56 * _MIB,
    "RLIMIT_CPU": 8,
    "RLIMIT_CORE": 0,
    "RLIMIT_NOFILE": 64,
    "RLIMIT_STACK": 4 * _MIB,
}
# Data is what is reserved: a stack of 1 MiB for every read in flight, few pages of which are used. 10 MiB are resident.
# With 64 MiB QEMU gives up in the middle of a large file.
VIEW_LIMITS = {
    "RLIMIT_DATA": 192 * _MIB,
    "RLIMIT_CPU": 8,
    "RLIMIT_CORE": 0,
    "RLIMIT_STACK": _MIB // 4,
    "RLIMIT_FSIZE": 0,
}


class ReaderFailed(Exception):
    """One request to the reader failed, in its own words: a file that is not there, a damaged file system."""


class Jail:
    """One image in one jail. A context manager; not for several threads at once."""

    def __init__(self, image: Path, form: str, seconds: float) -> None:
        """Start it. Raises BootUnreadable if the image's form forbids it or this host lacks the programs."""
        self.deadline = time.monotonic() + seconds
        self.seconds = seconds
        layers = chain.layers(image, form)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = ours
        try:
            with theirs:
                self.process = subprocess.Popen(
                    _command(layers), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
        except OSError as error:
            ours.close()
            raise BootUnreadable(f"this host cannot start the reader of guests' disks: {error}") from error
        try:
            greeting = self._answer()
            if greeting.get("ready") is not True:
                raise BootUnreadable(f"the disk cannot be opened: {shown(str(greeting.get('error')))}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything in the jail, and come back when it has ended.

        The jail's process 1 is what is killed: the kernel then ends the rest, and bubblewrap ends after it. Killing
        bubblewrap first would leave that to happen some time later, with the image still open.
        """
        self.channel.close()
        try:
            for child in _children(self.process.pid) if self.process.poll() is None else []:
                os.kill(child, signal.SIGKILL)
            self.process.wait(_ENDING)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def read(self, arguments: list[str], output: int, limit: int) -> None:
        """Run the reader with its output to the descriptor `output`, no further than `limit` bytes in that file.

        Raises ReaderFailed, and BootUnreadable when the time is over.
        """
        request = json.dumps({"arguments": arguments, "limit": limit}).encode()
        try:
            self.channel.settimeout(self._left())
            socket.send_fds(self.channel, [request], [output])
        except OSError as error:
            raise self._ended() from error
        answer = self._answer()
        if answer.get("ended"):
            raise JailEnded(f"the reader of the disk's image format died: {shown(str(answer['ended']))}")
        status, error_text = answer.get("status"), str(answer.get("error"))
        if status == -25:  # SIGXFSZ
            raise ReaderFailed(f"larger than {limit} bytes")
        if isinstance(status, int) and status < 0:
            raise ReaderFailed(f"the reader of file systems died of signal {-status}")
        if status != 0 or error_text:
            raise ReaderFailed(shown(error_text.split("\n")[0].partition("error: ")[2] or error_text))

    def usage(self) -> dict[str, int]:
        """Peaks of memory in KiB by process: reader, view, agent. The jail cannot be used after this."""
        self.channel.settimeout(self._left())
        self.channel.send(json.dumps({"arguments": None}).encode())
        return {name: int(value) for name, value in self._answer().items()}

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> JailEnded:
        return JailEnded(f"the disk could not be read within {self.seconds:g} s")

    def _answer(self) -> dict[str, Any]:
        try:
            self.channel.settimeout(self._left())
            untrusted_packet = self.channel.recv(_ANSWER_BYTES)
            untrusted = json.loads(untrusted_packet) if untrusted_packet else None
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, ValueError, RecursionError) as error:
            raise self._ended() from error
        if not isinstance(untrusted, dict):
            raise self._ended()
        return untrusted

    def _ended(self) -> JailEnded:
        """The jail has gone; what it said last is bubblewrap's own or a trace of the agent."""
        self.process.kill()
        assert self.process.stderr is not None
        words = self.process.stderr.read(4000).decode("utf-8", "replace").strip()
        return JailEnded(f"the jail for the guest's disk ended: {shown(words[-300:])}")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(layers: list[chain.Layer]) -> list[str]:
    """The jail's command line. Raises BootUnreadable if a program is missing."""
    reader = next((found for found in map(_program, _READERS) if found), None)
    jailer = _program("bwrap")
    if reader is None or jailer is None:
        raise BootUnreadable("this host lacks grub-fstest (grub-common) or bwrap (bubblewrap)")
    inside = [f"/disk/{number}" for number in range(len(layers))]
    viewed = layers[0].form != "raw"
    plan = {
        "reader": reader,
        "image": inside[0],
        "view": _view(layers, inside) if viewed else None,
        "reader_limits": READER_LIMITS,
        "view_limits": VIEW_LIMITS,
    }
    command = [jailer, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--uid", "65534", "--gid", "65534", "--hostname", "jail", "--cap-drop", "ALL"]
    command += [
        "--setenv",
        "LC_ALL",
        "C",
        "--setenv",
        "PATH",
        "/usr/bin",
        "--setenv",
        "MALLOC_ARENA_MAX",
        "2",
    ]
    command += ["--ro-bind", "/usr", "/usr", "--tmpfs", "/run", "--chdir", "/run"]
    for (
        name
    ) in _DEVICES:  # not --dev: its devpts costs a second user name space, in which nothing can be mounted
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name in ("lib", "lib64", "bin", "sbin"):
        command += _system_directory(Path("/") / name)
    for layer, name in zip(layers, inside, strict=True):
        device = stat.S_ISBLK(layer.path.stat().st_mode)
        command += ["--dev-bind" if device else "--ro-bind", os.fspath(layer.path), name]
    command += ["--ro-bind", os.fspath(Path(agent.__file__)), "/agent.py"]
    if viewed:
        command += ["--dev-bind", "/dev/fuse", "/dev/fuse", "--cap-add", "CAP_SYS_ADMIN"]
    return [*command, "--", _PYTHON, "-I", "-S", "/agent.py", json.dumps(plan)]


def _program(name: str) -> str | None:
    """The distribution's: what lies elsewhere is not to be seen in the jail."""
    return shutil.which(name, path="/usr/bin:/usr/sbin")


def _system_directory(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", os.fspath(path.readlink()), os.fspath(path)]
    return ["--ro-bind", os.fspath(path), os.fspath(path)] if path.is_dir() else []


def _view(layers: list[chain.Layer], inside: list[str]) -> list[str]:
    """The command that shows the image's contents as one file, every layer's form and file given outright."""
    tool = _program("qemu-storage-daemon")
    if tool is None:
        raise BootUnreadable("this host lacks qemu-storage-daemon")
    if not Path("/dev/fuse").exists():
        raise BootUnreadable("this host lacks /dev/fuse, through which disks that are not raw are read")
    node: dict[str, Any] | None = None
    for layer, name in zip(reversed(layers), reversed(inside), strict=True):
        driver = "host_device" if stat.S_ISBLK(layer.path.stat().st_mode) else "file"
        below = node
        node = {
            "driver": layer.form,
            "read-only": True,
            "file": {"driver": driver, "filename": name, "read-only": True, "locking": "off"},
        }
        if layer.form == "qcow2":
            node |= {"backing": below, "l2-cache-size": _MIB, "refcount-cache-size": 256 << 10}
    assert node is not None
    node["node-name"] = "disk"
    export = "type=fuse,id=view,node-name=disk,mountpoint=/run/image,writable=off"
    return [tool, "--blockdev", json.dumps(node), "--export", export]
