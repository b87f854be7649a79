"""The daemon under test: a process of its own on a `Host`, with a private libvirtd, started, killed and audited.

Everything it makes lies below one directory or in the host's network namespace, so that closing the host leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.client import Client, NoAnswer
from harness.guests import Images
from harness.host import Host
from harness.xen import control_domain
from harness.xen.control_domain import ControlDomain
from kronos.system.libvirtd import PrivateLibvirtd

READY = 120.0 if not control_domain.here() else 180.0
"""Seconds for a start on a busy machine; it takes one or two, ten in an emulated one."""

RUNNING: list[Daemon] = []
"""Every daemon of this test run that is not closed: whose log belongs into the report of a failure."""


class Daemon:
    """`xapi` on a host. `settings` are those of its `--set`, over the defaults for a test."""

    def __init__(
        self, host: Host | ControlDomain, images: Images, name: str = "x", **settings: str | int | bool
    ) -> None:
        self.host = host
        self.images = images
        self.directory = host.directory / name
        self.state = self.directory / "state"
        self.socket = self.directory / "xapi"
        self.storage = self.directory / "sr"
        self.log = self.directory / "log"
        self.settings: dict[str, str | int | bool] = {
            "state": str(self.state),
            "run": str(self.directory / "run"),
            "storage": str(self.storage),
            "socket": str(self.socket),
            "listen": "0.0.0.0",
            "private_libvirt": not control_domain.here(),  # Xen has room for one libvirt
        } | settings
        self.process: subprocess.Popen[bytes] | None = None
        if not self.state.exists():  # it has lived before, where the host was rebooted meanwhile
            self.state.mkdir(parents=True)
            images.install(self.state)

    # --- its life ----------------------------------------------------------------------------------------------

    def start(self) -> Daemon:
        """Start it and wait until it serves. Raises AssertionError with the end of its log when it does not."""
        assert self.process is None, "it runs already"
        options = [f"--set={name}={_text(value)}" for name, value in self.settings.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.host.command(sys.executable, "-m", "kronos.daemon", *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=os.environ | {"PYTHONFAULTHANDLER": "1"},
            )
        if self not in RUNNING:
            RUNNING.append(self)
        wait_until(self._serves, READY, lambda: f"not ready; its log ends:\n{self.log_tail()}", pause=0.01)
        self.images.keep(self.state)
        return self

    def _serves(self) -> bool:
        assert self.process is not None
        status = self.process.poll()
        assert status is None, f"it ended with {status}; its log ends:\n{self.log_tail()}"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """SIGKILL, at this moment; guests run on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)  # it may wait for a disk
        self.process = None

    def stop(self, timeout: float = 30) -> int:
        """Ask it to end, as a service manager does; its exit status. Guests run on."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(timeout)
        self.process = None
        return status

    def restart(self) -> Daemon:
        self.stop()
        return self.start()

    def close(self) -> None:
        """End it with its libvirtd and guests."""
        if self.process is not None:
            self.kill()
        if self.settings["private_libvirt"]:
            self.libvirtd.stop()
        with contextlib.suppress(ValueError):
            RUNNING.remove(self)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log_tail(self, lines: int = 60) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # --- ways to it --------------------------------------------------------------------------------------------

    def client(self, timeout: float = 60.0) -> Client:
        """A new client of the local socket, logged in."""
        return Client.unix(self.socket, timeout)

    @property
    def libvirtd(self) -> PrivateLibvirtd:
        return PrivateLibvirtd(self.state / "libvirt")

    def virsh(self, *words: str) -> str:
        """What an administrator's virsh would say or do."""
        argv = ["virsh", "-q", "-c", self.libvirt_uri, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    @property
    def libvirt_uri(self) -> str:
        """Where its guests are."""
        return self.libvirtd.uri if self.settings["private_libvirt"] else "xen:///system"

    def guest_pids(self) -> dict[str, int]:
        """The QEMU process of each guest, by the uuid of its VM."""
        if isinstance(self.host, ControlDomain):
            return self.host.guest_pids()
        found = {}
        for file in (self.state / "libvirt" / "run" / "qemu").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text())
                if b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found[file.stem] = pid
        return found

    # --- what it costs -----------------------------------------------------------------------------------------

    def memory(self) -> int:
        """Bytes of memory that are its own: its proportional set size."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))

    def resident(self) -> int:
        """Bytes of its resident set."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))

    def processor_seconds(self) -> float:
        """Processor time that it has used, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watcher:
    """A thread that follows events with a client of its own, and remembers them with the time they came."""

    def __init__(self, daemon: Daemon, *classes: str) -> None:
        self.seen: list[tuple[float, dict[str, Any]]] = []
        self._client = daemon.client(timeout=30)
        self._changed = threading.Condition()
        self._token = self._client("event.from", [], "", 0.0)["token"]
        self._ended = False
        self._thread = threading.Thread(target=self._follow, args=(list(classes),), daemon=True)
        self._thread.start()

    def _follow(self, classes: list[str]) -> None:
        with contextlib.suppress(NoAnswer):
            while not self._ended:
                told = self._client("event.from", classes, self._token, 1.0)
                with self._changed:
                    self._token = told["token"]
                    self.seen += [(time.monotonic(), event) for event in told["events"]]
                    self._changed.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 30) -> float:
        """Wait for an event that is `wanted`, one that has come included; the time at which it came."""
        looked = 0
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for moment, event in self.seen[looked:]:
                    if wanted(event):
                        return moment
                looked = len(self.seen)
                left = deadline - time.monotonic()
                assert left > 0, f"no such event among {[e['operation'] for _, e in self.seen]}"
                self._changed.wait(left)

    def close(self) -> None:
        self._ended = True
        self._thread.join(10)
        self._client.close()


@contextlib.contextmanager
def watching(daemon: Daemon, *classes: str) -> Iterator[Watcher]:
    """Follow events for as long as the block runs."""
    watcher = Watcher(daemon, *classes)
    try:
        yield watcher
    finally:
        watcher.close()


def wait_until(
    reached: Callable[[], Any], timeout: float, what: str | Callable[[], str] = "", *, pause: float = 0.05
) -> Any:
    """Look until `reached` returns something true, and return that. Raises AssertionError past `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = reached()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError((what() if callable(what) else what) or f"{reached} not within {timeout} s")
        time.sleep(pause)


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
