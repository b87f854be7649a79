"""What the checks look at: files below a root, processes, commands, libvirt. Nothing is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import libvirt

from kronos.hypervisor.detection import Detected
from kronos.system import commands
from kronos.system.commands import CommandFailed
from kronos.system.settings import Settings

COMMAND_LIMIT = 1.8
"""Seconds for one command: less than a check has, so that the check can still tell of it."""

_PATH = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin")
_LISTENING = "0A"

ModuleState = Literal["loaded", "built in", "loadable", "absent"]


class Process(NamedTuple):
    """A running process and its command line."""

    pid: int
    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        return Path(self.argv[0]).name


class Space(NamedTuple):
    """A file system: bytes that are free, and whether it takes no writes."""

    free: int
    read_only: bool


class Unreachable(Exception):
    """libvirt does not answer at a URI; the text says why in libvirt's words."""


def connect(uri: str) -> str:
    """The version of the libvirt that answers at `uri`. Raises Unreachable."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        handle = libvirt.openReadOnly(uri)
        try:
            number = handle.getLibVersion()
        finally:
            handle.close()
    except libvirt.libvirtError as error:
        raise Unreachable(str(error)) from error
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def space(path: Path) -> Space:
    """Raises OSError."""
    found = os.statvfs(path)
    return Space(found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY))


@dataclass
class Surroundings:
    """A host as the checks see it. Tests give it a folder as `root` and functions that answer for the machine."""

    detected: Detected
    settings: Settings = field(default_factory=Settings)
    root: Path = Path("/")
    as_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    run: Callable[..., str] = commands.run
    connect: Callable[[str], str] = connect
    space: Callable[[Path], Space] = space

    @property
    def on_xen(self) -> bool:
        return self.detected.type == "XEN"

    def path(self, name: str | Path) -> Path:
        """A file of the host by its absolute name."""
        return self.root / str(name).lstrip("/")

    def exists(self, name: str | Path) -> bool:
        return self.path(name).exists()

    def text(self, name: str | Path) -> str:
        """A file's content without white space around it; empty where it cannot be read."""
        try:
            return self.path(name).read_text(errors="replace").strip()
        except OSError:
            return ""

    def glob(self, pattern: str) -> list[Path]:
        return sorted(self.root.glob(pattern.lstrip("/")))

    def first(self, *patterns: str) -> str | None:
        """The name of the first file that is there."""
        for pattern in patterns:
            for found in self.glob(pattern):
                return f"/{found.relative_to(self.root)}"
        return None

    def program(self, *names: str) -> str | None:
        """The absolute name of the first of some programs that is installed."""
        return self.first(*(f"{folder}/{name}" for name in names for folder in _PATH))

    def command(self, *argv: str) -> str | None:
        """What a command prints; None where it is not there, fails or takes too long."""
        try:
            return self.run(argv, timeout=COMMAND_LIMIT)
        except CommandFailed:
            return None

    @cached_property
    def processes(self) -> tuple[Process, ...]:
        """What runs, without the kernel's own threads."""
        found = []
        for folder in self.glob("proc/[0-9]*"):
            argv = self.text(folder.relative_to(self.root) / "cmdline").strip("\0").split("\0")
            if argv[0]:
                found.append(Process(int(folder.name), tuple(argv)))
        return tuple(found)

    def running(self, *names: str) -> Process | None:
        """A process whose program has one of these names."""
        return next((process for process in self.processes if process.name in names), None)

    @cached_property
    def release(self) -> str:
        """The running kernel's."""
        return self.text("proc/sys/kernel/osrelease")

    @cached_property
    def _modules(self) -> Mapping[str, ModuleState]:
        states: dict[str, ModuleState] = {}
        known: tuple[tuple[str, ModuleState], ...] = (("dep", "loadable"), ("builtin", "built in"))
        for name, state in known:
            for line in self.text(f"lib/modules/{self.release}/modules.{name}").splitlines():
                file = Path(line.partition(":")[0]).name
                states[file.partition(".")[0].replace("-", "_")] = state
        for line in self.text("proc/modules").splitlines():
            states[line.partition(" ")[0]] = "loaded"
        return states

    def module(self, name: str) -> ModuleState:
        """How the running kernel has a module."""
        return self._modules.get(name.replace("-", "_"), "absent")

    def listener(self, port: int) -> Process | None:
        """Who listens on a TCP port; a process of pid 0 where that cannot be found out."""
        inodes = set()
        for table in ("proc/net/tcp", "proc/net/tcp6"):
            for line in self.text(table).splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
        if not inodes:
            return None
        for process in self.processes:
            if inodes & self._open_files(process.pid):
                return process
        return Process(0, ("an unknown program",))

    def _open_files(self, pid: int) -> set[str]:
        found = set()
        try:
            for descriptor in self.path(f"proc/{pid}/fd").iterdir():
                found.add(str(descriptor.readlink()))
        except OSError:  # it has ended meanwhile, or belongs to somebody else
            pass
        return found

    @cached_property
    def _families(self) -> set[str]:
        said = re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)', self.text("etc/os-release"), re.M)
        return set(" ".join(said).split())

    def install(self, debian: str, fedora: str) -> str:
        """How packages are installed here."""
        if self._families & {"fedora", "rhel", "centos"}:
            return f"dnf install {fedora}"
        return f"apt install {debian}"
